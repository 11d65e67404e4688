"""What a sender reads: the walk, the reading, what is left out, and what changes in between."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import socket
import stat
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import enchufe
from enchufe.entry import NO_LINK, NO_PARENT, UNKNOWN_SIZE, Entry, Kind, Reason
from enchufe.errors import BrokenError, LocalProtocolError, StoreError
from enchufe.store import LeftOut, PipeSource, Sending, Source, TextSource
from enchufe.store import source as source_module
from enchufe.store.folders import OPEN_LIMIT, Folders
from enchufe.store.shared_folders import SharedFolders

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")

STRANGE = [
    b"a b",
    b"line\nbreak",
    "ñandú".encode(),
    "🧦🔌".encode(),
    b"\xff\xfe not text",
    b"n" * 255,
    b"-rf",
    b"...",
    b"\x1b[2J",
    b"back\\slash",
    b"NUL",
]


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError("a test of a source hung")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that an unprivileged user can reach; pytest's own are for their owner only."""
    with tempfile.TemporaryDirectory(prefix="enchufe-") as name:
        os.chmod(name, 0o777)
        yield Path(name)


def in_child(function: Callable[[], None], *, unprivileged: bool = False) -> None:
    """Run in a child process, as nobody if need be, since root may read everything."""
    child = os.fork()
    if child == 0:
        try:
            if unprivileged and os.geteuid() == 0:
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


def walked(paths: Sequence[str | Path]) -> tuple[dict[bytes, Entry], list[tuple[tuple[bytes, ...], str]]]:
    with contextlib.closing(Source(paths)) as source:
        entries = list(source.walk())
        assert [entry.id for entry in entries] == list(range(len(entries)))
        for entry in entries:
            assert entry.parent == NO_PARENT or entry.parent < entry.id
        found = {b"/".join(source.path(entry)): entry for entry in entries}
        assert len(found) == len(entries)
        return found, list(source.left_out)


def one(path: Path) -> tuple[Sending, Entry]:
    source = Source([path])
    return source, next(entry for entry in source.walk() if entry.kind is Kind.FILE)


def reason(read: Callable[[], object]) -> Reason:
    with pytest.raises(LeftOut) as caught:
        read()
    return caught.value.reason


# The walk.


def test_order(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for name in ("b/inner/x", "b/file", "a/y", "zeta", "alpha", "c/z"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "midlink").symlink_to("zeta")
    (root / "empty").mkdir()
    found, left_out = walked([root])
    assert [name.decode() for name in found] == [
        *("tree", "tree/alpha", "tree/midlink", "tree/zeta", "tree/a", "tree/a/y"),
        *("tree/b", "tree/b/file", "tree/b/inner", "tree/b/inner/x", "tree/c", "tree/c/z", "tree/empty"),
    ]
    assert left_out == []


def test_entries_say_what_is_there(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    file, link = root / "file", root / "link"
    file.write_bytes(b"hola")
    file.chmod(0o4750)
    link.symlink_to(b"no\xffwhere".decode("utf-8", "surrogateescape"))
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    os.utime(link, ns=(1, -987_654_321), follow_symlinks=False)
    os.utime(root, ns=(1, 42))
    root.chmod(0o1711)
    found, _ = walked([root])
    assert found[b"tree"] == Entry(0, NO_PARENT, b"tree", Kind.DIRECTORY, 0, 0o1711, 42)
    assert found[b"tree/file"] == Entry(1, 0, b"file", Kind.FILE, 4, 0o4750, 1_234_567_890_123_456_789)
    expected = Entry(2, 0, b"link", Kind.SYMLINK, 0, 0o777, -987_654_321, b"no\xffwhere")
    assert found[b"tree/link"] == expected


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names(tmp_path: Path, name: bytes) -> None:
    folder = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(folder)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(name)
    for path in (folder, os.fsdecode(folder)):
        with contextlib.closing(Source([path])) as source:
            root, inner = source.walk()
            assert (root.name, inner.name) == (name, name)
            assert source.read_whole(inner) == name


def test_roots_and_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "real/file").write_text("x")
    (tmp_path / "to-folder").symlink_to("real")
    (tmp_path / "to-file").symlink_to("real/file")
    found, _ = walked([f"{tmp_path}/real//", tmp_path / "to-folder", tmp_path / "to-file"])
    assert [name for name, entry in found.items() if entry.parent == NO_PARENT] == [b"real", b"to-folder", b"to-file"]
    assert found[b"to-folder"].kind is Kind.DIRECTORY
    assert found[b"to-folder/file"].size == 1
    assert found[b"to-file"].kind is Kind.FILE
    monkeypatch.chdir(tmp_path / "real/sub")
    assert next(iter(walked(["."])[0])) == b"sub"
    assert next(iter(walked([".."])[0])) == b"real"
    assert next(iter(walked(["../sub/."])[0])) == b"sub"
    assert next(iter(walked(["../file"])[0])) == b"file"
    # The system's `..`, not the text's: the link leads elsewhere.
    (tmp_path / "real/sub/away").symlink_to(tmp_path)
    assert next(iter(walked(["away/.."])[0])) == os.fsencode(tmp_path.parent.name)


def test_root_is_held_though_we_go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(Source(["file"])) as source:
        monkeypatch.chdir("/")
        (entry,) = source.walk()
        assert source.read_whole(entry) == b"x"


def test_bad_roots(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("y")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "fifo")
    for missing in ("miss\x1bing", "file/below", "dangling", "loop"):
        with pytest.raises(StoreError) as caught:
            Source([tmp_path / "file", f"{tmp_path}/{missing}"])
        assert str(caught.value).isprintable()
        assert missing.split("/", maxsplit=1)[0].split("\x1b", maxsplit=1)[0] in str(caught.value)
    with pytest.raises(StoreError, match="named pipe") as caught:
        Source([tmp_path / "fifo"])
    assert caught.value.hint
    with pytest.raises(StoreError, match="device"):
        Source(["/dev/null"])
    with pytest.raises(LocalProtocolError, match="called 'file'"):
        Source([tmp_path / "file", tmp_path / "other/file"])
    with pytest.raises(LocalProtocolError, match="no name"):
        Source(["/"])
    for nothing in ("", b"a\0b"):
        with pytest.raises(LocalProtocolError, match="is no path"):
            Source([nothing])


def test_root_that_vanishes_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "stays").write_text("x")
    (tmp_path / "swapped").write_text("x")
    with contextlib.closing(Source([tmp_path / "file", tmp_path / "swapped", tmp_path / "stays"])) as source:
        (tmp_path / "file").unlink()
        (tmp_path / "swapped").unlink()
        (tmp_path / "swapped").symlink_to("stays")
        (entry,) = source.walk()
        assert (entry.id, entry.name) == (0, b"stays")
        assert list(source.left_out) == [((b"file",), Reason.VANISHED.told), ((b"swapped",), Reason.CHANGED.told)]


def test_special_files_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "t"
    root.mkdir()
    os.mkfifo(root / "fifo")
    (root / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        found, left_out = walked([root])
    assert list(found) == [b"t", b"t/file"]
    assert [path for path, _ in left_out] == [(b"t", b"fifo"), (b"t", b"socket")]
    assert [told for _, told in left_out] == ["a named pipe, not a file", "a socket, not a file"]


def test_too_deep_is_left_out(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(260):
        os.mkdir(b"d", dir_fd=here)
        inner = os.open(b"d", os.O_RDONLY, dir_fd=here)
        os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        os.close(here)
        here = inner
    os.close(here)
    with contextlib.closing(Source([tmp_path / "d"])) as source:
        entries = list(source.walk())
        depths = {len(source.path(entry)) - 1 for entry in entries}
        assert max(depths) == 256
        assert [len(path) - 1 for path, _ in source.left_out] == [256]
        assert "256" in next(iter(source.left_out))[1]
        # Every one can be read though only a few folders are open at once.
        for entry in random.Random(1).sample(entries, len(entries)):
            if entry.kind is Kind.FILE:
                assert source.read_whole(entry) == b""


def test_unreadable_folder_is_left_out(public: Path) -> None:
    root = public / "tree"
    (root / "locked").mkdir(parents=True)
    (root / "locked/file").write_text("x")
    (root / "open").mkdir()
    (root / "open/file").write_text("x")
    (root / "secret").write_text("x")
    (root / "locked").chmod(0)
    (root / "secret").chmod(0)

    def as_nobody() -> None:
        with contextlib.closing(Source([root])) as source:
            entries = {b"/".join(source.path(entry)): entry for entry in source.walk()}
            assert list(entries) == [b"tree", b"tree/secret", b"tree/open", b"tree/open/file"]
            ((path, told),) = source.left_out
            assert path == (b"tree", b"locked")
            assert told == "it could not be read (Permission denied)"
            for read in (source.open, source.read_whole):
                with pytest.raises(LeftOut, match="'tree/secret'") as caught:
                    read(entries[b"tree/secret"])
                assert caught.value.reason is Reason.UNREADABLE

    in_child(as_nobody, unprivileged=True)


def test_unreadable_root(public: Path) -> None:
    (public / "locked").mkdir(mode=0o700)
    (public / "file").touch()
    if os.geteuid() != 0:
        (public / "locked").chmod(0)

    def as_nobody() -> None:
        found, left_out = walked([public / "locked", public / "file"])
        assert list(found) == [b"file"]
        assert left_out == [((b"locked",), "it could not be read (Permission denied)")]

    in_child(as_nobody, unprivileged=True)


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number goes to the next one, and is not mistaken for it."""
    for name in ("bad", "good"):
        (tmp_path / "t" / name).mkdir(parents=True)
        (tmp_path / "t" / name / f"in {name}").write_text(name)
    bad = (tmp_path / "t/bad").stat().st_ino
    scan = os.scandir

    def failing(where: int) -> Iterator[os.DirEntry[str]]:
        if os.fstat(where).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scan(where)

    monkeypatch.setattr(os, "scandir", failing)
    with contextlib.closing(Source([tmp_path / "t"])) as source:
        *_, last = source.walk()
        assert source.path(last) == (b"t", b"good", b"in good")
        assert source.read_whole(last) == b"good"
        assert list(source.left_out) == [((b"t", b"bad"), "it could not be read (Input/output error)")]


def test_walk_out_of_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t/d").mkdir(parents=True)

    def failing(where: int) -> Iterator[os.DirEntry[str]]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "scandir", failing)
    with contextlib.closing(Source([tmp_path / "t"])) as source, pytest.raises(StoreError, match="Too many open files"):
        list(source.walk())


def test_walk_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (tmp_path / f"t/{number:02}/inner").mkdir(parents=True)
    scans = []
    scan = os.scandir

    def counted(where: int) -> Iterator[os.DirEntry[str]]:
        scans.append(where)
        return scan(where)

    monkeypatch.setattr(os, "scandir", counted)
    with contextlib.closing(Source([tmp_path / "t"])) as source:
        walk = source.walk()
        for expected in (1, 2, 3, 4):
            next(walk)
            assert len(scans) == expected


def test_tree_that_changes_while_it_is_walked(tmp_path: Path) -> None:
    root = tmp_path / "t"
    for name in ("a", "b", "c", "d"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text("x")
    (root / "f1").write_text("x")
    (root / "f2").write_text("x")
    with contextlib.closing(Source([root])) as source:
        walk = source.walk()
        assert next(walk).name == b"t"
        assert next(walk).name == b"f1"
        (root / "f2").unlink()
        (root / "b").rename(tmp_path / "b")
        (root / "b").symlink_to("/etc")
        (root / "c").rename(tmp_path / "c")
        rest = {source.path(entry)[1:]: entry for entry in walk}
        assert set(rest) == {(b"a",), (b"a", b"file"), (b"b",), (b"d",), (b"d", b"file")}
        assert rest[b"b",].kind is Kind.SYMLINK
        assert [(path[1:], told) for path, told in source.left_out] == [
            ((b"f2",), Reason.VANISHED.told),
            ((b"c",), Reason.VANISHED.told),
        ]


# Reading.


def test_reading(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(3_000_000)
    (tmp_path / "file").write_bytes(data)
    source, entry = one(tmp_path / "file")
    with contextlib.closing(source):
        assert source.read_whole(entry) == data
        file = source.open(entry)
        view = memoryview(bytearray(1 << 20))
        parts = []
        for offset in range(0, len(data), len(view)):
            count = file.read_into(view, offset)
            parts.append(bytes(view[:count]))
        assert b"".join(parts) == data
        assert len(parts[-1]) < len(view)
        assert file.read_into(view, len(data)) == 0
        assert file.read_into(view[:10], 5) == 10
        assert bytes(view[:10]) == data[5:15]
        assert file.unchanged()
        file.close()
        file.close()


def test_slow_and_failing_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read may give less than was asked for without being at the end; or fail."""
    (tmp_path / "file").write_bytes(b"hola, enchufe")
    source, entry = one(tmp_path / "file")
    read, preadv = os.read, os.preadv
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 3)))
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: preadv(fd, [views[0][:3]], offset))
    view = memoryview(bytearray(20))
    with contextlib.closing(source), contextlib.closing(source.open(entry)) as file:
        assert source.read_whole(entry) == b"hola, enchufe"
        assert file.read_into(view, 0) == 13
        assert bytes(view[:13]) == b"hola, enchufe"

        def failing(*_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "read", failing)
        monkeypatch.setattr(os, "preadv", failing)
        assert reason(lambda: source.read_whole(entry)) is Reason.UNREADABLE
        assert reason(lambda: file.read_into(view, 0)) is Reason.UNREADABLE


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source, entry = one(tmp_path / "file")
    with contextlib.closing(source):
        assert source.read_whole(entry) == b""
        with contextlib.closing(source.open(entry)) as file:
            assert file.read_into(memoryview(bytearray(5)), 0) == 0


def vanish(file: Path) -> None:
    file.unlink()


def grow(file: Path) -> None:
    with file.open("ab") as appended:
        appended.write(b"more")


def resize(file: Path) -> None:
    os.truncate(file, 1)


def rewrite(file: Path) -> None:
    """Of the same size, by the time only."""
    before = file.stat().st_mtime_ns
    file.write_bytes(b"x" * file.stat().st_size)
    os.utime(file, ns=(before, before + 1))


def become_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def become_link(file: Path) -> None:
    file.rename(file.with_name("moved"))
    file.symlink_to("moved")


def become_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def become_device(file: Path) -> None:
    file.unlink()
    try:
        os.mknod(file, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:  # not root, or a user namespace
        os.mkfifo(file)


def become_socket(file: Path) -> None:
    file.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(file))


CHANGES = [
    (vanish, Reason.VANISHED),
    (grow, Reason.CHANGED),
    (resize, Reason.CHANGED),
    (rewrite, Reason.CHANGED),
    (become_fifo, Reason.CHANGED),
    (become_link, Reason.CHANGED),
    (become_folder, Reason.CHANGED),
    (become_device, Reason.CHANGED),
    (become_socket, Reason.CHANGED),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
@pytest.mark.parametrize("as_root", [True, False], ids=["root", "inside"])
@pytest.mark.parametrize("content", [b"", b"hola, enchufe"], ids=["empty", "full"])
def test_changed_between_walk_and_open(
    tmp_path: Path, change: Callable[[Path], None], expected: Reason, as_root: bool, content: bytes
) -> None:
    file = tmp_path / "t/file"
    file.parent.mkdir()
    file.write_bytes(content)
    source, entry = one(file if as_root else file.parent)
    with contextlib.closing(source):
        change(file)
        assert reason(lambda: source.open(entry)) is expected
        assert reason(lambda: source.read_whole(entry)) is expected


@pytest.mark.parametrize("change", [grow, resize, rewrite])
def test_changed_while_open(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hola, enchufe")
    source, entry = one(path)
    with contextlib.closing(source), contextlib.closing(source.open(entry)) as file:
        assert file.unchanged()
        change(path)
        assert not file.unchanged()


@pytest.mark.parametrize("change", [grow, resize, rewrite])
def test_changed_while_it_is_read_whole(
    tmp_path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hola, enchufe")
    source, entry = one(path)
    whole = os.read

    def read_then_change(descriptor: int, size: int) -> bytes:
        data = whole(descriptor, size)
        change(path)
        return data

    with contextlib.closing(source):
        monkeypatch.setattr(os, "read", read_then_change)
        assert reason(lambda: source.read_whole(entry)) is Reason.CHANGED


def test_a_network_file_system_that_lost_an_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    source, entry = one(tmp_path / "file")
    with contextlib.closing(source), contextlib.closing(source.open(entry)) as file:

        def stale(_: int) -> os.stat_result:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fstat", stale)
            assert not file.unchanged()
            assert reason(lambda: source.read_whole(entry)) is Reason.VANISHED


def test_folder_swapped_for_a_link(tmp_path: Path) -> None:
    """What was offered is read, or nothing: never what a link put in the folder's place leads to."""
    (tmp_path / "t/d").mkdir(parents=True)
    (tmp_path / "t/d/file").write_text("mine")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("hers")
    time = (tmp_path / "t/d/file").stat().st_mtime_ns
    os.utime(tmp_path / "secret/file", ns=(time, time))
    source, entry = one(tmp_path / "t")
    source.close()  # so that the folder has to be opened again
    with contextlib.closing(source):
        (tmp_path / "t/d").rename(tmp_path / "t/moved")
        (tmp_path / "t/d").symlink_to("../secret")
        assert reason(lambda: source.read_whole(entry)) is Reason.VANISHED


def test_files_that_lie_about_their_size(tmp_path: Path) -> None:
    """Those in /proc say that they are empty."""
    source, entry = one(Path("/proc/self/status"))
    with contextlib.closing(source):
        assert entry.size == 0
        assert reason(lambda: source.read_whole(entry)) is Reason.CHANGED


def test_out_of_descriptors_is_not_the_files_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    def starve() -> None:
        source, entry = one(tmp_path / "file")
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 100))
        for read in (source.open, source.read_whole):
            with pytest.raises(StoreError, match="Too many open files") as caught:
                read(entry)
            assert not isinstance(caught.value, LeftOut)
            assert "ulimit" in caught.value.hint

    in_child(starve)


def test_pieces_by_several_threads(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(1_000_000)
    (tmp_path / "file").write_bytes(data)
    source, entry = one(tmp_path / "file")

    def part(offset: int) -> bytes:
        view = memoryview(bytearray(10_000))
        return bytes(view[: file.read_into(view, offset)])

    with contextlib.closing(source), contextlib.closing(source.open(entry)) as file, ThreadPoolExecutor(8) as threads:
        assert b"".join(threads.map(part, range(0, len(data), 10_000))) == data


def test_files_by_several_threads_while_it_is_walked(tmp_path: Path) -> None:
    """More folders than stay open at once, so that each thread has those closed that others were given."""
    for folder in range(100):
        (tmp_path / f"t/{folder}/in").mkdir(parents=True)
        for name in ("x", "in/y"):
            (tmp_path / f"t/{folder}/{name}").write_text(f"{folder}/{name}")
    with contextlib.closing(Source([tmp_path / "t"])) as source, ThreadPoolExecutor(8) as threads:

        def read(entry: Entry) -> None:
            expected = b"/".join(source.path(entry)[1:])
            assert source.read_whole(entry) == expected
            with contextlib.closing(source.open(entry)) as file:
                view = memoryview(bytearray(20))
                assert view[: file.read_into(view, 0)] == expected

        reading = []
        for entry in source.walk():
            if entry.kind is Kind.FILE:
                reading += [threads.submit(read, entry) for _ in range(3)]
        for each in reading:
            each.result()
        assert len(reading) == 600
        assert list(source.left_out) == []


# Once more.


@pytest.mark.parametrize("change", [grow, resize, rewrite])
@pytest.mark.parametrize("as_root", [True, False], ids=["root", "inside"])
def test_again(tmp_path: Path, change: Callable[[Path], None], as_root: bool) -> None:
    file = tmp_path / "t/file"
    file.parent.mkdir()
    file.write_bytes(b"hola, enchufe")
    source, entry = one(file if as_root else file.parent)
    with contextlib.closing(source):
        first = entry.id
        for round_ in (1, 2):
            change(file)
            os.utime(file, ns=(1, round_))
            file.chmod(0o600 + round_)
            assert reason(lambda entry=entry: source.read_whole(entry)) is Reason.CHANGED  # type: ignore[misc]
            changed = source.again(entry)
            assert changed is not None
            size = file.stat().st_size
            assert changed == Entry(first + round_, entry.parent, b"file", Kind.FILE, size, 0o600 + round_, round_)
            assert source.path(changed) == source.path(entry)
            assert source.read_whole(changed) == file.read_bytes()
            source.open(changed).close()
            entry = changed
        assert source.again(entry) is None  # a file that never rests would go on for ever
        assert source.again(entry) is None


def lose_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name("moved"))


@pytest.mark.parametrize(
    "change", [vanish, become_fifo, become_link, become_folder, become_device, become_socket, lose_folder]
)
@pytest.mark.parametrize("as_root", [True, False], ids=["root", "inside"])
def test_never_again_what_is_no_file(tmp_path: Path, change: Callable[[Path], None], as_root: bool) -> None:
    file = tmp_path / "t/file"
    file.parent.mkdir()
    file.write_bytes(b"x")
    source, entry = one(file if as_root else file.parent)
    with contextlib.closing(source):
        source.close()  # so that the folder has to be opened again
        change(file)
        assert source.again(entry) is None


def test_again_between_what_is_walked(tmp_path: Path) -> None:
    """Ids stay those of the order in which things are offered, and folders keep theirs."""
    for name in ("a/x", "b/y", "b/c/z"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_text(name)
    with contextlib.closing(Source([tmp_path / "t"])) as source:
        offered = []
        for entry in source.walk():
            offered.append(entry)
            if entry.kind is Kind.FILE:
                changed = source.again(entry)
                assert changed is not None
                offered.append(changed)
        assert [entry.id for entry in offered] == list(range(len(offered))) == list(range(10))
        for entry in offered:
            if entry.kind is Kind.FILE:
                assert source.read_whole(entry) == b"/".join(source.path(entry)[1:])


# Hard links.


def test_hard_links(tmp_path: Path) -> None:
    (tmp_path / "t/d").mkdir(parents=True)
    (tmp_path / "alone").write_text("x")
    for name in ("t/a", "t/d/b", "t/z"):
        os.link(tmp_path / "alone", tmp_path / name)
    os.link(tmp_path / "t/z", tmp_path / "last")
    (tmp_path / "t/other").write_text("x")
    os.link(tmp_path / "t/other", tmp_path / "t/d/other")
    (tmp_path / "t/single").write_text("x")
    os.symlink("x", tmp_path / "t/symlink")
    os.link(tmp_path / "t/symlink", tmp_path / "t/symlink2", follow_symlinks=False)
    found, _ = walked([tmp_path / "t", tmp_path / "last", tmp_path / "alone"])
    first, second = found[b"t/a"].id, found[b"t/other"].id
    assert {name: entry.linked for name, entry in found.items() if entry.linked != NO_LINK} == {
        **{b"t/z": first, b"t/d/b": first, b"last": first, b"alone": first},
        b"t/d/other": second,
    }
    for entry in found.values():
        assert entry.linked == NO_LINK or entry.linked < entry.id


def test_hard_link_of_a_file_that_changes_while_it_is_walked(tmp_path: Path) -> None:
    """What is linked would be what was read before; so it goes as a file, and the next names are linked to that."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t/a").write_text("x")
    for name in "bcd":
        os.link(tmp_path / "t/a", tmp_path / "t" / name)
    with contextlib.closing(Source([tmp_path / "t"])) as source:
        walk = source.walk()
        entries = [next(walk), next(walk), next(walk)]
        rewrite(tmp_path / "t/a")
        entries += walk
        assert [entry.linked for entry in entries] == [NO_LINK, NO_LINK, 1, NO_LINK, 3]


def test_hard_links_again(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/a").write_text("x")
    for name in "bc":
        os.link(tmp_path / "t/a", tmp_path / "t" / name)
    with contextlib.closing(Source([tmp_path / "t"])) as source:
        _, a, b, c = source.walk()
        assert (b.linked, c.linked) == (a.id, a.id)
        rewrite(tmp_path / "t/a")
        offered = [source.again(entry) for entry in (a, b, c)]
        assert [entry and (entry.id, entry.linked) for entry in offered] == [(4, NO_LINK), (5, 4), (6, 4)]
    with contextlib.closing(Source([tmp_path / "t"])) as source:
        _, a, b, c = source.walk()
        (tmp_path / "t/a").unlink()  # the name that the others were to be linked to is what cannot be read
        offered = [source.again(entry) for entry in (a, b, c)]
        assert [entry and (entry.id, entry.linked) for entry in offered] == [None, (4, NO_LINK), (5, 4)]


def test_hard_links_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "LINKS_LIMIT", 2)
    (tmp_path / "t/d").mkdir(parents=True)
    for name in "abc":
        (tmp_path / "t" / name).write_text("x")
        os.link(tmp_path / "t" / name, tmp_path / "t/d" / name)
    found, _ = walked([tmp_path / "t"])
    assert [found[b"t/d/" + name].linked for name in (b"a", b"b", b"c")] == [1, 2, NO_LINK]


def test_hard_links_that_change_are_not_offered_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver would end it all."""
    monkeypatch.setattr(source_module, "LINKS_LIMIT", 2)
    (tmp_path / "t/d").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "t" / name).write_text("x")
        os.link(tmp_path / "t" / name, tmp_path / "t/d" / name)
    with contextlib.closing(Source([tmp_path / "t"])) as source:
        walk = source.walk()
        entries = [next(walk), next(walk), next(walk)]
        rewrite(tmp_path / "t/a")
        offered = [*entries, source.again(entries[1])]
        rewrite(tmp_path / "t/b")
        offered += [*walk, source.again(entries[2])]
    assert sum(entry is not None and entry.shared for entry in offered) == 2
    links = {entry.linked for entry in offered if entry is not None} - {NO_LINK}
    assert links <= {entry.id for entry in offered if entry is not None and entry.shared}


# Exclusion.


def test_what_is_excluded_is_not_looked_at(public: Path) -> None:
    root = public / "t"
    for name in ("keep/a.c", "keep/a.o", "keep/cache/x", "cache/y", "build/z", "keep/build/z", "cache.o/deep/b.c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / "keep/file").mkdir()
    (root / "file").touch()
    os.mkfifo(root / "pipe.o")
    (root / "cache").chmod(0)
    (public / "root.o").touch()

    def as_nobody() -> None:
        with contextlib.closing(
            Source([root, public / "root.o"], exclude=["*.o", "cache", "/build", b"file/"])
        ) as source:
            found = [b"/".join(source.path(entry)) for entry in source.walk()]
            assert found == [b"t", b"t/file", b"t/keep", b"t/keep/a.c", b"t/keep/build", b"t/keep/build/z"]
            assert list(source.left_out) == []

    try:
        in_child(as_nobody, unprivileged=True)
    finally:
        (root / "cache").chmod(0o700)


def test_exclude_strange_names(tmp_path: Path) -> None:
    for name in STRANGE:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    for name in STRANGE:
        pattern = name.replace(b"\\", b"\\\\")
        with contextlib.closing(Source([tmp_path], exclude=[pattern])) as source:
            assert {entry.name for entry in source.walk()} == {*STRANGE, os.fsencode(tmp_path.name)} - {name}
    with contextlib.closing(Source([tmp_path], exclude=["*"])) as source:
        assert list(source.walk()) == []
    with contextlib.closing(Source([tmp_path], exclude=["/*"])) as source:
        assert len(list(source.walk())) == 1


def test_bad_exclusion(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="no pattern"):
        Source([tmp_path], exclude=["!x"])


# Folders.


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 1000])
def test_folders_keep_few_open_and_never_mistake_one(tmp_path: Path, limit: int) -> None:
    rng = random.Random(limit)
    paths: dict[int, Path] = {0: tmp_path}
    top = os.open(tmp_path, os.O_RDONLY)
    folders = Folders(limit)
    folders.pin(0, top)
    for id_ in range(1, 120):
        parent = rng.choice([id_ - 1, rng.randrange(id_)])
        paths[id_] = paths[parent] / f"d{id_}"
        paths[id_].mkdir()
        folders.add(id_, parent, f"d{id_}".encode())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2000):
        id_ = rng.randrange(120)
        found, wanted = os.fstat(folders.descriptor(id_)), paths[id_].stat()
        assert (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
        assert len(os.listdir("/proc/self/fd")) - before <= max(limit, 2)
    folders.close()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(top)


def test_shared_folders_are_each_threads_own(tmp_path: Path) -> None:
    """What one thread was given stays good whatever the others are given, and is closed at the end."""
    paths = {number: tmp_path / str(number) for number in range(1, 80)}
    folders = SharedFolders()
    for number, path in paths.items():
        path.mkdir()
        folders.add_top(number, b"x", os.fsencode(path))
    before = len(os.listdir("/proc/self/fd"))
    meeting = threading.Barrier(4)

    def use(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(50):
            number = rng.randrange(1, 80)
            descriptor = folders.descriptor(number)
            meeting.wait(30)
            assert os.fstat(descriptor).st_ino == paths[number].stat().st_ino
            assert folders.descriptor(number) == descriptor

    for _ in range(2):
        with ThreadPoolExecutor(4) as threads:
            for each in [threads.submit(use, seed) for seed in (1, 2, 3, 4)]:
                each.result()
        folders.forget(79)
        assert len(os.listdir("/proc/self/fd")) <= before + OPEN_LIMIT + 8  # one of every thread there ever was
        folders.close()
        assert len(os.listdir("/proc/self/fd")) == before
        folders.add_top(79, b"x", os.fsencode(paths[79]))


def test_folders_forget(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = Folders()
    folders.add_top(0, b"a", os.fsencode(tmp_path / "a"))
    folders.descriptor(0)
    folders.forget(0)
    folders.add_top(0, b"b", os.fsencode(tmp_path / "b"))
    assert os.fstat(folders.descriptor(0)).st_ino == (tmp_path / "b").stat().st_ino
    assert folders.path(0) == (b"b",)
    folders.close()


# Pipes.


def test_pipe_source() -> None:
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as end:
        source: Sending = PipeSource(reading, "vídeo.mkv")
        (entry,) = source.walk()
        assert (entry.id, entry.parent, entry.name) == (0, NO_PARENT, "vídeo.mkv".encode())
        assert (entry.kind, entry.size, entry.mode) == (Kind.FILE, UNKNOWN_SIZE, 0o644)
        assert list(source.left_out) == []
        assert source.path(entry) == ("vídeo.mkv".encode(),)
        file = source.open(entry)
        end.write(b"ho")
        end.write(b"la, enchufe")
        view = memoryview(bytearray(4))
        assert file.read_into(view, 0) == 4
        assert bytes(view) == b"hola"
        with pytest.raises(LocalProtocolError, match="in order"):
            file.read_into(view, 0)
        end.close()
        rest = memoryview(bytearray(100))
        assert file.read_into(rest, 4) == 9
        assert file.read_into(rest, 13) == 0
        assert file.unchanged()
        assert file.holes(0, 100) == 0
        assert source.again(entry) is None
        with pytest.raises(LocalProtocolError):
            source.read_whole(entry)
        file.close()
        source.close()
    os.fstat(reading)  # it stays the caller's
    os.close(reading)


def test_pipe_source_is_walked_again_only_while_nobody_has_read_of_it() -> None:
    reading, writing = os.pipe()
    source = PipeSource(reading, b"x")
    for _ in range(2):
        (entry,) = source.walk()
    os.close(writing)
    assert source.open(entry).read_into(memoryview(bytearray(1)), 0) == 0
    with pytest.raises(StoreError, match="cannot be read again"):
        next(source.walk())
    os.close(reading)


def test_pipe_source_waits_where_somebody_made_it_non_blocking() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    source = PipeSource(reading, b"x")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.read(os.open("/dev/null", os.O_RDONLY), 1)
            os.write(writing, b"12")
            os.write(writing, b"34")
        os._exit(0)
    os.close(writing)
    view = memoryview(bytearray(10))
    assert source.read_into(view, 0) == 4
    os.waitpid(child, 0)
    os.close(reading)


def test_pipe_source_faults(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(StoreError, match="cannot read the input: Is a directory"):
        PipeSource(folder, "x").read_into(memoryview(bytearray(1)), 0)
    os.close(folder)
    for name in BAD_NAMES:
        with pytest.raises(LocalProtocolError, match="cannot be the name"):
            PipeSource(0, name)


BAD_NAMES: list[str | bytes] = ["", ".", "..", "a/b", "/", "a\0b", b"n" * 256]


def test_what_is_half_received_stays_at_home(tmp_path: Path) -> None:
    """A walk into the staging folder of a receiver that takes all of it would go on for as long as it is fed."""
    tree = tmp_path / "tree"
    (tree / "in" / ".enchufe" / "0123456789abcdef01234567").mkdir(parents=True)
    (tree / "in" / ".enchufe" / "0123456789abcdef01234567" / "part").write_bytes(b"some")
    (tree / ".enchufe").write_bytes(b"a file like any other")
    for lists in (False, True):
        with contextlib.closing(Source([tree])) as source:
            source.lists = lists
            assert [entry.name for entry in source.walk()] == [b"tree", b".enchufe", b"in"]
            assert list(source.left_out) == [
                ((b"tree", b"in", b".enchufe"), "what is half received stays where it is"),
            ]


# Text.


@pytest.mark.parametrize("text", ["", "hola, ñandú 🧦\n", "x" * 3_000_000], ids=["empty", "short", "long"])
def test_text_source(text: str) -> None:
    source: Sending = TextSource(text, "note.txt")
    (entry,) = source.walk()
    data = text.encode()
    assert (entry.id, entry.parent, entry.name, entry.kind) == (0, NO_PARENT, b"note.txt", Kind.FILE)
    assert (entry.size, entry.mode) == (len(data), 0o644)
    assert source.path(entry) == (b"note.txt",)
    assert source.read_whole(entry) == data
    file = source.open(entry)
    view = memoryview(bytearray(1 << 20))
    parts = [bytes(view[: file.read_into(view, offset)]) for offset in range(0, len(data) + 1, len(view))]
    assert b"".join(parts) == data
    assert file.read_into(view, len(data) + 5) == 0
    assert file.unchanged()
    assert file.holes(0, len(data)) == 0
    assert source.again(entry) is None
    assert list(source.left_out) == []
    file.close()
    source.close()


def test_text_source_of_the_command_line() -> None:
    source = TextSource(os.fsdecode(b"\xff\xfe"), "x")
    (entry,) = source.walk()
    assert source.read_whole(entry) == b"\xff\xfe"
    with pytest.raises(LocalProtocolError, match="surrogate"):
        TextSource("\ud800", "x")
    for name in BAD_NAMES:
        with pytest.raises(LocalProtocolError, match="cannot be the name"):
            TextSource("x", name)


def test_what_cannot_be_sent_is_told_before_anybody_is_dialed(tmp_path: Path) -> None:
    """Any bytes of the command line can."""
    nobody = f"unix:{tmp_path}/nobody"
    with pytest.raises(BrokenError):
        enchufe.send_files(text=os.fsdecode(b"\xff\xfe"), to=nobody, plain=True)
    with pytest.raises(LocalProtocolError, match="surrogate"):
        enchufe.send_files(text="\ud800", to=nobody, plain=True)
    with pytest.raises(LocalProtocolError, match="cannot be the name"):
        enchufe.send_files(text="x", name="a/b", to=nobody, plain=True)
