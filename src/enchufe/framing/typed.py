"""Typed: the first byte of a message says its type, and the type says how long it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enchufe.buffer import Buffer
from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.framing.base import gather, octets
from enchufe.framing.sized import Frame, SizedFraming


class Typed(SizedFraming):
    """Messages whose first byte is their type: the Socket Programming HOWTO's "first character".

    The type belongs to the message, both ways: with `Typed({b"A": 8, b"B": LengthPrefixed()})` the message
    `b"A12345678"`, 8 bytes behind its type, goes as it is, and `b"Bhola"` goes as `B`, `00 00 00 04`, `hola`. A type
    that is not among them is always a fault: where the next message begins cannot be told.

    `max_size` is that of the longest type; each type's framing keeps its own, and its own policy (`on_too_big` is
    "skip" only where all of them skip).

    Args:
        types: for each type, one byte, how many bytes follow it (0 or more), or the framing that tells: `FixedLength`,
            `LengthPrefixed`, `Netstring` or another `Typed`.

    Raises:
        LocalProtocolError: there are no types, or one is not a single byte or cannot tell a length.
    """

    def __init__(self, types: Mapping[bytes, int | SizedFraming]) -> None:
        if not isinstance(types, Mapping) or not types:
            raise LocalProtocolError(f"a typed framing has one type or more, each with its length, not {types!r}")
        for kind in types:
            if not isinstance(kind, bytes) or len(kind) != 1:
                raise LocalProtocolError(f"a type is one byte, not {kind!r}")
        # In order, so that the same types are the same framing.
        self.types = dict(sorted(types.items()))
        # What `measure` and `split` look up, by the type's code: the whole frame of a fixed one, the framing of others.
        self._fixed: dict[int, int] = {}
        self._framings: dict[int, SizedFraming] = {}
        for kind, rest in self.types.items():
            if isinstance(rest, SizedFraming):
                self._framings[kind[0]] = rest
            elif isinstance(rest, int) and not isinstance(rest, bool) and rest >= 0:
                self._fixed[kind[0]] = 1 + rest
            else:
                raise LocalProtocolError(
                    f"type {kind!r} is followed by {rest!r}, which tells no length",
                    hint="Give a number of bytes, or FixedLength, LengthPrefixed, Netstring or Typed.",
                )
        framings = self._framings.values()
        longest = max([*self._fixed.values(), *(1 + framing.max_size for framing in framings)])
        skips = bool(framings) and all(framing.on_too_big == "skip" for framing in framings)
        super().__init__(longest, "skip" if skips else "close")

    def options(self) -> dict[str, object]:
        """What it was made with, by the names of the arguments."""
        return {"types": self.types}

    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """The type, and the rest as the type's framing has it.

        Raises:
            LocalProtocolError: it has no type or one nobody knows, or its type cannot carry it.
        """
        message = octets(message)
        if not message:
            raise LocalProtocolError("an empty message has no type")
        kind = message[0]
        if framing := self._framings.get(kind):
            # Of bytes a slice is a copy, of a view it is none.
            whole = memoryview(message)
            return gather(len(message), whole[:1], *framing.encode(whole[1:]))
        size = self._fixed.get(kind)
        if size is None:
            raise LocalProtocolError(f"the message is of type {bytes([kind])!r}, which this framing does not know")
        if len(message) != size:
            raise LocalProtocolError(
                f"a message of {len(message)} bytes, where those of type {bytes([kind])!r} have {size} with the type"
            )
        return (message,)

    def measure(self, data: memoryview) -> Frame | None:
        """The frame that begins with `data`: see `SizedFraming.measure`."""
        if not data:
            return None
        kind = data[0]
        if (size := self._fixed.get(kind)) is not None:
            return Frame(0, 0, size, b"", True)
        framing = self._framings.get(kind)
        if framing is None:
            raise RemoteProtocolError(
                f"the peer sent a message of type {bytes([kind])!r}, which this framing does not know"
            )
        rest = framing.measure(data[1:])
        return rest and Frame(1 + rest.lead, 1 + rest.body, 1 + rest.stop, rest.tail, rest.kept)

    def split(self, data: bytes) -> tuple[list[bytes], int]:
        """The messages at the front of `data`: see `SizedFraming.split`."""
        messages: list[bytes] = []
        keep, sizes = messages.append, self._fixed.get
        end = len(data)
        start = 0
        while start < end:
            if size := sizes(data[start]):
                stop = start + size
                if stop > end:
                    break
                keep(data[start:stop])
                start = stop
            elif found := self.cut(data, start):
                message, start = found
                keep(message)
            else:
                break
        return messages, start

    def cut(self, data: bytes, start: int) -> tuple[bytes, int] | None:
        """The message whose frame begins at `start`, and where that ends: see `SizedFraming.cut`."""
        end = len(data)
        if start == end:
            return None
        if framing := self._framings.get(data[start]):
            found = framing.cut(data, start + 1)
            return (data[start : start + 1] + found[0], found[1]) if found else None
        stop = start + self._fixed.get(data[start], end + 1)
        return (data[start:stop], stop) if stop <= end else None
