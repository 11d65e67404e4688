"""Space: whether what is wanted fits on the disk, asked before the first byte of it comes."""

from __future__ import annotations

import os
from typing import Final

from enchufe.errors import NoSpaceError
from enchufe.printable import printable

# What stays free for others: a disk that is full to the last block stops more than us. On a small one a tenth.
_RESERVE: Final = 64 << 20
_RESERVE_PART: Final = 100
_SMALL_PART: Final = 10


class Space:
    """Adds up what one delivery will need.

    Args:
        folder: descriptor of a directory in the file system.
        path: the destination, for messages.

    Attributes:
        stored: bytes written so far, of those that were wanted; whoever writes adds to it.

    Raises:
        OSError: the file system cannot be asked.
    """

    def __init__(self, folder: int, path: bytes) -> None:
        self.stored = 0
        self._folder = folder
        self._path = path
        self._wanted = 0
        self._room = self._free()

    def want(self, size: int) -> None:
        """So many bytes more will come.

        Raises:
            NoSpaceError: they do not fit.
            OSError: the file system cannot be asked.
        """
        self._wanted += size
        if size and self._wanted > self._room:
            self._room = self._free() + self.stored  # others may have made room meanwhile
            missing = self._wanted - self._room
            if missing > 0:
                raise NoSpaceError(f"{missing:,} bytes more are needed on the disk of {printable(self._path)}")

    def give_up(self, size: int, stored: int) -> None:
        """So many bytes will not come after all, and those of them that were stored are removed."""
        self._wanted -= size
        self.stored -= stored

    def _free(self) -> int:
        info = os.fstatvfs(self._folder)
        total = info.f_blocks * info.f_frsize
        reserve = min(max(_RESERVE, total // _RESERVE_PART), total // _SMALL_PART)
        return info.f_bavail * info.f_frsize - reserve
