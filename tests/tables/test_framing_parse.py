"""Framings as people write them."""

from __future__ import annotations

import pytest

from enchufe.errors import LocalProtocolError
from enchufe.framing import (
    Delimited,
    FixedLength,
    Framing,
    LengthPrefixed,
    Lines,
    Netstring,
    Typed,
    UntilClose,
    parse_framing,
)


@pytest.mark.parametrize(
    ("text", "framing"),
    [
        ("lines", Lines()),
        ("fixed:8", FixedLength(8)),
        ("digits:5", LengthPrefixed(5, prefix="digits")),
        ("length:4", LengthPrefixed(4)),
        ("length:2be", LengthPrefixed(2)),
        ("length:8le", LengthPrefixed(8, byteorder="little")),
        ("varint", LengthPrefixed(prefix="varint")),
        ("netstring", Netstring()),
        ("typed:A=8,B=length:4", Typed({b"A": 8, b"B": LengthPrefixed(4)})),
        ("typed:A=0,B=varint,C=netstring", Typed({b"A": 0, b"B": LengthPrefixed(prefix="varint"), b"C": Netstring()})),
        ("typed:A=digits:5,B=fixed:3", Typed({b"A": LengthPrefixed(5, prefix="digits"), b"B": FixedLength(3)})),
        (r"typed:\x2c=1,\x3D=2,\n=3,:=4", Typed({b",": 1, b"=": 2, b"\n": 3, b":": 4})),
        (r"delimited:\r\n", Delimited(b"\r\n")),
        (r"delimited:\t\0\\\x00\xfF", Delimited(b"\t\0\\\0\xff")),
        ("delimited:::", Delimited(b"::")),
        ("delimited:¡fin!", Delimited("¡fin!".encode())),
        ("delimited:\udcff", Delimited(b"\xff")),
        ("close", UntilClose()),
    ],
)
def test_parse(text: str, framing: Framing) -> None:
    assert parse_framing(text) == framing


@pytest.mark.parametrize(
    ("text", "framing"),
    [
        ("lines", Lines(80)),
        ("fixed:8", FixedLength(8)),
        ("digits:5", LengthPrefixed(5, prefix="digits", max_size=80)),
        ("length:4", LengthPrefixed(4, max_size=80)),
        ("varint", LengthPrefixed(prefix="varint", max_size=80)),
        ("netstring", Netstring(80)),
        ("typed:A=8,B=length:4", Typed({b"A": 8, b"B": LengthPrefixed(4, max_size=80)})),
        ("delimited:;", Delimited(b";", 80)),
        ("close", UntilClose(80)),
    ],
)
def test_parse_with_a_limit(text: str, framing: Framing) -> None:
    assert parse_framing(text, max_size=80) == framing


@pytest.mark.parametrize(
    "text",
    [
        "",
        "line",
        "LINES",
        "lines:80",
        "close:",
        "fixed",
        "fixed:",
        "fixed:0",
        "fixed:-1",
        "fixed:+1",
        "fixed: 1",
        "fixed:1_0",
        "fixed:٣",
        "fixed:3\n",
        "fixed:" + "9" * 5000,
        "digits:0",
        "digits:21",
        "length",
        "length:3",
        "length:4LE",
        "varint:4",
        "netstring:4",
        "typed",
        "typed:",
        "typed:A",
        "typed:A=",
        "typed:A=8,",
        "typed:=8",
        "typed:AB=8",
        "typed:¡=8",
        "typed:A=8,A=9",
        "typed:A=lines",
        "typed:A=close",
        "typed:A=typed:B=1",
        "typed:A=-8",
        "delimited",
        "delimited:",
        r"delimited:\q",
        r"delimited:\x0",
        "delimited:\\",
        "delimited:\ud800",
        "typed:\ud800=8",
    ],
)
def test_there_is_no_such_framing(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        parse_framing(text)


def test_the_hint_names_them_all() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        parse_framing("frames")
    for name in ("lines", "fixed", "digits", "length", "varint", "netstring", "typed", "delimited", "close"):
        assert name in caught.value.hint
