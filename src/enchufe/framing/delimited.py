"""Delimited: every message is followed by the same bytes, which no message contains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.errors import LocalProtocolError
from enchufe.framing.base import Decoder, Framing, Split, TooBig, gather, octets, truncated, window

# What Go's bufio.Scanner takes for a line at the most (MaxScanTokenSize), in bytes.
MAX_LINE: Final = 64 * 1024

# Tuning: messages of more bytes are copied out of the buffer one by one, not twice over to go in batches.
BATCHED: Final = 4 * 1024


class Delimited(Framing):
    """Messages that end with `delimiter`. What stands before the end of the stream without one is a cut message.

    Args:
        delimiter: 1 byte or more.
        max_size: bytes of the longest message, its delimiter not counted. The default is Go's for lines, 64 KiB.
        on_too_big: "close" or "skip", see `Framing`. The size of a message is known when its delimiter comes; without
            one, it is too big as soon as max_size + len(delimiter) bytes are there.

    Raises:
        LocalProtocolError: the delimiter is empty, or no bytes; or the size makes no sense.
    """

    def __init__(self, delimiter: bytes, max_size: int = MAX_LINE, *, on_too_big: TooBig = "close") -> None:
        super().__init__(max_size, on_too_big)
        self.delimiter = bytes(octets(delimiter, "a delimiter"))
        if not self.delimiter:
            raise LocalProtocolError("a delimiter has 1 byte or more")
        # Bytes of the longest form that a delimiter has on the wire.
        self.longest_end = len(self.delimiter)

    def options(self) -> dict[str, object]:
        """What it was made with, by the names of the arguments."""
        return {"delimiter": self.delimiter, **super().options()}

    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """The message and the delimiter.

        Raises:
            LocalProtocolError: it is too big, or the peer would find a delimiter before its end.
        """
        message = octets(message)
        if isinstance(message, memoryview):
            # A view cannot be searched.
            message = bytes(message)
        self.check_size(len(message))
        self.check_content(message)
        return gather(len(message), message, self.delimiter)

    def decoder(self) -> DelimitedDecoder:
        """A decoder for one connection."""
        return DelimitedDecoder(self)

    def check_content(self, message: bytes | bytearray) -> None:
        """Raise LocalProtocolError where the delimiter is in the message, or begins in it (`xa` before `aa`)."""
        delimiter = self.delimiter
        reach = len(delimiter) - 1
        end = message[-reach:] if reach else b""
        if delimiter in message or (end and (end + delimiter).find(delimiter) < len(end)):
            raise LocalProtocolError(
                f"the message contains the delimiter {delimiter!r}",
                hint="Send it in parts, or use a framing that carries lengths: it takes any bytes.",
            )

    def splitter(self) -> Split:
        """What takes the plain messages at the front of some bytes: see `Framing.splitter`."""
        return self.split

    def split(self, data: bytes) -> tuple[list[bytes], int]:
        """The messages at the front of `data`, and how many bytes they took with their delimiters.

        Nothing, where one of them is too big.
        """
        messages = self.pieces(data)
        taken = len(data) - len(messages.pop())
        # No message is longer than all of them, so most of the time there is nothing to measure.
        return (messages, taken) if taken <= self.max_size or len(max(messages, key=len)) <= self.max_size else ([], 0)

    def pieces(self, data: bytes) -> list[bytes]:
        """`data` cut at every delimiter; the last piece is what none followed."""
        return data.split(self.delimiter)

    def size_before(self, buffer: ReceiveBuffer, end: int) -> int:  # noqa: ARG002
        """The size of the message whose delimiter stands at `end` of the buffer."""
        return end


class DelimitedDecoder(Decoder):
    """The decoder of `Delimited`."""

    __slots__ = ("_framing", "_gone", "_searched", "_window")

    def __init__(self, framing: Delimited) -> None:
        super().__init__()
        self._framing = framing
        self._window = window(0)
        # How far the first message in the buffer was searched, so that no byte is searched twice.
        self._searched = 0
        # How many bytes of the message being skipped went by.
        self._gone = 0

    def decode(self, buffer: ReceiveBuffer, at_end: bool = False, most: int | None = None) -> list[bytes]:
        """Take whole messages out of `buffer`: see `Decoder.decode`."""
        framing, delimiter = self._framing, self._framing.delimiter
        messages: list[bytes] = []
        while most is None or len(messages) < most:
            end = buffer.find(delimiter, self._searched)
            if end < 0:
                # It may have begun in the last bytes.
                self._searched = max(0, len(buffer) - len(delimiter) + 1)
                over = len(buffer) >= framing.max_size + framing.longest_end
                if self.skipping or (over and not messages and not framing.keeps()):
                    self.skipping = True
                    self._drop(buffer, self._searched)
                break
            if self.skipping:
                self.skipping = False
                self._drop(buffer, end + len(delimiter))
                continue
            batch = most is None and end < self._window and end < BATCHED
            if not (batch and self._take_batch(buffer, messages)):
                size = framing.size_before(buffer, end)
                if size > framing.max_size and messages:
                    break
                if framing.keeps(size):
                    messages.append(buffer.peek(size))
                self._drop(buffer, end + len(delimiter))
                if end < BATCHED:
                    # So that messages of this size go in batches from here on.
                    self._window = window(2 * end)
        if at_end and not messages and (self.skipping or len(buffer)):
            return self._rest(buffer)
        return messages

    def _take_batch(self, buffer: ReceiveBuffer, messages: list[bytes]) -> bool:
        batch, taken = self._framing.split(buffer.peek(self._window))
        self._window = window(taken)
        self._drop(buffer, taken)
        messages += batch
        return taken > 0

    def _drop(self, buffer: ReceiveBuffer, count: int) -> None:
        buffer.skip(count)
        self._searched = 0
        self._gone = self._gone + count if self.skipping else 0

    def _rest(self, buffer: ReceiveBuffer) -> list[bytes]:
        """What to do with bytes that no delimiter followed before the end."""
        raise truncated(self._gone + len(buffer))
