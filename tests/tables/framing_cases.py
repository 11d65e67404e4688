"""One table for both directions: a framing, messages, and the bytes they are on the wire.

Who else writes the same bytes stands beside them; the vectors were written by hand from their documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.framing import (
    Delimited,
    FixedLength,
    Framing,
    LengthPrefixed,
    Lines,
    Netstring,
    Typed,
    UntilClose,
)


@dataclass(frozen=True)
class Case:
    """Messages and their wire form.

    Attributes:
        written: enchufe writes these bytes too; False where it only reads them.
        ends: the last message comes with the end of the stream, not before.
    """

    framing: Framing
    messages: Sequence[bytes]
    wire: bytes
    written: bool = True
    ends: bool = False

    def __str__(self) -> str:
        return f"{self.framing!r} {self.wire[:24]!r}"


@dataclass(frozen=True)
class Fault:
    """Bytes no framing of that kind begins with, what is said of them, and the messages in front of them."""

    framing: Framing
    wire: bytes
    says: str
    before: Sequence[bytes] = ()
    at_end: bool = False

    def __str__(self) -> str:
        return f"{self.framing!r} {self.wire[:24]!r}"


@dataclass(frozen=True)
class Skip:
    """Bytes with messages too big among them, and the messages that are left."""

    framing: Framing
    wire: bytes
    messages: Sequence[bytes]

    def __str__(self) -> str:
        return f"{self.framing!r} {self.wire[:24]!r}"


HELLO = b"HELLO, WORLD"
HEADED = b"\xca\xfeHELLO, WORLD"
TYPES = Typed({b"A": 8, b"B": LengthPrefixed(), b"C": 0, b"D": Netstring(), b"E": LengthPrefixed(1, offset=2)})

CASES = [
    Case(FixedLength(3), [b"uno", b"\0\0\0", b"dos"], b"uno\0\0\0dos"),
    Case(FixedLength(1), [b"a", b"b"], b"ab"),
    # Twisted Int8StringReceiver, Int16StringReceiver and Int32StringReceiver; Erlang {packet, 1 | 2 | 4}.
    Case(LengthPrefixed(1), [b"hola", b"", b"\0"], b"\x04hola\x00\x01\0"),
    Case(LengthPrefixed(1), [b"x" * 255], b"\xff" + b"x" * 255),
    Case(LengthPrefixed(2), [b"hola", b""], b"\x00\x04hola\x00\x00"),
    Case(LengthPrefixed(2), [b"x" * 258], b"\x01\x02" + b"x" * 258),
    Case(LengthPrefixed(4), [b"hola", b"", b"a\0b"], b"\0\0\0\x04hola\0\0\0\0\0\0\0\x03a\0b"),
    Case(LengthPrefixed(8), [b"hola"], b"\0\0\0\0\0\0\0\x04hola"),
    Case(LengthPrefixed(2, byteorder="little"), [b"x" * 258, b"y"], b"\x02\x01" + b"x" * 258 + b"\x01\0y"),
    Case(LengthPrefixed(4, byteorder="little"), [b"hola", b""], b"\x04\0\0\0hola\0\0\0\0"),
    Case(LengthPrefixed(8, byteorder="little"), [b"hola"], b"\x04\0\0\0\0\0\0\0hola"),
    # The Socket Programming HOWTO's 5 digits.
    Case(LengthPrefixed(5, prefix="digits"), [b"hola", b"", b"12345"], b"00004hola00000" + b"0000512345"),
    Case(LengthPrefixed(1, prefix="digits"), [b"9" * 9], b"9" + b"9" * 9),
    Case(LengthPrefixed(20, prefix="digits"), [b"si"], b"00000000000000000002si"),
    # protobuf's writeDelimitedTo and parseDelimitedFrom; 300 is its documentation's example.
    Case(LengthPrefixed(prefix="varint"), [b"hola", b"", b"z" * 127], b"\x04hola\x00\x7f" + b"z" * 127),
    Case(
        LengthPrefixed(prefix="varint"), [b"x" * 300, b"y" * 128], b"\xac\x02" + b"x" * 300 + b"\x80\x01" + b"y" * 128
    ),
    Case(LengthPrefixed(prefix="varint"), [b"x" * 16384, b""], b"\x80\x80\x01" + b"x" * 16384 + b"\0"),
    Case(
        LengthPrefixed(prefix="varint"),
        [b"", b"a"],
        b"\x80\x00\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00a",
        written=False,
    ),
    # The examples of Netty's LengthFieldBasedFrameDecoder that have fields of 2 bytes.
    Case(LengthPrefixed(2), [HELLO], b"\x00\x0cHELLO, WORLD"),
    Case(LengthPrefixed(2, adjustment=-2), [HELLO, b""], b"\x00\x0eHELLO, WORLD\x00\x02"),
    Case(LengthPrefixed(2, offset=2), [HEADED, b"\xca\xfe"], b"\xca\xfe\x00\x0cHELLO, WORLD\xca\xfe\x00\x00"),
    Case(LengthPrefixed(2, adjustment=2), [HEADED, b"\xca\xfe"], b"\x00\x0c\xca\xfeHELLO, WORLD\x00\x00\xca\xfe"),
    Case(LengthPrefixed(2, offset=1, adjustment=1), [HEADED], b"\xca\x00\x0c\xfeHELLO, WORLD"),
    Case(LengthPrefixed(2, offset=1, adjustment=-3), [HEADED], b"\xca\x00\x10\xfeHELLO, WORLD"),
    Case(LengthPrefixed(3, prefix="digits", offset=1, adjustment=-4), [b"!ab", b"?"], b"!006ab?004"),
    Case(LengthPrefixed(prefix="varint", offset=1), [b"!ab", b"?"], b"!\x02ab?\x00"),
    # cr.yp.to/proto/netstrings.txt; Twisted NetstringReceiver.
    Case(Netstring(), [b"hello world!", b""], b"12:hello world!,0:,"),
    Case(Netstring(), [b"5:hello,", b","], b"8:5:hello,,1:,,"),
    # Twisted LineReceiver writes \r\n, and its LineOnlyReceiver takes other delimiters.
    Case(Delimited(b"\r\n"), [b"HELO x", b"", b"a\nb\rc"], b"HELO x\r\n\r\na\nb\rc\r\n"),
    Case(Delimited(b"\0"), [b"hola", b"", b"\n"], b"hola\0\0\n\0"),
    Case(Delimited(b"aab"), [b"a", b"aaa", b""], b"aaab" + b"aaaaab" + b"aab"),
    Case(Delimited(b"==="), [b"x", b"= == ", b""], b"x===" + b"= == ===" + b"==="),
    Case(Lines(), [b"hola", b"", b"a\rb", b"\0"], b"hola\n\na\rb\n\0\n"),
    Case(Lines(), [b"hola", b"", b"a\rb", b"x\r"], b"hola\r\n\r\na\rb\nx\r\r\n", written=False),
    Case(Lines(last_line=True), [b"hola", b""], b"hola\n\n"),
    Case(Lines(last_line=True), [b"hola", b"adios"], b"hola\nadios", written=False, ends=True),
    Case(Lines(last_line=True), [b"", b"adios"], b"\r\nadios\r", written=False, ends=True),
    Case(
        TYPES,
        [b"A12345678", b"Bhola", b"C", b"Dhola", b"B", b"E\1\2hola", b"C"],
        b"A12345678" + b"B\0\0\0\x04hola" + b"C" + b"D4:hola," + b"B\0\0\0\0" + b"E\1\2\x04hola" + b"C",
    ),
    Case(Typed({b"T": Typed({b"a": 1, b"b": LengthPrefixed(1)})}), [b"Tax", b"Tbhola"], b"TaxTb\x04hola"),
    Case(UntilClose(), [b"hola\n\0"], b"hola\n\0", ends=True),
    Case(UntilClose(), [b""], b"", ends=True),
]

FAULTS = [
    # Cut by the end.
    Fault(FixedLength(3), b"unodo", "2 bytes into it", [b"uno"], at_end=True),
    Fault(LengthPrefixed(), b"\0\0\0\x01a\0\0", "2 bytes into it", [b"a"], at_end=True),
    Fault(LengthPrefixed(), b"\0\0\0\x04hol", "7 bytes into it", at_end=True),
    Fault(LengthPrefixed(5, prefix="digits"), b"0000", "4 bytes into it", at_end=True),
    Fault(LengthPrefixed(prefix="varint"), b"\x80", "1 bytes into it", at_end=True),
    Fault(LengthPrefixed(2, offset=2), b"\xca", "1 bytes into it", at_end=True),
    Fault(Netstring(), b"0:,5", "1 bytes into it", [b""], at_end=True),
    Fault(Netstring(), b"5:hello", "7 bytes into it", at_end=True),
    Fault(Delimited(b"\r\n"), b"a\r\nb\r", "2 bytes into it", [b"a"], at_end=True),
    Fault(Lines(), b"a\nb", "1 bytes into it", [b"a"], at_end=True),
    Fault(Typed({b"A": 2}), b"A12A1", "2 bytes into it", [b"A12"], at_end=True),
    # Too big, told before any of the body came.
    Fault(LengthPrefixed(1, max_size=4), b"\x04hola\x05", "5 bytes, over max_size of 4", [b"hola"]),
    Fault(LengthPrefixed(4), b"\0\x80\0\x01", "8388609 bytes, over max_size of 8388608"),
    Fault(LengthPrefixed(4), b"\xff\xff\xff\xff", "4294967295 bytes"),
    Fault(LengthPrefixed(8), b"\x80" + b"\0" * 7, "9223372036854775808 bytes"),
    Fault(LengthPrefixed(8, byteorder="little"), b"\xff" * 8, "18446744073709551615 bytes"),
    Fault(LengthPrefixed(1, prefix="digits", max_size=4), b"5", "5 bytes, over max_size of 4"),
    Fault(LengthPrefixed(20, prefix="digits"), b"9223372036854775808".zfill(20), "9223372036854775808 bytes"),
    Fault(LengthPrefixed(prefix="varint", max_size=4), b"\0\x05", "5 bytes, over max_size of 4", [b""]),
    Fault(LengthPrefixed(prefix="varint"), b"\xff" * 9 + b"\x01", "18446744073709551615 bytes"),
    Fault(LengthPrefixed(1, offset=2, max_size=4), b"ab\x03", "5 bytes, over max_size of 4"),
    Fault(LengthPrefixed(1, adjustment=2, max_size=4), b"\x03", "5 bytes, over max_size of 4"),
    Fault(Netstring(4), b"4:hola,5:", "5 bytes, over max_size of 4", [b"hola"]),
    Fault(Netstring(), b"9223372036854775808:", "9223372036854775808 bytes"),
    Fault(Typed({b"A": 0, b"B": LengthPrefixed(1, max_size=4)}), b"AB\x05", "5 bytes, over max_size of 4", [b"A"]),
    Fault(Delimited(b"\r\n", 4), b"hola\r\nhola!\r", "over max_size of 4", [b"hola"]),
    Fault(Delimited(b"\r\n", 4), b"hola!\r\n", "over max_size of 4"),
    Fault(Lines(4), b"hola\r\nhola!!", "over max_size of 4", [b"hola"]),
    Fault(Lines(4), b"hola\nhola!\n", "5 bytes, over max_size of 4", [b"hola"]),
    Fault(Lines(4, last_line=True), b"hola\nhola!", "5 bytes, over max_size of 4", [b"hola"], at_end=True),
    Fault(UntilClose(4), b"hola!", "over max_size of 4"),
    # No length.
    Fault(LengthPrefixed(5, prefix="digits"), b"00001a+0005", "b'\\+", [b"a"]),
    Fault(LengthPrefixed(5, prefix="digits"), b"-0001", "b'-"),
    Fault(LengthPrefixed(2, prefix="digits"), b" 5", "b' "),
    Fault(LengthPrefixed(3, prefix="digits"), b"1_0", "b'1_"),
    Fault(LengthPrefixed(2, prefix="digits"), "٣".encode(), "digits of a length"),
    Fault(LengthPrefixed(2, prefix="digits"), b"\xb2\xb3", "digits of a length"),
    Fault(LengthPrefixed(2, prefix="digits"), b"5\n", "digits of a length"),
    Fault(LengthPrefixed(prefix="varint"), b"\x01a" + b"\x80" * 10, "more than 64 bits", [b"a"]),
    Fault(LengthPrefixed(prefix="varint"), b"\xff" * 9 + b"\x02", "more than 64 bits"),
    Fault(LengthPrefixed(prefix="varint"), b"\x80" * 10 + b"\x01", "more than 64 bits"),
    Fault(LengthPrefixed(2, adjustment=-2), b"\0\x03a\0\x01", "a length of 1, too little", [b"a"]),
    Fault(LengthPrefixed(2, offset=1, adjustment=-3), b"\xca\0\x02", "a length of 2, too little"),
    Fault(Netstring(), b"1:a,05:", "b'05", [b"a"]),
    Fault(Netstring(), b"00:,", "b'00"),
    Fault(Netstring(), b":,", "b':"),
    Fault(Netstring(), b"+5:", "b'\\+"),
    Fault(Netstring(), b"-1:", "b'-"),
    Fault(Netstring(), b" 5:", "b' "),
    Fault(Netstring(), b"5 :", "b'5 "),
    Fault(Netstring(), "٣:".encode(), "netstring's length"),
    Fault(Netstring(), b"1" * 21, "netstring's length"),
    Fault(Netstring(), b"1:a,1:ab", "b'b' instead of b','", [b"a"]),
    Fault(Netstring(4, on_too_big="skip"), b"5:hello;", "b';' instead of b','"),
    # No type.
    Fault(TYPES, b"CX", "type b'X'", [b"C"]),
    Fault(TYPES, b"CD1:ab", "b'b' instead of b','", [b"C"]),
    # What is skipped may be cut as well.
    Fault(LengthPrefixed(1, on_too_big="skip", max_size=4), b"\x05ho", "3 bytes into it", at_end=True),
    Fault(Netstring(4, on_too_big="skip"), b"5:hello", "7 bytes into it", at_end=True),
    Fault(Lines(4, on_too_big="skip"), b"a\nhola, mundo", "11 bytes into it", [b"a"], at_end=True),
    Fault(Delimited(b"\r\n", 4, on_too_big="skip"), b"hola, mundo\r", "12 bytes into it", at_end=True),
]

_SKIP_VARINT = LengthPrefixed(prefix="varint", max_size=4, on_too_big="skip")
_SKIP_TYPED = Typed({b"A": 1, b"B": LengthPrefixed(1, max_size=4, on_too_big="skip")})

SKIPS = [
    Skip(LengthPrefixed(1, max_size=4, on_too_big="skip"), b"\x01a\x05hello\x05hello\x01b", [b"a", b"b"]),
    Skip(LengthPrefixed(1, max_size=4, on_too_big="skip"), b"\xff" + b"\1" * 255, []),
    Skip(LengthPrefixed(1, offset=1, max_size=4, on_too_big="skip"), b"!\x01a!\x04holx?\x03hol", [b"!a", b"?hol"]),
    Skip(LengthPrefixed(2, prefix="digits", max_size=4, on_too_big="skip"), b"05hello04hola", [b"hola"]),
    Skip(_SKIP_VARINT, b"\x80\x01" + b"x" * 128 + b"\x04hola\x05hello", [b"hola"]),
    Skip(Netstring(4, on_too_big="skip"), b"1:a,5:1:a,:,4:hola,", [b"a", b"hola"]),
    Skip(Delimited(b"\r\n", 4, on_too_big="skip"), b"a\r\nhola!\r\nhola\r\nhola, mundo\r\n\r\n", [b"a", b"hola", b""]),
    Skip(Delimited(b"aab", 2, on_too_big="skip"), b"aaaaab" + b"xaab", [b"x"]),
    Skip(Lines(4, on_too_big="skip"), b"a\nhola!\nhola\r\nhola!\r\nhola, mundo\n\n", [b"a", b"hola", b""]),
    Skip(Lines(4, on_too_big="skip", last_line=True), b"a\nhola, mundo", [b"a"]),
    Skip(Lines(4, on_too_big="skip", last_line=True), b"a\nhola!", [b"a"]),
    Skip(_SKIP_TYPED, b"AxB\x05helloB\x04holaAy", [b"Ax", b"Bhola", b"Ay"]),
    Skip(UntilClose(4, on_too_big="skip"), b"hola, mundo", []),
]


def decode_all(
    framing: Framing,
    chunks: Iterable[bytes],
    *,
    most: int | None = None,
    buffer: ReceiveBuffer | None = None,
    renew: bool = False,
) -> list[bytes]:
    """All messages of a stream that arrives in these chunks and ends, as a connection takes them.

    Where `renew` is set, a new decoder goes on behind every batch of messages.
    """
    messages: list[bytes] = []
    for batch in batches(framing, chunks, most=most, buffer=buffer, renew=renew):
        messages += batch
    return messages


def batches(
    framing: Framing,
    chunks: Iterable[bytes],
    *,
    most: int | None = None,
    buffer: ReceiveBuffer | None = None,
    renew: bool = False,
    at_end: bool = True,
) -> Iterator[list[bytes]]:
    """What `decode` returns call by call, while a stream arrives in these chunks."""
    buffer = ReceiveBuffer() if buffer is None else buffer
    decoder = framing.decoder()
    for chunk in [*chunks, None] if at_end else chunks:
        buffer.append(chunk or b"")
        while batch := decoder.decode(buffer, chunk is None, most):
            yield batch
            assert not decoder.skipping
            # UntilClose has but one message, and a new decoder would find another, empty one.
            if renew and not isinstance(framing, UntilClose):
                decoder = framing.decoder()
    assert not (at_end and decoder.skipping)


def one_by_one(wire: bytes) -> list[bytes]:
    """Every byte as a chunk of its own."""
    return [wire[index : index + 1] for index in range(len(wire))]


def encode(framing: Framing, message: Buffer) -> bytes:
    """The wire form of one message in one piece."""
    return b"".join(framing.encode(message))
