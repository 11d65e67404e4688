"""UntilClose: everything up to the end of the stream is one message."""

from __future__ import annotations

from collections.abc import Sequence

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.framing.base import MAX_SIZE, Decoder, Framing, TooBig, octets


class UntilClose(Framing):
    """One message each way, ended by closing (or half-closing, `Connection.end`), as HTTP/1.0 answers do.

    The reader's loop of the Socket Programming HOWTO, "until recv returns 0 bytes", ends with everything that was
    sent, which may be nothing: so an empty stream is one empty message. Several messages sent arrive as one. Whether
    the other side meant to end there cannot be told, except that a transport raises where it knows of a cut.

    Args:
        max_size: bytes of the longest message, which is held in memory. The default is that of `LengthPrefixed`, 8 MiB.
        on_too_big: "close" or "skip" (then no message comes), see `Framing`.
    """

    def __init__(self, max_size: int = MAX_SIZE, *, on_too_big: TooBig = "close") -> None:
        super().__init__(max_size, on_too_big)

    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """The message as it is.

        Raises:
            LocalProtocolError: it is too big.
        """
        message = octets(message)
        self.check_size(len(message))
        return (message,)

    def decoder(self) -> Decoder:
        """A decoder for one connection."""
        return UntilCloseDecoder(self)


class UntilCloseDecoder(Decoder):
    """The decoder of `UntilClose`: good for the one message there is."""

    __slots__ = ("_done", "_framing")

    def __init__(self, framing: UntilClose) -> None:
        super().__init__()
        self._framing = framing
        self._done = False

    def decode(self, buffer: ReceiveBuffer, at_end: bool = False, most: int | None = None) -> list[bytes]:  # noqa: ARG002
        """Take the message out of `buffer` at the end: see `Decoder.decode`."""
        if self.skipping or (len(buffer) > self._framing.max_size and not self._framing.keeps()):
            buffer.skip(len(buffer))
            self.skipping = not at_end
            self._done = at_end
        if self._done or not at_end:
            return []
        self._done = True
        return [buffer.take(len(buffer))]
