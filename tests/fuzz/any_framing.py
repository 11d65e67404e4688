"""Any framing there is, by a fuzzer's choice, and streams for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enchufe.errors import LocalProtocolError
from enchufe.framing import (
    Delimited,
    FixedLength,
    Framing,
    LengthPrefixed,
    Lines,
    Netstring,
    SizedFraming,
    TooBig,
    Typed,
    UntilClose,
)
from enchufe.framing.prefixes import ByteOrder
from tests.fuzz.choices import Choices

# Bytes of the longest stream: over a few of the decoders' windows, and short enough for thousands a second.
LONGEST = 4096

POLICIES: list[TooBig] = ["close", "skip"]
ORDERS: list[ByteOrder] = ["big", "little"]
PREFIXES: list[Literal["binary", "digits", "varint"]] = ["binary", "digits", "varint"]
# The small ones are where limits and headers overlap.
SIZES = [0, 1, 2, 3, 5, 10, 40, 255, 256, 300, 1000, 3000]
ADJUSTMENTS = [0, 0, 1, 2, 7, -1, -2, -3, -8, 300, -300]
OFFSETS = [0, 0, 1, 2, 3, 20, 300]
DELIMITERS = [b"\n", b"\0", b"\r\n", b"aab", b"abab", b"aaaa", b"===", b"xy" * 10]
KINDS = b"AB:0\n\0,\xff"
# What stands in some header, or ends something.
SPECIAL = b"\r\n\0\1\2\x7f\x80\xff:,0123a"


@dataclass(frozen=True)
class Subject:
    """A framing under test, and its twin for longer messages: what that writes may be too big for the first."""

    framing: Framing
    wide: Framing


def any_framing(choices: Choices) -> Subject:
    """Every class, every option."""
    kind = choices.byte() % 6
    size, policy = choices.one(SIZES), choices.one(POLICIES)
    if kind == 0:
        return Subject(UntilClose(size, on_too_big=policy), UntilClose())
    if kind == 1:
        return Subject(Lines(size, on_too_big=policy, last_line=(last := choices.flag())), Lines(last_line=last))
    if kind == 2:
        delimiter = choices.some(5) or choices.one(DELIMITERS)
        return Subject(Delimited(delimiter, size, on_too_big=policy), Delimited(delimiter))
    if kind == 3:
        return _pair(*_typed(choices, 2))
    return _pair(*_sized(choices, kind == 4))


def _pair(framing: Framing, wide: Framing) -> Subject:
    return Subject(framing, wide)


def _typed(choices: Choices, depth: int) -> tuple[Typed, Typed]:
    narrow: dict[bytes, int | SizedFraming] = {}
    wide: dict[bytes, int | SizedFraming] = {}
    for _ in range(1 + choices.byte() % 4):
        kind = bytes([choices.one(KINDS)])
        form = choices.byte() % 4
        if form == 0:
            narrow[kind] = wide[kind] = choices.one(SIZES)
        elif form == 1 and depth:
            narrow[kind], wide[kind] = _typed(choices, depth - 1)
        else:
            narrow[kind], wide[kind] = _sized(choices, form == 2)
    return Typed(narrow), Typed(wide)


def _sized(choices: Choices, prefixed: bool) -> tuple[SizedFraming, SizedFraming]:
    size, policy = choices.one(SIZES), choices.one(POLICIES)
    if not prefixed:
        if choices.flag():
            return Netstring(size, on_too_big=policy), Netstring()
        return FixedLength(max(1, size)), FixedLength(max(1, size))
    prefix, order = choices.one(PREFIXES), choices.one(ORDERS)
    width = choices.one([1, 2, 4, 8]) if prefix == "binary" else 1 + choices.byte() % 20
    offset, adjustment = choices.one(OFFSETS), choices.one(ADJUSTMENTS)

    def make(max_size: int, on_too_big: TooBig) -> LengthPrefixed:
        return LengthPrefixed(
            width,
            prefix=prefix,
            byteorder=order,
            offset=offset,
            adjustment=adjustment,
            max_size=max_size,
            on_too_big=on_too_big,
        )

    return make(size, policy), make(1 << 20, "close")


def header(framing: Framing) -> int:
    """The most bytes that a message's frame has beyond the message, or that are held before its size is known."""
    if isinstance(framing, LengthPrefixed):
        return framing.offset + {"binary": framing.width, "digits": framing.width, "varint": 10}[framing.prefix]
    if isinstance(framing, Netstring):
        return 20 + len(b":,")
    if isinstance(framing, Delimited):
        return framing.longest_end
    if isinstance(framing, Typed):
        return 1 + max(0 if isinstance(rest, int) else header(rest) for rest in framing.types.values())
    return 0


def any_stream(choices: Choices, subject: Subject) -> bytes:
    """The rest of the fuzzer's bytes as they are; or frames made of them, too big ones and nonsense among them."""
    times = choices.one([1, 1, 1, 2, 50])
    if choices.flag():
        return (choices.rest() * times)[:LONGEST]
    pieces = []
    while choices.left():
        how = choices.byte() % 16
        if how == 0:
            pieces.append(choices.some(20))
        elif how == 1:
            pieces.append(frame(subject.wide, bytes(choices.one(SIZES) + choices.byte())))
        elif how == 2:
            pieces.append(bytes(SPECIAL[byte % len(SPECIAL)] for byte in choices.some(20)))
        elif how == 3:
            pieces.append(damaged(choices, frame(subject.wide, choices.some(60))))
        elif how == 4:
            pieces.append(choices.some(20) + b"\r\n")
        else:
            pieces.append(frame(subject.wide, choices.some(60)))
    wire = b"".join(pieces)
    # At the end of it, a message may be cut.
    return (wire * times)[: min(LONGEST, max(0, len(wire) * times - choices.byte()))]


def frame(framing: Framing, body: bytes) -> bytes:
    """The frame of a message that is made of `body`; the bytes as they are where none can be."""
    try:
        return b"".join(framing.encode(fitting(framing, body)))
    except LocalProtocolError:
        return body


def damaged(choices: Choices, wire: bytes) -> bytes:
    """`wire` with one other byte, near its front or its end."""
    changed = bytearray(wire or b"\0")
    at = choices.byte() % min(len(changed), 12)
    changed[-1 - at if choices.flag() else at] = choices.byte()
    return bytes(changed)


def any_messages(choices: Choices, framing: Framing) -> list[bytes]:
    """Messages that a framing carries."""
    messages: list[bytes] = []
    while choices.left() and len(messages) < 20:
        body = choices.some(60) if choices.byte() % 4 else bytes(choices.one(SIZES))
        message = fitting(framing, body)
        if carries(framing, message):
            messages.append(message)
    return messages


def carries(framing: Framing, message: bytes) -> bool:
    """Whether `message` can be sent."""
    try:
        framing.encode(message)
    except LocalProtocolError:
        return False
    return True


def skips(framing: Framing, message: bytes) -> bool:
    """Whether `message` is skipped where it is too big."""
    if isinstance(framing, Typed):
        rest = framing.types[message[:1]]
        return not isinstance(rest, int) and skips(rest, message[1:])
    return framing.on_too_big == "skip"


def has_one_form(framing: Framing) -> bool:
    """Whether all that is on the wire is told by the messages: each has one form there, and none is dropped."""
    if isinstance(framing, Typed):
        return all(isinstance(rest, int) or has_one_form(rest) for rest in framing.types.values())
    if isinstance(framing, Lines) or (isinstance(framing, LengthPrefixed) and framing.prefix == "varint"):
        return False
    return framing.on_too_big == "close"


def fitting(framing: Framing, body: bytes) -> bytes:
    """`body` with what the framing asks of every message: a type, a header, a size."""
    if isinstance(framing, FixedLength):
        return body[: framing.size].ljust(framing.size, b"_")
    if isinstance(framing, LengthPrefixed):
        return body.rjust(framing.offset + max(0, framing.adjustment), b"_")
    if isinstance(framing, Typed):
        kinds = list(framing.types)
        kind = kinds[(body[0] if body else 0) % len(kinds)]
        rest = framing.types[kind]
        return kind + (body[1 : 1 + rest].ljust(rest, b"_") if isinstance(rest, int) else fitting(rest, body[1:]))
    return body
