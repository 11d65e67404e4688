"""Staging: one private folder per delivery, inside the destination, that nobody else touches and no death leaves.

`<folder>/.enchufe/<whose><random>/`, both 0700. Whoever made the inner one keeps an flock on it, so that a lock that
can be had means a dead owner; a short lock on `.enchufe` keeps a new one from being looked at before it is locked. On
file systems without flock (NFS has none for directories) nobody's death can be told, and what the dead leave stays.

An area is left on purpose where a cut transfer may go on later: then it has a journal in it (`leftovers.py`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from typing import Any, Final

from blake3 import blake3

from enchufe.errors import StoreError
from enchufe.printable import printable
from enchufe.store import arrived, journal
from enchufe.store.folders import DIRECTORY, is_apart, scan
from enchufe.store.names import STAGING

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

EXPIRY: Final = 7 * 24 * 3600.0  # seconds after the last change of a journal: docs/protocol.md, "What is kept"
MOST: Final = 32  # areas that are looked into, those changed last; each costs two descriptors

_NAME: Final = re.compile(r"[0-9a-f]{16}(?:[0-9a-f]{8})?")  # before it was said whose they are they had 16
_WHOSE: Final = 16  # digits of it that say whose it is
_ATTEMPTS: Final = 100


class Area:
    """One area, open.

    Attributes:
        name: what it is called in `.enchufe`.
        descriptor: of it.
        locked: whether we have its lock.
    """

    def __init__(self, home: int, name: bytes, descriptor: int, *, locked: bool) -> None:
        self._home = home
        self.name = name
        self.descriptor = descriptor
        self.locked = locked

    @property
    def whose(self) -> bytes:
        """Equal for two areas of files of one origin."""
        return self.name[:_WHOSE]

    @property
    def changed(self) -> float | None:
        """When its journal, or what it notes as arrived, was written last; None where there is neither.

        In seconds since 1970. One that is dated in the future, by a clock that was wrong, is dated now: it would never
        expire else.
        """
        dates = (self._changed(journal.NAME, journal.RECORD_SIZE), self._changed(arrived.NAME, 1))
        return max((date for date in dates if date is not None), default=None)

    def _changed(self, name: bytes, least: int) -> float | None:
        try:
            info = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return None
        if not stat.S_ISREG(info.st_mode) or info.st_size < least:
            return None
        now = time.time()
        if info.st_mtime <= now:
            return info.st_mtime
        with contextlib.suppress(OSError):
            os.utime(name, (now, now), dir_fd=self.descriptor, follow_symlinks=False)
        return now

    def lock(self) -> bool:
        """Have its lock; False where somebody else has it, or where there are no locks."""
        self.locked = self.locked or _lock(self.descriptor, wait=False)
        return self.locked

    def unlock(self) -> None:
        """Let others have it."""
        _unlock(self.descriptor)
        self.locked = False

    def close(self) -> None:
        """Leave it as it is, to whoever comes."""
        os.close(self.descriptor)

    def remove(self) -> None:
        """Remove it with all that is in it, and close it; its lock is kept until it is gone."""
        with contextlib.suppress(OSError):
            self.empty()
        os.close(self.descriptor)

    def empty(self) -> None:
        """Remove it with all that is in it, as far as it can be, and leave it open.

        Raises:
            OSError: it is still there.
        """
        _empty(self.descriptor)
        os.rmdir(self.name, dir_fd=self._home)


def has_expired(changed: float | None) -> bool:
    """Whether what was changed then is not kept any longer; None: it has no journal."""
    return changed is None or time.time() - changed > EXPIRY


class Staging:
    """A fresh staging area in the destination.

    Args:
        folder: descriptor of the destination, which stays the caller's.
        path: the destination, for messages.
        origin: where the files come from.

    Attributes:
        area: the area.
        dead: those of dead owners with files of this origin, each locked by us now, those changed last first; whoever
            takes them has them to close or remove, before this. What others have left and has expired was removed.

    Raises:
        OSError, StoreError: it cannot be made.
    """

    def __init__(self, folder: int, path: bytes, origin: bytes) -> None:
        self._folder = folder
        self._path = path
        whose = blake3(origin).hexdigest()[:_WHOSE]
        self._home, self.area, self.dead = self._made(path, whose)

    def remove(self) -> None:
        """Remove the area with all that is in it, and `.enchufe` with the last one; what cannot be removed is left.

        What is left is found dead and removed by the next delivery.
        """
        self.area.remove()
        os.close(self._home)
        remove_home(self._folder)

    def leave(self) -> None:
        """Close the area, and leave what is in it for the next delivery."""
        self.area.close()
        os.close(self._home)

    def forget(self) -> None:
        """Remove an area that was left after all, unless somebody works in it by now."""
        with contextlib.suppress(OSError, StoreError), contextlib.ExitStack() as stack:
            folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, folder)
            home = locked_home(folder, self._path)
            if home is None:
                return
            stack.callback(remove_home, folder)
            stack.callback(os.close, home)
            area = Area(home, self.area.name, os.open(self.area.name, DIRECTORY, dir_fd=home), locked=False)
            if area.lock():
                area.remove()
            else:
                area.close()

    def _made(self, path: bytes, whose: str) -> tuple[int, Area, list[Area]]:
        for attempt in range(_ATTEMPTS):
            with contextlib.ExitStack() as unwound:
                try:
                    home = _home(self._folder, path)
                    unwound.callback(remove_home, self._folder)
                    unwound.callback(os.close, home)
                    dead = dead_areas(home, whose.encode()) if _lock(home, wait=True) else []
                    for each in dead:
                        unwound.callback(each.close)
                    area = _new_area(home, whose)
                    unwound.callback(area.remove)
                    if is_apart(area.descriptor, self._folder):  # told now, not when all has been received
                        raise StoreError(
                            f"{_shown(path)} is a file system of its own",
                            hint="Unmount it: what has arrived is put in place by a rename, which leads out of none.",
                        )
                except FileNotFoundError:  # its last delivery ended and removed it while we were coming in
                    if attempt == _ATTEMPTS - 1:
                        raise
                    continue
                _unlock(home)
                unwound.pop_all()
                return home, area, dead
        raise AssertionError("the last attempt returns or raises")


def _home(folder: int, path: bytes) -> int:
    """Open `.enchufe`, made if need be: a real directory of ours that only we can look into."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(STAGING, 0o700, dir_fd=folder)
    return _opened_home(folder, path)


def locked_home(folder: int, path: bytes) -> int | None:
    """Open `.enchufe` and keep others from beginning until it is closed; None where there is none.

    Raises:
        OSError, StoreError: it cannot be opened, or is not ours.
    """
    try:
        home = _opened_home(folder, path)
    except FileNotFoundError:
        return None
    _lock(home, wait=True)
    return home


def _opened_home(folder: int, path: bytes) -> int:
    shown = _shown(path)
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


def _shown(path: bytes) -> str:
    return f"{printable(path)}/{STAGING.decode()}"


def remove_home(folder: int) -> None:
    """Remove `.enchufe` if nothing is in it."""
    with contextlib.suppress(OSError):  # not empty: others are at work
        os.rmdir(STAGING, dir_fd=folder)


def _new_area(home: int, whose: str) -> Area:
    name = (whose + secrets.token_hex(4)).encode()
    os.mkdir(name, 0o700, dir_fd=home)
    descriptor = os.open(name, DIRECTORY, dir_fd=home)
    return Area(home, name, descriptor, locked=_lock(descriptor, wait=False))


def areas(home: int) -> Iterator[Area]:
    """All areas, each open; whoever takes them has them to close."""
    with scan(home) as listing:
        names = [entry.name for entry in listing if _NAME.fullmatch(entry.name)]
    for name in map(str.encode, names):
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours
            yield Area(home, name, os.open(name, DIRECTORY, dir_fd=home), locked=False)


def dead_areas(home: int, whose: bytes) -> list[Area]:
    """The areas with files of this origin whose owners are dead, each locked by us now, those changed last first.

    Those with files of others are left alone (two files of the same name, size and time may be two files), and removed
    where they have expired. Those of this origin may have expired by a leap of the clock, and are of use now. There may
    be more areas than descriptors, so few are open at once.
    """
    dead: list[tuple[float, Area]] = []
    for area in areas(home):
        if not area.lock():
            area.close()
        elif (changed := area.changed) is None or (area.whose != whose and has_expired(changed)):
            area.remove()
        elif area.whose != whose:
            area.close()
        else:
            dead.append((changed, area))
            dead.sort(key=lambda pair: pair[0], reverse=True)
            for _, old in dead[MOST:]:
                old.close()
            del dead[MOST:]
    return [area for _, area in dead]


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


def _empty(directory: int) -> None:
    """Remove all that is in a directory of ours, by descriptors only; what cannot be removed is left."""
    with contextlib.suppress(OSError):  # a file system without modes; what cannot be removed then will say so
        # A directory that was given its last mode may not let us write any more.
        os.fchmod(directory, 0o700)
    try:
        with scan(directory) as listing:
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
