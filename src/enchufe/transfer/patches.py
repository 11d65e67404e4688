"""Patches: a block told by what of it the receiver's own version has, wherever that stands, and by the rest.

Whatever is inserted or deleted moves what comes after it, so that no block is what it was at its place. The receiver
tells of each piece of its version how it begins and its digest. What moves, moves together: where one piece stands in
the new version says where the next ones do, and to find out about a piece takes its digest alone. Only where that fails
is one searched for, by its beginning.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Final

from blake3 import blake3

from enchufe.buffer import Buffer
from enchufe.entry import ANCHOR_SIZE, BLOCK_SIZE, PIECE_DIGEST_SIZE

PIECE_SIZE: Final = 16 << 10  # of the smallest pieces
MAX_PIECES: Final = 1 << 18  # of all files on their way together: 12 MiB at the sender
MAX_PARTS: Final = 256  # of a block
RECORD_SIZE: Final = ANCHOR_SIZE + PIECE_DIGEST_SIZE

_PLAIN: Final = 4  # different bytes: an anchor that has fewer is found everywhere
_TRIES: Final = 3  # places where an anchor stands
_NEXT: Final = 3  # pieces that are searched for one by one, and then one of as many as what is searched holds:
_FAR: Final = 128  # times as many, at the most
_LEAST: Final = 16 << 10  # bytes that could be searched in the time that one piece costs besides
_WORTH: Final = 15 / 16  # of a block; where more of it is new, it is sent as it is
# Bytes to search through, which bytes.find does at 9 GB/s: at first, more with each block, and at the most.
_PATIENCE: Final = 64 << 20
_PATIENCE_GAINED: Final = 16 << 20
_PATIENCE_IN_VAIN: Final = 4 << 20  # in place of that, where in so many blocks nothing was found:
_VAIN: Final = 64
_PATIENCE_MOST: Final = 256 << 20
_REWARD: Final = 16  # times what was found

Part = tuple[int, int | None]
"""So many bytes of a block, and where they stand in the receiver's version; None: they come along."""


def along(parts: Sequence[Part], block: Buffer) -> bytes:
    """What of a block comes along, where it is made of these parts."""
    pieces, at = [], 0
    for size, where in parts:
        if where is None:
            pieces.append(block[at : at + size])
        at += size
    return b"".join(pieces)


def piece_size(size: int) -> int:
    """Of a file of so many bytes: a power of two, about their square root.

    So neither what is told of all pieces is much, nor what is sent again of one that has changed.
    """
    pieces = PIECE_SIZE
    while pieces < BLOCK_SIZE and pieces**2 < size:
        pieces *= 2
    return pieces


class Pieces:
    """The receiver's version of one file, piece by piece.

    Any thread may ask while another adds: what it knows of other blocks is a hint, and two that are lost are no harm.

    Args:
        size: bytes in a piece.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._records = bytearray()
        self._ends = [(0, 0)]  # of what was found: there, and in the receiver's version
        self._steady = 0  # how far a whole block has moved last
        self._patience = _PATIENCE
        self._vain = 0  # blocks, since something was found
        self._far = 1  # where the search that found nothing ended, and the next one goes on

    def __len__(self) -> int:
        return len(self._records) // RECORD_SIZE

    def add(self, records: bytes) -> None:
        """The next pieces."""
        self._records += records

    def around(self, start: int, stop: int, end: int) -> tuple[int, int]:
        """From where to where to look, for the block from `start` to `stop` of a file of `end` bytes."""
        return max(0, start - self.size), min(end, stop + self.size)

    def parts(self, window: bytearray, begin: int, start: int, stop: int) -> list[Part]:
        """What a block is made of; nothing where next to all of it is new.

        Args:
            window: what is `around` the block.
            begin: where in the file that begins.
            start, stop: where the block does, and ends.
        """
        there, due = self._ends[bisect_right(self._ends, (start + 1,)) - 1]
        gained = _PATIENCE_GAINED if self._vain < _VAIN else _PATIENCE_IN_VAIN
        patience = self._patience = min(self._patience + gained, _PATIENCE_MOST)
        search = _Search(self, window, begin, stop, patience, self._far)
        parts: list[Part] = []
        new, at, moved = 0, start, there - due
        while at < stop:
            piece = (at - moved) // self.size
            place = piece * self.size + moved
            if not search.stands(piece, place):
                ahead = search.ahead(piece, place)
                until = stop if ahead is None else ahead[1]
                likely = (due // self.size, piece, (at - self._steady) // self.size, at // self.size)
                found = search.next(at, until, likely) or ahead
                if found is None:
                    break
                piece, place = found
                moved = place - piece * self.size
                if place > at:
                    parts.append((place - at, None))
                    new += place - at
                    at = place
            end = min(place + self.size, stop)
            last = parts[-1] if parts else (0, None)
            if last[1] is not None and last[1] + last[0] == at - moved:
                parts[-1] = (last[0] + end - at, last[1])
            else:
                parts.append((end - at, at - moved))
            at, due = end, end - moved
        if at < stop:
            parts.append((stop - at, None))
            new += stop - at
        self._far = search.far
        self._patience += search.reward - search.searched
        if new == stop - start:
            self._vain += 1
        else:
            self._vain = 0
            insort(self._ends, (due + moved, due))
            if len(parts) == 1:
                self._steady = moved
        return parts if new <= _WORTH * (stop - start) and len(parts) <= MAX_PARTS else []

    def anchor(self, piece: int) -> bytes:
        """How a piece begins."""
        return bytes(self._records[piece * RECORD_SIZE : piece * RECORD_SIZE + ANCHOR_SIZE])

    def digest(self, piece: int) -> bytes:
        """Its digest."""
        return bytes(self._records[piece * RECORD_SIZE + ANCHOR_SIZE : (piece + 1) * RECORD_SIZE])


class _Search:
    """For pieces in the window around one block.

    Attributes:
        searched: bytes that were searched through.
        reward: bytes to search through that were earned.
        far: where the next search goes on.
    """

    def __init__(self, index: Pieces, window: bytearray, begin: int, stop: int, patience: int, far: int) -> None:
        self._index = index
        self._window = window
        self._view = memoryview(window)
        self._begin = begin
        self._stop = stop - begin
        self._patience = patience
        self.searched = 0
        self.reward = 0
        self.far = far

    def stands(self, piece: int, place: int) -> bool:
        """Whether a piece stands at this place of the file."""
        at = place - self._begin
        if not 0 <= piece < len(self._index) or at < 0 or at + self._index.size > len(self._window):
            return False
        if self._view[at : at + ANCHOR_SIZE] != self._index.anchor(piece):
            return False
        whole = self._view[at : at + self._index.size]
        return bool(blake3(whole).digest(PIECE_DIGEST_SIZE) == self._index.digest(piece))

    def ahead(self, piece: int, place: int) -> tuple[int, int] | None:
        """The first of the pieces after this one that stands in the block as far behind as it should, and where."""
        size = self._index.size
        for ahead in range(size, self._begin + self._stop - place, size):
            if self.stands(piece + ahead // size, place + ahead):
                return piece + ahead // size, place + ahead
        return None

    def next(self, at: int, until: int, likely: Sequence[int]) -> tuple[int, int] | None:
        """A piece that stands from `at` on, before `until`, and where; None where none was found.

        Args:
            likely: the pieces that may stand at that place: the one that comes after what was found last, the one that
                would if nothing had moved since; where the same is repeated over and over, that may lead astray, and
                then the one by what moved steadily, and by what did not move at all.
        """
        end = until - self._begin
        for piece in self._candidates(likely, max((until - at) // self._index.size - 1, 1)):
            anchor = self._index.anchor(piece)
            if len(set(anchor)) < _PLAIN:
                continue
            start = at - self._begin
            for _ in range(_TRIES):
                if self.searched >= self._patience:
                    return None
                found = self._window.find(anchor, start, end + ANCHOR_SIZE - 1)
                self.searched += max((found if found >= 0 else end) - start, _LEAST)
                if found < 0:
                    break
                self.searched += self._index.size
                if self.stands(piece, found + self._begin):
                    self.far = 1
                    self.reward += _REWARD * self._index.size
                    return self._first(at, piece, found + self._begin)
                start = found + 1
        self.far = 1
        return None

    def _first(self, at: int, piece: int, place: int) -> tuple[int, int]:
        """The first one from `at` on of those that stand in a row before this one."""
        size = self._index.size
        while place - size >= at and self.stands(piece - 1, place - size):
            piece, place = piece - 1, place - size
        return piece, place

    def _candidates(self, likely: Sequence[int], stride: int) -> Iterator[int]:
        """Pieces to search for, each once; those that are far away where the last search ended."""
        tried: set[int] = set()
        for piece in self._order(likely, stride):
            if 0 <= piece < len(self._index) and piece not in tried:
                tried.add(piece)
                yield piece

    def _order(self, likely: Sequence[int], stride: int) -> Iterator[int]:
        for offset in range(_NEXT):
            for piece in likely:
                yield piece + offset
        for far in range(self.far, _FAR):
            self.far = far
            for piece in likely[:2]:
                yield piece + far * stride
