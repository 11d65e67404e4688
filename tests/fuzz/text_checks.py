"""What must hold of what people write for framings and addresses: it is understood, or refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from enchufe.buffer import ReceiveBuffer
from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.framing import parse_framing
from enchufe.transports import parse_address
from enchufe.transports.addresses import TcpAddress
from tests.fuzz.choices import Choices

T = TypeVar("T")

FRAMING_HEADS = ["", "delimited:", "delimited:\\", "typed:", "typed:A=", "fixed:", "length:", "digits:"]
FRAMING_WORDS = [
    *("lines", "close", "varint", "netstring", "fixed:", "digits:", "length:", "delimited:", "typed:", "le", "be"),
    *("A=", "B=", "\\x41=", ",", "=", ":", "\\", "\\x", "\\r\\n", "\\0", "x", "ff", "0", "1", "2", "4", "8", "20"),
    *("999999999999999999", "-", "+", " ", "\n", "\0", "é", "٣", "²", "\udcff", "\ud800", "\U0010ffff"),
]
ADDRESS_HEADS = ["", ":", "localhost:", "[::1]:", "unix:", "shm:"]
ADDRESS_WORDS = [
    *("unix:", "shm:", "localhost", "127.0.0.1", "::1", "[", "]", "[::1]:", ":", "/", "run", "a" * 99, "é", "٣", "²"),
    *("0", "1", "9000", "65535", "65536", "-1", "+1", "1_0", "9" * 99, " ", "\n", "\0", "%", "@"),
    *("\udcff", "\ud800", "\U0010ffff"),
]


def any_text(choices: Choices, heads: Sequence[str], words: Sequence[str]) -> str:
    """Words of the grammar in any order, or anything that an argument of a command may be."""
    if choices.flag():
        return choices.rest().decode("utf-8", "surrogateescape")
    head = choices.one(heads)
    return head + "".join(words[byte % len(words)] for byte in choices.some(10))


def understood(parse: Callable[[str], T], text: str) -> T | None:
    try:
        return parse(text)
    except LocalProtocolError as error:
        assert str(error)
        return None


def check_framing_text(data: bytes) -> None:
    """A framing that can be used, the same each time; or LocalProtocolError."""
    choices = Choices(data)
    size = choices.one([None, 0, 1, 100, -1])
    text = any_text(choices, FRAMING_HEADS, FRAMING_WORDS)
    framing = understood(lambda written: parse_framing(written, max_size=size), text)
    if framing is None:
        return
    assert parse_framing(text, max_size=size) == framing
    buffer = ReceiveBuffer()
    buffer.append(data)
    try:
        framing.decoder().decode(buffer)
    except RemoteProtocolError as error:
        assert error.hint


def check_address_text(data: bytes) -> None:
    """An address that is read again as it is written; or LocalProtocolError."""
    text = any_text(Choices(data), ADDRESS_HEADS, ADDRESS_WORDS)
    address = understood(parse_address, text)
    if address is None:
        return
    # No host has such a name; it is understood, and nobody will be found there.
    strange = isinstance(address, TcpAddress) and (address.host[:1] == "[" or address.host in ("unix", "shm"))
    assert strange or parse_address(str(address)) == address
