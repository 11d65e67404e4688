"""Arrived: what a commit has put in place, known again where its sender comes to send it anew.

He does where he has not heard the receipt: one side was killed over it, or the link was gone for too long. So a commit
notes each root that it puts in place in `arrived`, beside the journal, before the first one shows; that goes when the
sender has heard. Whatever name a root got, or gets by whoever it is for, it is the same inode, born at the same time.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Mapping
from typing import Final
from zlib import crc32

from enchufe.store import linux
from enchufe.store.hand import CRC
from enchufe.store.writing import write_all

NAME: Final = b"arrived"
Identity = tuple[int, int, int]
"""Number of the inode; when it was made, in seconds and nanoseconds, or zeros where the system does not say."""

_HEAD: Final = struct.Struct(">QQIH")  # an identity, bytes in the name, which follows, and then a CRC of all before
_MOST: Final = 64 << 20  # bytes that are read of it: some million roots
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def identity(directory: int, name: bytes) -> Identity | None:
    """What tells the thing that has a name in a directory from all others; None: nothing has it.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        inode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None
    return (inode, *linux.born(directory, name))


def write(area: int, roots: Mapping[bytes, Identity]) -> int:
    """Note roots, by the names they were offered with, in a staging area; returns a descriptor of that, to be synced.

    Raises:
        OSError: it could not be written.
    """
    records = []
    for name, known in roots.items():
        record = _HEAD.pack(*known, len(name)) + name
        records.append(record + CRC.pack(crc32(record)))
    descriptor = os.open(NAME, _NEW, 0o600, dir_fd=area)
    try:
        write_all(descriptor, memoryview(b"".join(records)), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read(area: int) -> dict[bytes, Identity]:
    """The roots that were noted in a staging area, up to what is damaged or torn."""
    data = b""
    with contextlib.suppress(OSError):
        descriptor = os.open(NAME, _OLD, dir_fd=area)
        with open(descriptor, "rb") as file:
            data = file.read(_MOST)
    roots: dict[bytes, Identity] = {}
    at = 0
    while at + _HEAD.size <= len(data):
        inode, seconds, nanoseconds, length = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if end + CRC.size > len(data) or CRC.unpack_from(data, end)[0] != crc32(data[at:end]):
            break
        roots[data[end - length : end]] = inode, seconds, nanoseconds
        at = end + CRC.size
    return roots
