"""Reading: a file is read as it was offered, or it is left out, with the reason that the protocol has for that."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from typing import Final

from blake3 import blake3

from enchufe.buffer import Buffer
from enchufe.entry import Entry, Reason
from enchufe.errors import StoreError
from enchufe.printable import printable
from enchufe.store.faults import OUT_OF_MEANS, store_error
from enchufe.store.hand import told_time
from enchufe.store.sparse import zeros_ahead

_REASONS: Final = {
    errno.ENOENT: Reason.VANISHED,
    errno.ENOTDIR: Reason.VANISHED,
    errno.ESTALE: Reason.VANISHED,
    errno.ELOOP: Reason.CHANGED,  # a symlink by now
    errno.EISDIR: Reason.CHANGED,
    errno.ENXIO: Reason.CHANGED,  # a socket
    errno.ENODEV: Reason.CHANGED,
    errno.EAGAIN: Reason.CHANGED,  # a FIFO that somebody writes to
}


class LeftOut(StoreError):
    """An entry that was offered cannot be sent; all the others can.

    Attributes:
        reason: why, as the protocol says it.
    """

    def __init__(self, reason: Reason, path: tuple[bytes, ...]) -> None:
        super().__init__(f"'{printable(b'/'.join(path))}' is left out: {reason.told}")
        self.reason = reason


Content = tuple[Buffer, bytes] | LeftOut
"""Of a small file: all that is in it and the digest of that, or why it is left out."""


def read_each(entries: Iterable[Entry], read_whole: Callable[[Entry], Buffer]) -> list[Content]:
    """The contents of small files, read one by one. Raises what `read_whole` does, but for LeftOut."""
    contents: list[Content] = []
    for entry in entries:
        try:
            data = read_whole(entry)
            contents.append((data, blake3(data).digest()))
        except LeftOut as left_out:
            contents.append(left_out)
    return contents


def reason_for(error: OSError, path: tuple[bytes, ...]) -> Reason:
    """Why what raised `error` is left out.

    Raises:
        StoreError: no descriptors or memory left, which is no fault of the entry's.
    """
    if error.errno in OUT_OF_MEANS:
        raise store_error(error, "read", b"/".join(path)) from error
    return _REASONS.get(error.errno or 0, Reason.UNREADABLE)


def is_as_offered(entry: Entry, info: os.stat_result) -> bool:
    """Whether a file still is what was offered, by size and modification time."""
    same = info.st_size == entry.size and told_time(info.st_mtime_ns) == entry.mtime_ns
    return same and info.st_mode & 0o170000 == stat.S_IFREG


class SourceFile:
    """A file that was offered, open for reading; by several threads at once, but for the one that closes it.

    Args:
        descriptor: becomes this object's to close.
        entry: what was offered.
        path: its names, for messages.
    """

    __slots__ = ("_descriptor", "_entry", "_path")

    def __init__(self, descriptor: int, entry: Entry, path: tuple[bytes, ...]) -> None:
        self._descriptor = descriptor
        self._entry = entry
        self._path = path

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on; returns how many bytes there were, fewer only at the end of the file.

        Raises:
            LeftOut: it could not be read.
        """
        filled = 0
        try:
            while filled < len(view):
                count = os.preadv(self._descriptor, [view[filled:]], offset + filled)
                if count == 0:
                    break
                filled += count
        except OSError as error:
            raise LeftOut(Reason.UNREADABLE, self._path) from error
        return filled

    def holes(self, start: int, stop: int) -> int:
        """How many bytes from `start` on, before `stop`, are in a hole, and so zeros that need not be read."""
        return zeros_ahead(self._descriptor, start, stop)

    def unchanged(self) -> bool:
        """Whether it still is what was offered, by size and modification time."""
        try:
            return is_as_offered(self._entry, os.fstat(self._descriptor))
        except OSError:  # a network file system, and it is gone
            return False

    def close(self) -> None:
        """Close it; more than once does no harm."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
