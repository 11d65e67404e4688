"""enchufe writes what its peers wrote, and reads what they wrote: without them. With them: tests/peers."""

from __future__ import annotations

import pytest

from enchufe.framing import parse_framing
from tests.tables.foreign_vectors import VECTORS, Vector
from tests.tables.framing_cases import decode_all, encode

every_vector = pytest.mark.parametrize("vector", VECTORS, ids=str)


@every_vector
def test_the_same_bytes_are_written(vector: Vector) -> None:
    framing = parse_framing(vector.framing, max_size=1 << 20)
    assert b"".join(encode(framing, message) for message in vector.messages) == vector.wire


@every_vector
@pytest.mark.parametrize("chunk", [97, 4096, 1 << 20])
def test_the_same_messages_are_read(vector: Vector, chunk: int) -> None:
    framing, wire = parse_framing(vector.framing, max_size=1 << 20), vector.wire
    assert decode_all(framing, [wire[at : at + chunk] for at in range(0, len(wire), chunk)]) == vector.messages
