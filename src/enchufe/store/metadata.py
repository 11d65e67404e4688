"""Metadata: the mode and time that a file or directory is given when it is complete."""

from __future__ import annotations

import contextlib
import os
import stat

from enchufe.entry import Entry
from enchufe.store.attributes import set_attributes
from enchufe.store.hand import set_time
from enchufe.store.plan import Folder


def dress_file(descriptor: int, entry: Entry) -> list[bytes]:
    """Give a file of ours its attributes, permission bits and time; returns the names of attributes that it lacks then.

    Bits whatever the umask, but setuid, setgid and sticky never. A file system that has no permission bits (vfat)
    says EPERM, and has the file without.

    Raises:
        OSError: it was refused for another reason.
    """
    refused = set_attributes(descriptor, entry.attributes) if entry.attributes else []
    try:  # noqa: SIM105 (suppress() would cost a microsecond per file)
        os.fchmod(descriptor, entry.mode & 0o777)
    except PermissionError:
        pass
    set_time(descriptor, entry.mtime_ns)
    return refused


def granted_mode(area: int) -> int:
    """Which permission bits a new file in an empty directory of ours gets when it asks for all: umask, default ACL.

    Raises:
        OSError: no file can be made there.
    """
    name = b"granted"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o777, dir_fd=area)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        os.unlink(name, dir_fd=area)


def dress_directory(descriptor: int, folder: Folder) -> list[bytes]:
    """Give a directory its attributes, permission bits and time; returns the names of attributes that it did not get.

    Of setgid and sticky it keeps what it has: inherited, or set by its owner to share it. A live one may be somebody
    else's; then it stays as it is.

    Raises:
        OSError: it was refused for another reason.
    """
    refused = set_attributes(descriptor, folder.attributes)
    special = stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o7000
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, special | folder.mode & 0o777)
    with contextlib.suppress(PermissionError):
        set_time(descriptor, folder.mtime_ns)
    return refused
