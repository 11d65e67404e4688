"""Confine: this process gives up the right to change anything but what is below the folders that it is to write to.

A second wall, by Landlock (Linux 5.19): should a name get past all our own checks, the kernel refuses it. What it does
not know about, it does not stop: chmod, chown, times and attributes of what is elsewhere. Those we only ever do by
descriptors of what we made or opened below the destination.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from enchufe.store import linux

# LANDLOCK_ACCESS_FS_*: linux/landlock.h.
_WRITE_FILE: Final = 1 << 1
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_CHAR: Final = 1 << 6
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_MAKE_SOCK: Final = 1 << 9
_MAKE_FIFO: Final = 1 << 10
_MAKE_BLOCK: Final = 1 << 11
_MAKE_SYM: Final = 1 << 12
_REFER: Final = 1 << 13  # from version 2 on: rename or link from one directory to another
_TRUNCATE: Final = 1 << 14  # from version 3 on

# Without REFER the kernel refuses every rename between directories, which is how all that arrives gets into its place.
_OLDEST: Final = 2
_TRUNCATING: Final = 3

_REMOVING: Final = _REMOVE_DIR | _REMOVE_FILE
_MAKING: Final = _MAKE_DIR | _MAKE_REG | _MAKE_SYM
_NEVER_MADE: Final = _MAKE_CHAR | _MAKE_BLOCK | _MAKE_FIFO  # nothing that arrives is a device
_HANDLED: Final = _WRITE_FILE | _REMOVING | _MAKING | _NEVER_MADE | _MAKE_SOCK | _REFER | _TRUNCATE

_IN_FOLDERS: Final = _WRITE_FILE | _REMOVING | _MAKING | _REFER | _TRUNCATE
_IN_SOCKET_FOLDERS: Final = _MAKE_SOCK | _REMOVE_FILE
_OF_DEVICES: Final = _WRITE_FILE | _TRUNCATE

# Opened anew by whatever throws something away, or asks a person.
_DEVICES: Final = (b"/dev/null", b"/dev/tty")

Path = str | bytes | os.PathLike[str]


def confine(folders: Sequence[Path], *, sockets: Sequence[Path] = ()) -> bool:
    """Let this thread, and all that it starts from now on, change nothing but what is below `folders`.

    For good: no rights come back. To write, create, remove, rename, link and truncate is refused elsewhere (EACCES,
    or EXDEV for a rename out), but for /dev/null and the terminal. Whatever is open stays open, so standard output
    may go anywhere. To read is not touched.

    To be called by a program for itself, before it has started any thread: those would stay free. A library never does.

    Args:
        folders: they exist. Another folder that is mounted or linked below one counts by where it really is.
        sockets: folders in which sockets may be made and removed besides, to listen there.

    Returns:
        Whether it is so now. False, and nothing else, where the kernel has no Landlock of version 2 (Linux 5.19),
        or does not let us use it.

    Raises:
        OSError: one of the folders cannot be opened.
    """
    version = linux.landlock_version()
    if sys.platform != "linux" or version < _OLDEST:
        return False
    handled = _HANDLED if version >= _TRUNCATING else _HANDLED & ~_TRUNCATE
    with contextlib.ExitStack() as opened:

        def rule(path: Path, rights: int) -> tuple[int, int]:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            return descriptor, rights & handled

        allowed = [rule(folder, _IN_FOLDERS) for folder in folders]
        allowed += [rule(folder, _IN_SOCKET_FOLDERS) for folder in sockets]
        for device in _DEVICES:
            with contextlib.suppress(OSError):  # a container without: nobody will open it then
                allowed.append(rule(device, _OF_DEVICES))
        try:
            linux.landlock(handled, allowed)
        except OSError:  # a sandbox around us forbids it, or has stacked as many as there may be
            return False
    return True
