"""Access frames: what they look like, and what is none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchufe.access import messages as m
from enchufe.errors import RemoteProtocolError

A, B, C = bytes(range(32)), bytes(range(64)), bytes(33)
SAID = [
    (m.Knock(b"enchufe", 1, 2, A), 65, b"enchufe\1\2" + A),
    (m.Nonce(1, A), 66, b"\1" + A),
    (m.Code(C), 67, C),
    (m.Confirm(A), 68, A),
    (m.Whom(A[:16]), 69, A[:16]),
    (m.Proof(A, B), 70, A + B),
    (m.Token(A, B), 71, A + B),
    (m.Again(A[:16], A), 72, A[:16] + A),
    (m.Denied(3), 73, b"\3"),
    (m.Welcome(), 74, b"\0"),
    (m.Welcome(A, B, "ñandú"), 74, b"\1" + A + B + "ñandú".encode()),
    (m.Welcome(A, B, "n" * 64), 74, b"\1" + A + B + b"n" * 64),
]


def read(data: bytes) -> m.Message:
    kind, size = m.announced(data[: m.HEADER_SIZE])
    assert size == len(data) - m.HEADER_SIZE
    return kind.unpack(data[m.HEADER_SIZE :])


@pytest.mark.parametrize(("message", "number", "body"), SAID)
def test_a_message_there_and_back(message: m.Message, number: int, body: bytes) -> None:
    data = m.frame(message)
    assert data == struct.pack(">BI", number, len(body)) + body
    assert read(data) == message


@pytest.mark.parametrize(("message", "number", "body"), SAID)
def test_a_body_of_another_size_is_none(message: m.Message, number: int, body: bytes) -> None:
    for wrong in (body[:-1], body + b"\0" if len(body) < 161 else body + b"n", b""):
        if number == 74 and body[0] and 97 < len(wrong) <= 161:
            continue  # a shorter or longer name
        with pytest.raises(RemoteProtocolError, match=m.Type(number).name):
            type(message).unpack(wrong)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (m.Knock, b"enchufa\1\1" + A),
        (m.Knock, b"enchufe\0\1" + A),
        (m.Knock, b"enchufe\2\1" + A),
        (m.Welcome, b"\2"),
        (m.Welcome, b"\1"),
        (m.Welcome, b"\0" + A + B + b"name"),
        (m.Welcome, b"\2" + A + B + b"name"),
        (m.Welcome, b"\1" + A + B),
        (m.Welcome, b"\1" + A + B + b"\xff"),
        (m.Welcome, b"\1" + A + B + b"n" * 65),
    ],
)
def test_a_body_that_makes_no_sense(kind: type[m.Message], body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed"):
        kind.unpack(body)


@pytest.mark.parametrize("number", [0, 1, 22, 64, 75, 255])
def test_an_unknown_type(number: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"unknown type {number}"):
        m.announced(struct.pack(">BI", number, 0))


def test_more_than_the_limit_is_refused_before_a_body_is_taken() -> None:
    assert m.announced(struct.pack(">BI", 65, 1024)) == (m.Knock, 1024)
    for size in (1025, 2**31, 2**32 - 1):
        with pytest.raises(RemoteProtocolError, match="limit"):
            m.announced(struct.pack(">BI", 65, size))


@given(st.sampled_from([type(message) for message, _, _ in SAID]), st.binary(max_size=200))
def test_any_body_is_a_message_or_malformed(kind: type[m.Message], body: bytes) -> None:
    try:
        message = kind.unpack(body)
    except RemoteProtocolError:
        return
    assert message.pack() == body
