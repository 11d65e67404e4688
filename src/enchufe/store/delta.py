"""Delta: the blocks and pieces of the version of a file that the destination has already."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from blake3 import blake3

from enchufe.buffer import Buffer
from enchufe.entry import ANCHOR_SIZE, BLOCK_SIZE, PIECE_DIGEST_SIZE
from enchufe.store.interface import Own

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


def own(descriptor: int, pieces: int) -> Iterator[Own]:
    """Digests of the full blocks of a file and records of its whole pieces, some at a time.

    Args:
        pieces: bytes in each; 0: none are told of.

    Raises:
        OSError: it cannot be read.
    """
    buffer = memoryview(bytearray(BLOCK_SIZE))
    digests, records = bytearray(), bytearray()
    offset = 0
    while block := read_block(descriptor, buffer, offset):
        if len(block) == BLOCK_SIZE:
            digests += blake3(block).digest()
        if pieces:
            for start in range(0, len(block) - pieces + 1, pieces):
                records += record(block[start : start + pieces])
        offset += len(block)
        if offset % (_TOGETHER * BLOCK_SIZE) == 0:
            yield bytes(digests), bytes(records)
            digests.clear()
            records.clear()
        if len(block) < BLOCK_SIZE:
            break
    if digests or records:
        yield bytes(digests), bytes(records)


def record(piece: memoryview) -> bytes:
    """What is told of a piece: how it begins, and its digest."""
    digest: bytes = blake3(piece).digest(PIECE_DIGEST_SIZE)
    return bytes(piece[:ANCHOR_SIZE]) + digest


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
