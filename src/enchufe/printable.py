"""printable(): the one way that a name or message from outside reaches a terminal, a log or a page."""

from __future__ import annotations

import unicodedata
from typing import Final

# Cc: C0, DEL and C1 controls. Cf: bidirectional overrides and other invisible marks. Cs: what invalid UTF-8
# became. Co, Cn: no meaning anybody shares. Zl, Zp: line breaks.
_HIDDEN: Final = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: str | bytes) -> str:
    r"""`text` with all that could steer a terminal or deceive a reader written as backslash escapes.

    Bytes are read as UTF-8; what is not becomes `\xNN`. A backslash doubles, so that nothing is ambiguous.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
