"""The QR code on a terminal is the one that the standard asks for, and is left out where it cannot be read."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest
import segno

from enchufe.access.links import Link
from enchufe.cli import output
from enchufe.cli.qr import draw, qr
from enchufe.cli.show import ProgressBars, Sentences
from enchufe.events import Code
from enchufe.transports.addresses import TcpAddress

LINK = "enchufe://192.168.1.5:41234/#cert=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8&code=42-amigo-barco-casa"
BORDER = 2
# What is drawn is light: upper and lower half of a character.
HALVES = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}


@contextmanager
def terminal(columns: int, encoding: str = "utf-8", rows: int = 24) -> Iterator[TextIO]:
    """A terminal to write to, so many columns wide."""
    keyboard, screen = os.openpty()
    try:
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        with os.fdopen(screen, "w", encoding=encoding) as stream:
            yield stream
    finally:
        os.close(keyboard)


def modules(lines: list[str]) -> list[list[int]]:
    """The rows of a code as it is drawn, 1 for dark, with its border."""
    return [[HALVES[each][half] for each in line] for line in lines for half in (0, 1)]


@pytest.mark.parametrize("text", [LINK, "x", "enchufe://[2001:db8::1]:1/" + "#later=" + "x" * 500])
def test_what_is_drawn_is_the_code(text: str) -> None:
    lines = draw(text)
    assert lines
    rows = modules(lines)
    code = segno.make_qr(text, error="l", boost_error=False)
    size = len(code.matrix)
    inner = [row[BORDER : BORDER + size] for row in rows[BORDER : BORDER + size]]
    assert inner == [list(row) for row in code.matrix]
    assert {len(row) for row in rows} == {size + 2 * BORDER}
    # All around it is light.
    assert sum(map(sum, rows[: size + 2 * BORDER])) == sum(map(sum, inner))


def test_a_link_fits_a_terminal_of_80_by_24() -> None:
    lines = draw(LINK)
    assert lines
    assert len(lines) <= 24
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines[0]) <= 80


def test_dark_is_dark_whatever_the_terminal() -> None:
    with terminal(80) as stream:
        shown = qr(LINK, stream)
        plain = qr(LINK, stream, colour=False)
    assert shown
    assert plain
    assert plain.splitlines() == draw(LINK)
    assert shown.splitlines() == [f"\x1b[40;97m{line}\x1b[0m" for line in plain.splitlines()]
    assert shown.endswith("\n")


def test_it_is_left_out_where_it_cannot_be_read() -> None:
    lines = draw(LINK)
    assert lines
    width = len(lines[0])
    with terminal(width) as stream:
        assert qr(LINK, stream) is not None
        assert qr("x" * 5000, stream) is None
    with terminal(width - 1) as stream:
        assert qr(LINK, stream) is None
    for encoding in ("ascii", "latin-1"):
        with terminal(200, encoding) as stream:
            assert qr(LINK, stream) is None
    assert qr(LINK, io.StringIO()) is None


def test_where_not_all_addresses_have_room_the_likeliest_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [
        TcpAddress(host, 41234) for host in ("192.168.178.20", "2001:db8::1234:5678:9abc:def0", "fe80::1:2:3:4")
    ]
    code = "42-amigo-barco-casa"
    whole, likeliest = (Link(tuple(some), bytes(32), code) for some in (addresses, addresses[:1]))
    lines = [draw(str(link)) for link in (whole, likeliest)]
    assert lines[0] and lines[1]
    bars = ProgressBars(Sentences(quiet=False, verbose=False, sending=True, plain=False))
    told: list[str] = []
    monkeypatch.setattr(output, "tell", told.append)
    monkeypatch.setenv("NO_COLOR", "1")
    for rows, shown in ((5 + len(lines[0]), lines[0]), (4 + len(lines[0]), lines[1]), (len(lines[1]), None)):
        told.clear()
        with terminal(80, rows=rows) as stream, monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", stream)
            bars.show(Code(code, str(whole)))
        assert [each.splitlines() for each in told[1:]] == ([] if shown is None else [shown])


def test_it_neither_hides_the_code_nor_is_cut_off() -> None:
    lines = draw(LINK)
    assert lines
    under = ["on the other side: enchufe receive 42-amigo-barco-casa", "x" * 80, "x" * 81]  # 4 rows of a terminal
    for above, room in (([], 1), (under, 5)):
        with terminal(80, rows=len(lines) + room) as stream:
            assert qr(LINK, stream, under=above) is not None
        with terminal(80, rows=len(lines) + room - 1) as stream:
            assert qr(LINK, stream, under=above) is None
