"""Memory that stays: what is free for two seconds a virtual machine may give back to its host (free page reporting).

To get it again takes several times as long as to write to it, and whoever starts later after the run before pays for
more of it: of the same transfers of 2 GiB some took 1.3 s and some 4.5.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_BALLOONS: Final = Path("/sys/bus/virtio/drivers/virtio_balloon")
_REPORTING: Final = 5  # VIRTIO_BALLOON_F_REPORTING
_PIECE: Final = 2 << 20  # bytes: only what is free in whole pieces of that size is given back
_MOST: Final = 0.75  # of what is available


@contextmanager
def held(amount: int) -> Iterator[None]:
    """So much memory is at hand as often as it is used, where else it would be given back.

    That costs a page of each piece of it, and a few seconds for each GiB before.

    Args:
        amount: bytes that are in use at once.
    """
    if not _is_given_back():
        yield
        return
    pieces = int(min(amount, _MOST * _available())) // _PIECE
    file = os.memfd_create("benchmark")
    try:
        for _ in range(pieces):
            os.write(file, bytes(_PIECE))
        if pieces:
            with mmap.mmap(file, pieces * _PIECE) as view:
                for start in range(0, pieces * _PIECE, _PIECE):
                    view.madvise(mmap.MADV_REMOVE, start + mmap.PAGESIZE, _PIECE - mmap.PAGESIZE)
        yield
    finally:
        os.close(file)


def _is_given_back() -> bool:
    return any(path.read_text()[_REPORTING : _REPORTING + 1] == "1" for path in _BALLOONS.glob("*/features"))


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
