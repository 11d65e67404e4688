"""Delta: the blocks of the version of a file that the destination has already."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from blake3 import blake3

from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE

# O_NONBLOCK: a FIFO that took the file's place must not hold us up. O_NOCTTY: nor a terminal become ours.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_TOGETHER: Final = 32  # digests: the sender should have the first ones soon


def open_file(name: bytes, directory: int) -> int:
    """A descriptor to read a regular file of the destination.

    Raises:
        OSError: it cannot be opened, or is something else by now.
    """
    descriptor = os.open(name, _READ, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a file any more")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def digests(descriptor: int) -> Iterator[bytes]:
    """Digests of the full blocks of a file, some at a time.

    Raises:
        OSError: it cannot be read.
    """
    buffer = memoryview(bytearray(BLOCK_SIZE))
    some = bytearray()
    offset = 0
    while len(block := read_block(descriptor, buffer, offset)) == BLOCK_SIZE:
        some += blake3(block).digest()
        offset += BLOCK_SIZE
        if offset % (_TOGETHER * BLOCK_SIZE) == 0:
            yield bytes(some)
            some.clear()
    if some:
        yield bytes(some)


def read_block(descriptor: int, buffer: memoryview, offset: int) -> memoryview:
    """Fill `buffer` from `offset` on; what there was, less only at the end of the file.

    Raises:
        OSError: it cannot be read.
    """
    filled = 0
    while filled < len(buffer):
        count = os.preadv(descriptor, [buffer[filled:]], offset + filled)
        if count == 0:
            break
        filled += count
    return buffer[:filled]


def is_block(data: Buffer, size: int, digest: bytes) -> bool:
    """Whether it is that one."""
    return len(data) == size and blake3(data).digest() == digest
