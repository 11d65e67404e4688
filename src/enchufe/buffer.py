"""ReceiveBuffer: bytes that have arrived and are not decoded yet.

Two indices move over one piece of memory. Bytes are written straight into `space()` by the transport
and read in place through `view()`, so a payload is copied only by whoever keeps it. Any chunking costs O(n) in
all: bytes are moved to the front only when the room behind them is short, and the memory at least doubles
when it grows.
"""

from __future__ import annotations

from typing import Final

Buffer = bytes | bytearray | memoryview

# What all buffers have that hold nothing: a thousand idle connections share it.
_NO_MEMORY: Final = bytearray()
_NO_VIEW: Final = memoryview(_NO_MEMORY)


class ReceiveBuffer:
    """A queue of bytes in one reusable piece of memory.

    A view stays readable until the next `space()` or `append()`, which may move or overwrite what it shows:
    copy (`bytes(view)`) what must live longer.

    Args:
        size: bytes of memory to take at the first use.
    """

    __slots__ = ("_end", "_memory", "_size", "_start", "_view")

    def __init__(self, size: int = 65536) -> None:
        self._size = size
        self._memory = _NO_MEMORY
        self._view = _NO_VIEW
        self._start = 0
        self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    def __repr__(self) -> str:
        return f"<ReceiveBuffer {len(self)} of {len(self._memory)} bytes>"

    def space(self, at_least: int = 1) -> memoryview:
        """Writable memory behind the last byte, `at_least` that many bytes; tell `received()` how many came."""
        if self._start == self._end:
            self._start = self._end = 0
        if len(self._memory) - self._end < at_least:
            self._make_room(at_least)
        return self._view[self._end :]

    def _make_room(self, at_least: int) -> None:
        held = len(self)
        if held + at_least <= len(self._memory) and self._start >= held:
            # Moving no more than was consumed since the last move keeps the whole linear.
            self._view[:held] = self._view[self._start : self._end]
        else:
            # A new piece, never a resize in place: views of the old one may still be out.
            memory = bytearray(max(self._size, 2 * len(self._memory) if self._start < held else 0, held + at_least))
            memory[:held] = self._view[self._start : self._end]
            self._memory = memory
            self._view = memoryview(memory)
        self._start = 0
        self._end = held

    def received(self, count: int) -> None:
        """`count` bytes were written into `space()`."""
        self._end += count

    def append(self, data: Buffer) -> None:
        """Copy `data`, which is of single bytes, in at the end."""
        size = len(data)
        self.space(size)[:size] = data
        self._end += size

    def view(self, start: int = 0, stop: int | None = None) -> memoryview:
        """Bytes `start` to `stop` of those held, in place (all by default)."""
        end = self._end if stop is None else min(self._start + stop, self._end)
        return self._view[self._start + start : end]

    def peek(self, count: int) -> bytes:
        """A copy of the first `count` bytes, fewer if fewer are held; they stay."""
        stop = self._start + count
        return bytes(self._view[self._start : stop if stop < self._end else self._end])

    def find(self, pattern: bytes, start: int = 0) -> int:
        """Where `pattern` first stands at or after byte `start` of those held, or -1."""
        found = self._memory.find(pattern, self._start + start, self._end)
        return -1 if found < 0 else found - self._start

    def skip(self, count: int) -> None:
        """Drop the first `count` bytes; there must be that many."""
        if not 0 <= count <= len(self):
            raise ValueError(f"cannot skip {count} of {len(self)} bytes")
        self._start += count

    def take(self, count: int) -> bytes:
        """Remove and return the first `count` bytes; there must be that many."""
        data = self.peek(count)
        self.skip(count)
        return data

    def release(self) -> None:
        """Give the memory back, where nothing is held; views that are out stay readable."""
        if self._start == self._end:
            self._memory, self._view = _NO_MEMORY, _NO_VIEW
            self._start = self._end = 0

    def mark(self) -> int:
        """Where the first byte stands, for `rewind`."""
        return self._start

    def rewind(self, mark: int) -> None:
        """Put back all that was skipped and taken since `mark()`; no `space()` or `append()` may lie between."""
        self._start = mark
