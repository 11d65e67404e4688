"""Going: one wanted file that travels in blocks, seen by its sender: what was handed out, said, and is due again."""

from __future__ import annotations

from collections import deque
from typing import Final

from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE, UNKNOWN_SIZE, Answer, Entry
from enchufe.errors import StoreError
from enchufe.printable import printable
from enchufe.transfer.digests import FileDigest
from enchufe.transfer.patches import Pieces

_ENDLESS: Final = 2**32  # blocks: the width of a block's number


class Going:
    """A file on its way.

    Attributes:
        entry: the file.
        digests: of the blocks that were said, or that the receiver has of it.
        ready: whether it is known what to send.
        ended: its end was said.
        left_out: that it is left out was said.
        own_known: whether all digests of the receiver's own version are known, if it has one.
        queued: whether there may be something to take.
        noted: whether its end is known to be due.
        had: whether the receiver said that it has some of it, and may find that damaged.
        index: of the receiver's own version, where it tells more of it, and that is good for something.
        pieces: how many of that were told.
        size: bytes; None while nobody knows.
    """

    __slots__ = (
        "_again",
        "_next",
        "_out",
        "_own",
        "_vouched",
        "digests",
        "ended",
        "entry",
        "had",
        "index",
        "left_out",
        "noted",
        "own_known",
        "pieces",
        "queued",
        "ready",
        "size",
    )

    def __init__(self, entry: Entry, answer: Answer) -> None:
        self.entry = entry
        self.digests = FileDigest()
        self.ready = answer is not Answer.REST
        self.had = answer is not Answer.ALL
        self.ended = False
        self.left_out = False
        self.queued = False
        self.noted = False
        self.index: Pieces | None = None
        self.pieces = 0
        self.size: int | None = None if entry.size == UNKNOWN_SIZE else entry.size
        self.own_known = answer is not Answer.DELTA
        self._own = bytearray()
        self._vouched = bytearray()  # one byte per block: whether the receiver has it by its own word
        self._again: deque[int] | None = None  # an empty one takes as much as all the rest, and is seldom needed
        self._next = 0
        self._out = 0

    def __repr__(self) -> str:
        return f"<Going {self.entry.id}: {self._next} of {self.blocks} blocks handed out>"

    @property
    def blocks(self) -> int:
        """How many blocks it has, as far as anybody knows."""
        return _ENDLESS if self.size is None else -(-self.size // BLOCK_SIZE)

    @property
    def whole(self) -> bool:
        """Every block was said or is there."""
        return self.told_all and not self._out and not self._again and self.digests.missing(0) >= self.blocks

    @property
    def told_all(self) -> bool:
        """Whether the receiver has said all that it has."""
        return self.ready and self.own_known

    @property
    def exhausted(self) -> bool:
        """Nothing is left to be taken; of a pipe nobody knows."""
        return self.ready and not self._again and self.digests.missing(self._next) >= self.blocks

    @property
    def waits(self) -> bool:
        """Nothing is to be taken before the receiver has told more of what it has."""
        if self._again or self.told_all:
            return False
        return not self.ready or self.digests.missing(self._next) >= len(self._own) // DIGEST_SIZE

    def take(self) -> int | None:
        """The number of a block to be sent next; None where there is none now."""
        if self._again:
            self._out += 1
            return self._again.popleft()
        if not self.ready or (self.size is None and self._out):  # a pipe is read in order
            return None
        block = self.digests.missing(self._next)
        if block >= self.blocks or not (self.own_known or block < len(self._own) // DIGEST_SIZE):
            return None
        self._next = block + 1
        self._out += 1
        return block

    def extend(self, block: int, count: int) -> int:
        """Whoever took `block` takes up to `count` blocks from there on, as its one turn: how many it gets."""
        if self._next != block + 1:
            return 1
        stop = block + 1
        while stop < block + count and stop not in self.digests:
            stop += 1
        self._next = stop
        return stop - block

    def said(self, first: int, digests: bytes) -> None:
        """The blocks that were taken are said.

        Raises:
            StoreError: they were said before, and were others then. Somebody still has them.
        """
        if not self.digests.add(first, digests):
            for number in range(len(digests) // DIGEST_SIZE):
                digest = digests[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE]
                if not (self.digests.add(first + number, digest) or self.digests.is_same(first + number, digest)):
                    raise changed_since(self.entry)
        self._out -= 1

    def give_back(self, first: int, count: int) -> None:
        """The blocks that were taken were not said after all."""
        self._out -= 1
        self.again(first, count)

    def pipe_ended(self, size: int) -> None:
        """The block that was taken is not there: the file has ended, after `size` bytes."""
        self._out -= 1
        self.size = size

    def again(self, first: int, count: int) -> None:
        """Blocks that were said, or that the receiver had, are to be sent again."""
        if self._again is None:
            self._again = deque()
        self._again.extend(range(first, first + count))

    def vouch(self, first: int, count: int) -> None:
        """The receiver has these blocks by its own word."""
        grown = first + count - len(self._vouched)
        if grown > 0:
            self._vouched.extend(bytes(grown))
        self._vouched[first : first + count] = b"\1" * count

    def doubt(self, first: int, count: int) -> bool:
        """The receiver takes back its word, and these blocks are to be sent again; False where it never gave it."""
        stop = first + count
        if not count or stop > len(self._vouched) or self._vouched.find(0, first, stop) >= 0:
            return False
        self._vouched[first:stop] = bytes(count)
        self.index = None  # its own version has changed, or its disk lies: nothing is made of it any more
        # It has them no more: never say SAME of them again.
        here = min(stop * DIGEST_SIZE, len(self._own)) - first * DIGEST_SIZE
        if here > 0:
            self._own[first * DIGEST_SIZE : first * DIGEST_SIZE + here] = bytes(here)
        self.again(first, count)
        return True

    def own(self, first: int, digests: bytes) -> bool:
        """The receiver's own version has these digests; False where they leave a gap."""
        if first * DIGEST_SIZE != len(self._own):
            return False
        self._own += digests
        return True

    def is_same(self, block: int, digest: bytes) -> bool:
        """Whether the receiver's own version has this very block at its place."""
        return self._own[block * DIGEST_SIZE : (block + 1) * DIGEST_SIZE] == digest


def changed_since(entry: Entry) -> StoreError:
    """What to raise where a file must be sent again and is another by now."""
    return StoreError(
        f"'{printable(entry.name)}' changed after some of it had been sent",
        hint="Send it again; what did not change is not sent twice.",
    )
