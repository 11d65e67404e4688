"""LengthPrefixed: every message is preceded by its length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from enchufe.buffer import Buffer
from enchufe.checks import check_whole
from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.framing.base import JOIN_BELOW, MAX_SIZE, Split, TooBig, gather, octets
from enchufe.framing.prefixes import Binary, ByteOrder, Digits, Prefix, Varint
from enchufe.framing.sized import Frame, SizedFraming


class LengthPrefixed(SizedFraming):
    r"""Messages with their length in front, or inside of a header of their own.

    The length field is never part of a message; everything else is. `offset` and `adjustment` mean what
    `lengthFieldOffset` and `lengthAdjustment` mean to Netty's `LengthFieldBasedFrameDecoder`: the field stands behind
    the message's first `offset` bytes, and behind the field come as many bytes as it says, plus `adjustment`. So the
    value written is `len(message) - offset - adjustment`. The same messages in several headers (`width=2`):

    ======  ==========  ==================================  ==========================  ==============================
    offset  adjustment  the message                         on the wire                 the length counts
    ======  ==========  ==================================  ==========================  ==============================
    0       0           `HELLO, WORLD`                      `00 0C` `HELLO, WORLD`      what follows it
    0       -2          `HELLO, WORLD`                      `00 0E` `HELLO, WORLD`      itself too
    2       0           `CA FE` `HELLO, WORLD`              `CA FE` `00 0C` `HELLO...`  what follows it
    0       2           `CA FE` `HELLO, WORLD`              `00 0C` `CA FE` `HELLO...`  all but a 2-byte header behind
    1       1           `CA` `FE` `HELLO, WORLD`            `CA` `00 0C` `FE` `HE...`   all but the header around it
    1       -3          `CA` `FE` `HELLO, WORLD`            `CA` `00 10` `FE` `HE...`   everything
    ======  ==========  ==================================  ==========================  ==============================

    Args:
        width: bytes of a binary length (1, 2, 4 or 8), or how many digits (1 to 20); a varint has no fixed width.
        prefix: "binary"; "digits", ASCII with zeros in front as in the Socket Programming HOWTO; or "varint", as
            protobuf's delimited messages have it (LEB128, 64 bits at the most).
        byteorder: of a binary length.
        offset: bytes of the message that stand in front of the length.
        adjustment: bytes that follow the length beyond those it counts; negative where it counts more than follow.
        max_size: bytes of the longest message, those in front included. The default is tokio-util's, 8 MiB.
        on_too_big: "close" or "skip", see `Framing`.

    Raises:
        LocalProtocolError: there are no such options.
    """

    def __init__(
        self,
        width: int = 4,
        *,
        prefix: Literal["binary", "digits", "varint"] = "binary",
        byteorder: ByteOrder = "big",
        offset: int = 0,
        adjustment: int = 0,
        max_size: int = MAX_SIZE,
        on_too_big: TooBig = "close",
    ) -> None:
        super().__init__(max_size, on_too_big)
        check_whole("width", width, 1)
        check_whole("offset", offset)
        check_whole("adjustment", adjustment, None)
        self.width = width
        self.prefix = prefix
        self.byteorder = byteorder
        self.offset = offset
        self.adjustment = adjustment
        self._prefix = self._form()
        self.head = 0 if prefix == "varint" else offset + width
        self._write = self._prefix.writer()
        self._split = super().split if offset else self._prefix.splitter(adjustment, max_size)
        # Nothing in front, not too big, and their length can be written; who derives from this may do something else.
        safe = not offset and adjustment <= 0 and type(self).encode is LengthPrefixed.encode
        self.plain = min(JOIN_BELOW, max_size + 1, self._prefix.largest + adjustment + 1) if safe else 0

    def _form(self) -> Prefix:
        if self.prefix == "binary":
            return Binary(self.width, self.byteorder)
        if self.prefix == "digits":
            return Digits(self.width)
        if self.prefix == "varint":
            return Varint()
        raise LocalProtocolError(f'prefix is "binary", "digits" or "varint", not {self.prefix!r}')

    def options(self) -> dict[str, object]:
        """What it was made with, by the names of the arguments; those its prefix has no use for are left out."""
        unused = {"binary": (), "digits": ("byteorder",), "varint": ("width", "byteorder")}[self.prefix]
        names = ("width", "prefix", "byteorder", "offset", "adjustment", "max_size", "on_too_big")
        return {name: getattr(self, name) for name in names if name not in unused}

    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """The length and the message.

        Raises:
            LocalProtocolError: it is too big, or its length cannot be written.
        """
        if type(message) is bytes and (size := len(message)) < self.plain:
            return (self._write(size - self.adjustment) + message,)
        message = octets(message)
        size, offset = len(message), self.offset
        self.check_size(size)
        value = size - offset - self.adjustment
        if size < offset or value < 0:
            raise LocalProtocolError(f"a message of {size} bytes is shorter than the header that this framing has")
        if value > self._prefix.largest:
            raise LocalProtocolError(
                f"a length of {value} is over {self._prefix.largest}, the most that this framing can write",
                hint="Use a wider length on both sides, or send the message in parts.",
            )
        if not offset:
            return gather(size, self._prefix.write(value), message)
        # Of bytes a slice is a copy, of a view it is none.
        whole = memoryview(message)
        return gather(size, whole[:offset], self._prefix.write(value), whole[offset:])

    def encode_plain(self, messages: Sequence[bytes]) -> bytes:
        """As `Framing.encode_plain`."""
        write, adjustment = self._write, self.adjustment
        sizes = set(map(len, messages))
        if len(sizes) == 1:
            length = write(sizes.pop() - adjustment)
            return length + length.join(messages)
        return b"".join([piece for message in messages for piece in (write(len(message) - adjustment), message)])

    def measure(self, data: memoryview) -> Frame | None:
        """The frame that begins with `data`: see `SizedFraming.measure`."""
        field = self._prefix.read(data, self.offset)
        if field is None:
            return None
        value, body = field
        rest = value + self.adjustment
        if rest < 0:
            raise RemoteProtocolError(f"the peer sent a length of {value}, too little even for its own header")
        return Frame(self.offset, body, body + rest, b"", self.keeps(self.offset + rest))

    def extent(self, head: bytes) -> tuple[int, int] | None:
        """Where the message lies in the frame that begins with `head`: see `SizedFraming.extent`."""
        try:
            field = self._prefix.read(head, self.offset)
        except RemoteProtocolError:
            return None
        if field is None or self.offset:
            return None
        value, body = field
        rest = value + self.adjustment
        return (body, body + rest) if 0 <= rest <= self.max_size else None

    def splitter(self) -> Split:
        """What takes the plain messages at the front of some bytes: see `Framing.splitter`."""
        return self._split

    def cut(self, data: bytes, start: int) -> tuple[bytes, int] | None:
        """The message whose frame begins at `start`, and where that ends: see `SizedFraming.cut`."""
        lead = start + self.offset
        try:
            field = self._prefix.read(data, lead)
        except RemoteProtocolError:
            return None
        if field is None:
            return None
        value, body = field
        stop = body + value + self.adjustment
        if not body <= stop <= len(data) or stop - body + self.offset > self.max_size:
            return None
        return data[start:lead] + data[body:stop], stop
