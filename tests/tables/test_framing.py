"""The table of cases, both ways: whole, byte by byte, cut anywhere, with trailing bytes, one at a time; and skips."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.errors import LocalProtocolError
from enchufe.framing import (
    MAX_LINE,
    MAX_SIZE,
    Delimited,
    FixedLength,
    Framing,
    LengthPrefixed,
    Lines,
    Netstring,
    Typed,
    UntilClose,
)
from enchufe.framing.base import checked
from tests.tables.framing_cases import CASES, SKIPS, Case, Skip, decode_all, encode, one_by_one

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
def test_encode(case: Case) -> None:
    if case.written:
        assert b"".join(encode(case.framing, message) for message in case.messages) == case.wire


@every_case
@pytest.mark.parametrize("form", [bytearray, memoryview, lambda data: memoryview(bytearray(data))])
def test_encode_any_buffer(case: Case, form: Callable[[bytes], Buffer]) -> None:
    if case.written:
        pieces = [piece for message in case.messages for piece in case.framing.encode(form(message))]
        assert b"".join(pieces) == case.wire


@every_case
def test_encode_together(case: Case) -> None:
    if not case.written:
        return
    each = [encode(case.framing, message) for message in case.messages]
    assert Framing.encode_plain(case.framing, case.messages) == b"".join(each)
    plain = [message for message in case.messages if len(message) < case.framing.plain]
    for several in (plain, plain[:1] * 5, plain + plain):
        if several:
            assert case.framing.encode_plain(several) == b"".join(encode(case.framing, one) for one in several)


@every_case
@pytest.mark.parametrize("most", [None, 1, 2])
def test_decode_whole(case: Case, most: int | None) -> None:
    assert decode_all(case.framing, [case.wire], most=most) == case.messages


@every_case
@pytest.mark.parametrize("most", [None, 1])
def test_decode_byte_by_byte(case: Case, most: int | None) -> None:
    assert decode_all(case.framing, one_by_one(case.wire), most=most) == case.messages


@every_case
def test_decode_cut_in_two(case: Case) -> None:
    # Around the middle of long ones nothing happens.
    for cut in [*range(min(len(case.wire), 64)), *range(max(0, len(case.wire) - 64), len(case.wire) + 1)]:
        assert decode_all(case.framing, [case.wire[:cut], case.wire[cut:]]) == case.messages


@every_case
def test_decode_with_trailing_bytes(case: Case) -> None:
    if case.ends:
        return
    trailing = encode(case.framing, case.messages[0])[:-1]
    buffer, decoder = ReceiveBuffer(), case.framing.decoder()
    buffer.append(case.wire + trailing)
    messages = []
    while batch := decoder.decode(buffer):
        messages += batch
    assert messages == case.messages
    assert buffer.peek(len(buffer)) == trailing
    assert not decoder.skipping


@every_case
def test_decode_in_few_bytes_of_memory(case: Case) -> None:
    chunks = [case.wire[start : start + 3] for start in range(0, len(case.wire), 3)]
    assert decode_all(case.framing, chunks, buffer=ReceiveBuffer(4)) == case.messages


@every_case
@pytest.mark.parametrize("most", [1, 2])
def test_most_takes_not_a_byte_more(case: Case, most: int) -> None:
    if not case.written or case.ends:
        return
    sizes = [len(encode(case.framing, message)) for message in case.messages]
    buffer, decoder = ReceiveBuffer(), case.framing.decoder()
    buffer.append(case.wire)
    for done in range(0, len(sizes), most):
        assert decoder.decode(buffer, most=most) == case.messages[done : done + most]
        assert len(buffer) == sum(sizes[done + most :])


@every_case
def test_many_in_one_buffer(case: Case) -> None:
    # So many that the batches widen, and the buffer is more than one of them.
    if case.ends:
        return
    times = 200_000 // len(case.wire)
    assert decode_all(case.framing, [case.wire * times]) == [*case.messages] * times


def test_a_decoder_is_for_one_connection_and_a_framing_for_many() -> None:
    framing = Lines()
    first, second = framing.decoder(), framing.decoder()
    one, other = ReceiveBuffer(), ReceiveBuffer()
    one.append(b"half a li")
    assert first.decode(one) == []
    other.append(b"x\n")
    assert second.decode(other) == [b"x"]
    one.append(b"ne\n")
    assert first.decode(one) == [b"half a line"]


every_skip = pytest.mark.parametrize("skip", SKIPS, ids=str)


@every_skip
@pytest.mark.parametrize("most", [None, 1])
def test_skip(skip: Skip, most: int | None) -> None:
    assert decode_all(skip.framing, [skip.wire], most=most) == skip.messages
    assert decode_all(skip.framing, one_by_one(skip.wire), most=most) == skip.messages
    for cut in range(len(skip.wire)):
        assert decode_all(skip.framing, [skip.wire[:cut], skip.wire[cut:]], most=most) == skip.messages


@pytest.mark.parametrize("case", [*CASES, *SKIPS], ids=str)
def test_what_is_taken_ends_with_the_last_message(case: Case | Skip) -> None:
    assert decode_all(case.framing, [case.wire], renew=True) == case.messages
    assert decode_all(case.framing, one_by_one(case.wire), renew=True) == case.messages


def test_skipping_shows() -> None:
    buffer, decoder = ReceiveBuffer(), LengthPrefixed(1, max_size=4, on_too_big="skip").decoder()
    buffer.append(b"\x01a\x05he")
    assert decoder.decode(buffer) == [b"a"]
    assert not decoder.skipping
    assert buffer.peek(9) == b"\x05he"
    assert decoder.decode(buffer) == []
    assert decoder.skipping
    assert not len(buffer)
    buffer.append(b"llo\x01b")
    assert decoder.decode(buffer) == [b"b"]
    assert not decoder.skipping


@pytest.mark.parametrize("most", [None, 1])
def test_an_empty_line_behind_another_framing(most: int | None) -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"\r\n")
    assert FixedLength(1).decoder().decode(buffer, most=1) == [b"\r"]
    assert Lines().decoder().decode(buffer, most=most) == [b""]


def test_until_close_has_one_message() -> None:
    buffer, decoder = ReceiveBuffer(), UntilClose().decoder()
    assert decoder.decode(buffer) == []
    assert decoder.decode(buffer, at_end=True) == [b""]
    assert decoder.decode(buffer, at_end=True) == []


BIG = bytes(100_000)


@pytest.mark.parametrize(
    ("framing", "big"),
    [
        (FixedLength(len(BIG)), BIG),
        (LengthPrefixed(), BIG),
        (LengthPrefixed(offset=2), BIG),
        (Netstring(), BIG),
        (Delimited(b"\r\n", len(BIG)), BIG),
        (Lines(len(BIG)), BIG),
        (Typed({b"\0": LengthPrefixed()}), BIG),
        (UntilClose(), BIG),
    ],
    ids=repr,
)
def test_a_big_message_is_sent_uncopied(framing: Framing, big: bytes) -> None:
    pieces = framing.encode(big)
    body = max(pieces, key=len)
    assert body is big or (isinstance(body, memoryview) and body.obj is big)
    assert decode_all(framing, [b"".join(pieces)]) == [big]


def test_a_small_message_is_one_piece() -> None:
    for case in CASES:
        if case.written and max(map(len, case.messages)) < 10_000:
            assert all(len(case.framing.encode(message)) == 1 for message in case.messages)


def test_a_view_of_wide_items_is_counted_in_bytes() -> None:
    numbers = memoryview(array("I", [1, 2]))
    assert encode(LengthPrefixed(1), numbers) == bytes([numbers.nbytes]) + numbers.tobytes()
    assert encode(LengthPrefixed(1), memoryview(b"abcdef")[::2]) == b"\x03ace"
    assert encode(LengthPrefixed(1), memoryview(b"abcdef").cast("B", (2, 3))) == b"\x06abcdef"


@pytest.mark.parametrize(
    ("framing", "message"),
    [
        (FixedLength(3), b"hola"),
        (FixedLength(3), b""),
        (LengthPrefixed(max_size=3), b"hola"),
        (LengthPrefixed(1), bytes(256)),
        (LengthPrefixed(1, prefix="digits"), bytes(10)),
        (LengthPrefixed(1, adjustment=-1), bytes(255)),
        (LengthPrefixed(adjustment=2), b"x"),
        (LengthPrefixed(offset=2), b"x"),
        (LengthPrefixed(offset=2, adjustment=-4), b"x"),
        (Netstring(3), b"hola"),
        (Delimited(b"\r\n", 3), b"hola"),
        (Delimited(b"\r\n"), b"ho\r\nla"),
        (Delimited(b"aa"), b"xa"),
        (Delimited(b"abab"), b"ab"),
        (Lines(3), b"hola"),
        (Lines(), b"ho\nla"),
        (Lines(), b"hola\r"),
        (Typed({b"A": 1}), b""),
        (Typed({b"A": 1}), b"A"),
        (Typed({b"A": 1}), b"Ahola"),
        (Typed({b"A": 1}), b"B"),
        (Typed({b"A": LengthPrefixed(max_size=3)}), b"Ahola"),
        (UntilClose(3), b"hola"),
    ],
    ids=repr,
)
def test_encode_refuses_what_would_not_arrive(framing: Framing, message: bytes) -> None:
    for form in (message, bytearray(message), memoryview(message)):
        with pytest.raises(LocalProtocolError):
            framing.encode(form)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_encode_refuses_text(case: Case) -> None:
    with pytest.raises(LocalProtocolError, match="bytes, not str") as caught:
        case.framing.encode("hola")  # type: ignore[arg-type]
    assert "encode()" in caught.value.hint


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedLength(0),
        lambda: FixedLength(8.0),  # type: ignore[arg-type]
        lambda: Typed({"A": 8}),  # type: ignore[dict-item]
        lambda: FixedLength(-1),
        lambda: LengthPrefixed(3),
        lambda: LengthPrefixed(0, prefix="digits"),
        lambda: LengthPrefixed(21, prefix="digits"),
        lambda: LengthPrefixed(prefix="roman"),  # type: ignore[arg-type]
        lambda: LengthPrefixed(byteorder="middle"),  # type: ignore[arg-type]
        lambda: LengthPrefixed(offset=-1),
        lambda: LengthPrefixed(max_size=-1),
        lambda: LengthPrefixed(on_too_big="ignore"),  # type: ignore[arg-type]
        lambda: Delimited(b""),
        lambda: Typed({}),
        lambda: Typed({b"": 1}),
        lambda: Typed({b"AB": 1}),
        lambda: Typed({b"A": -1}),
        lambda: Typed({b"A": Lines()}),  # type: ignore[dict-item]
        lambda: FixedLength(True),
        lambda: LengthPrefixed("4"),  # type: ignore[arg-type]
        lambda: LengthPrefixed("5", prefix="digits"),  # type: ignore[arg-type]
        lambda: LengthPrefixed(offset=1.5),  # type: ignore[arg-type]
        lambda: LengthPrefixed(adjustment=None),  # type: ignore[arg-type]
        lambda: LengthPrefixed(max_size="8"),  # type: ignore[arg-type]
        lambda: Netstring(float("inf")),  # type: ignore[arg-type]
        lambda: UntilClose(None),  # type: ignore[arg-type]
        lambda: Delimited("\n"),  # type: ignore[arg-type]
        lambda: Delimited(10),  # type: ignore[arg-type]
        lambda: Typed(b"A"),  # type: ignore[arg-type]
        lambda: Typed({b"A": 1, "B": 2}),  # type: ignore[dict-item]
        lambda: Typed({b"A": True}),
    ],
)
def test_options_that_make_no_sense(make: Callable[[], Framing]) -> None:
    with pytest.raises(LocalProtocolError):
        make()


@pytest.mark.parametrize(
    ("speaks", "message", "wire"),
    [
        (LengthPrefixed(4, adjustment=-4), b"\0\x03\0\0\0", b"\0\0\0\x09\0\x03\0\0\0"),  # PostgreSQL: StartupMessage
        (LengthPrefixed(4, offset=1, adjustment=-4), b"ZI", b"Z\0\0\0\x05I"),  # and ReadyForQuery
        (
            LengthPrefixed(prefix="varint", offset=1),
            b"\x30" + b"x" * 321,
            b"\x30\xc1\x02" + b"x" * 321,
        ),  # MQTT: PUBLISH
        (LengthPrefixed(4, offset=4), b"\2\0\0\0err", b"\2\0\0\0\0\0\0\3err"),  # Docker: standard error
    ],
)
def test_protocols_that_the_documents_name(speaks: Framing, message: bytes, wire: bytes) -> None:
    assert b"".join(speaks.encode(message)) == wire
    buffer = ReceiveBuffer()
    buffer.append(wire * 2)
    assert speaks.decoder().decode(buffer) == [message] * 2


def test_limits_have_their_precedents() -> None:
    assert LengthPrefixed().max_size == Netstring().max_size == UntilClose().max_size == MAX_SIZE == 8 * 1024 * 1024
    assert Lines().max_size == Delimited(b"x").max_size == MAX_LINE == 64 * 1024
    assert FixedLength(3).max_size == 3
    typed = Typed({b"A": 8, b"B": LengthPrefixed(max_size=20, on_too_big="skip")})
    assert (typed.max_size, typed.on_too_big) == (21, "skip")
    assert Typed({b"A": 8, b"B": Netstring(20), b"C": LengthPrefixed(on_too_big="skip")}).on_too_big == "close"
    assert Typed({b"A": 8}).on_too_big == "close"


def test_repr_shows_the_options() -> None:
    assert repr(FixedLength(3)) == "FixedLength(size=3)"
    assert repr(Lines(80)) == "Lines(max_size=80, on_too_big='close', last_line=False)"
    assert repr(Delimited(b";")) == "Delimited(delimiter=b';', max_size=65536, on_too_big='close')"
    assert repr(Netstring(9, on_too_big="skip")) == "Netstring(max_size=9, on_too_big='skip')"
    assert repr(UntilClose()) == "UntilClose(max_size=8388608, on_too_big='close')"
    assert repr(Typed({b"A": FixedLength(2)})) == "Typed(types={b'A': FixedLength(size=2)})"
    tail = "offset=0, adjustment=0, max_size=8388608, on_too_big='close')"
    assert repr(LengthPrefixed()) == f"LengthPrefixed(width=4, prefix='binary', byteorder='big', {tail}"
    assert repr(LengthPrefixed(prefix="varint")) == f"LengthPrefixed(prefix='varint', {tail}"


def test_equal_by_class_and_options() -> None:
    assert LengthPrefixed() == LengthPrefixed(4) != LengthPrefixed(2)
    assert Lines() != Lines(80)
    assert Typed({b"A": 1, b"B": 2}) == Typed({b"B": 2, b"A": 1})
    assert len({Netstring(), Netstring(), Lines()}) == 2


@pytest.mark.parametrize("nothing", ["lines", Lines, None])
def test_what_is_no_framing_is_told(nothing: object) -> None:
    assert checked(framing := Lines()) is framing
    with pytest.raises(LocalProtocolError, match="no framing"):
        checked(nothing)


def test_a_limit_of_nothing_lets_messages_of_nothing_through() -> None:
    assert LengthPrefixed(max_size=0).encode(b"") == (bytes(4),)
    with pytest.raises(LocalProtocolError):
        LengthPrefixed(max_size=0).encode(b"x")


def test_a_line_of_nothing_loses_nothing_to_what_was_read_before_it() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"a\r\nb\n")
    buffer.skip(2)  # a message of another framing
    assert decode_all(Lines(), [], most=1, buffer=buffer) == [b"", b"b"]
