"""What the framings have in common whose first bytes tell how long a message is.

Such a framing only has to read the head of a frame: `measure`. Waiting for the rest, skipping what is too big and
the faults at the end are the same for all of them, and done here. `split` is their fast lane: it takes the plain
cases at the front of some bytes and stops at anything else, which then goes the careful way, frame by frame.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final, NamedTuple

from enchufe.buffer import ReceiveBuffer
from enchufe.errors import RemoteProtocolError
from enchufe.framing.base import Decoder, Framing, Split, truncated, window

# Tuning: messages of more bytes are copied out of the buffer one by one, not twice over to go in batches.
BATCHED: Final = 16 * 1024


class Frame(NamedTuple):
    """Where in a frame its message lies, in bytes from the frame's first: `[:lead]` and `[body:stop]`.

    Attributes:
        lead: the bytes in front of the length that belong to the message.
        body: where the rest of the message begins.
        stop: where it ends.
        tail: what must follow there.
        kept: False where the message is too big and its bytes are to be dropped.
    """

    lead: int
    body: int
    stop: int
    tail: bytes
    kept: bool

    def message(self, data: memoryview) -> bytes:
        """A copy of the message, where the whole frame begins with `data`."""
        body = data[self.body : self.stop]
        return b"".join((data[: self.lead], body)) if self.lead else bytes(body)


class SizedFraming(Framing):
    """A framing whose first bytes tell the size of a message: any of them can be the rest of a `Typed` one.

    Attributes:
        head: how many bytes tell it, of any frame, from its first on; 0: there is no such number.
    """

    head: int = 0

    def decoder(self) -> SizedDecoder:
        """A decoder for one connection."""
        return SizedDecoder(self)

    @abstractmethod
    def measure(self, data: memoryview) -> Frame | None:
        """The frame that begins with `data`; None where more bytes are needed to tell.

        Raises:
            RemoteProtocolError: no frame begins so, or it is too big and `on_too_big` is "close".
        """

    def extent(self, head: bytes) -> tuple[int, int] | None:
        """Where in the frame that begins with `head` its message lies; None where it needs special care."""
        try:
            frame = self.measure(memoryview(head))
        except RemoteProtocolError:
            return None
        if frame is None or frame.lead or frame.tail or not frame.kept:
            return None
        return frame.body, frame.stop

    def splitter(self) -> Split:
        """What takes the plain messages at the front of some bytes: see `Framing.splitter`."""
        return self.split

    def split(self, data: bytes) -> tuple[list[bytes], int]:
        """The messages at the front of `data` that need no special care, and how many bytes their frames took."""
        messages: list[bytes] = []
        start, end = 0, len(data)
        while start < end and (found := self.cut(data, start)):
            messages.append(found[0])
            start = found[1]
        return messages, start

    def cut(self, data: bytes, start: int) -> tuple[bytes, int] | None:
        """The message whose frame begins at `start`, and where that ends; None where it needs special care."""
        rest = memoryview(data)[start:]
        try:
            frame = self.measure(rest)
        except RemoteProtocolError:
            return None
        if frame is None or not frame.kept:
            return None
        end = frame.stop + len(frame.tail)
        if end > len(rest) or rest[frame.stop : end] != frame.tail:
            return None
        return frame.message(rest), start + end


class SizedDecoder(Decoder):
    """The decoder of every framing that knows sizes."""

    __slots__ = ("_framing", "_gone", "_left", "_split", "_tail", "_window")

    def __init__(self, framing: SizedFraming) -> None:
        super().__init__()
        self._framing = framing
        self._split = framing.splitter()
        self._window = window(0)
        # The frame being skipped: how many bytes of it went by, how many are to come, and what must follow them.
        self._gone = 0
        self._left = 0
        self._tail = b""

    def decode(self, buffer: ReceiveBuffer, at_end: bool = False, most: int | None = None) -> list[bytes]:
        """Take whole messages out of `buffer`: see `Decoder.decode`."""
        messages: list[bytes] = []
        self.lacking = 0
        try:
            while len(buffer) and (most is None or len(messages) < most):
                if self.skipping:
                    if not self._skip(buffer):
                        break
                elif most is not None or not self._take_batch(buffer, messages):
                    frame = self._framing.measure(buffer.view())
                    if frame is None:
                        break
                    if frame.kept:
                        if len(buffer) < frame.stop + len(frame.tail):
                            self.lacking = frame.stop + len(frame.tail) - len(buffer)
                            break
                        messages.append(self._take(buffer, frame))
                    elif messages:
                        break
                    else:
                        self.skipping = True
                        self._gone, self._left, self._tail = 0, frame.stop, frame.tail
        except RemoteProtocolError:
            if not messages:
                raise
        if at_end and not messages and (self.skipping or len(buffer)):
            raise truncated((self._gone if self.skipping else 0) + len(buffer))
        return messages

    def _take_batch(self, buffer: ReceiveBuffer, messages: list[bytes]) -> bool:
        batch, taken = self._split(buffer.peek(self._window))
        self._window = window(taken)
        buffer.skip(taken)
        messages += batch
        return taken > 0

    def _take(self, buffer: ReceiveBuffer, frame: Frame) -> bytes:
        end = frame.stop + len(frame.tail)
        whole = buffer.view(0, end)
        self._check_tail(bytes(whole[frame.stop :]), frame.tail)
        message = frame.message(whole)
        buffer.skip(end)
        if end < BATCHED:
            # So that messages of this size go in batches from here on.
            self._window = window(2 * end)
        return message

    def _skip(self, buffer: ReceiveBuffer) -> bool:
        """Drop what came of the frame being skipped: whether that was the last of it."""
        count = min(len(buffer), self._left)
        buffer.skip(count)
        self._gone += count
        self._left -= count
        if self._left or len(buffer) < len(self._tail):
            return False
        self._check_tail(buffer.peek(len(self._tail)), self._tail)
        buffer.skip(len(self._tail))
        self.skipping = False
        return True

    @staticmethod
    def _check_tail(found: bytes, tail: bytes) -> None:
        if found != tail:
            raise RemoteProtocolError(f"the peer's message is followed by {found!r} instead of {tail!r}")
