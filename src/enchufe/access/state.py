"""State: private files with keys and what is known, which no crash and no second process damages.

A file is replaced as a whole: written beside, synced, renamed. Whoever changes one holds the folder's lock from reading
to renaming. What others may read, or what is damaged, is never used, and never silently begun anew: that would forget
keys.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from enchufe.access.folders import state_folder
from enchufe.errors import StoreError
from enchufe.printable import printable
from enchufe.store.durable import sync_directory
from enchufe.store.faults import FULL, store_error

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LARGEST: Final = 16 << 20  # bytes of one file: some 50,000 machines or tokens
_PATIENCE: Final = 10.0  # seconds that another process may hold the lock; it needs milliseconds
_VERSION: Final = 1
_LOCK: Final = "lock"
_FARTHEST: Final = 1 << 50  # seconds from 1970: 35 million years, which localtime(3) takes

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a pipe does not wait
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHARED: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_ELSEWHERE: Final = "or choose another folder by XDG_STATE_HOME."

R = TypeVar("R")


class Opened:
    """A private folder that is open: see `Folder`."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def read(self, name: str) -> bytes | None:
        """The content of a private file; None where there is no such file.

        Raises:
            StoreError: it cannot be read, is too big, or is not private: others may read it, somebody else owns it, or
                it is no plain file.
        """
        path = f"{self._path}/{name}"
        with _told("read", path):
            try:
                descriptor = os.open(name, _READ, dir_fd=self._descriptor)
            except FileNotFoundError:
                return None
            try:
                _check_private(descriptor, path)
                with open(descriptor, "rb", closefd=False) as file:
                    content = file.read(LARGEST + 1)
            finally:
                os.close(descriptor)
        if len(content) > LARGEST:
            raise damaged(path, "it is far too big")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Replace a private file, or make it; on disk when this returns. Only under the lock.

        Raises:
            StoreError: it cannot be written; the old one is still there.
        """
        path, beside = f"{self._path}/{name}", f"{name}.new"
        if len(content) > LARGEST:
            raise StoreError(f"{printable(path)} would become too big", hint="Remove what is not needed any more.")
        with _told("write", path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=self._descriptor)  # of somebody who died before the rename
            try:
                self._make(beside, content)
                os.rename(beside, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(beside, dir_fd=self._descriptor)
                raise
            sync_directory(self._descriptor)

    def _make(self, name: str, content: bytes) -> None:
        with open(os.open(name, _NEW, 0o600, dir_fd=self._descriptor), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


class Folder:
    """A folder of private files, made when the first of them is written.

    Args:
        path: of it, absolute; None: `state_folder()`.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = state_folder() if path is None else path

    def read(self, name: str) -> bytes | None:
        """As `Opened.read`, also where there is no folder yet."""
        try:
            descriptor = self._open()
        except FileNotFoundError:
            return None
        try:
            return Opened(self.path, descriptor).read(name)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked(self) -> Iterator[Opened]:
        """Have the folder's lock, which keeps other processes and threads that want it out; make the folder if needed.

        Raises:
            StoreError: the folder cannot be made or is not private, or somebody has the lock for 10 seconds.
        """
        with _told("make", self.path):
            _check_home(self.path)
            _make_folder(self.path)
        with _told("open", self.path):
            descriptor = self._open()
        try:
            with self._lock(descriptor):
                yield Opened(self.path, descriptor)
        finally:
            os.close(descriptor)

    def kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The content of a private file that is made at its first use, by one process only.

        Raises:
            StoreError: as `Opened` and `locked`.
        """
        content = self.read(name)
        if content is None:
            with self.locked() as opened:
                content = opened.read(name)
                if content is None:
                    content = make()
                    opened.write(name, content)
        return content

    def _open(self) -> int:
        """A descriptor of it.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be opened, or is not private.
        """
        try:
            descriptor = os.open(self.path, _DIRECTORY)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _error(error, "open", self.path) from error
        try:
            _check_private(descriptor, self.path, folder=True)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @contextlib.contextmanager
    def _lock(self, folder: int) -> Iterator[None]:
        path = f"{self.path}/{_LOCK}"
        with _told("lock", path):
            descriptor = os.open(_LOCK, _SHARED, 0o600, dir_fd=folder)
        try:
            with _told("lock", path):
                _check_private(descriptor, path)
                _wait_for_lock(descriptor, path)
            yield
        finally:
            os.close(descriptor)  # and the lock with it


class Book(Generic[R]):
    """Records by name, in one private file as JSON.

    Args:
        folder: that the file is in.
        file: its name.
        parse: makes a record of its name and what JSON holds of it; raises KeyError, TypeError or ValueError where that
            makes no sense.
        pack: the reverse.
    """

    def __init__(
        self,
        folder: Folder,
        file: str,
        parse: Callable[[str, dict[str, Any]], R],
        pack: Callable[[R], dict[str, Any]],
    ) -> None:
        self._folder = folder
        self._file = file
        self._parse = parse
        self._pack = pack

    def read(self) -> dict[str, R]:
        """All records, in the order in which they were added.

        Raises:
            StoreError: the file cannot be read, is not private or damaged.
        """
        return self._unpacked(self._folder.read(self._file))

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, R]]:
        """All records, for the block to change while nobody else does; they are on disk when it ends without an error.

        Raises:
            StoreError: the file cannot be read or written, is not private or damaged.
        """
        with self._folder.locked() as opened:
            before = opened.read(self._file)
            records = self._unpacked(before)
            yield records
            after = packed({name: self._pack(record) for name, record in records.items()})
            if after != before:
                opened.write(self._file, after)

    def rehearse(self) -> None:
        """Make sure that all of it can be written, by doing that. Raises as `changing`."""
        with self._folder.locked() as opened:
            before = opened.read(self._file)
            self._unpacked(before)
            opened.write(self._file, packed({}) if before is None else before)

    def _unpacked(self, data: bytes | None) -> dict[str, R]:
        if data is None:
            return {}
        path = f"{self._folder.path}/{self._file}"
        content = unpacked(data, path)
        try:
            return {name: self._parse(name, record) for name, record in content.items()}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise damaged(path, "it holds something else") from error


def packed(content: Any) -> bytes:
    """A file's content as JSON, with what shows later whether it was damaged."""
    return _json({"v": _VERSION, "digest": hashlib.sha256(_json(content)).hexdigest(), "content": content})


def unpacked(data: bytes, path: str) -> Any:
    """What was `packed`.

    Args:
        data: a file's content.
        path: of that file.

    Raises:
        StoreError: it is damaged, or of another version of enchufe.
    """
    try:
        whole = json.loads(data)
        version = whole["v"]
        if version == _VERSION and packed(whole["content"]) == data:
            return whole["content"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(path, "it does not hold what was written") from error
    if isinstance(version, int) and version > _VERSION:
        raise StoreError(f"{printable(path)} is of a newer enchufe", hint="Use that one here too.")
    raise damaged(path, "it does not hold what was written")


def moment(kept: Any) -> int:
    """A time that a record holds, in seconds since 1970.

    Raises:
        TypeError, ValueError: it is none that a calendar could tell.
    """
    seconds = int(kept)
    if abs(seconds) > _FARTHEST:
        raise ValueError("no time")
    return seconds


def damaged(path: str, how: str) -> StoreError:
    """The error to raise about a file that cannot be used: what is in it is lost only if the user says so."""
    return StoreError(
        f"{printable(path)} is damaged: {how}",
        hint="Restore it from a backup, or move it away to begin anew without what it held.",
    )


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"


def _of_another(path: str, owner: int) -> StoreError:
    return StoreError(
        f"{printable(path)} belongs to another user (number {owner})", hint=f"Run this as that user, {_ELSEWHERE}"
    )


def _check_home(path: str) -> None:
    """Refuse to have root make folders in the home of another user (`sudo` that keeps HOME), who could not use them."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    owner = os.stat(path).st_uid
    if os.geteuid() == 0 and owner != 0:
        raise _of_another(path, owner)


def _make_folder(path: str) -> None:
    """Make a folder, and those above it that are missing, as the XDG specification says: 0700.

    Raises:
        OSError: it cannot be made.
    """
    try:
        _make_one(path)
    except FileExistsError:
        return
    except FileNotFoundError:
        if os.path.dirname(path) == path:
            raise
        _make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):  # of somebody else who makes it at the same time
            _make_one(path)
    try:
        above = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # a folder that may be passed and not read cannot be synced either
    try:
        sync_directory(above)
    finally:
        os.close(above)


def _make_one(path: str) -> None:
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)  # whatever the umask: a service's may take away the right to enter


def _check_private(descriptor: int, path: str, *, folder: bool = False) -> None:
    """Refuse what others may read or change.

    Raises:
        StoreError: it is not private, or no plain file.
    """
    status = os.fstat(descriptor)
    shown, mode = printable(path), "700" if folder else "600"
    if not folder and not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{shown} is no plain file", hint="Move away what is there.")
    if status.st_uid != os.geteuid():
        raise _of_another(path, status.st_uid)
    if status.st_mode & 0o077:
        raise StoreError(
            f"{shown} is open to others (its mode is {stat.S_IMODE(status.st_mode):o})",
            hint=f"If nobody else can have used it: `chmod {mode} {shown}`; {_ELSEWHERE}",
        )


def _wait_for_lock(descriptor: int, path: str) -> None:
    """Have the lock of an open file, where there are locks.

    Raises:
        StoreError: somebody else has it for too long.
        OSError: it cannot be had at all.
    """
    if fcntl is None:
        return
    patience_ends = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > patience_ends:
                raise StoreError(
                    f"another process has {printable(path)} for {_PATIENCE:.0f} seconds now",
                    hint="See which enchufe is stopped or stuck (`fuser` names it), and end it.",
                ) from error
            time.sleep(0.005)
        else:
            return


@contextlib.contextmanager
def _told(doing: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _error(error, doing, path) from error


def _error(error: OSError, doing: str, path: str) -> StoreError:
    told = store_error(error, doing, path)
    if error.errno in FULL:
        told.hint = "Make room there, then try again."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT):
        told.hint = f"Check what is there and who may write, {_ELSEWHERE}"
    return told
