"""Whatever the messages and however they arrive: the same messages come out, and no lane knows better than another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchufe.buffer import ReceiveBuffer
from enchufe.connection import Connection
from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.framing import (
    Delimited,
    FixedLength,
    Framing,
    LengthPrefixed,
    Lines,
    Netstring,
    Typed,
    UntilClose,
)
from enchufe.waiting import BlockingWaiter, drive
from tests.tables.framing_cases import batches, decode_all, encode

# Small alphabets, so that delimiters, digits and small lengths come by often.
ALPHABET = b"\0\1\2\x03\x80\xff012:,\r\n=AB xab"
anything = st.binary(max_size=40) | st.lists(st.sampled_from(ALPHABET), max_size=40).map(bytes)


@dataclass(frozen=True)
class Kind:
    """A framing and the messages it carries."""

    framing: Framing
    messages: st.SearchStrategy[bytes]


def carried(framing: Framing) -> Kind:
    def goes(message: bytes) -> bool:
        try:
            framing.encode(message)
        except LocalProtocolError:
            return False
        return True

    return Kind(framing, anything.filter(goes))


def fixed(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


TYPED = Typed({b"A": 3, b"B": LengthPrefixed(1), b"C": Netstring(), b"\n": 0, b"D": LengthPrefixed(2, offset=1)})

KINDS = [
    Kind(FixedLength(1), fixed(1)),
    Kind(FixedLength(7), fixed(7)),
    Kind(LengthPrefixed(1), anything),
    Kind(LengthPrefixed(2, byteorder="little", max_size=40), anything),
    Kind(LengthPrefixed(4), anything),
    Kind(LengthPrefixed(8, on_too_big="skip", max_size=50), anything),
    Kind(LengthPrefixed(2, adjustment=-2), anything),
    Kind(LengthPrefixed(2, offset=2, adjustment=1), anything.map(lambda message: b"abc" + message)),
    Kind(LengthPrefixed(5, prefix="digits"), anything),
    Kind(LengthPrefixed(prefix="varint"), anything | st.integers(100, 20_000).map(bytes)),
    Kind(Netstring(), anything),
    carried(Delimited(b"\r\n")),
    carried(Delimited(b"=", max_size=50, on_too_big="skip")),
    carried(Delimited(b"abab")),
    carried(Lines()),
    carried(Lines(50, on_too_big="skip")),
    carried(Lines(last_line=True)),
    Kind(
        TYPED,
        fixed(3).map(b"A".__add__)
        | anything.map(b"B".__add__)
        | anything.map(b"C".__add__)
        | st.just(b"\n")
        | anything.map(b"Dd".__add__),
    ),
]


def cut(wire: bytes, cuts: list[int]) -> list[bytes]:
    """`wire` in pieces that end at these places, counted round and round."""
    places = sorted({place % (len(wire) + 1) for place in cuts})
    return [wire[start:stop] for start, stop in zip([0, *places], [*places, len(wire)], strict=True)]


cuts = st.lists(st.integers(0, 100_000), max_size=12)
mosts = st.none() | st.integers(1, 5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: repr(kind.framing))
@given(data=st.data(), places=cuts, most=mosts, renew=st.booleans(), size=st.integers(1, 100))
def test_round_trip(
    kind: Kind, data: st.DataObject, places: list[int], most: int | None, renew: bool, size: int
) -> None:
    messages = data.draw(st.lists(kind.messages, max_size=12))
    wire = b"".join(encode(kind.framing, message) for message in messages)
    buffer = ReceiveBuffer(size)
    assert decode_all(kind.framing, cut(wire, places), most=most, buffer=buffer, renew=renew) == messages


@given(message=anything, places=cuts)
def test_round_trip_until_close(message: bytes, places: list[int]) -> None:
    assert decode_all(UntilClose(), cut(message, places)) == [message]


def outcome(framing: Framing, chunks: list[bytes], most: int | None, renew: bool) -> tuple[list[bytes], bool]:
    """What comes out of any bytes: the messages, and whether a fault ended them."""
    messages: list[bytes] = []
    try:
        for batch in batches(framing, chunks, most=most, renew=renew):
            messages += batch
    except RemoteProtocolError:
        return messages, True
    return messages, False


SMALL = [
    LengthPrefixed(1, max_size=5),
    LengthPrefixed(1, max_size=5, on_too_big="skip"),
    LengthPrefixed(1, max_size=5, offset=1, adjustment=-2, on_too_big="skip"),
    LengthPrefixed(1, prefix="digits", max_size=1, on_too_big="skip"),
    LengthPrefixed(2, prefix="digits", adjustment=-1),
    LengthPrefixed(prefix="varint", max_size=2, on_too_big="skip"),
    Netstring(2, on_too_big="skip"),
    Delimited(b"\r\n", 5),
    Delimited(b"\r\n", 5, on_too_big="skip"),
    Delimited(b"aba", 2, on_too_big="skip"),
    Lines(3),
    Lines(3, on_too_big="skip"),
    Lines(3, on_too_big="skip", last_line=True),
    Typed({b"A": 2, b"B": LengthPrefixed(1, max_size=2, on_too_big="skip"), b"0": 0, b"1": 0, b"2": Netstring(3)}),
]


@pytest.mark.parametrize("framing", [*SMALL, *(kind.framing for kind in KINDS)], ids=repr)
@given(
    wire=st.lists(anything, max_size=6).map(b"".join) | st.binary(max_size=200),
    times=st.sampled_from([1, 1, 40]),
    places=cuts,
    most=mosts,
    renew=st.booleans(),
)
def test_any_bytes_in_any_chunks(
    framing: Framing, wire: bytes, times: int, places: list[int], most: int | None, renew: bool
) -> None:
    wire *= times
    careful = outcome(framing, [wire], 1, False)
    assert outcome(framing, [wire], None, False) == careful
    assert outcome(framing, cut(wire, places), most, renew) == careful


class Stream:
    """The receiving half of a transport, out of chunks."""

    waiter = BlockingWaiter()
    bytes_received = 0

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = [chunk for chunk in chunks if chunk]

    async def receive(self, size: int, deadline: float | None) -> bytes:
        if not self.chunks:
            return b""
        chunk = self.chunks[0][:size]
        self.chunks[0] = self.chunks[0][len(chunk) :]
        if not self.chunks[0]:
            del self.chunks[0]
        return chunk

    async def receive_into(self, space: memoryview, deadline: float | None) -> int:
        chunk = await self.receive(len(space), deadline)
        space[: len(chunk)] = chunk
        return len(chunk)


@given(
    parts=st.lists(
        st.sampled_from(KINDS).flatmap(
            lambda kind: st.tuples(st.just(kind.framing), st.lists(kind.messages, min_size=1, max_size=5))
        ),
        max_size=5,
    ),
    rest=anything,
    places=cuts,
)
def test_a_connection_that_changes_its_framing(
    parts: list[tuple[Framing, list[bytes]]], rest: bytes, places: list[int]
) -> None:
    """Everything may come in one chunk: what an earlier framing made of later bytes must leave no trace."""
    wire = b"".join(encode(framing, message) for framing, messages in parts for message in messages) + rest
    connection = Connection(cast(Any, Stream(cut(wire, places))), Lines())
    for framing, messages in parts:
        connection.reframe(framing)
        assert [drive(connection.receive()) for _ in messages] == messages
    connection.reframe(UntilClose())
    assert drive(connection.receive()) == rest
    assert drive(connection.receive()) is None


def test_a_header_line_and_binary_messages_in_one_chunk() -> None:
    binary = encode(LengthPrefixed(), b"a\nb\n") + encode(LengthPrefixed(), b"\n" * 10)
    buffer = ReceiveBuffer()
    buffer.append(b"binary, please\n" + binary)
    assert Lines().decoder().decode(buffer, most=1) == [b"binary, please"]
    assert buffer.peek(len(buffer)) == binary
    assert LengthPrefixed().decoder().decode(buffer) == [b"a\nb\n", b"\n" * 10]


def test_a_header_line_and_what_no_line_could_be() -> None:
    """All of it is behind the header, so it is neither skipped nor a fault until somebody asks for another line."""
    for policy in ("skip", "close"):
        header, body = Lines(20, on_too_big=policy), bytes(1000) + b"\n"
        buffer = ReceiveBuffer()
        buffer.append(b"binary, please\n" + body)
        assert header.decoder().decode(buffer) == [b"binary, please"]
        assert buffer.peek(len(buffer)) == body


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 15, 16, 17, 47, 48, 49, 64, 100])
@pytest.mark.parametrize("size", [0, 1, 64])
@pytest.mark.parametrize("adjustment", [0, -1])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("byteorder", ["big", "little"])
def test_many_of_one_size_and_one_among_them_that_is_not(
    byteorder: Any, width: int, adjustment: int, size: int, count: int
) -> None:
    speaks = LengthPrefixed(width, byteorder=byteorder, adjustment=adjustment)
    split = speaks.splitter()
    alike = [bytes([place]) * size for place in range(count)]
    for messages in (alike, *([*alike[:place], b"!" * 100, *alike[place:]] for place in {0, 1, count // 2, count})):
        wire = b"".join(map(encode, [speaks] * len(messages), messages))
        assert split(wire) == (messages, len(wire))
        last = encode(speaks, messages[-1])
        assert split(wire[:-1]) == (messages[:-1], len(wire) - len(last))
        assert split(wire + last[:-1]) == (messages, len(wire))
