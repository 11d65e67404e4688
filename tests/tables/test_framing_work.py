"""Linear work whatever the chunking, and bounded memory whatever the peer: counted, not timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from enchufe.buffer import ReceiveBuffer
from enchufe.errors import RemoteProtocolError
from enchufe.framing import (
    Delimited,
    FixedLength,
    Framing,
    LengthPrefixed,
    Lines,
    Netstring,
    TooBig,
    Typed,
    UntilClose,
)
from tests.tables.framing_cases import decode_all, encode


class CountingBuffer(ReceiveBuffer):
    """Counts the bytes that were moved, copied to be split, and searched, and knows the most memory it had."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.work = 0
        self.copies = 0
        self.most_memory = 0

    def _make_room(self, at_least: int) -> None:
        self.work += len(self)
        super()._make_room(at_least)
        self.most_memory = max(self.most_memory, len(self._memory))

    def peek(self, count: int) -> bytes:
        data = super().peek(count)
        self.work += len(data)
        self.copies += 1
        return data

    def find(self, pattern: bytes, start: int = 0) -> int:
        found = super().find(pattern, start)
        self.work += (len(self) if found < 0 else found + len(pattern)) - start
        return found


Make = Callable[[int, TooBig], Framing]

# By the largest message each is to take.
FRAMINGS: dict[str, Make] = {
    "binary": lambda size, policy: LengthPrefixed(max_size=size, on_too_big=policy),
    "offset": lambda size, policy: LengthPrefixed(offset=1, max_size=size, on_too_big=policy),
    "far offset": lambda size, policy: LengthPrefixed(offset=min(size, 3000), max_size=size, on_too_big=policy),
    "digits": lambda size, policy: LengthPrefixed(9, prefix="digits", max_size=size, on_too_big=policy),
    "varint": lambda size, policy: LengthPrefixed(prefix="varint", max_size=size, on_too_big=policy),
    "netstring": lambda size, policy: Netstring(size, on_too_big=policy),
    "delimited": lambda size, policy: Delimited(b"\r\n", size, on_too_big=policy),
    "delimited alike": lambda size, policy: Delimited(b"xxxxxy", size, on_too_big=policy),
    "lines": lambda size, policy: Lines(size, on_too_big=policy),
    "typed": lambda size, policy: Typed({b"x": LengthPrefixed(max_size=size - 1, on_too_big=policy)}),
}
# These have no message that is too big, or but one message.
OTHERS: dict[str, Make] = {
    "fixed": lambda size, _: FixedLength(size),
    "fixed type": lambda size, _: Typed({b"x": size - 1}),
    "until close": lambda size, policy: UntilClose(size, on_too_big=policy),
}

WHOLE = 1 << 30


def work(framing: Framing, wire: bytes, chunk: int, most: int | None) -> int:
    buffer = CountingBuffer(64)
    decode_all(framing, [wire[at : at + chunk] for at in range(0, len(wire), chunk)], most=most, buffer=buffer)
    return buffer.work


@pytest.mark.parametrize("most", [None, 1])
@pytest.mark.parametrize("chunk", [1, 100, WHOLE])
@pytest.mark.parametrize("name", [*FRAMINGS, *OTHERS])
class TestLinear:
    """Twice the bytes are about twice the work: where it grew with the square, it would be four times."""

    def test_one_long_message(self, name: str, chunk: int, most: int | None) -> None:
        def of(size: int) -> int:
            framing = (FRAMINGS | OTHERS)[name](size, "close")
            return work(framing, encode(framing, b"x" * size), chunk, most)

        assert of(8_000) <= 2.5 * of(4_000)

    def test_many_short_messages(self, name: str, chunk: int, most: int | None) -> None:
        if name in ("until close", "far offset"):
            return
        framing = (FRAMINGS | OTHERS)[name](10, "close")
        wire = encode(framing, b"x" * 10)
        assert work(framing, wire * 800, chunk, most) <= 2.5 * work(framing, wire * 400, chunk, most)

    def test_every_other_message_too_big(self, name: str, chunk: int, most: int | None) -> None:
        if name in OTHERS or name == "far offset":
            return
        framing = FRAMINGS[name](10, "skip")
        wire = encode(framing, b"x" * 10) + encode(FRAMINGS[name](11, "close"), b"x" * 11)
        assert work(framing, wire * 800, chunk, most) <= 2.5 * work(framing, wire * 400, chunk, most)

    def test_long_and_short_in_turn(self, name: str, chunk: int, most: int | None) -> None:
        if name not in FRAMINGS or name == "far offset":
            return
        framing = FRAMINGS[name](2000, "close")
        wire = encode(framing, b"x" * 2000) + encode(framing, b"x") * 3
        assert work(framing, wire * 16, chunk, most) <= 2.5 * work(framing, wire * 8, chunk, most)


def test_padded_varints_are_linear() -> None:
    # The fast lane leaves each of them to the careful one.
    framing, wire = LengthPrefixed(prefix="varint"), b"\x80\x80\x00\x00"
    assert work(framing, wire * 8000, WHOLE, None) <= 2.5 * work(framing, wire * 4000, WHOLE, None)


@pytest.mark.parametrize("size", [5, 700])
@pytest.mark.parametrize("name", [*FRAMINGS, "fixed", "fixed type"])
def test_many_messages_are_split_at_once(name: str, size: int) -> None:
    if name == "far offset":
        return
    framing = (FRAMINGS | OTHERS)[name](size, "close")
    frame = encode(framing, b"x" * size)
    times = 200_000 // len(frame)
    buffer, decoder = CountingBuffer(64), framing.decoder()
    buffer.append(frame * times)
    assert len(decoder.decode(buffer)) == times
    # Four to eight of 64 KiB, and those before they were so wide.
    assert buffer.copies <= 20


LIMIT = 10_000
READ = 4096
MEMORY = 4 * (LIMIT + READ)


def peak(framing: Framing, stream: Iterator[bytes], end: bool = True) -> int:
    """The most memory that a stream takes, read by read as a connection does it."""
    buffer, decoder = CountingBuffer(READ), framing.decoder()
    for data in stream:
        buffer.space(len(data))[: len(data)] = data
        buffer.received(len(data))
        while decoder.decode(buffer):
            pass
    while end and decoder.decode(buffer, at_end=True):
        pass
    return buffer.most_memory


def endless(head: bytes, reads: int = 500) -> Iterator[bytes]:
    yield head
    for _ in range(reads):
        yield b"x" * READ


HEADS = {
    "binary": b"\xff\xff\xff\xff",
    "offset": b"x\xff\xff\xff\xff",
    "far offset": b"x" * 3000 + b"\xff\xff\xff\xff",
    "digits": b"999999999",
    "varint": b"\xff" * 9 + b"\x01",
    "netstring": b"99999999999999999999:",
    "delimited": b"\r",
    "delimited alike": b"",
    "lines": b"",
    "typed": b"x\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", FRAMINGS)
class TestMemory:
    def test_an_endless_message_is_refused(self, name: str) -> None:
        taken: list[bytes] = []

        def stream() -> Iterator[bytes]:
            for data in endless(HEADS[name]):
                taken.append(data)
                yield data

        with pytest.raises(RemoteProtocolError, match="over max_size"):
            peak(FRAMINGS[name](LIMIT, "close"), stream())
        # One with a length by its head, one without by the first bytes over the limit.
        assert sum(map(len, taken)) <= LIMIT + 2 * READ if "delimited" in name or name == "lines" else len(taken) == 1

    def test_an_endless_message_is_skipped(self, name: str) -> None:
        assert peak(FRAMINGS[name](LIMIT, "skip"), endless(HEADS[name]), end=False) <= MEMORY

    def test_messages_of_the_largest_size(self, name: str) -> None:
        framing = FRAMINGS[name](LIMIT, "close")
        wire = encode(framing, b"x" * LIMIT) * 50
        assert peak(framing, (wire[at : at + READ] for at in range(0, len(wire), READ))) <= MEMORY


@pytest.mark.parametrize("policy", ["close", "skip"])
def test_an_endless_stream_is_no_message(policy: TooBig) -> None:
    framing = UntilClose(LIMIT, on_too_big=policy)
    if policy == "skip":
        assert peak(framing, endless(b"")) <= MEMORY
    else:
        with pytest.raises(RemoteProtocolError, match="over max_size"):
            peak(framing, endless(b""))
