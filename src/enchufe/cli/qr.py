"""A link as a QR code for the terminal, for whoever would rather point a camera than type."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Sequence
from typing import Final, TextIO

_BORDER: Final = 2  # modules; the standard has 4, readers of screens need 1 or 2, and a terminal has few lines
_PAPER: Final = "\x1b[40;97m"  # white ink on black: light modules are drawn, whatever the terminal's own colours
_PLAIN: Final = "\x1b[0m"


def qr(text: str, stream: TextIO, *, under: Sequence[str] = (), colour: bool = True) -> str | None:
    """A QR code to print on `stream`, with its last line feed; None where that shows none.

    That is where it is no terminal, cannot show UTF-8, is too narrow, or too low to show all of it, and what stands
    above it.

    Args:
        text: what it says.
        stream: where it will be printed.
        under: the lines that were printed just before, which are to be read beside it.
        colour: whether it may set black and white; else it is drawn for a dark terminal (`NO_COLOR`).
    """
    if not stream.isatty() or not _shows_blocks(stream):
        return None
    lines = draw(text)
    columns, rows = os.get_terminal_size(stream.fileno())
    if lines is None or len(lines[0]) > columns:
        return None
    above = sum(max(1, -(-len(line) // columns)) for line in under)
    if above + len(lines) >= rows:  # the cursor has a line of its own
        return None
    return "".join(f"{_PAPER}{line}{_PLAIN}\n" if colour else f"{line}\n" for line in lines)


def draw(text: str) -> list[str] | None:
    """The lines of a QR code, each two modules high, light ones drawn; None if it is too long for any."""
    # Late, since few commands show one.
    import segno  # noqa: PLC0415

    try:
        # The lowest level of repair: nothing scratches a screen, and the code stays small.
        code = segno.make_qr(text, error="l", boost_error=False)
    except segno.DataOverflowError:
        return None
    out = io.StringIO()
    code.terminal(out, border=_BORDER, compact=True)
    return out.getvalue().splitlines()


def _shows_blocks(stream: TextIO) -> bool:
    try:
        return codecs.lookup(stream.encoding or "ascii").name == "utf-8"
    except LookupError:
        return False
