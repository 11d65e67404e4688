"""The forms a length takes on the wire: binary of a fixed width, ASCII digits, varint.

Each form is one class of the same shape: `write` and `read` one length, and `splitter`, which makes the loop over many
small messages; it is written out in each because a call for every message would cost more than all the rest of it.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal

from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.framing.base import Split

ByteOrder = Literal["big", "little"]

_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
# From _FEW messages on it pays to look whether all are of one size. Up to _AT_ONCE are then taken in one go, more of
# them _MANY at a time.
_FEW: Final = 4
_AT_ONCE: Final = 48
_MANY: Final = 16
# Enough for any 64-bit length; it bounds what `int()` is given.
_MOST_DIGITS: Final = 20
# A varint carries 7 bits a byte, and protobuf's carry 64 bits at the most.
_MOST_VARINT_BYTES: Final = 10


@lru_cache(128)
def _frames(code: str, size: int, count: int) -> struct.Struct:
    """So many frames of a length, in the form that this stands for, and a body of `size` bytes."""
    return struct.Struct(code[0] + f"{code[1]}{size}s" * count)


class Prefix(ABC):
    """How a length is written.

    Attributes:
        largest: the greatest value that can be written.
    """

    largest: int

    @abstractmethod
    def write(self, value: int) -> bytes:
        """`value`, from 0 to `largest`, as it stands on the wire."""

    def writer(self) -> Callable[[int], bytes]:
        """`write`, in its shortest form."""
        return self.write

    @abstractmethod
    def read(self, data: bytes | memoryview, start: int) -> tuple[int, int] | None:
        """The value that stands at `start` and the index behind it; None where not all of it has come.

        Raises:
            RemoteProtocolError: no length begins so.
        """

    @abstractmethod
    def splitter(self, adjustment: int, limit: int) -> Split:
        """What takes the bodies at the front of some bytes that begin with a length: see `Framing.splitter`.

        It stops at the first that is not whole, over `limit` bytes, or has no proper length.

        Args:
            adjustment: what is to be added to each length.
            limit: bytes of the longest body.
        """


class Binary(Prefix):
    """An unsigned integer of 1, 2, 4 or 8 bytes: Twisted's `Int32StringReceiver`, Erlang's `{packet, N}`."""

    def __init__(self, width: int, byteorder: ByteOrder) -> None:
        if width not in _CODES:
            raise LocalProtocolError(f"a binary length has 1, 2, 4 or 8 bytes, not {width}")
        if byteorder not in ("big", "little"):
            raise LocalProtocolError(f'byteorder is "big" or "little", not {byteorder!r}')
        self.largest = 256**width - 1
        self._struct = struct.Struct((">" if byteorder == "big" else "<") + _CODES[width])

    def write(self, value: int) -> bytes:
        """`value` as it stands on the wire."""
        return self._struct.pack(value)

    def writer(self) -> Callable[[int], bytes]:
        """`write` in one call less."""
        return self._struct.pack

    def read(self, data: bytes | memoryview, start: int) -> tuple[int, int] | None:
        """The value at `start` and the index behind it: see `Prefix.read`."""
        end = start + self._struct.size
        if len(data) < end:
            return None
        (value,) = self._struct.unpack_from(data, start)
        return value, end

    def splitter(self, adjustment: int, limit: int) -> Split:
        """What takes the bodies at the front of some bytes: see `Prefix.splitter`."""
        unpack, width, code = self._struct.unpack_from, self._struct.size, self._struct.format
        beyond, longest = width + adjustment, width + limit  # of a frame: what its length does not count, and the most

        def alike(data: bytes, length: int, size: int) -> list[bytes]:
            """All the bodies of `data`, where all are of `size` bytes, as in many a flood; else none."""
            frame = width + size
            count = len(data) // frame
            if count < _FEW or data[frame : frame + width] != data[:width]:
                return []
            if count <= _AT_ONCE:
                frames = _frames(code, size, count).unpack_from(data)
                return list(frames[1::2]) if frames[::2].count(length) == count else []
            whole = count * frame
            for place in range(width):
                if data[place:whole:frame] != data[place : place + 1] * count:
                    return []
            form = f"{width}x{size}s"
            bodies: list[bytes] = []
            batches = count // _MANY * _MANY * frame
            for batch in struct.iter_unpack(form * _MANY, memoryview(data)[:batches]):
                bodies += batch
            bodies += struct.unpack_from(form * (count % _MANY), data, batches)
            return bodies

        def split(data: bytes) -> tuple[list[bytes], int]:
            end = len(data)
            if end >= width:
                (length,) = unpack(data)
                if length + beyond == end <= longest:
                    return [data[width:]], end  # one alone, as in a conversation
                size = length + adjustment
                bodies = alike(data, length, size) if 0 <= size <= limit else []
                start = len(bodies) * (width + size)
            else:
                bodies, start = [], 0
            keep = bodies.append
            last = end - width
            while start <= last:
                (size,) = unpack(data, start)
                size += adjustment
                body = start + width
                stop = body + size
                if stop > end or size > limit or size < 0:
                    break
                keep(data[body:stop])
                start = stop
            return bodies, start

        return split


class Digits(Prefix):
    """So many ASCII digits, zeros in front: the Socket Programming HOWTO writes 5 of them."""

    def __init__(self, width: int) -> None:
        if not 1 <= width <= _MOST_DIGITS:
            raise LocalProtocolError(f"a length in digits has 1 to {_MOST_DIGITS} of them, not {width}")
        self.largest = 10**width - 1
        self._width = width

    def write(self, value: int) -> bytes:
        """`value` as it stands on the wire."""
        return b"%0*d" % (self._width, value)

    def read(self, data: bytes | memoryview, start: int) -> tuple[int, int] | None:
        """The value at `start` and the index behind it: see `Prefix.read`."""
        digits = bytes(data[start : start + self._width])
        # int() alone would take a sign, blanks and underscores.
        if digits and not digits.isdigit():
            raise RemoteProtocolError(f"the peer sent {digits!r} where {self._width} digits of a length stand")
        return (int(digits), start + self._width) if len(digits) == self._width else None

    def splitter(self, adjustment: int, limit: int) -> Split:
        """What takes the bodies at the front of some bytes: see `Prefix.splitter`."""
        width = self._width

        def split(data: bytes) -> tuple[list[bytes], int]:
            bodies: list[bytes] = []
            keep = bodies.append
            end = len(data)
            start, last = 0, end - width
            while start <= last:
                body = start + width
                digits = data[start:body]
                if not digits.isdigit():
                    break
                size = int(digits) + adjustment
                stop = body + size
                if stop > end or size > limit or size < 0:
                    break
                keep(data[body:stop])
                start = stop
            return bodies, start

        return split


class Varint(Prefix):
    """7 bits a byte, the lowest first, the top bit set on all but the last: protobuf's delimited messages.

    Padding (`80 00` for 0) is read, as protobuf reads it; more than 10 bytes or 64 bits are not.
    """

    largest = 2**64 - 1

    def write(self, value: int) -> bytes:
        """`value` as it stands on the wire."""
        written = bytearray()
        while value > 0x7F:
            written.append(value & 0x7F | 0x80)
            value >>= 7
        written.append(value)
        return bytes(written)

    def read(self, data: bytes | memoryview, start: int) -> tuple[int, int] | None:
        """The value at `start` and the index behind it: see `Prefix.read`."""
        value = 0
        for count, byte in enumerate(data[start : start + _MOST_VARINT_BYTES]):
            value |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                if value > self.largest:
                    break
                return value, start + count + 1
        else:
            if len(data) - start < _MOST_VARINT_BYTES:
                return None
        raise RemoteProtocolError("the peer sent a varint of more than 64 bits as a length")

    def splitter(self, adjustment: int, limit: int) -> Split:
        """What takes the bodies at the front of some bytes: see `Prefix.splitter`. A length of 3 bytes or more is none
        of a small one.
        """

        def split(data: bytes) -> tuple[list[bytes], int]:
            bodies: list[bytes] = []
            keep = bodies.append
            end = len(data)
            start = 0
            while start < end:
                size = data[start]
                body = start + 1
                if size > 0x7F:
                    if body == end or data[body] > 0x7F:
                        break
                    size = size & 0x7F | data[body] << 7
                    body += 1
                size += adjustment
                stop = body + size
                if stop > end or size > limit or size < 0:
                    break
                keep(data[body:stop])
                start = stop
            return bodies, start

        return split
