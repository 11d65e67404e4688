"""Framings that a person looks through: none at all, and one that shows all bytes that cross it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.errors import RemoteProtocolError
from enchufe.framing.base import Decoder, Framing
from enchufe.framing.sized import SizedFraming

SENT: Final = ">"
RECEIVED: Final = "<"

Part = tuple[str, bytes]
"""A name and the bytes that have it: header, body, end, or bytes where nothing more is known."""

_ROW: Final = 16  # bytes, as hexdump -C has them
_PRINTABLE: Final = bytes(byte if 32 <= byte < 127 else ord(".") for byte in range(256))


class Unframed(Framing):
    """Bytes as they are: what is sent goes unchanged, and a message is what came together."""

    def __init__(self) -> None:
        super().__init__(0, "close")

    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """The bytes themselves."""
        return (message,) if message else ()

    def decoder(self) -> Decoder:
        """A decoder for one connection."""
        return UnframedDecoder()


class UnframedDecoder(Decoder):
    """The decoder of `Unframed`."""

    def decode(self, buffer: ReceiveBuffer, at_end: bool = False, most: int | None = None) -> list[bytes]:  # noqa: ARG002
        """All there is: see `Decoder.decode`."""
        return [buffer.take(len(buffer))] if len(buffer) else []


class Mixed(Framing):
    """Sends by one framing and receives by another."""

    def __init__(self, outgoing: Framing, incoming: Framing) -> None:
        super().__init__(incoming.max_size, incoming.on_too_big)
        self.outgoing = outgoing
        self.incoming = incoming

    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """As the outgoing framing has it."""
        return self.outgoing.encode(message)

    def decoder(self) -> Decoder:
        """As the incoming framing has it."""
        return self.incoming.decoder()


class Dumped(Framing):
    """A framing that shows every frame that it writes or reads.

    Args:
        framing: what it really is.
        show: gets the direction, `SENT` or `RECEIVED`, and the parts of each frame.
    """

    def __init__(self, framing: Mixed, show: Callable[[str, list[Part]], None]) -> None:
        super().__init__(framing.max_size, framing.on_too_big)
        self.inner = framing
        self.show = show
        self._decoder: DumpedDecoder | None = None

    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """As the real framing does, and show it."""
        pieces = self.inner.encode(message)
        self.show(SENT, parts(self.inner.outgoing, b"".join(pieces), bytes(message)))
        return pieces

    def decoder(self) -> Decoder:
        """A decoder for the one connection that this is for."""
        self._decoder = DumpedDecoder(self)
        return self._decoder

    def show_rest(self) -> None:
        """Show what came and made no whole message, now that nothing more will."""
        if self._decoder is not None and (rest := self._decoder.rest()):
            self.show(RECEIVED, [("bytes", rest)])


class DumpedDecoder(Decoder):
    """The decoder of `Dumped`."""

    def __init__(self, framing: Dumped) -> None:
        super().__init__()
        self._framing = framing
        self._inner = framing.inner.decoder()
        self._buffer: ReceiveBuffer | None = None

    def decode(self, buffer: ReceiveBuffer, at_end: bool = False, most: int | None = None) -> list[bytes]:
        """Take whole messages one by one, showing the frame of each: see `Decoder.decode`."""
        self._buffer = buffer
        messages: list[bytes] = []
        while most is None or len(messages) < most:
            held = buffer.view()
            try:
                found = self._inner.decode(buffer, at_end, 1)
            except RemoteProtocolError:
                if messages:
                    break  # raised again by the next call
                raise
            finally:
                self.skipping, self.lacking = self._inner.skipping, self._inner.lacking
            frame = bytes(held[: len(held) - len(buffer)])
            if found:
                self._framing.show(RECEIVED, parts(self._framing.inner.incoming, frame, found[0]))
                messages += found
            else:
                if frame:  # skipped, as too big
                    self._framing.show(RECEIVED, [("skipped", frame)])
                break
        return messages

    def rest(self) -> bytes:
        """What has come and is no whole message."""
        return bytes(self._buffer.view()) if self._buffer is not None else b""


def parts(framing: Framing, frame: bytes, message: bytes) -> list[Part]:
    """A frame cut into what the framing added and what it carries."""
    if isinstance(framing, Unframed):
        found = [("bytes", frame)]
    elif isinstance(framing, SizedFraming):
        try:
            measured = framing.measure(memoryview(frame))
        except RemoteProtocolError:
            measured = None
        if measured is None:
            found = [("bytes", frame)]
        else:
            body, stop = measured.body, measured.stop
            found = [("header", frame[:body]), ("body", frame[body:stop]), ("end", frame[stop:])]
    else:
        found = [("body", frame[: len(message)]), ("end", frame[len(message) :])]
    return [(name, data) for name, data in found if data]


def rows(direction: str, shown: list[Part]) -> Iterator[str]:
    """A frame as lines: direction, part, offset in the frame, hexadecimal digits, and what of them is ASCII."""
    offset = 0
    for name, data in shown:
        for start in range(0, len(data), _ROW):
            row = data[start : start + _ROW]
            text = row.translate(_PRINTABLE).decode("ascii")
            yield f"{direction} {name:<7} {offset + start:08x}  {row.hex(' '):<{3 * _ROW}} |{text}|"
        offset += len(data)
