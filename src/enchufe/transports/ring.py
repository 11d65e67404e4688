"""Two rings of bytes in one piece of shared memory: what each process says, in an order that both can trust.

A ring has one writer and one reader, in different processes. Each owns one index, a count of bytes that only grows, and
loads the other's; a load is checked before it is believed, since the other process may be hostile. Each side goes by
private copies of its own indices, never by what stands in memory.

The order of things rests on x86's total store order: stores are seen in the order they were made (Intel SDM, volume 3,
section 9.2). Only a load may overtake an earlier store, which matters where a side announces that it sleeps; there a
full fence stands between. CPython gives one with every lock: a locked instruction, on x86, is a full fence.
"""

from __future__ import annotations

import mmap
import platform
import sys
import threading
from collections.abc import Sequence
from typing import Final

from enchufe.buffer import Buffer
from enchufe.errors import LocalProtocolError, RemoteProtocolError

MAGIC: Final = b"ENCHUFE\x01"
HEAD: Final = 4096  # bytes in front of the first ring
LEAST: Final = 4096  # bytes of a ring
MOST: Final = 1 << 26

# What a writer has to say of itself.
OPEN: Final = 0
ENDED: Final = 1  # no more comes, and that is all there was
CUT: Final = 2  # no more comes

# Where the parts of a ring's head stand, in words of 8 bytes; each has a cache line (64 bytes) of its own.
_WRITTEN, _READ, _STATE, _READER_SLEEPS, _WRITER_SLEEPS = 0, 8, 16, 24, 32
_FIRST: Final = 8  # the first ring's head
_SECOND: Final = 64

_PROCESSORS: Final = ("x86_64", "amd64")

_fence: Final = threading.Lock()


def check_processor() -> None:
    """Raise LocalProtocolError where this processor's stores may be seen out of their order."""
    machine = platform.machine().lower()
    # A Python of 32 bits stores 8 bytes in two steps, on whatever processor.
    if machine not in _PROCESSORS or sys.maxsize < 2**32:
        raise LocalProtocolError(
            f"shared memory needs x86-64's order of stores, and this is {machine}", hint="Use a unix: address instead."
        )


def size_of(capacity: int) -> int:
    """Bytes of memory that two rings of `capacity` bytes take."""
    return HEAD + 2 * capacity


class Rings:
    """This side's view of both rings.

    Args:
        memory: of `size_of(capacity)` bytes, and never smaller while this lives.
        capacity: bytes of each ring, a power of two.
        first: whether this side writes the first ring and reads the second.
    """

    def __init__(self, memory: mmap.mmap, capacity: int, *, first: bool) -> None:
        view = memoryview(memory)
        self._words = view[:HEAD].cast("Q")
        self._capacity = capacity
        rings = [view[HEAD : HEAD + capacity], view[HEAD + capacity : HEAD + 2 * capacity]]
        self._out, self._in = rings if first else rings[::-1]
        self._out_head, self._in_head = (_FIRST, _SECOND) if first else (_SECOND, _FIRST)
        self._written = 0
        self._read = 0

    # Reading.

    def waiting(self) -> int:
        """Bytes that can be read.

        Raises:
            RemoteProtocolError: the other side's index makes no sense.
        """
        count = self._words[self._in_head + _WRITTEN] - self._read
        if not 0 <= count <= self._capacity:
            raise RemoteProtocolError("the other side's index in shared memory makes no sense")
        return count

    def state(self) -> int:
        """What the other side says of its writing; look before `waiting`, and what it wrote before is there."""
        return self._words[self._in_head + _STATE]

    def peek(self, count: int) -> Sequence[memoryview]:
        """The first `count` bytes, which must be there, in one piece or two. Copy them, then `skip`."""
        start = self._read & (self._capacity - 1)
        stop = start + count
        if stop <= self._capacity:
            return (self._in[start:stop],)
        return self._in[start:], self._in[: stop - self._capacity]

    def skip(self, count: int) -> bool:
        """The first `count` bytes were copied: whether the writer sleeps and is to be woken."""
        self._read += count
        self._words[self._in_head + _READ] = self._read
        return self._wakes(self._in_head + _WRITER_SLEEPS)

    def reader_sleeps(self, sleeps: bool) -> None:
        """Announce it. Look at `waiting` and `state` once more before sleeping."""
        self._words[self._in_head + _READER_SLEEPS] = sleeps
        with _fence:
            pass

    # Writing.

    def room(self) -> int:
        """Bytes that can be written. Raises as `waiting`."""
        used = self._written - self._words[self._out_head + _READ]
        if not 0 <= used <= self._capacity:
            raise RemoteProtocolError("the other side's index in shared memory makes no sense")
        return self._capacity - used

    def write(self, pieces: Sequence[Buffer]) -> tuple[int, bool]:
        """Copy in as much of `pieces` as there is room for: how many bytes, and whether the reader is to be woken."""
        room = self.room()
        ring, capacity, at = self._out, self._capacity, self._written
        for piece in pieces:
            size = len(piece)
            if size > room:
                piece, size = memoryview(piece)[:room], room  # noqa: PLW2901
            if not size:
                continue
            start = at & (capacity - 1)
            stop = start + size
            if stop <= capacity:
                ring[start:stop] = piece
            else:
                view = memoryview(piece)
                ring[start:] = view[: capacity - start]
                ring[: stop - capacity] = view[capacity - start :]
            at += size
            room -= size
            if not room:
                break
        count, self._written = at - self._written, at
        if not count:
            return 0, False
        self._words[self._out_head + _WRITTEN] = at
        return count, self._wakes(self._out_head + _READER_SLEEPS)

    def say(self, state: int) -> None:
        """Say what becomes of our writing, behind all that was written."""
        self._words[self._out_head + _STATE] = state

    def writer_sleeps(self, sleeps: bool) -> None:
        """Announce it. Look at `room` once more before sleeping."""
        self._words[self._out_head + _WRITER_SLEEPS] = sleeps
        # What was seen long ago must not count.
        with _fence:
            pass

    def _wakes(self, word: int) -> bool:
        with _fence:  # our index is seen by all before we look whether the other sleeps
            pass
        if not self._words[word]:
            return False
        self._words[word] = 0
        return True
