"""Extended attributes: those that belong to users, read and set by descriptor; elsewhere than on Linux there are none.

Only `user.*` travel. The others mean something to the machine (`security.*`, `trusted.*`, `system.*`: capabilities,
labels, lists of who may do what, by numbers of its own users), and are never read, nor set whatever a peer says.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Final

Attributes = tuple[tuple[bytes, bytes], ...]

LIMIT: Final = 4096  # bytes of an entry's attributes as they travel: docs/protocol.md, Limits
_HEADER: Final = 3  # bytes before each name and value there
_PREFIX: Final = b"user."

# Of one attribute, not of the disk: the file system has none, or no room for this one; the file is somebody else's.
_REFUSED: Final = frozenset(
    {
        *(errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EDQUOT),
        *(errno.ERANGE, errno.E2BIG, errno.EINVAL),
    }
)


def get_attributes(descriptor: int) -> tuple[Attributes, list[bytes]]:
    """The user's extended attributes of an open file or folder, by name, and the names of those beyond the limit.

    Raises:
        OSError: they could not be read.
    """
    if sys.platform != "linux":
        return (), []
    try:
        names = sorted(name for each in os.listxattr(descriptor) if (name := os.fsencode(each)).startswith(_PREFIX))
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EOPNOTSUPP):
            return (), []
        raise
    attributes = []
    beyond = []
    room = LIMIT
    for name in names:
        try:
            value = os.getxattr(descriptor, name)
        except OSError as error:
            if error.errno == errno.ENODATA:  # removed meanwhile
                continue
            raise
        size = _HEADER + len(name) + len(value)
        if size <= room:
            attributes.append((name, value))
            room -= size
        else:
            beyond.append(name)
    return tuple(attributes), beyond


def set_attributes(descriptor: int, attributes: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Give an open file or folder of ours what a peer says are its attributes; returns the names that it did not get.

    Before it gets its mode: who may not write to a file may not do this either. Its modification time stays.

    Raises:
        OSError: the disk failed.
    """
    refused = []
    for name, value in attributes:
        if sys.platform != "linux" or not name.startswith(_PREFIX) or b"\0" in name:
            refused.append(name)
            continue
        try:
            os.setxattr(descriptor, name, value)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            refused.append(name)
    return refused
