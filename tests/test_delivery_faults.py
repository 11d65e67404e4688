"""Deliveries against the world: full disks, failing syncs, dead owners, no permission, an attacker with a thread."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from enchufe.entry import UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import ClosedError, NoSpaceError, RemoteProtocolError, StoreError
from enchufe.store import LocalStore, grafts, linux, staging
from tests.test_delivery import Offer, T, contents, delivery, snapshot, write, write_whole

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that an unprivileged user can reach; pytest's own are for their owner only."""
    with tempfile.TemporaryDirectory(prefix="enchufe-") as name:
        os.chmod(name, 0o777)
        yield Path(name)


def as_nobody(function: Callable[[], None]) -> None:
    """Run in a child process as an unprivileged user, since root may do everything."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            function()
        except BaseException:  # noqa: BLE001 (whatever it is, the child ends here)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def fails(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# Disks that say no.


def run_or_skip(command: Sequence[str | Path], cwd: Path) -> None:
    """Run what not every machine has, or permits."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{command[0]} does not do that here: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(folder: Path, *what: str | Path) -> Iterator[None]:
    """With that mounted there, as `mount` takes it; paths are from the folder above."""
    run_or_skip(["mount", *what, folder], folder.parent)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # whoever failed may still be in there


@contextlib.contextmanager
def formatted(where: Path, size: int, *command: str) -> Iterator[Path]:
    """A disk of so many bytes that this command has made."""
    disk, image = where / "disk", where / "image"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    run_or_skip([*command, image], where)
    with mounted(disk, "-o", "loop", image):
        yield disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """4 MiB, and 60 files and folders."""
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", "size=4m,nr_inodes=60", "tmpfs"):
        yield folder


def fill_whole(offer: Offer, tree: Entry) -> None:
    for number in range(40):
        entry = offer.add(Kind.FILE, f"{number}", tree, size=300_000, sparse=True)  # as if it were mostly holes
        write_whole(offer.delivery, entry, bytes(300_000))


def fill_in_pieces(offer: Offer, tree: Entry) -> None:
    entry = offer.add(Kind.FILE, "big", tree, size=UNKNOWN_SIZE)
    for offset in range(0, 6_000_000, 100_000):
        write(offer.delivery, entry, offset, bytes(100_000))


def fill_with_folders(offer: Offer, tree: Entry) -> None:
    for number in range(70):
        offer.folder(f"{number}", tree)


def fill_with_links(offer: Offer, tree: Entry) -> None:
    for number in range(70):
        offer.link(f"{number}", b"x", tree)


@pytest.mark.parametrize("fill", [fill_whole, fill_in_pieces, fill_with_folders, fill_with_links])
def test_full_disk(small_disk: Path, fill: Callable[[Offer, Entry], None]) -> None:
    (small_disk / "mine").write_text("mine")
    before = os.statvfs(small_disk)
    with delivery(small_disk) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        with pytest.raises(NoSpaceError, match="No space left on device") as caught:
            fill(offer, tree)
        assert str(small_disk / "tree/") in str(caught.value)
        assert caught.value.hint
        assert isinstance(caught.value.__cause__, OSError)
    assert contents(small_disk) == {"mine": "mine"}
    after = os.statvfs(small_disk)
    assert (after.f_bfree, after.f_ffree) == (before.f_bfree, before.f_ffree)
    with delivery(small_disk) as begun:
        Offer(begun).file("fits", b"well")
        begun.commit()
    assert contents(small_disk) == {"mine": "mine", "fits": "well"}


def test_disk_too_full_to_begin(small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        for number in range(100):
            (small_disk / f"{number}").touch()
    before = contents(small_disk)
    with pytest.raises(NoSpaceError, match="cannot write into"):
        LocalStore(small_disk).begin()
    for number in range(3):  # room for `.enchufe`, then for the area in it, then for some of what probes it
        (small_disk / f"{number}").unlink()
        with pytest.raises(NoSpaceError):
            LocalStore(small_disk).begin()
        assert contents(small_disk).keys() == before.keys() - {f"{gone}" for gone in range(number + 1)}


def test_disk_mounted_inside(small_disk: Path) -> None:
    """Nothing can be renamed into another file system, so it is not merged into."""
    with delivery(small_disk.parent, "overwrite") as begun:
        offer = Offer(begun)
        offer.file("x", parent=offer.folder(small_disk.name))
        assert offer.answers == [Answer.IN_THE_WAY, Answer.PARENT]
        begun.commit()
    assert list(small_disk.iterdir()) == []


def test_disk_that_tells_times_by_the_second(tmp_path: Path) -> None:
    """What is there from a run before is the same, as far as such a disk can tell."""
    with formatted(tmp_path, 1 << 20, "mkfs.ext2", "-q", "-F", "-I", "128") as disk:
        for answer in (Answer.ALL, Answer.SKIP):
            with delivery(disk, "update") as begun:
                offer = Offer(begun)
                offer.file("same")
                assert offer.answer is answer
                begun.commit()
        os.utime(disk / "same", ns=(T, T - 10**9))
        with delivery(disk, "update") as begun:
            offer = Offer(begun)
            offer.file("same")
            assert offer.answer is Answer.ALL


def test_disk_that_tells_of_a_folder_as_it_was_when_it_was_opened(tmp_path: Path) -> None:
    """It holds any name, and nothing is left on it: btrfs."""
    with formatted(tmp_path, 128 << 20, "mkfs.btrfs", "-q", "-f") as disk:
        for end in ("abandon", "commit"):
            with delivery(disk) as begun:
                offer = Offer(begun)
                for name in ("a:b", "CON", "dot."):
                    offer.file(name)
                assert offer.answers == [Answer.ALL] * 3
                getattr(begun, end)()
            assert not (disk / ".enchufe").exists()
        assert sorted(os.listdir(disk)) == ["CON", "a:b", "dot."]


def test_folder_of_the_same_disk_mounted_inside(inbox: Path) -> None:
    """Nothing can be renamed into that either: told before anything is received, and only where something would be."""
    inner = inbox / "tree" / "mounted"
    inner.mkdir(parents=True)
    (inbox / "real").mkdir()
    (inbox / "real" / "same").write_bytes(b"same")
    with mounted(inner, "--bind", inbox / "real"):
        with delivery(inbox, "skip") as begun:
            offer = Offer(begun)
            tree = offer.folder("tree")
            inside = offer.folder("mounted", tree)
            offer.file("same", parent=inside)
            offer.file("beside", parent=tree)
            assert offer.answers == [Answer.ALL, Answer.ALL, Answer.SKIP, Answer.ALL]
            with pytest.raises(StoreError, match="cannot write into tree/mounted: Invalid cross-device") as caught:
                offer.file("new", parent=inside)
            assert "mounted inside" in caught.value.hint
    assert contents(inbox) == {"real": None, "real/same": "same", "tree": None, "tree/mounted": None}


@pytest.mark.parametrize("how", [("-t", "tmpfs", "none"), ("--bind", "elsewhere")])
def test_a_staging_folder_that_is_mounted(inbox: Path, how: tuple[str, ...]) -> None:
    """Nothing could be renamed out of it: told before anything is received."""
    (inbox / ".enchufe").mkdir(mode=0o700)
    (inbox / "elsewhere").mkdir()
    with mounted(inbox / ".enchufe", *how):
        with pytest.raises(StoreError, match=r"\.enchufe is a file system of its own"):
            LocalStore(inbox).begin()
        assert list((inbox / ".enchufe").iterdir()) == []


def test_quota(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        with monkeypatch.context() as patched, pytest.raises(NoSpaceError, match="quota"):
            patched.setattr(os, "write", fails(errno.EDQUOT))
            offer.file("file")


def test_folders_that_do_not_get_on_disk_are_told(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very last thing before a receipt: what was put in place would not outlive a power cut for certain."""
    monkeypatch.setattr(linux, "use_syncfs", False)
    sync = os.fsync

    def not_the_inbox(descriptor: int) -> None:
        if os.path.sameopenfile(descriptor, here):
            raise OSError(errno.EIO, "folders cannot be synced")
        sync(descriptor)

    here = os.open(inbox, os.O_RDONLY)
    try:
        with delivery(inbox) as begun:
            Offer(begun).file("file")
            monkeypatch.setattr(os, "fsync", not_the_inbox)
            with pytest.raises(StoreError, match="get the folders on disk"):
                begun.commit()
    finally:
        os.close(here)
    assert contents(inbox) == {"file": "new"}


def test_odd_file_systems(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some cannot sync a folder, some have no times for symlinks: neither stops a delivery, other errors do."""
    sync, utime = os.fsync, os.utime

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "folders cannot be synced")
        sync(descriptor)

    def not_by_name(path: Any, **options: Any) -> None:
        if isinstance(path, bytes):
            raise OSError(errno.EOPNOTSUPP, "symlinks have no times")
        utime(path, **options)

    with delivery(inbox / "new") as begun, monkeypatch.context() as patched:
        patched.setattr(os, "fsync", files_only)
        patched.setattr(os, "utime", not_by_name)
        offer = Offer(begun)
        tree = offer.folder("tree")
        offer.link("link", b"file", tree)
        offer.file("file", parent=tree)
        begun.commit()
    assert contents(inbox / "new") == {"tree": None, "tree/link": "file", "tree/file": "new"}
    with delivery(inbox) as begun, monkeypatch.context() as patched:
        tree = Offer(begun).folder("tree")
        patched.setattr(os, "utime", fails(errno.EIO))
        with pytest.raises(StoreError, match="cannot make"):
            begun.admit(Entry(1, tree.id, b"link", Kind.SYMLINK, target=b"x"))


def test_everything_is_taken(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grafts, "_LAST_NUMBER", 3)
    for number in range(4):
        with delivery(inbox) as begun:
            Offer(begun).file("file")
            if number == 3:
                with pytest.raises(StoreError, match=r"cannot put in place .*/file: File exists"):
                    begun.commit()
            else:
                begun.commit()
    assert sorted(os.listdir(inbox)) == ["file", "file (1)", "file (2)"]


def deliver(begun: Any, files: int) -> None:
    """A fresh tree with a file, and files in a live folder."""
    offer = Offer(begun)
    offer.file("file", parent=offer.folder("tree"))
    live = offer.folder("live")
    for number in range(files):
        offer.file(f"{number}", parent=live)


@pytest.mark.parametrize("files", [2, 50])
@pytest.mark.parametrize("syncfs", [True, False])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_failed_sync(inbox: Path, monkeypatch: pytest.MonkeyPatch, files: int, syncfs: bool, number: int) -> None:
    """The n-th sync fails, for every n: what is not in place yet never shows, and no sync is tried again."""
    monkeypatch.setattr(linux, "use_syncfs", syncfs)
    (inbox / "live").mkdir()
    syncs = 0
    failing = 0

    def counted(function: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            nonlocal syncs
            syncs += 1
            assert syncs <= failing, "a sync after one that failed"
            if syncs == failing:
                raise OSError(number, os.strerror(number))
            function(descriptor)

        return call

    one, all_ = os.fsync, linux.syncfs
    early = late = 0
    while True:
        failing += 1
        syncs = 0
        begun = LocalStore(inbox, if_exists="skip").begin()
        monkeypatch.setattr(os, "fsync", counted(one))
        monkeypatch.setattr(linux, "syncfs", counted(all_))
        try:
            deliver(begun, files)
            begun.commit()
        except StoreError as error:
            assert isinstance(error, NoSpaceError) == (number == errno.ENOSPC)
            assert error.__cause__ is not None
            if "in place already" in str(error):
                late += 1
                assert "'tree'" in str(error)
            else:
                early += 1
                assert sorted(os.listdir(inbox)) == [".enchufe", "live"]
                assert os.listdir(inbox / "live") == []
                with pytest.raises(ClosedError, match="failed"):
                    begun.commit()
        else:
            break
        finally:
            monkeypatch.setattr(os, "fsync", one)
            monkeypatch.setattr(linux, "syncfs", all_)
            begun.abandon()
        assert not (inbox / ".enchufe").exists()
        for path in inbox.glob("tree*"):
            subprocess.run(["rm", "-r", path], check=True)
        for path in (inbox / "live").iterdir():
            path.unlink()
    assert early
    assert late
    assert contents(inbox)["tree/file"] == "new"


def test_later_graft_fails(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several renames a later one fails: the error tells what is in place."""
    put = linux.rename_noreplace
    calls = 0

    def fourth_fails(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        put(*arguments)

    monkeypatch.setattr(linux, "rename_noreplace", fourth_fails)
    with delivery(inbox) as begun:
        offer = Offer(begun)
        for number in range(6):
            offer.file(f"file\x1b{number}")
        with pytest.raises(StoreError) as caught:
            begun.commit()
    told = str(caught.value)
    assert told.isprintable()
    assert told.startswith(f"cannot put in place {inbox}/file\\x1b4: ")
    assert told.endswith(r"in place already: 'file\x1b0', 'file\x1b1', 'file\x1b2' and 1 more")
    assert len(os.listdir(inbox)) == 4


def test_live_folder_gone_before_the_commit(inbox: Path) -> None:
    """Found before anything is renamed, so nothing shows."""
    (inbox / "live/inner").mkdir(parents=True)
    with delivery(inbox, "overwrite") as begun:
        offer = Offer(begun)
        offer.file("first")
        live = offer.folder("live")
        offer.file("file", parent=offer.folder("inner", live))
        begun._folders.close()  # as if it had been too long ago
        begun._folders.pin(-1, begun._top)
        begun._folders.pin(-2, begun._staging.area.descriptor)
        (inbox / "live").rename(inbox / "moved")
        with pytest.raises(StoreError, match="cannot get everything on disk") as caught:
            begun.commit()
        assert "in place" not in str(caught.value)
    assert contents(inbox) == {"moved": None, "moved/inner": None}


def test_live_folder_gone_before_the_next_entry(inbox: Path) -> None:
    (inbox / "live").mkdir()
    with delivery(inbox, "skip") as begun:
        offer = Offer(begun)
        live = offer.folder("live")
        (inbox / "live").rename(inbox / "moved")
        (inbox / "live").symlink_to("moved")
        with pytest.raises(StoreError, match=r"cannot look at .*/live/file: Not a directory"):
            offer.file("file", parent=live)
        with pytest.raises(ClosedError):
            begun.commit()
    assert list((inbox / "moved").iterdir()) == []


@pytest.mark.parametrize("taken", ["file", "folder"])
@pytest.mark.parametrize("ours", ["file", "folder"])
def test_name_taken_between_look_and_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str, ours: str
) -> None:
    """The gap that is left without renameat2: a full folder is never lost, nor a file to a folder."""
    for name, kind in (("ours", ours), ("taken", taken)):
        if kind == "file":
            (tmp_path / name).touch()
        else:
            (tmp_path / name / "full").mkdir(parents=True)
    monkeypatch.setattr(linux, "use_renameat2", False)
    monkeypatch.setattr(os, "link", fails(errno.EPERM))
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", fails(errno.ENOENT))  # it was not there when we looked
            if (ours, taken) == ("file", "file"):
                linux.rename_noreplace(here, b"ours", here, b"taken")  # the one case that nothing can save
                return
            with pytest.raises(FileExistsError):
                linux.rename_noreplace(here, b"ours", here, b"taken")
            with pytest.raises(FileNotFoundError):
                linux.rename_noreplace(here, b"nothing", here, b"free")
    finally:
        os.close(here)
    assert (tmp_path / "ours").exists()
    assert (tmp_path / "taken").is_dir() == (taken == "folder")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_system_calls_that_are_refused(inbox: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """An old kernel, a file system that does not know the flag, a sandbox: the other ways are taken."""

    def refuse(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    def refuse_to_rename(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(linux, "_rename", refuse_to_rename)
    monkeypatch.setattr(linux, "_syncfs", refuse)
    assert not linux.has_syncfs()
    (inbox / "file").write_text("old")
    with delivery(inbox) as begun:
        offer = Offer(begun)
        offer.file("file")
        tree = offer.folder("tree")
        for index in range(40):
            offer.file(f"{index}", parent=tree)
        begun.commit()
    assert (inbox / "file").read_text() == "old"
    assert (inbox / "file (1)").read_text() == (inbox / "tree/39").read_text() == "new"


def test_system_calls_that_are_missing() -> None:
    assert linux._function("no_such_call", ctypes.c_int) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        linux.syncfs(-1)


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.EIO, "disk reports errors"), (errno.EMFILE, "ulimit"), (errno.EROFS, "read-only")]
)
def test_hints(inbox: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree\n")
        with monkeypatch.context() as patched, pytest.raises(StoreError) as caught:
            patched.setattr(os, "pwrite", fails(number))
            write(begun, offer.add(Kind.FILE, "file", tree, size=5), 0, b"12345")
    assert hint in caught.value.hint
    assert rf"cannot write {inbox}/tree\n/file: {os.strerror(number)}" == str(caught.value)


def test_destinations_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for folder in ("file", "file/below", "dangling", "dangling/below"):
        with pytest.raises(StoreError, match="cannot make the folder") as caught:
            LocalStore(tmp_path / folder)
        assert folder in str(caught.value)
    store = LocalStore(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StoreError, match="cannot open the folder"):
        store.begin()


# Permissions.


def test_unwritable_destination(public: Path) -> None:
    (public / "closed").mkdir(mode=0o755)
    (public / "closed").chmod(0o555)

    def receive() -> None:
        with pytest.raises(StoreError, match="Permission denied") as caught:
            LocalStore(public / "closed").begin()
        assert str(public / "closed") in str(caught.value)
        assert caught.value.hint
        with pytest.raises(StoreError, match="cannot make the folder"):
            LocalStore(public / "closed/new")

    as_nobody(receive)
    assert list((public / "closed").iterdir()) == []


def test_unwritable_live_folder_is_told_at_once(public: Path) -> None:
    def receive() -> None:
        (public / "in/live").mkdir(parents=True)
        (public / "in/live").chmod(0o555)
        with delivery(public / "in", "skip") as begun:
            offer = Offer(begun)
            live = offer.folder("live")
            with pytest.raises(StoreError, match="cannot write into live: Permission denied"):
                offer.file("file", parent=live)

    as_nobody(receive)


def test_live_folder_that_is_mounted_read_only_is_told_at_once(inbox: Path) -> None:
    """The folder's permissions have nothing to do with it."""
    live = inbox / "live"
    live.mkdir(parents=True)
    with mounted(live, "--bind", live):
        run_or_skip(["mount", "-o", "remount,bind,ro", live], inbox)
        with delivery(inbox, "skip") as begun:
            offer = Offer(begun)
            number = offer.folder("live")
            with pytest.raises(StoreError, match="cannot write into live: Read-only") as caught:
                offer.file("file", parent=number)
        assert "mounted read-only" in str(caught.value.hint)


@pytest.mark.parametrize("what", ["+i live/file", "+a live/file", "+a live", "+i link", "+a ."])
def test_what_nobody_can_replace_is_told_at_once(tmp_path: Path, what: str) -> None:
    """Not by permissions: even root is told so, and else when all had come and some of it was in place."""
    how, _, where = what.partition(" ")
    with formatted(tmp_path, 8 << 20, "mkfs.ext4", "-q") as disk:
        (disk / "live").mkdir()
        (disk / "live" / "file").write_bytes(b"old")
        (disk / "link").write_bytes(b"old")
        run_or_skip(["chattr", how, disk / where], tmp_path)
        try:
            with (
                pytest.raises(StoreError, match="immutable or append-only") as caught,
                delivery(disk, "update") as begun,
            ):
                offer = Offer(begun)
                offer.file("link", b"another")
                offer.file("file", b"another", parent=offer.folder("live"))
            assert "chattr" in caught.value.hint
            assert (disk / "live" / "file").read_bytes() == b"old"
        finally:
            subprocess.run(["chattr", f"-{how[1]}", disk / where], check=True)


def test_an_immutable_file_that_stays_is_no_trouble(tmp_path: Path) -> None:
    with formatted(tmp_path, 8 << 20, "mkfs.ext4", "-q") as disk:
        same = disk / "same"
        same.write_bytes(b"new")
        os.utime(same, ns=(T, T))
        run_or_skip(["chattr", "+i", same], tmp_path)
        try:
            with delivery(disk, "update") as begun:
                offer = Offer(begun)
                offer.file("same", b"new")
                assert offer.answer is Answer.SKIP
                offer.file("other")
                begun.commit()
            assert (disk / "other").read_bytes() == b"new"
        finally:
            subprocess.run(["chattr", "-i", same], check=True)


def test_modes_that_would_keep_us_out(public: Path) -> None:
    """Unprivileged, a folder that may not be written to is still filled and renamed; and read-only files are synced."""

    synced = set()
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def receive() -> None:
        os.fsync = noted  # type: ignore[assignment]
        for syncfs in (True, False):
            linux.use_syncfs = syncfs
            for files in (2, 40):
                folder = public / f"in {syncfs} {files}"
                with delivery(folder) as begun:
                    offer = Offer(begun)
                    for mode in (0o555, 0o000, 0o300):
                        tree = offer.folder(f"tree {mode:o}", mode=mode)
                        inner = offer.folder("inner", tree, mode=mode)
                        for number in range(files):
                            offer.file(f"{number}", parent=inner, mode=(0o400, 0o200, 0)[number % 3], piece=number % 2)
                            offer.folder(f"d{number}", inner, mode=0)  # more than are kept open
                    begun.commit()
                for mode in (0o555, 0o000, 0o300):
                    tree_path = folder / f"tree {mode:o}"
                    assert stat.S_IMODE(tree_path.stat().st_mode) == mode
                    tree_path.chmod(0o700)
                    assert stat.S_IMODE((tree_path / "inner").stat().st_mode) == mode
                    (tree_path / "inner").chmod(0o700)
                    assert len(os.listdir(tree_path / "inner")) == 2 * files
                    if not syncfs:
                        assert {path.stat().st_ino for path in (tree_path / "inner").iterdir()} <= synced
                    assert stat.S_IMODE((tree_path / "inner/0").stat().st_mode) == 0o400

    as_nobody(receive)


@pytest.mark.parametrize("syncfs", [True, False])
def test_failed_commit_of_locked_folders_leaves_nothing(public: Path, syncfs: bool) -> None:
    """The modes are final when the rename fails; abandoning must still get in and remove."""

    def receive() -> None:
        linux.use_syncfs = syncfs
        linux.rename_noreplace = fails(errno.EIO)
        with delivery(public / "in") as begun:
            offer = Offer(begun)
            tree = offer.folder("tree", mode=0)
            for mode in (0, 0o100, 0o555):
                offer.file("file", parent=offer.folder("inner", offer.folder(f"{mode:o}", tree, mode), mode), mode=0)
            with pytest.raises(StoreError, match="cannot put in place"):
                begun.commit()
        assert list((public / "in").iterdir()) == []

    as_nobody(receive)


def test_live_folder_of_somebody_else_keeps_its_mode(public: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder that is somebody else's")
    (public / "in/live").mkdir(parents=True)
    for folder in (public / "in", public / "in/live"):
        folder.chmod(0o777)

    def receive() -> None:
        with delivery(public / "in", "overwrite") as begun:
            offer = Offer(begun)
            offer.file("file", parent=offer.folder("live", mode=0o700))
            begun.commit()

    as_nobody(receive)
    assert stat.S_IMODE((public / "in/live").stat().st_mode) == 0o777
    assert (public / "in/live/file").read_text() == "new"


# The staging folder.


def test_staging_folder_in_the_way(inbox: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    makes: list[Callable[[], None]] = [
        lambda: (inbox / ".enchufe").symlink_to(elsewhere),
        (inbox / ".enchufe").touch,
        lambda: os.mkfifo(inbox / ".enchufe"),
    ]
    for make in makes:
        make()
        with pytest.raises(StoreError, match="is not a folder") as caught:
            LocalStore(inbox).begin()
        assert caught.value.hint
        (inbox / ".enchufe").unlink()
    assert list(elsewhere.iterdir()) == []


def test_staging_folder_of_somebody_else(public: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder that is somebody else's")
    (public / ".enchufe").mkdir(mode=0o777)
    (public / ".enchufe").chmod(0o777)

    def receive() -> None:
        with pytest.raises(StoreError, match="belongs to somebody else") as caught:
            LocalStore(public).begin()
        assert caught.value.hint

    as_nobody(receive)


def test_staging_folder_is_closed_to_others(inbox: Path) -> None:
    (inbox / ".enchufe").mkdir()
    (inbox / ".enchufe").chmod(0o777)
    (inbox / ".enchufe/notes").write_text("not ours, so it stays")
    begun = LocalStore(inbox).begin()
    (area,) = (path for path in (inbox / ".enchufe").iterdir() if path.is_dir())
    assert stat.S_IMODE((inbox / ".enchufe").stat().st_mode) == stat.S_IMODE(area.stat().st_mode) == 0o700
    Offer(begun).file("file", mode=0o777)
    assert stat.S_IMODE(area.stat().st_mode) == 0o700
    begun.abandon()
    assert contents(inbox / ".enchufe") == {"notes": "not ours, so it stays"}


CRASHING = """
import sys, time
from enchufe.entry import Entry, Kind, NO_PARENT
from enchufe.store import LocalStore
begun = LocalStore(sys.argv[1]).begin()
begun.admit(Entry(0, NO_PARENT, b"tree", Kind.DIRECTORY))
begun.admit(Entry(1, 0, b"link", Kind.SYMLINK, target=b"x"))
begun.admit(Entry(2, 0, b"locked", Kind.DIRECTORY))
begun.write_whole(Entry(3, 2, b"file", Kind.FILE), b"x" * 1000, bytes(32))
begun.write(Entry(4, 0, b"half", Kind.FILE), 0, b"x" * 1000, bytes(32))
print("ready", flush=True)
time.sleep(60)
"""


def crash(inbox: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CRASHING, inbox], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        owner.send_signal(signal.SIGKILL)


def test_what_the_dead_left_is_removed(inbox: Path) -> None:
    alive = LocalStore(inbox).begin()
    offer = Offer(alive)
    tree = offer.folder("tree")
    offer.file("first", parent=tree)
    crash(inbox)
    areas = {path.name for path in (inbox / ".enchufe").iterdir()}
    assert len(areas) == 2
    for path in (inbox / ".enchufe").rglob("locked"):
        path.chmod(0)
    young = LocalStore(inbox).begin()
    left = {path.name for path in (inbox / ".enchufe").iterdir()}
    assert len(left) == 2
    assert len(left & areas) == 1
    offer.file("second", parent=tree)
    alive.commit()
    young.abandon()
    assert contents(inbox) == {"tree": None, "tree/first": "new", "tree/second": "new"}


def test_the_dead_are_removed_through_no_link(inbox: Path, tmp_path: Path) -> None:
    """Areas that are symlinks, and symlinks in areas, lead nowhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    crash(inbox)
    (area,) = (inbox / ".enchufe").iterdir()
    (area / "out").symlink_to(outside)
    (inbox / ".enchufe" / ("0" * 16)).symlink_to(outside)
    begun = LocalStore(inbox).begin()
    assert not area.exists()
    begun.abandon()
    assert contents(outside) == {"file": "stays"}


def test_without_locks_the_dead_stay(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can tell who is dead, nothing of anybody is removed; and everything else works."""
    crash(inbox)
    with monkeypatch.context() as patched:
        patched.setattr(staging, "fcntl", None)
        begun = LocalStore(inbox).begin()
        Offer(begun).file("file")
        begun.commit()
    assert len(list((inbox / ".enchufe").iterdir())) == 1
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", fails(errno.ENOLCK))
        LocalStore(inbox).begin().abandon()
    assert len(list((inbox / ".enchufe").iterdir())) == 1
    LocalStore(inbox).begin().abandon()
    assert contents(inbox) == {"file": "new"}


def test_staging_folder_removed_while_coming_in(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening `.enchufe` and locking it the last delivery removes it: we make it again, some times."""
    lock = fcntl.flock
    removals = 5

    def removed(descriptor: int, operation: int) -> None:
        nonlocal removals
        if removals and not operation & fcntl.LOCK_NB:
            removals -= 1
            (inbox / ".enchufe").rmdir()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed)
    with delivery(inbox) as begun:
        Offer(begun).file("file")
        begun.commit()
    assert removals == 0
    assert contents(inbox) == {"file": "new"}
    removals = 1000
    with pytest.raises(StoreError):
        LocalStore(inbox).begin()


def test_staging_area_vanishes(inbox: Path) -> None:
    """Somebody cleans up under our feet: an error, no crash, nothing shows."""
    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        subprocess.run(["rm", "-r", inbox / ".enchufe"], check=True)
        with pytest.raises(StoreError, match="No such file"):
            offer.file("file", parent=tree)
        with pytest.raises(ClosedError):
            begun.commit()
    with delivery(inbox) as begun:
        Offer(begun).folder("tree")
        subprocess.run(["rm", "-r", inbox / ".enchufe"], check=True)
        with pytest.raises(StoreError, match="No such file"):
            begun.commit()
    assert list(inbox.iterdir()) == []


# An attacker on this machine.


def _exchange() -> Callable[[Path, Path], None]:
    rename = ctypes.CDLL(None, use_errno=True).renameat2

    def exchange(one: Path, other: Path) -> None:
        assert rename(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0  # AT_FDCWD, RENAME_EXCHANGE

    return exchange


def test_parents_swapped_for_links_while_we_write(inbox: Path, tmp_path: Path) -> None:
    """A thread swaps live folders for symlinks to the outside, as fast as it can: nothing ever gets out."""
    outside = tmp_path / "outside"
    (outside / "b/c").mkdir(parents=True)
    (outside / "secret").write_text("secret")
    (outside / "b/file").write_text("theirs")
    (inbox / "a/b/c").mkdir(parents=True)
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "link b").symlink_to(outside / "b")
    before = snapshot(outside, times=True)
    exchange = _exchange()
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        rng = random.Random(7)
        while not stop.is_set():
            for live, link in ((inbox / "a", tmp_path / "link"), (inbox / "a/b", tmp_path / "link b")):
                exchange(live, link)
                time.sleep(rng.random() / 2000)
                exchange(live, link)
                time.sleep(rng.random() / 200)
                swaps += 1

    attacker = threading.Thread(target=swap)
    attacker.start()
    committed = refused = 0
    try:
        soon, end = time.monotonic() + 4, time.monotonic() + 60
        # On a slow machine until each outcome was seen.
        while time.monotonic() < (soon if swaps > 100 and committed and refused else end):
            begun = LocalStore(inbox, if_exists="overwrite").begin()
            try:
                offer = Offer(begun)
                a = offer.folder("a")
                b = offer.folder("b", a)
                c = offer.folder("c", b)
                for parent in (a, b, c):
                    offer.file("file", b"ours", parent, piece=2)
                    offer.file("x", b"ours", offer.folder("new", parent))
                    offer.link("link", b"file", parent)
                begun.commit()
                committed += Answer.IN_THE_WAY not in offer.answers
            except StoreError:
                refused += 1
            finally:
                begun.abandon()
    finally:
        stop.set()
        attacker.join()
    assert snapshot(outside, times=True) == before
    assert min(swaps, committed, refused) > 0


def test_reading_a_tree_of_links_never_happens(inbox: Path, tmp_path: Path) -> None:
    """A name of the peer never opens anything for reading: `update` compares without a look inside."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0)
    (inbox / "file").symlink_to(secret)
    before = secret.stat().st_atime_ns
    with delivery(inbox, "update") as begun:
        offer = Offer(begun)
        offer.file("file", b"secret")
        assert offer.answer is Answer.ALL
        with pytest.raises(RemoteProtocolError):
            offer.file("../secret")
    assert secret.stat().st_atime_ns == before
