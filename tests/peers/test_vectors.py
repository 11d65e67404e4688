"""The vectors of tests/tables are still what the peers write."""

from __future__ import annotations

import pytest

from tests.peers.capture import captured
from tests.peers.talkers import TALKERS
from tests.tables.foreign_vectors import VECTORS, Vector


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_peer_reads_and_writes_its_vector(vector: Vector) -> None:
    (talker,) = [talker for talker in TALKERS if talker.name == vector.peer]
    assert captured(talker, vector.wire) == vector.wire


def test_every_peer_has_one() -> None:
    assert [vector.peer for vector in VECTORS] == [talker.name for talker in TALKERS]
