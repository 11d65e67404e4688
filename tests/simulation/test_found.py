"""What the simulation of transfers has found, each by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from enchufe.store.memory import MemoryStore, Node
from enchufe.testing import Fault
from tests.simulation.blocks import SMALL as BLOCK
from tests.simulation.blocks import small_blocks
from tests.simulation.transfers import Transfer

SEEDS = range(40)


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with small_blocks():
        yield


def a_transfer(seed: int, sizes: dict[str, int], *, streams: int = 1, troubles: int = 0) -> Transfer:
    tree = MemoryStore()
    for number, (name, size) in enumerate(sizes.items()):
        tree.add(name, bytes([number]) * size, mtime_ns=number)
    transfer = Transfer(seed, tree=tree)
    transfer.streams, transfer.troubles = streams, troubles
    transfer.changes, transfer.may_change = 0, False
    return transfer


@pytest.mark.parametrize("seed", SEEDS)
def test_small_files_on_another_stream_may_come_after_the_finish(seed: int) -> None:
    a_transfer(seed, {"a": 100, "b": 100, "c": 1}, streams=4).run()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_empty_file_that_is_kept_does_not_end_the_next_attempt(seed: int) -> None:
    a_transfer(seed, {"d/empty": 0, "d/big": 30 * BLOCK}, troubles=2).run()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hard_link_waits_for_its_file(seed: int) -> None:
    transfer = a_transfer(seed, {"a": 12 * BLOCK}, streams=3)
    transfer.tree.nodes[b"link",] = transfer.tree.nodes[b"a",]
    transfer.right[b"link",] = transfer.right[b"a",]
    transfer.run()


@pytest.mark.parametrize("seed", range(100))
def test_what_is_here_may_be_told_after_the_finish(seed: int) -> None:
    transfer = a_transfer(seed, {"a": 3 * BLOCK})
    transfer.update = transfer.store.update = True
    transfer.slow_disk = 0.2
    transfer.before[b"a",] = old = Node(data=bytearray(b"old" * 2 * BLOCK), mtime_ns=1)
    transfer.right[b"a",].append((old.kind, bytes(old.data), old.mode, old.mtime_ns, old.target))
    transfer.store.add((b"a",), old)
    transfer.run()


@pytest.mark.parametrize("kind", ["reset", "vanish"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_stream_that_never_arrives_is_lost(seed: int, kind: str) -> None:
    transfer = a_transfer(seed, {"a": 30 * BLOCK}, streams=2)
    transfer.sender_dials = True
    faults = iter([(None, None), (Fault(kind, 10), None)])
    transfer.turns.faults = lambda: next(faults, (None, None))
    transfer.run()
