"""The transfer's messages and their bytes: one table, both directions."""

from __future__ import annotations

import struct

import pytest

from enchufe.buffer import ReceiveBuffer
from enchufe.entry import NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Reason
from enchufe.errors import RemoteProtocolError
from enchufe.transfer import messages as m
from enchufe.transfer.messages import Message, frame, next_message

D = bytes(range(32))
NO = b"\xff\xff\xff\xff"

CASES: list[tuple[Message, bytes]] = [
    (
        m.Hello(m.Role.SENDER, session=b"s" * 16, epoch=1),
        b"\1\0\0\0\x28" + b"enchufe\1\1\1" + bytes(4) + b"s" * 16 + b"\0\0\0\1" + bytes(2) + bytes(4),
    ),
    (
        m.Hello(m.Role.RECEIVER, window=16384),
        b"\1\0\0\0\x28" + b"enchufe\1\1\2" + bytes(4) + bytes(16) + bytes(4) + bytes(2) + b"\0\0\x40\0",
    ),
    (
        m.Offer(
            [Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, 0, 0o755, -1), Entry(1, 0, b"f\n", Kind.FILE, 258, 0o644, 7)]
        ),
        b"\2\0\0\0\x3f" + bytes(4)
        + b"\2\0" + NO + b"\1\xed" + bytes(8) + b"\xff" * 8 + b"\0\1\0\0d"
        + b"\1\0\0\0\0\0\1\xa4" + b"\0\0\0\0\0\0\1\2" + b"\0\0\0\0\0\0\0\7" + b"\0\2\0\0f\n",
    ),
    (
        m.Offer([Entry(9, NO_PARENT, b"l", Kind.SYMLINK, 0, 0o777, 0, b"../x")]),
        b"\2\0\0\0\x25" + b"\0\0\0\x09" + b"\3\0" + NO + b"\1\xff" + bytes(16) + b"\0\1\0\4l../x",
    ),
    (
        m.Offer([Entry(0, NO_PARENT, b"-", Kind.FILE, UNKNOWN_SIZE, 0, 0)]),
        b"\2\0\0\0\x21" + bytes(4) + b"\1\0" + NO + b"\0\0" + b"\xff" * 8 + bytes(8) + b"\0\1\0\0-",
    ),
    (m.OfferEnd(3, 1 << 40, 1), b"\3\0\0\0\x10" + b"\0\0\0\3" + b"\0\0\1\0\0\0\0\0" + b"\0\0\0\1"),
    (
        m.Want([(0, 2, Answer.ALL), (2, 1, Answer.UNSAFE_LINK)]),
        b"\4\0\0\0\x12" + b"\0\0\0\0\0\0\0\2\1" + b"\0\0\0\2\0\0\0\1\x10",
    ),
    (m.Block(1, 1 << 20, D, b"abc"), b"\5\0\0\0\x2f" + b"\0\0\0\1" + b"\0\0\0\0\0\x10\0\0" + D + b"abc"),
    (
        m.Batch([(4, D, b"xy"), (5, D, b"")]),
        b"\6\0\0\0\x54" + b"\0\2" + b"\0\0\0\4\0\0\0\2" + D + b"\0\0\0\5\0\0\0\0" + D + b"xy",
    ),
    (m.FileEnd(1, 258, D), b"\7\0\0\0\x2c" + b"\0\0\0\1" + b"\0\0\0\0\0\0\1\2" + D),
    (m.LeftOut(1, Reason.VANISHED), b"\x08\0\0\0\5" + b"\0\0\0\1\3"),
    (m.Progress(5, 6), b"\x09\0\0\0\x0c" + b"\0\0\0\0\0\0\0\5" + b"\0\0\0\6"),
    (m.Finish(D), b"\x0a\0\0\0\x20" + D),
    (m.Receipt(2, 258, D), b"\x0b\0\0\0\x2c" + b"\0\0\0\2" + b"\0\0\0\0\0\0\1\2" + D),
    (m.Ping(), b"\x0c\0\0\0\0"),
    (m.Error(m.Code.NO_SPACE, "ñ"), b"\x0d\0\0\0\3" + b"\3\xc3\xb1"),
]  # fmt: skip
IDS = [f"{type(message).__name__}{number}" for number, (message, _) in enumerate(CASES)]


def test_every_message_is_in_the_table() -> None:
    assert {message.type for message, _ in CASES} == set(m.Type)


@pytest.mark.parametrize(("message", "wire"), CASES, ids=IDS)
def test_packing(message: Message, wire: bytes) -> None:
    assert b"".join(frame(message)) == wire


@pytest.mark.parametrize(("message", "wire"), CASES, ids=IDS)
@pytest.mark.parametrize("trailing", [b"", b"\x0c\0\0\0\0", b"\xff"])
def test_unpacking_whole(message: Message, wire: bytes, trailing: bytes) -> None:
    buffer = ReceiveBuffer()
    buffer.append(wire + trailing)
    assert next_message(buffer) == message
    assert buffer.peek(9) == trailing


@pytest.mark.parametrize(("message", "wire"), CASES, ids=IDS)
def test_unpacking_byte_by_byte(message: Message, wire: bytes) -> None:
    buffer = ReceiveBuffer()
    for index in range(len(wire) - 1):
        buffer.append(wire[index : index + 1])
        lacking = next_message(buffer)
        assert isinstance(lacking, int)
        assert 0 < lacking <= len(wire) - index - 1
    buffer.append(wire[-1:])
    assert next_message(buffer) == message
    assert not len(buffer)


HOSTILE = [
    (b"\0\0\0\0\0", "type"),
    (b"\x0e\0\0\0\0", "type"),
    (b"GET / HTTP/1.1\r\n", "type"),
    (b"\1\0\0\x10\1", "limit"),
    (b"\5\x7f\xff\xff\xff", "limit"),
    (b"\x0c\0\0\0\1", "limit"),
    (b"\1\0\0\0\5abcde", "HELLO"),
    (b"\1\0\0\0\x28" + b"enchufa" + bytes(33), "HELLO"),
    (b"\2\0\0\0\4" + bytes(4), "OFFER"),
    (b"\2\0\0\0\x10" + bytes(16), "OFFER"),
    (b"\4\0\0\0\0", "WANT"),
    (b"\4\0\0\0\x09" + bytes(8) + b"\x63", "WANT"),
    (b"\4\0\0\0\x08" + bytes(8), "WANT"),
    (b"\5\0\0\0\x2c" + bytes(44), "BLOCK"),
    (b"\6\0\0\0\2" + b"\0\0", "BATCH"),
    (b"\6\0\0\0\2" + b"\xff\xff", "BATCH"),
    (b"\6\0\0\0\x2a" + b"\0\1" + b"\0\0\0\0\0\0\0\1" + bytes(32), "BATCH"),
    (b"\x08\0\0\0\5" + b"\0\0\0\1\x09", "LEFT_OUT"),
    (b"\x0a\0\0\0\1\0", "FINISH"),
    (b"\x0d\0\0\0\0", "ERROR"),
]


@pytest.mark.parametrize(("wire", "told"), HOSTILE)
def test_nonsense_is_refused(wire: bytes, told: str) -> None:
    buffer = ReceiveBuffer()
    buffer.append(wire)
    with pytest.raises(RemoteProtocolError, match=told):
        next_message(buffer)


@pytest.mark.parametrize(
    ("position", "value"),
    [(4, b"\x04"), (5, b"\1"), (10, b"\xff\xff"), (12, b"\x80" + bytes(7)), (28, b"\xff\xff"), (30, b"\0\1")],
    ids=["kind", "flags", "mode", "size over off_t", "name longer than the body", "target of a file"],
)
def test_a_nonsensical_entry_is_refused(position: int, value: bytes) -> None:
    body = bytearray(b"".join(m.Offer([Entry(0, NO_PARENT, b"name", Kind.FILE, 1)]).pack()))
    body[position : position + len(value)] = value
    buffer = ReceiveBuffer()
    buffer.append(struct.pack(">BI", m.Type.OFFER, len(body)) + body)
    with pytest.raises(RemoteProtocolError, match="OFFER"):
        next_message(buffer)


def test_a_length_over_the_limit_is_refused_before_the_body_is_kept() -> None:
    buffer = ReceiveBuffer()
    buffer.append(struct.pack(">BI", m.Type.OFFER, m.CONTROL_SIZE + 1))
    with pytest.raises(RemoteProtocolError, match="limit"):
        next_message(buffer)
