"""What crossed a sealed stream, and what becomes of it where a byte of it is changed: its Opener decides that alone.

So nothing else need run to know it of every byte. That a stream ends where its Opener raises, and that what was on it
goes another way, is for whole exchanges to show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.errors import BrokenError
from enchufe.session.sealed import STREAM_SIZE, TAG_SIZE, Opener, Said, dialers_key, listeners_key

LENGTH: Final = 1024  # bytes of a stretch
_HEADER_SIZE: Final = 5
_ZEROS: Final = bytes(2 << 20)  # more than a record may hold


@dataclass(frozen=True, slots=True)
class Direction:
    """All that one side said on a sealed stream.

    Attributes:
        said: as it crossed, STREAM and then records.
        key: the records are sealed with.
    """

    said: bytes = field(repr=False)
    key: bytes = field(repr=False)

    def opened(self) -> bytes:
        """What the records hold."""
        into = ReceiveBuffer()
        feed(self.key, self.said, into)
        return bytes(into.view())


def directions(connection: tuple[bytes, bytes], secret: bytes) -> tuple[Direction, Direction]:
    """What the dialer of a sealed stream said, and what it heard."""
    dialer, listener = (Said.unpack(data[:STREAM_SIZE]) for data in connection)
    assert dialer is not None
    assert listener is not None
    said, heard = connection
    return (
        Direction(said, dialers_key(secret, dialer.number, dialer.salt)),
        Direction(heard, listeners_key(secret, dialer.number, dialer.salt + listener.salt)),
    )


def feed(key: bytes, said: Buffer, into: ReceiveBuffer) -> None:
    """Give it to an Opener, as `Sealed.receive` does.

    Raises:
        BrokenError: as Opener.
    """
    opener, taken = Opener(key), STREAM_SIZE
    while taken < len(said):
        space = opener.space(into)
        piece = memoryview(said)[taken : taken + len(space)]
        space[: len(piece)] = piece
        opener.received(len(piece), into)
        taken += len(piece)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some bytes of a record.

    Attributes:
        before: how much the records before it hold.
        places: which bytes of all that was said.
    """

    direction: Direction
    before: int
    places: range


def stretches(direction: Direction) -> Iterator[Stretch]:
    """Every byte of every record."""
    said = direction.said
    start, before = STREAM_SIZE, 0
    while start < len(said):
        body = int.from_bytes(said[start + 1 : start + _HEADER_SIZE], "big")
        record = range(start, start + _HEADER_SIZE + body)
        for first in record[::LENGTH]:
            yield Stretch(direction, before, range(first, min(first + LENGTH, record.stop)))
        start = record.stop
        before += body - TAG_SIZE


def unopened(stretch: Stretch, mask: Callable[[int], int]) -> int:
    """Change its bytes in turn, each by its mask: how many, once none of them had its record or one behind it opened.

    Zeros come at the end: a length that grew has the Opener wait for more.
    """
    direction = stretch.direction
    before = direction.opened()[: stretch.before]
    changed, into = bytearray(direction.said + _ZEROS), ReceiveBuffer()
    for at in stretch.places:
        into.skip(len(into))
        changed[at] ^= mask(at)
        try:
            feed(direction.key, changed, into)
        except BrokenError:
            assert into.view() == before, f"what byte {at} was changed in has been opened"
        else:
            raise AssertionError(f"nobody saw that byte {at} was changed")
        changed[at] ^= mask(at)
    return len(stretch.places)
