"""Writes tests/tables/foreign_vectors.py anew: `python -m tests.peers.capture >FILE`, then `ruff format FILE`."""

from __future__ import annotations

import re
from importlib.metadata import version

from tests.peers.talkers import TALKERS, Talker, connected

HEAD = '''"""What other implementations wrote on a real socket: `tests/peers/capture.py` took it down.

Made by {versions}.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vector:
    """Messages and the bytes that a peer made of them, and that it read the same messages from.

    Attributes:
        framing: as `parse_framing` reads it.
    """

    peer: str
    framing: str
    messages: list[bytes]
    wire: bytes

    def __str__(self) -> str:
        return self.peer


VECTORS = ['''
BODIES = [b"hola", b"", b"\0", b"a\0b", bytes(range(240, 256)), *(b"x" * size for size in (127, 128, 253, 254, 255))]
LONGER = [b"x" * size for size in (256, 16383, 16384, 65535, 65536)]


def captured(talker: Talker, wire: bytes) -> bytes:
    """What a talker answers to `wire`, as many bytes."""
    with connected(talker, "listens", "echo", talker.framed()) as connection:
        file = connection.file()
        file.write(wire)
        file.flush()
        return file.read(len(wire))


def literal(data: bytes) -> str:
    """`data` in Python: in short lines, and long runs of one byte or two told short."""
    parts = []
    for run in re.finditer(rb"(..??)\1{15,}|(?:(?!(..??)\2{15}).){1,24}", data, re.DOTALL):
        unit = run[1]
        parts.append(f"{unit!r} * {len(run[0]) // len(unit)}" if unit else repr(run[0]))
    return " + ".join(parts) or "b''"


def main() -> None:
    versions = f"Twisted {version('twisted')}, protobuf {version('protobuf')}, Debian 12's Erlang/OTP 25"
    print(HEAD.format(versions=versions))
    for talker in TALKERS:
        messages = [talker.wrap(body) for body in BODIES + LONGER if len(body) <= talker.longest]
        framing = talker.framed()
        wire = captured(talker, b"".join(piece for message in messages for piece in framing.encode(message)))
        told = ", ".join(map(literal, messages))
        print(f"    Vector({talker.name!r}, {talker.framing!r}, [{told}], {literal(wire)}),")
    print("]")


if __name__ == "__main__":
    main()
