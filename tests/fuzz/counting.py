"""A ReceiveBuffer that counts what is done to it: work is counted, never timed."""

from __future__ import annotations

from enchufe.buffer import ReceiveBuffer
from enchufe.framing.base import NARROW


class CountingBuffer(ReceiveBuffer):
    """Counts bytes moved to make room, copied out, and searched; and how often it was asked for anything."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.came = 0
        self.moved = 0
        self.peeked = 0
        self.peeks = 0
        self.searched = 0
        # Bytes that a search may look at again, since what it looks for may have begun in them.
        self.allowed = 0
        self.steps = 0

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self.came += len(data)
        super().append(data)

    def _make_room(self, at_least: int) -> None:
        self.moved += len(self)
        super()._make_room(at_least)

    def view(self, start: int = 0, stop: int | None = None) -> memoryview:
        self.steps += 1
        return super().view(start, stop)

    def peek(self, count: int) -> bytes:
        data = super().peek(count)
        self.steps += 1
        self.peeks += 1
        self.peeked += len(data)
        return data

    def find(self, pattern: bytes, start: int = 0) -> int:
        found = super().find(pattern, start)
        self.steps += 1
        self.searched += (len(self) if found < 0 else found + len(pattern)) - start
        self.allowed += len(pattern)
        return found

    def skip(self, count: int) -> None:
        self.steps += 1
        super().skip(count)

    def check_linear(self, calls: int) -> None:
        """Assert that the work of so many calls of `decode` grew with the bytes that came, not with their square."""
        # Between two calls a message may be looked at once more; each byte is looked at by one batch and one search.
        assert self.searched <= 3 * self.came + self.allowed, "bytes were searched again and again"
        # A batch is never much wider than twice what the last one took, or than the narrowest.
        assert self.peeked <= 8 * self.came + NARROW * self.peeks, "bytes were copied again and again"
        # The memory at least doubles, or at least as much as is moved was consumed.
        assert self.moved <= 4 * self.came + 64, "bytes were moved again and again"
        # Every step takes a byte at least, or is the last one of a call.
        assert self.steps <= 8 * (self.came + calls), "there were more steps than bytes"
