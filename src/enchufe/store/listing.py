"""Listing: what is directly in a folder, in one digest, so that two sides see at once whether they have the same."""

from __future__ import annotations

import os
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from blake3 import blake3

from enchufe.entry import Kind, Listing

PATIENCE: Final = 2.0  # seconds for one listing: nobody hears from us meanwhile

_AT_ONCE: Final = 64  # files between two looks at the clock: each may be a seek of a disk
_RECORD: Final = struct.Struct(">BQqHH")
_FILE, _SYMLINK = int(Kind.FILE), int(Kind.SYMLINK)
_FILES: Final = {stat.S_IFREG}
_LISTED: Final = {stat.S_IFREG, stat.S_IFLNK}
_MOST_BYTES: Final = 2**63 - 1
# os.fsencode() for many at once.
_ENCODING, _ENCODING_ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def in_order(names: Iterable[str]) -> list[bytes]:
    """Names as the disk has them, in order."""
    return sorted([name.encode(_ENCODING, _ENCODING_ERRORS) for name in names])


def file_record(name: bytes, size: int, mtime_ns: int) -> bytes:
    """What a listing says of a file: all that tells whether it is there already."""
    return _RECORD.pack(_FILE, size, mtime_ns, len(name), 0) + name


def link_record(name: bytes, target: bytes) -> bytes:
    """What a listing says of a symlink."""
    return _RECORD.pack(_SYMLINK, 0, 0, len(name), len(target)) + name + target


def listing(records: Sequence[bytes], links: int, size: int) -> Listing:
    """The listing of these records, in order of the names; so many are of symlinks, and so many bytes in the files."""
    return Listing(len(records) - links, links, size, blake3(b"".join(records)).digest())


def listed(
    names: Sequence[bytes], folder: int, *, alone: bool = False, takes: Callable[[bytes], bool] | None = None
) -> Listing | None:
    """The listing of an open folder; None where it cannot be listed, or that takes longer than `PATIENCE`.

    Args:
        names: of all that is in it, but for folders, in order.
        alone: whether no file in it may have another name, here or elsewhere.
        takes: whether a symlink with this target may be in it; None: any may.
    """
    records: list[bytes] = []
    links = total = 0
    pack = _RECORD.pack
    until = time.monotonic() + PATIENCE
    try:
        for start in range(0, len(names), _AT_ONCE):
            if time.monotonic() > until:
                return None
            some = names[start : start + _AT_ONCE]
            infos = [os.stat(name, dir_fd=folder, follow_symlinks=False) for name in some]
            kinds = {info.st_mode & 0o170000 for info in infos}
            if not kinds <= _LISTED or (alone and max([info.st_nlink for info in infos]) > 1):
                return None
            if kinds == _FILES:  # nearly always: then what is done for each file is all that a second run costs
                total += sum([info.st_size for info in infos])
                records += [
                    pack(_FILE, info.st_size, info.st_mtime_ns, len(name), 0) + name
                    for name, info in zip(some, infos, strict=True)
                ]
                continue
            for name, info in zip(some, infos, strict=True):
                if stat.S_ISREG(info.st_mode):
                    total += info.st_size
                    records.append(file_record(name, info.st_size, info.st_mtime_ns))
                    continue
                target = os.readlink(name, dir_fd=folder)
                if takes is not None and not takes(target):
                    return None
                links += 1
                records.append(link_record(name, target))
    except (OSError, struct.error):  # gone, or not ours to see; or of a time beyond what a record holds
        return None
    return listing(records, links, total) if total <= _MOST_BYTES else None
