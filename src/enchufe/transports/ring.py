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

# Tuning: more pieces than these, of fewer bytes on average, are joined before they are copied in.
_FEW: Final = 4
_SMALL: Final = 1024

# What a writer has to say of itself.
OPEN: Final = 0
ENDED: Final = 1  # no more comes, and that is all there was
CUT: Final = 2  # no more comes

# Where the parts of a ring's head stand, in words of 8 bytes; each has a cache line (64 bytes) of its own.
_WRITTEN, _READ, _STATE, _READER_SLEEPS, _WRITER_SLEEPS = 0, 8, 16, 24, 32
_FIRST: Final = 8  # the first ring's head
_SECOND: Final = 64

_PROCESSORS: Final = ("x86_64", "amd64")
INSTEAD: Final = "Use a unix: address instead."

_fence: Final = threading.Lock()


def check_processor() -> None:
    """Raise LocalProtocolError where this processor's stores may be seen out of their order, or in two steps."""
    machine = platform.machine().lower()
    if machine not in _PROCESSORS:
        raise LocalProtocolError(f"shared memory needs x86-64's order of stores, and this is {machine}", hint=INSTEAD)
    if sys.maxsize < 2**32:  # it stores 8 bytes in two steps, on whatever processor
        raise LocalProtocolError("shared memory needs a Python of 64 bits, and this one is of 32", hint=INSTEAD)


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
        self._freed = 0  # what the other side had read when we looked last

    # Reading.

    def waiting(self) -> int:
        """Bytes that can be read.

        Raises:
            RemoteProtocolError: the other side's index makes no sense.
        """
        count = self._words[self._in_head + _WRITTEN] - self._read
        if not 0 <= count <= self._capacity:
            raise self._nonsense()
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

    def copy(self, start: int, stop: int) -> bytes:
        """A copy of the waiting bytes from `start` to `stop`, which must be there."""
        first = (self._read + start) & (self._capacity - 1)
        last = first + stop - start
        if last <= self._capacity:
            return bytes(self._in[first:last])
        return b"".join((self._in[first:], self._in[: last - self._capacity]))

    def skip(self, count: int) -> None:
        """The first `count` bytes were copied. Then ask `wakes_writer`."""
        self._read += count
        self._words[self._in_head + _READ] = self._read

    def wakes_writer(self) -> bool:
        """Whether the writer sleeps and has the room now that it waits for: it is to be woken, once."""
        with _fence:  # our index is seen by all before we look whether the other sleeps
            pass
        words, head = self._words, self._in_head
        wanted = words[head + _WRITER_SLEEPS]
        if not wanted or self._capacity - (words[head + _WRITTEN] - self._read) < wanted:
            return False
        words[head + _WRITER_SLEEPS] = 0
        return True

    def reader_sleeps(self, wanted: int) -> None:
        """Announce it, until `wanted` bytes wait. Look at `waiting` and `state` once more before sleeping."""
        self._words[self._in_head + _READER_SLEEPS] = wanted
        with _fence:
            pass

    def reader_wakes(self) -> None:
        """Take the announcement back."""
        self._words[self._in_head + _READER_SLEEPS] = 0

    # Writing.

    def room(self) -> int:
        """Bytes that can be written. Raises as `waiting`."""
        freed = self._words[self._out_head + _READ]
        used = self._written - freed
        if not 0 <= used <= self._capacity:
            raise self._nonsense()
        self._freed = freed
        return self._capacity - used

    def write(self, pieces: Sequence[Buffer]) -> int:
        """Copy in as much of `pieces` as there is room for: how many bytes. Then ask `wakes_reader`."""
        capacity, at, head = self._capacity, self._written, self._out_head
        room = capacity - at + self._freed
        ring = self._out
        if len(pieces) > _FEW and sum(map(len, pieces)) < _SMALL * len(pieces):
            pieces = (b"".join(pieces),)
        full = False
        for piece in pieces:
            size = len(piece)
            if size > room:  # only then look again, which costs a trip between processors
                room = self.room() - (at - self._written)
                if full := size > room:
                    piece, size = memoryview(piece)[:room], room  # noqa: PLW2901
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
            if full:  # whatever room there is by now: what follows stands behind the rest of this piece
                break
        count = at - self._written
        self._words[head + _WRITTEN] = self._written = at
        return count

    def wakes_reader(self) -> bool:
        """Whether the reader sleeps and has the bytes now that it waits for: it is to be woken, once."""
        with _fence:  # as in `wakes_writer`
            pass
        words, head = self._words, self._out_head
        wanted = words[head + _READER_SLEEPS]
        if not wanted or self._written - words[head + _READ] < wanted:
            return False
        words[head + _READER_SLEEPS] = 0
        return True

    def say(self, state: int) -> None:
        """Say what becomes of our writing, behind all that was written."""
        self._words[self._out_head + _STATE] = state

    def writer_sleeps(self, wanted: int) -> None:
        """Announce it, until there is room for `wanted` bytes. Look at `room` once more before sleeping."""
        self._words[self._out_head + _WRITER_SLEEPS] = wanted
        # What was seen long ago must not count.
        with _fence:
            pass

    def writer_wakes(self) -> None:
        """Take the announcement back."""
        self._words[self._out_head + _WRITER_SLEEPS] = 0

    @staticmethod
    def _nonsense() -> RemoteProtocolError:
        return RemoteProtocolError("the other side's index in shared memory makes no sense")
