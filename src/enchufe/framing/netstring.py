"""Netstring: the length in digits, a colon, the message, a comma."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from enchufe.buffer import Buffer
from enchufe.errors import RemoteProtocolError
from enchufe.framing.base import MAX_SIZE, TooBig, gather, octets
from enchufe.framing.sized import Frame, SizedFraming

# The specification sets no limit; so many are enough for any 64-bit length.
_MOST_DIGITS: Final = 20


class Netstring(SizedFraming):
    """`5:hello,`: D. J. Bernstein's netstrings (cr.yp.to/proto/netstrings.txt), Twisted's `NetstringReceiver`.

    Args:
        max_size: bytes of the longest message. The default is that of `LengthPrefixed`, 8 MiB.
        on_too_big: "close" or "skip", see `Framing`.
    """

    def __init__(self, max_size: int = MAX_SIZE, *, on_too_big: TooBig = "close") -> None:
        super().__init__(max_size, on_too_big)

    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """The length, the message and the comma.

        Raises:
            LocalProtocolError: it is too big.
        """
        message = octets(message)
        size = len(message)
        self.check_size(size)
        return gather(size, b"%d:" % size, message, b",")

    def measure(self, data: memoryview) -> Frame | None:
        """The frame that begins with `data`: see `SizedFraming.measure`."""
        head = bytes(data[: _MOST_DIGITS + 1])
        digits, colon, _ = head.partition(b":")
        # The specification forbids zeros in front, so that every message has one form; int() would take signs too.
        proper = digits.isdigit() and (digits == b"0" or not digits.startswith(b"0")) and len(digits) <= _MOST_DIGITS
        if not proper and head:
            raise RemoteProtocolError(f"the peer sent {head!r} where a netstring's length stands")
        if not colon:
            return None
        size, body = int(digits), len(digits) + 1
        return Frame(0, body, body + size, b",", self.keeps(size))

    def split(self, data: bytes) -> tuple[list[bytes], int]:
        """The messages at the front of `data`: see `SizedFraming.split`."""
        messages: list[bytes] = []
        keep, find, limit = messages.append, data.find, self.max_size
        last = len(data) - 1
        start = 0
        while True:
            colon = find(b":", start, start + _MOST_DIGITS + 1)
            digits = data[start:colon]
            # Without a colon there is nothing, or all but the last byte: left to `measure`.
            if colon < 0 or not digits.isdigit() or (digits[0] == 0x30 and len(digits) > 1):
                break
            size = int(digits)
            stop = colon + 1 + size
            if stop > last or size > limit or data[stop] != 0x2C:
                break
            keep(data[colon + 1 : stop])
            start = stop + 1
        return messages, start
