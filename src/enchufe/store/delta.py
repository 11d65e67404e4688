"""Delta: the blocks and pieces of the version of a file that the destination has already."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from typing import Final

from blake3 import blake3

from enchufe.buffer import Buffer
from enchufe.entry import ANCHOR_SIZE, BLOCK_SIZE, DIGEST_SIZE, PIECE_DIGEST_SIZE
from enchufe.store.interface import Own
from enchufe.store.sparse import zeros_ahead

# O_NONBLOCK: a FIFO that took the file's place must not hold us up. O_NOCTTY: nor a terminal become ours.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_TOGETHER: Final = 32  # digests: the sender should have the first ones soon
_HOLE_TOGETHER: Final = 1024  # of blocks that need not be read, in 32 KiB


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
    size = _size_of_sparse(descriptor)
    offset = hole = 0  # bytes up to here are told of; up to there are zeros that need not be read
    while True:
        if size and offset >= hole:
            hole = offset + zeros_ahead(descriptor, offset, size) // BLOCK_SIZE * BLOCK_SIZE
        if offset < hole:
            block, told = _zeros(pieces)
            digests += block
            records += told
            offset += BLOCK_SIZE
        else:
            read = read_block(descriptor, buffer, offset)
            if len(read) == BLOCK_SIZE:
                digests += blake3(read).digest()
            if pieces:
                for start in range(0, len(read) - pieces + 1, pieces):
                    records += record(read[start : start + pieces])
            offset += len(read)
            if len(read) < BLOCK_SIZE:
                break
        if offset % (_TOGETHER * BLOCK_SIZE) == 0 and (offset >= hole or len(digests) >= _HOLE_TOGETHER * DIGEST_SIZE):
            yield bytes(digests), bytes(records)
            digests.clear()
            records.clear()
    if digests or records:
        yield bytes(digests), bytes(records)


def _size_of_sparse(descriptor: int) -> int:
    """Bytes of a file of which less is on the disk; of any other 0."""
    info = os.fstat(descriptor)
    return info.st_size if info.st_blocks * 512 < info.st_size else 0


@functools.cache
def _zeros(pieces: int) -> Own:
    """What is told of a block of zeros."""
    block = memoryview(bytes(BLOCK_SIZE))
    return blake3(block).digest(), record(block[:pieces]) * (BLOCK_SIZE // pieces) if pieces else b""


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
