"""Staging: one private folder per delivery, inside the destination, that nobody else touches and no death leaves.

`<folder>/.enchufe/<random>/`, both 0700. Whoever made the inner one keeps an flock on it, so that a lock that can be
had means a dead owner; a short lock on `.enchufe` keeps a new one from being looked at before it is locked. On file
systems without flock (NFS has none for directories) nobody's death can be told, and what the dead leave stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from typing import Any, Final

from enchufe.errors import StoreError
from enchufe.printable import printable
from enchufe.store.faults import store_error
from enchufe.store.folders import DIRECTORY
from enchufe.store.names import STAGING

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_NAME: Final = re.compile(r"[0-9a-f]{16}")
_ATTEMPTS: Final = 100


class Staging:
    """A fresh staging area in the destination; making it removes those of dead owners.

    Args:
        folder: descriptor of the destination, which stays the caller's.
        path: the destination, for messages.

    Attributes:
        descriptor: of the area.

    Raises:
        StoreError: it cannot be made.
    """

    def __init__(self, folder: int, path: bytes) -> None:
        self._folder = folder
        try:
            self._home, self._name, self.descriptor, dead = self._made(path)
        except OSError as error:
            raise store_error(error, "write into", path) from error
        for name, descriptor in dead:
            _remove_area(self._home, name, descriptor)

    def remove(self) -> None:
        """Remove the area with all that is in it, and `.enchufe` with the last one; what cannot be removed is left.

        What is left is found dead and removed by the next delivery.
        """
        _remove_area(self._home, self._name, self.descriptor)
        os.close(self._home)
        _remove_home(self._folder)

    def _made(self, path: bytes) -> tuple[int, bytes, int, list[tuple[bytes, int]]]:
        for attempt in range(_ATTEMPTS):
            with contextlib.ExitStack() as unwound:
                try:
                    home = _home(self._folder, path)
                    unwound.callback(_remove_home, self._folder)
                    unwound.callback(os.close, home)
                    dead = _dead(home) if _lock(home, wait=True) else []
                    for _, descriptor in dead:
                        unwound.callback(os.close, descriptor)
                    name, area = _area(home)
                except FileNotFoundError:  # its last delivery ended and removed it while we were coming in
                    if attempt == _ATTEMPTS - 1:
                        raise
                    continue
                _unlock(home)
                unwound.pop_all()
                return home, name, area, dead
        raise AssertionError("the last attempt returns or raises")


def _home(folder: int, path: bytes) -> int:
    """Open `.enchufe`, made if need be: a real directory of ours that only we can look into."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(STAGING, 0o700, dir_fd=folder)
    shown = f"{printable(path)}/{STAGING.decode()}"
    try:
        home = os.open(STAGING, DIRECTORY, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise StoreError(f"{shown} is not a folder", hint="Remove it: enchufe needs that name.") from error
        raise
    try:
        info = os.fstat(home)
        if info.st_uid != os.geteuid():
            raise StoreError(
                f"{shown} belongs to somebody else",
                hint="Another user is receiving into that folder, or did: choose another folder, or have it removed.",
            )
        if stat.S_IMODE(info.st_mode) & 0o077:
            os.fchmod(home, 0o700)
    except BaseException:
        os.close(home)
        raise
    return home


def _remove_home(folder: int) -> None:
    with contextlib.suppress(OSError):  # not empty: others are at work
        os.rmdir(STAGING, dir_fd=folder)


def _area(home: int) -> tuple[bytes, int]:
    name = secrets.token_hex(8).encode()
    os.mkdir(name, 0o700, dir_fd=home)
    area = os.open(name, DIRECTORY, dir_fd=home)
    _lock(area, wait=False)
    return name, area


def _dead(home: int) -> list[tuple[bytes, int]]:
    """The areas whose owners are dead, each open and locked by us now."""
    dead = []
    for entry in os.listdir(home):
        if not _NAME.fullmatch(entry):
            continue
        name = entry.encode()
        try:
            area = os.open(name, DIRECTORY, dir_fd=home)
        except OSError:  # gone meanwhile
            continue
        if _lock(area, wait=False):
            dead.append((name, area))
        else:
            os.close(area)
    return dead


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Take the lock of a directory; False where somebody else has it, or where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlock(descriptor: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _remove_area(home: int, name: bytes, area: int) -> None:
    """Remove the directory `name`, open as `area`, and close it; its lock is kept until it is gone."""
    _empty(area)
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=home)
    os.close(area)


def _empty(directory: int) -> None:
    """Remove all that is in a directory of ours, by descriptors only; what cannot be removed is left."""
    try:
        # A directory that was given its last mode may not let us write any more.
        os.fchmod(directory, 0o700)
        with os.scandir(directory) as listing:
            entries = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in listing]
    except OSError:
        return
    for name, is_directory in entries:
        with contextlib.suppress(OSError):
            if not is_directory:
                os.unlink(name, dir_fd=directory)
                continue
            inner = _opened(name, directory)
            try:
                _empty(inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=directory)


def _opened(name: bytes, parent: int) -> int:
    try:
        return os.open(name, DIRECTORY, dir_fd=parent)
    except PermissionError:
        # It was given a mode that keeps us out. A symlink cannot have taken its place: only we get into the area.
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, DIRECTORY, dir_fd=parent)
