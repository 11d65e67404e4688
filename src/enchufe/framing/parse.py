"""Framings as people write them on a command line: `lines`, `length:4`, `typed:A=8,B=varint`."""

from __future__ import annotations

import re
from typing import Final, TypedDict

from enchufe.errors import LocalProtocolError
from enchufe.framing.base import Framing
from enchufe.framing.delimited import Delimited
from enchufe.framing.fixed_length import FixedLength
from enchufe.framing.length_prefixed import LengthPrefixed
from enchufe.framing.lines import Lines
from enchufe.framing.netstring import Netstring
from enchufe.framing.sized import SizedFraming
from enchufe.framing.typed import Typed
from enchufe.framing.until_close import UntilClose

_HINT: Final = (
    r"Framings are lines, fixed:N, digits:N, length:N[le|be], varint, netstring, typed:A=8,B=length:4, "
    r"delimited:\r\n and close."
)
_ESCAPES: Final = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class _Limit(TypedDict, total=False):
    max_size: int


def parse_framing(text: str, *, max_size: int | None = None) -> Framing:
    r"""The framing that `text` names.

    ==============================  ===================================================================================
    `lines`                         `Lines()`
    `fixed:N`                       `FixedLength(N)`
    `digits:N`                      `LengthPrefixed(N, prefix="digits")`
    `length:N`, `length:N[le|be]`   `LengthPrefixed(N)`, big endian unless it says `le`
    `varint`                        `LengthPrefixed(prefix="varint")`
    `netstring`                     `Netstring()`
    `typed:A=8,B=length:4`          `Typed({b"A": 8, b"B": LengthPrefixed(4)})`: a number, or any of the five above
    `delimited:TEXT`                `Delimited(TEXT)`
    `close`                         `UntilClose()`
    ==============================  ===================================================================================

    TEXT and the types, one byte each, are UTF-8 in which `\r`, `\n`, `\t`, `\0`, `\\` and `\xNN` stand for one byte; a
    comma or an equals sign as a type is written `\x2c` or `\x3d`.

    Args:
        text: as above.
        max_size: bytes of the longest message; None: each framing's default. `fixed:N` has no other limit than N.

    Raises:
        LocalProtocolError: there is no such framing.
    """
    limit: _Limit = {} if max_size is None else {"max_size": max_size}
    name, _, argument = text.partition(":")
    if name == "delimited" and argument:
        return Delimited(_unescape(argument), **limit)
    if name == "typed" and argument:
        entries = [_type(entry, limit) for entry in argument.split(",")]
        if len(dict(entries)) < len(entries):
            raise LocalProtocolError(f"a type stands twice in {text!r}")
        return Typed(dict(entries))
    if text == "lines":
        return Lines(**limit)
    if text == "close":
        return UntilClose(**limit)
    return _sized(text, limit)


def _sized(text: str, limit: _Limit) -> SizedFraming:
    if text == "varint":
        return LengthPrefixed(prefix="varint", **limit)
    if text == "netstring":
        return Netstring(**limit)
    if found := re.fullmatch(r"fixed:([0-9]{1,18})", text):
        return FixedLength(int(found[1]))
    if found := re.fullmatch(r"digits:([0-9]{1,18})", text):
        return LengthPrefixed(int(found[1]), prefix="digits", **limit)
    if found := re.fullmatch(r"length:([0-9]{1,18})(le|be)?", text):
        return LengthPrefixed(int(found[1]), byteorder="little" if found[2] == "le" else "big", **limit)
    raise LocalProtocolError(f"there is no framing {text!r}", hint=_HINT)


def _type(entry: str, limit: _Limit) -> tuple[bytes, int | SizedFraming]:
    kind, equals, rest = entry.partition("=")
    if not equals:
        raise LocalProtocolError(f"a type is written as A=8 or B=length:4, not {entry!r}", hint=_HINT)
    return _unescape(kind), int(rest) if re.fullmatch(r"[0-9]{1,18}", rest) else _sized(rest, limit)


def _unescape(text: str) -> bytes:
    def byte(found: re.Match[bytes]) -> bytes:
        escape = found[1]
        if len(escape) == 3:
            return bytes.fromhex(escape[1:].decode())
        if escape not in _ESCAPES:
            raise LocalProtocolError(
                f"there is no escape \\{escape.decode(errors='replace')} in {text!r}",
                hint=r"Escapes are \r, \n, \t, \0, \\ and \xNN.",
            )
        return _ESCAPES[escape]

    try:
        # Arguments of a command carry bytes that are no UTF-8 as surrogates.
        data = text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"{text!r} holds half a character", hint=r"Write single bytes as \xNN.") from error
    return re.sub(rb"\\(x[0-9A-Fa-f]{2}|.?)", byte, data, flags=re.DOTALL)
