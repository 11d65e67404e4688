"""Sparse files: the holes that a file system tells of, and zeros that are left unwritten so that they stay holes."""

from __future__ import annotations

import errno
import os
from typing import Final

from enchufe.buffer import Buffer
from enchufe.store.writing import write_all

PAGE: Final = 4096  # bytes; what nearly every file system of Linux allocates at the least
_ZEROS: Final = bytes(PAGE)


def zeros_ahead(descriptor: int, start: int, stop: int) -> int:
    """How many bytes of a file from `start` on, before `stop`, are in a hole; 0 where the file system does not say.

    It moves the descriptor's one position, which nobody minds who reads at offsets of their own.
    """
    if not hasattr(os, "SEEK_DATA"):
        return 0
    try:
        data = os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: nothing but a hole from there to the end. Anything else: it cannot tell.
        return max(stop - start, 0) if error.errno == errno.ENXIO else 0
    return max(min(data, stop) - start, 0)


def write_sparse(descriptor: int, data: Buffer, offset: int) -> None:
    """Write `data` at `offset` but for its pages of zeros, which are holes if nothing was written there before.

    So it does not do to replace what is there; and the file ends where the last byte is written that is no zero, until
    it is given its size. Pages are counted from the start of the file; a shorter one at the end of `data` is one too.

    Raises:
        OSError: it could not be written.
    """
    view = memoryview(data).cast("B")
    written = 0  # what is before this is settled
    for at in range(-offset % PAGE, len(view), PAGE):
        # The first byte settles it for most; tobytes(), since a memoryview compares item by item.
        if view[at] or (page := view[at : at + PAGE].tobytes()) != _ZEROS[: len(page)]:
            continue
        write_all(descriptor, view[written:at], offset + written)
        written = at + PAGE
    write_all(descriptor, view[written:], offset + written)
