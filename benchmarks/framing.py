"""How fast the framings decode and encode, side by side with the loop that people write by hand.

`python -m benchmarks.framing`: messages of one size fill a buffer of 64 KiB, as one read of a busy connection does;
the last rows have one message in the buffer, as a conversation of question and answer has. The naive loop is one
message at a time out of a bytearray. Both run in turn within each round; the ratio is the median of the rounds'.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Final

from enchufe.buffer import ReceiveBuffer
from enchufe.framing import Delimited, FixedLength, Framing, LengthPrefixed, Lines, Netstring, Typed

BUFFER: Final = 65536
ROUNDS: Final = 15
# How long one measurement takes at the least.
SECONDS: Final = 0.01

Naive = Callable[[bytearray], list[bytes]]


def naive_fixed(size: int) -> Naive:
    """Messages of one size, one by one."""

    def decode(held: bytearray) -> list[bytes]:
        messages = []
        while len(held) >= size:
            messages.append(bytes(held[:size]))
            del held[:size]
        return messages

    return decode


def naive_length(held: bytearray) -> list[bytes]:
    """A length of 4 bytes, one message after the other."""
    messages = []
    while len(held) >= 4:
        end = 4 + int.from_bytes(held[:4], "big")
        if len(held) < end:
            break
        messages.append(bytes(held[4:end]))
        del held[:end]
    return messages


def naive_digits(held: bytearray) -> list[bytes]:
    """A length of 5 digits, one message after the other."""
    messages = []
    while len(held) >= 5:
        end = 5 + int(held[:5])
        if len(held) < end:
            break
        messages.append(bytes(held[5:end]))
        del held[:end]
    return messages


def naive_varint(held: bytearray) -> list[bytes]:
    """A varint in front, one message after the other."""
    messages = []
    while held:
        size = body = 0
        while True:
            byte = held[body]
            size |= (byte & 0x7F) << 7 * body
            body += 1
            if byte < 0x80:
                break
        if len(held) < body + size:
            break
        messages.append(bytes(held[body : body + size]))
        del held[: body + size]
    return messages


def naive_netstring(held: bytearray) -> list[bytes]:
    """One netstring after the other."""
    messages = []
    while (colon := held.find(b":")) >= 0:
        end = colon + 1 + int(held[:colon])
        if len(held) < end + 1:
            break
        messages.append(bytes(held[colon + 1 : end]))
        del held[: end + 1]
    return messages


def naive_delimited(delimiter: bytes) -> Naive:
    """One line after the other."""

    def decode(held: bytearray) -> list[bytes]:
        messages = []
        while (end := held.find(delimiter)) >= 0:
            messages.append(bytes(held[:end]))
            del held[: end + len(delimiter)]
        return messages

    return decode


def naive_typed(held: bytearray) -> list[bytes]:
    """A type and a length of 4 bytes, one message after the other."""
    messages = []
    while len(held) >= 5:
        end = 5 + int.from_bytes(held[1:5], "big")
        if len(held) < end:
            break
        messages.append(bytes(held[:1] + held[5:end]))
        del held[:end]
    return messages


@dataclass(frozen=True)
class Row:
    """One line of the table: so many messages of one size in the buffer at once."""

    name: str
    framing: Framing
    naive: Naive
    size: int
    count: int

    def measure(self) -> str:
        """The line."""
        message = b"x" * self.size
        wire = b"".join(self.framing.encode(message)) * self.count
        buffer, decoder = ReceiveBuffer(), self.framing.decoder()

        def ours() -> int:
            buffer.append(wire)
            return len(decoder.decode(buffer))

        def theirs() -> int:
            return len(self.naive(bytearray(wire)))

        def encoding() -> int:
            for _ in range(self.count):
                self.framing.encode(message)
            return self.count

        rounds = [(rate(ours), rate(theirs), rate(encoding)) for _ in range(ROUNDS)]
        decoded, naive, encoded = (median(column) for column in zip(*rounds, strict=True))
        ratios = [one / other for one, other, _ in rounds]
        told = f"{median(ratios):6.1f}  ({min(ratios):.1f}..{max(ratios):.1f})"
        return f"{self.name:<22} {self.size:>6} {self.count:>6} {decoded:>9.2f} {naive:>9.2f} {encoded:>9.2f}   {told}"


def rate(work: Callable[[], int]) -> float:
    """Millions of messages a second."""
    done, start = 0, perf_counter()
    while True:
        done += work()
        seconds = perf_counter() - start
        if seconds >= SECONDS:
            return done / seconds / 1e6


def rows() -> list[Row]:
    """What is measured."""
    length, lines = LengthPrefixed(), Lines()
    kinds: list[tuple[str, Framing, Naive]] = [
        ("FixedLength", FixedLength(64), naive_fixed(64)),
        ("LengthPrefixed(4)", length, naive_length),
        ("digits, 5", LengthPrefixed(5, prefix="digits"), naive_digits),
        ("varint", LengthPrefixed(prefix="varint"), naive_varint),
        ("Netstring", Netstring(), naive_netstring),
        ("Delimited(CR LF)", Delimited(b"\r\n"), naive_delimited(b"\r\n")),
        ("Lines", lines, naive_delimited(b"\n")),
        ("Typed, fixed", Typed({b"x": 63}), naive_fixed(64)),
        ("Typed, length", Typed({b"x": length}), naive_typed),
    ]
    table = [Row(name, framing, naive, 64, BUFFER // 68) for name, framing, naive in kinds]
    for size in (1024, 16000):
        table.append(Row("LengthPrefixed(4)", length, naive_length, size, BUFFER // (size + 4)))
        table.append(Row("Lines", lines, naive_delimited(b"\n"), size, BUFFER // (size + 4)))
    table.append(Row("LengthPrefixed(4)", length, naive_length, 64, 1))
    table.append(Row("Lines", lines, naive_delimited(b"\n"), 64, 1))
    return table


def main() -> None:
    """Print the table."""
    gc.disable()
    print(f"{'':<22} {'bytes':>6} {'in one':>6}   million messages a second       decode / naive")
    print(f"{'':<22} {'':>6} {'buffer':>6} {'decode':>9} {'naive':>9} {'encode':>9}   median (min..max)")
    for row in rows():
        print(row.measure())


if __name__ == "__main__":
    main()
