"""Wanted: which of the files offered are to come, how many bytes that is, and whether so many may."""

from __future__ import annotations

from typing import Final

from enchufe.entry import NO_LINK, UNKNOWN_SIZE, Answer, Entry
from enchufe.ids import Ids
from enchufe.store.space import Space

_COMES: Final = 1
_LINKED: Final = 2

_ALL: Final = Answer.ALL


def needed(entry: Entry, here: int = 0) -> int:
    """Bytes of the disk that are needed for a file of which `here` are here: none where all of it may be a hole."""
    return 0 if entry.sparse or entry.size == UNKNOWN_SIZE else max(entry.size - here, 0)


class Wanted:
    """The files of one delivery that are wanted. Whoever uses it holds the delivery's lock.

    Args:
        space: where they are to fit; whoever wants one asks it, for as much of the file as is not here.
        max_size: bytes in all of them together, at the most; None: no limit.

    Attributes:
        dropped: ids of those that the sender left out.
    """

    def __init__(self, space: Space, max_size: int | None) -> None:
        self.dropped = Ids()
        self.max_size = max_size
        self._space = space
        self._size = 0
        self._how = bytearray()  # by id: whether they come or are linked

    def __contains__(self, entry: Entry) -> bool:
        return entry.id < len(self._how) and bool(self._how[entry.id])

    def add(self, entry: Entry) -> Answer:
        """One more: ALL if it is to come, LINK if the file that it is a link to does, TOO_BIG if it must not."""
        size = 0 if entry.size == UNKNOWN_SIZE else entry.size
        if self.max_size is not None and self._size + size > self.max_size:
            return Answer.TOO_BIG
        how = self._how
        if len(how) <= entry.id:
            how.extend(bytes(entry.id + 1024 - len(how)))
        if entry.linked != NO_LINK and entry.linked < entry.id and how[entry.linked]:
            how[entry.id] = _LINKED
            return Answer.LINK
        how[entry.id] = _COMES
        self._size += size
        return _ALL

    def came(self, entry: Entry, size: int) -> bool:
        """So many bytes more of a file came; False where it is of unknown size and they are too many now."""
        if entry.size == UNKNOWN_SIZE:
            self._size += size
            return self.max_size is None or self._size <= self.max_size
        if not entry.sparse:
            self._space.stored += size
        return True

    def drop(self, entry: Entry, asked: int, written: int) -> None:
        """Take back what was counted for a file that will not come, and never more.

        Args:
            entry: the file.
            asked: bytes that space was asked for.
            written: bytes that came.
        """
        if entry in self:
            if self._how[entry.id] == _COMES:
                self._size -= written if entry.size == UNKNOWN_SIZE else entry.size
                self._space.give_up(asked, min(written, asked))
            self._how[entry.id] = 0
        self.dropped.add(entry.id)
