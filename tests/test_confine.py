"""A process that has confined itself: what the kernel refuses it from then on, and what goes on as before."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from enchufe.store import confine as confining
from enchufe.store import linux
from enchufe.store.confine import confine

pytestmark = pytest.mark.skipif(linux.landlock_version() < 2, reason="this kernel has no Landlock of version 2")


def alone(function: Callable[[], None]) -> None:
    """Run in a child process, since nobody is let out again."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:  # noqa: BLE001 (whatever it is, the child ends here)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def there(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder, as it is on the disk."""
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (info.st_ino, info.st_mtime_ns, data)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "file").write_text("theirs")
    (folder / "folder/other").write_text("theirs")
    return folder


def _bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def _exchange(one: str, other: str) -> None:
    if ctypes.CDLL(None, use_errno=True).renameat2(-100, one.encode(), -100, other.encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


ACTS: dict[str, Callable[[str, str], object]] = {
    "write": lambda out, _: os.open(f"{out}/file", os.O_WRONLY),
    "append": lambda out, _: os.open(f"{out}/file", os.O_WRONLY | os.O_APPEND),
    "empty": lambda out, _: os.open(f"{out}/file", os.O_WRONLY | os.O_TRUNC),
    "truncate": lambda out, _: os.truncate(f"{out}/file", 0),
    "create": lambda out, _: os.open(f"{out}/new", os.O_WRONLY | os.O_CREAT),
    "make a folder": lambda out, _: os.mkdir(f"{out}/new"),
    "make a symlink": lambda out, _: os.symlink("file", f"{out}/new"),
    "make a pipe": lambda out, _: os.mkfifo(f"{out}/new"),
    "make a socket": lambda out, _: _bind(f"{out}/new"),
    "remove": lambda out, _: os.unlink(f"{out}/file"),
    "remove a folder": lambda out, _: os.rmdir(f"{out}/empty"),
    "rename there": lambda out, _: os.rename(f"{out}/file", f"{out}/new"),
    "rename into it": lambda out, here: os.rename(f"{here}/ours", f"{out}/new"),
    "rename over it": lambda out, here: os.rename(f"{here}/ours", f"{out}/file"),
    "rename out of it": lambda out, here: os.rename(f"{out}/file", f"{here}/new"),
    "exchange": lambda out, here: _exchange(f"{out}/file", f"{here}/ours"),
    "link there": lambda out, _: os.link(f"{out}/file", f"{out}/new"),
    "link into it": lambda out, here: os.link(f"{here}/ours", f"{out}/new"),
    # Otherwise one would write to it by its name here.
    "link out of it": lambda out, here: os.link(f"{out}/file", f"{here}/new"),
    "climb": lambda out, here: os.open(f"{here}/../outside/new", os.O_WRONLY | os.O_CREAT),
    "through a link": lambda out, here: os.open(f"{here}/link/new", os.O_WRONLY | os.O_CREAT),
    "write through a link": lambda out, here: os.open(f"{here}/link/file", os.O_WRONLY),
}


@pytest.mark.parametrize("act", ACTS)
def test_outside_nothing_can_be_changed(inbox: Path, outside: Path, act: str) -> None:
    (inbox / "ours").write_text("ours")
    (inbox / "link").symlink_to(outside)
    before = there(outside.parent)

    def run(*, confined: bool) -> None:
        if confined:
            assert confine([inbox])
        try:
            ACTS[act](str(outside), str(inbox))
        except OSError as error:
            assert confined
            assert error.errno in (errno.EACCES, errno.EXDEV), error
        else:
            assert not confined

    alone(lambda: run(confined=True))
    assert there(outside.parent) == before
    alone(lambda: run(confined=False))  # it is the kernel that refused it, and no mistake in the act


def test_by_an_open_folder_neither(inbox: Path, outside: Path) -> None:
    def run() -> None:
        folder = os.open(outside, os.O_RDONLY | os.O_DIRECTORY)
        assert confine([inbox])
        for change in (
            lambda: os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=folder),
            lambda: os.mkdir("new", dir_fd=folder),
            lambda: os.unlink("file", dir_fd=folder),
        ):
            with pytest.raises(PermissionError):
                change()

    alone(run)
    assert sorted(os.listdir(outside)) == ["empty", "file", "folder"]


def test_inside_all_that_a_delivery_does_can_be_done(inbox: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()

    def run() -> None:
        assert confine([inbox, str(second)])
        os.chdir(inbox)
        os.makedirs("a/b")
        os.mkdir("c")
        with open("a/b/file", "w") as file:
            file.write("hola")
        os.truncate("a/b/file", 2)
        os.link("a/b/file", "c/second name")  # from one directory to another
        here, there = os.open("a/b", os.O_RDONLY), os.open("c", os.O_RDONLY)
        linux.rename_noreplace(here, b"file", there, b"moved")
        os.rename("a/b", "c/b")
        os.symlink("moved", "c/link")
        os.unlink("c/second name")
        os.rmdir("c/b")
        os.chmod("c/moved", 0o600)
        os.utime("c/moved", ns=(1, 1))
        (second / "x").write_text("x")
        os.rename(second / "x", "y")

    alone(run)
    assert sorted(os.listdir(inbox)) == ["a", "c", "y"]
    assert sorted(os.listdir(inbox / "c")) == ["link", "moved"]
    assert (inbox / "c/moved").read_text() == "ho"


def test_what_is_open_stays_and_reading_is_left_alone(inbox: Path, outside: Path) -> None:
    def run() -> None:
        descriptor = os.open(outside / "file", os.O_WRONLY | os.O_APPEND)
        assert confine([inbox])
        os.write(descriptor, b" and ours")
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 1)
        assert (outside / "file").read_text() == "theirs and our"
        assert sorted(os.listdir(outside)) == ["empty", "file", "folder"]
        for device in ("/dev/null", "/dev/tty"):
            if os.path.exists(device):
                try:
                    os.close(os.open(device, os.O_RDWR))
                except OSError as error:
                    assert error.errno == errno.ENXIO  # we have no terminal
        reading, writing = os.pipe()
        os.write(writing, b"x")
        assert os.read(reading, 1) == b"x"

    alone(run)


def test_sockets_can_be_made_where_they_may(inbox: Path, outside: Path) -> None:
    def run() -> None:
        assert confine([inbox], sockets=[outside])
        _bind(f"{outside}/socket")
        os.unlink(outside / "socket")
        with pytest.raises(PermissionError):
            os.mkdir(outside / "new")
        with pytest.raises(PermissionError):
            os.open(outside / "file", os.O_WRONLY)

    alone(run)


def test_threads_and_processes_started_later_are_bound_too(inbox: Path, outside: Path) -> None:
    def run() -> None:
        assert confine([inbox])
        refused = []

        def write() -> None:
            try:
                (outside / "new").write_text("x")
            except PermissionError as error:
                refused.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert len(refused) == 1
        done = subprocess.run(["touch", outside / "new"], stderr=subprocess.DEVNULL, check=False)
        assert done.returncode != 0
        assert "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()

    alone(run)
    assert not (outside / "new").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    def run() -> None:
        with pytest.raises(FileNotFoundError):
            confine([tmp_path / "nowhere"])
        (tmp_path / "still free").touch()

    alone(run)
    assert (tmp_path / "still free").exists()


def free(inbox: Path, outside: Path) -> None:
    """Confining says that it is not, and nothing is any different."""
    before = Path("/proc/self/status").read_text().partition("NoNewPrivs")[2][:3]
    assert not confine([inbox])
    (outside / "new").write_text("x")
    assert Path("/proc/self/status").read_text().partition("NoNewPrivs")[2][:3] == before


def test_turned_off(inbox: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "use_landlock", False)
    assert linux.landlock_version() == 0
    alone(lambda: free(inbox, outside))


def test_before_renames_between_folders_could_be_allowed(
    inbox: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux, "landlock_version", lambda: 1)
    alone(lambda: free(inbox, outside))


def test_before_truncating_could_be_refused(inbox: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "landlock_version", lambda: 2)

    def run() -> None:
        assert confine([inbox])
        with pytest.raises(PermissionError):
            (outside / "new").touch()
        with pytest.raises(PermissionError):
            os.open(outside / "file", os.O_WRONLY | os.O_TRUNC)
        os.truncate(outside / "file", 0)  # which that version did not know
        os.makedirs(inbox / "a/b")
        os.rename(inbox / "a/b", inbox / "c")

    alone(run)


def test_in_a_sandbox_that_allows_no_more(inbox: Path, outside: Path) -> None:
    """The kernel stacks sixteen; whoever comes then is as confined as before."""

    def run() -> None:
        made = [confine([inbox]) for _ in range(20)]
        assert made == [True] * 16 + [False] * 4
        (inbox / "new").touch()
        with pytest.raises(PermissionError):
            (outside / "new").touch()

    alone(run)


def test_no_device_may_be_made_even_inside(inbox: Path) -> None:
    def run() -> None:
        assert confine([inbox])
        with pytest.raises(PermissionError):
            os.mkfifo(inbox / "pipe")
        with pytest.raises(PermissionError):
            _bind(f"{inbox}/socket")

    alone(run)


def test_rights_are_those_of_the_header() -> None:
    """linux/landlock.h, where it is installed, has the same numbers."""
    header = Path("/usr/include/linux/landlock.h")
    if not header.exists():
        pytest.skip("no kernel headers")
    told = header.read_text()
    ours = {name: value for name, value in vars(confining).items() if name.startswith(("_MAKE", "_REMOVE_", "_REFER"))}
    assert len(ours) == 10
    for name, value in ours.items():
        assert f"LANDLOCK_ACCESS_FS{name}\t" in told.replace(" ", "\t")
        line = next(line for line in told.splitlines() if line.startswith(f"#define LANDLOCK_ACCESS_FS{name}\t"))
        assert f"<< {value.bit_length() - 1})" in line
