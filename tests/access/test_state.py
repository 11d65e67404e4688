"""Private files: who may read them, and what crashes, other processes and damage do to them."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from enchufe.access import state
from enchufe.access.state import Book, Folder, packed, unpacked
from enchufe.errors import NoSpaceError, StoreError

NAME = "some.json"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "home" / ".local" / "state" / "enchufe"))


def write(folder: Folder, content: bytes, name: str = NAME) -> None:
    with folder.locked() as opened:
        opened.write(name, content)


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("umask", [0, 0o022, 0o277])
def test_what_is_made_is_for_this_user_alone(folder: Folder, umask: int) -> None:
    old = os.umask(0)
    try:
        with folder.locked():
            pass
        os.umask(umask)
        write(folder, b"secret")
    finally:
        os.umask(old)
    assert mode(folder.path) == 0o700
    assert mode(Path(folder.path).parent.parent) == 0o700
    assert {name: mode(Path(folder.path) / name) for name in os.listdir(folder.path)}[NAME] == 0o600
    assert folder.read(NAME) == b"secret"


def test_folders_can_be_entered_whatever_the_umask(folder: Folder) -> None:
    old = os.umask(0o177)
    try:
        with folder.locked():
            pass
    finally:
        os.umask(old)
    assert mode(folder.path) == mode(Path(folder.path).parent) == 0o700


def test_what_is_not_there_is_none_and_makes_nothing(folder: Folder) -> None:
    assert folder.read(NAME) is None
    assert not os.path.exists(folder.path)


def test_a_file_is_replaced_as_a_whole_and_nothing_stays_beside_it(folder: Folder) -> None:
    write(folder, b"a" * 100)
    write(folder, b"b")
    assert folder.read(NAME) == b"b"
    assert sorted(os.listdir(folder.path)) == ["lock", NAME]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o601])
def test_a_file_that_is_open_to_others_is_refused(folder: Folder, bits: int) -> None:
    write(folder, b"secret")
    os.chmod(f"{folder.path}/{NAME}", bits)
    with pytest.raises(StoreError, match="open to others") as caught:
        folder.read(NAME)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("bits", [0o750, 0o701, 0o777])
def test_a_folder_that_is_open_to_others_is_refused(folder: Folder, bits: int, no_descriptor_stays: None) -> None:
    write(folder, b"secret")
    os.chmod(folder.path, bits)
    with pytest.raises(StoreError, match="open to others") as caught:
        folder.read(NAME)
    assert "chmod 700" in caught.value.hint
    with pytest.raises(StoreError, match="open to others"):
        write(folder, b"more")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("what", ["", f"/{NAME}", "/lock"])
def test_what_belongs_to_another_user_is_refused(folder: Folder, what: str) -> None:
    write(folder, b"secret")
    os.chown(folder.path + what, 65534, 65534)
    with pytest.raises(StoreError, match="belongs to another user"):
        write(folder, b"more") if what == "/lock" else folder.read(NAME)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write in another user's home")
def test_root_makes_no_folder_in_the_home_of_another_user(tmp_path: Path) -> None:
    """As by `sudo`, where it keeps HOME: that user could not use it."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    with pytest.raises(StoreError, match="home belongs to another user"):
        write(Folder(str(home / ".local/state/enchufe")), b"secret")
    assert not list(home.iterdir())


def test_a_symlink_in_the_way_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    write(folder, b"old")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"untouched")
    elsewhere.chmod(0o600)
    for name in (NAME, "lock", f"{NAME}.new"):
        path = Path(folder.path) / name
        path.unlink(missing_ok=True)
        path.symlink_to(elsewhere)
    with pytest.raises(StoreError, match="cannot read"):
        folder.read(NAME)
    with pytest.raises(StoreError, match="cannot lock"):
        write(folder, b"new")
    (Path(folder.path) / "lock").unlink()
    write(folder, b"new")  # replaces the links themselves
    assert folder.read(NAME) == b"new"
    assert elsewhere.read_bytes() == b"untouched"
    assert not (Path(folder.path) / NAME).is_symlink()


def test_a_folder_that_is_a_symlink_is_refused(folder: Folder, tmp_path: Path) -> None:
    os.makedirs(os.path.dirname(folder.path))
    (tmp_path / "other").mkdir(mode=0o700)
    os.symlink(tmp_path / "other", folder.path)
    with pytest.raises(StoreError, match="cannot open") as caught:
        folder.read(NAME)
    assert "XDG_STATE_HOME" in caught.value.hint
    with pytest.raises(StoreError, match="cannot open"):
        write(folder, b"x")
    assert os.listdir(tmp_path / "other") == []


def test_a_pipe_or_a_folder_in_the_way_is_refused_and_not_waited_for(folder: Folder, no_descriptor_stays: None) -> None:
    write(folder, b"x", "other")
    os.mkfifo(f"{folder.path}/{NAME}", 0o600)
    with pytest.raises(StoreError, match="no plain file"):
        folder.read(NAME)
    os.unlink(f"{folder.path}/{NAME}")
    os.mkdir(f"{folder.path}/{NAME}", 0o700)
    with pytest.raises(StoreError, match="no plain file"):
        folder.read(NAME)


def test_what_is_too_big_is_not_read(folder: Folder) -> None:
    write(folder, b"x")
    os.truncate(f"{folder.path}/{NAME}", state.LARGEST + 1)
    with pytest.raises(StoreError, match="damaged"):
        folder.read(NAME)
    with pytest.raises(StoreError, match="too big"):
        write(folder, bytes(state.LARGEST + 1))


def test_every_flipped_bit_and_every_lost_end_is_found(folder: Folder) -> None:
    good = packed({"José": {"n": [1, None, "x\udcff"]}})
    assert unpacked(good, "it") == {"José": {"n": [1, None, "x\udcff"]}}
    wrong = [good[:size] for size in range(len(good))]
    for place in range(len(good)):
        for bit in range(8):
            flipped = bytearray(good)
            flipped[place] ^= 1 << bit
            wrong.append(bytes(flipped))
    for content in (*wrong, good + b"\n", b"[" * 100000, b"{}", b"null", b"\xff", b"\0" * len(good)):
        with pytest.raises(StoreError):
            unpacked(content, "it")


def test_what_a_newer_version_wrote_is_not_called_damaged() -> None:
    with pytest.raises(StoreError, match="newer"):
        unpacked(packed({}).replace(b'"v": 1', b'"v": 2'), "it")
    for no_version in (b'"2"', b"null", b"{}"):
        with pytest.raises(StoreError, match="damaged"):
            unpacked(packed({}).replace(b'"v": 1', b'"v": ' + no_version), "it")


KILLED = """
import os, signal, sys
from enchufe.access import state
def die(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)
at = sys.argv[2]
if at == "fsync":
    os.fsync = die
elif at == "rename":
    os.rename = die
elif at == "renamed":
    state.sync_directory = die
folder = state.Folder(sys.argv[1])
with folder.locked() as opened:
    opened.write("some.json", b"new")
"""


@pytest.mark.parametrize(("at", "left"), [("fsync", b"old"), ("rename", b"old"), ("renamed", b"new")])
def test_who_is_killed_while_writing_leaves_the_old_or_the_new_and_no_lock(
    folder: Folder, at: str, left: bytes
) -> None:
    write(folder, b"old")
    assert run(KILLED, folder.path, at).returncode == -signal.SIGKILL
    assert folder.read(NAME) == left
    assert os.path.exists(f"{folder.path}/{NAME}.new") == (at != "renamed")
    if at != "renamed":
        assert Path(f"{folder.path}/{NAME}.new").read_bytes() == b"new"  # all of it is what fsync was asked for
    write(folder, b"next")
    assert folder.read(NAME) == b"next"
    assert sorted(os.listdir(folder.path)) == ["lock", NAME]


def test_a_full_disk_leaves_the_old(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, b"old")

    sync = os.fsync

    def full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(28, "full")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(NoSpaceError):
            write(folder, b"new")
    assert folder.read(NAME) == b"old"
    assert sorted(os.listdir(folder.path)) == ["lock", NAME]


COUNTING = """
import sys
from enchufe.access.state import Book, Folder
book = Book(Folder(sys.argv[1]), "numbers", lambda _name, record: record["n"], lambda n: {"n": n})
for i in range(40):
    with book.changing() as numbers:
        numbers["all"] = numbers.get("all", 0) + 1
        numbers[f"{sys.argv[2]}-{i}"] = i
"""


def test_processes_that_change_one_file_at_once_lose_nothing(folder: Folder) -> None:
    many = [subprocess.Popen([sys.executable, "-c", COUNTING, folder.path, str(n)]) for n in range(4)]
    assert [each.wait(120) for each in many] == [0] * 4
    book: Book[int] = Book(folder, "numbers", lambda _name, record: record["n"], lambda n: {"n": n})
    numbers = book.read()
    assert numbers.pop("all") == 160
    assert numbers == {f"{n}-{i}": i for n in range(4) for i in range(40)}


def test_threads_keep_each_other_out_too(folder: Folder) -> None:
    book: Book[int] = Book(folder, "numbers", lambda _name, record: record["n"], lambda n: {"n": n})

    def count() -> None:
        for _ in range(25):
            with book.changing() as numbers:
                numbers["all"] = numbers.get("all", 0) + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert book.read() == {"all": 100}


def test_a_lock_that_is_never_given_back_ends_in_an_error(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, b"old")
    monkeypatch.setattr(state, "_PATIENCE", 0.05)
    with open(f"{folder.path}/lock", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process"):
            write(folder, b"new")
        assert folder.read(NAME) == b"old"  # who only reads need not wait
    write(folder, b"new")


def test_a_change_that_fails_changes_nothing(folder: Folder) -> None:
    book: Book[int] = Book(folder, "numbers", lambda _name, record: record["n"], lambda n: {"n": n})
    with book.changing() as numbers:
        numbers["a"] = 1
    with pytest.raises(KeyError):
        with book.changing() as numbers:
            numbers["b"] = 2
            raise KeyError
    assert book.read() == {"a": 1}


@pytest.mark.parametrize("content", [[], 7, {"a": 7}, {"a": {}}, {"a": {"n": {}}}])
def test_a_whole_file_of_something_else_is_damaged_too(folder: Folder, content: Any) -> None:
    write(folder, packed(content), "numbers")
    book: Book[int] = Book(folder, "numbers", lambda _name, record: int(record["n"]), lambda n: {"n": n})
    with pytest.raises(StoreError, match="damaged"):
        book.read()
    with pytest.raises(StoreError, match="damaged"):
        with book.changing():
            pass
    with pytest.raises(StoreError, match="damaged"):
        book.rehearse()
    assert folder.read("numbers") == packed(content)


UNWRITABLE = """
import os, sys
from enchufe.access.state import Folder
from enchufe.errors import StoreError
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
folder = Folder(sys.argv[1])
try:
    with folder.locked() as opened:
        opened.write("some.json", b"new")
except StoreError as error:
    print(error, error.hint)
"""


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    for above in (tmp_path, *tmp_path.parents):  # pytest's are for their user alone
        if above.stat().st_uid == os.geteuid() and not above.stat().st_mode & 1:
            above.chmod(above.stat().st_mode | 0o011)
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    done = run(UNWRITABLE, f"{home}/.local/state/enchufe")
    assert done.returncode == 0, done.stderr
    assert "cannot make" in done.stdout and "XDG_STATE_HOME" in done.stdout
    assert list(home.iterdir()) == []


EVERYDAY = """
import os, sys
from enchufe.access.state import Folder
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
folder = Folder(sys.argv[1])
with folder.locked() as opened:
    opened.write("some.json", b"new")
print(folder.read("some.json"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("mode", [0o700, 0o300])
def test_a_user_has_folders_in_his_own_home_though_he_may_not_list_it(mode: int) -> None:
    with tempfile.TemporaryDirectory(prefix="enchufe-") as place:
        os.chmod(place, 0o755)
        home = Path(place) / "home"
        home.mkdir()
        os.chown(home, 65534, 65534)
        home.chmod(mode)
        done = run(EVERYDAY, f"{home}/.local/state/enchufe")
        assert (done.returncode, done.stdout) == (0, "b'new'\n"), done.stderr
        made = home / ".local/state/enchufe"
        assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in (made, *list(made.parents)[:2])} == {
            (65534, 0o700)
        }
