"""Bits that change: on the wire (CI's share), in part files and in journals."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from enchufe import events
from enchufe.entry import BLOCK_SIZE
from enchufe.errors import EnchufeError
from enchufe.store import LocalStore
from enchufe.store.journal import RECORD_SIZE
from enchufe.store.memory import MemoryStore
from enchufe.transfer import messages as m
from enchufe.transfer.message import Role
from enchufe.transfer.offers import Offer
from tests.crash import flips, trees
from tests.crash.flipping import counted
from tests.crash.wire import Harm, attempt
from tests.everywhere import everywhere

SHARE = 400
BLOCKS = 6
SIZE = BLOCKS * BLOCK_SIZE + 123


def test_flipped_on_the_wire() -> None:
    chosen = random.Random(5).sample(flips.points(), SHARE)
    ends = sum(everywhere(partial(counted, flips.run), [chosen[first::8] for first in range(8)]), Counter[str]())
    assert ends.total() == SHARE
    assert ends["refused"] >= SHARE // 2


@pytest.fixture
def sent() -> MemoryStore:
    store = MemoryStore()
    store.add("big", random.Random(7).randbytes(SIZE), mtime_ns=trees.T)
    return store


@pytest.mark.parametrize("bit", range(20, 23))
def test_a_block_that_passes_for_another_is_not_kept(tmp_path: Path, sent: MemoryStore, bit: int) -> None:
    """A bit of its offset changed: its digest is right. That shows when the other one comes, or at the end."""
    offer = [m.Hello(Role.SENDER), Offer(list(sent.source().walk())), m.OfferEnd(1, SIZE, 0)]
    offset = sum(len(piece) for message in offer for piece in m.frame(message)) + 5 + 4
    first = attempt(sent, LocalStore(tmp_path), Harm(True, offset + 7 - bit // 8, 1 << bit % 8))
    assert isinstance(first.receiver, EnchufeError)
    assert sent_again(sent, tmp_path) == SIZE


@pytest.fixture
def inbox(tmp_path: Path, sent: MemoryStore) -> Path:
    """Where a transfer was cut in its fifth block."""
    folder = tmp_path / "inbox"
    first = attempt(sent, LocalStore(folder), Harm(True, 4 * BLOCK_SIZE + 5000))
    assert not isinstance(first.receiver, events.Receipt)
    (area,) = trees.areas(folder)
    assert trees.journaled(area) == 4 * BLOCK_SIZE
    return folder


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def sent_again(sent: MemoryStore, inbox: Path) -> int:
    done = attempt(sent, LocalStore(inbox), epoch=2)
    assert isinstance(done.sender, events.Receipt), done
    assert (inbox / "big").read_bytes() == sent.contents()["big"]
    assert trees.shown(inbox) == ["big"]
    trees.check_swept(inbox)
    return done.sender.sent_bytes


def part(inbox: Path) -> Path:
    (found,) = (path for path in trees.areas(inbox)[0].iterdir() if path.name not in ("journal", "root"))
    return found


def test_nothing_flipped(sent: MemoryStore, inbox: Path) -> None:
    assert sent_again(sent, inbox) == SIZE - 4 * BLOCK_SIZE


@pytest.mark.parametrize("blocks", [{0}, {3}, {1, 2}, {0, 1, 2, 3}])
def test_flipped_in_the_part_file(sent: MemoryStore, inbox: Path, blocks: set[int]) -> None:
    for block in blocks:
        flip(part(inbox), block * BLOCK_SIZE + 1000 * block)
    assert sent_again(sent, inbox) == SIZE - (4 - len(blocks)) * BLOCK_SIZE


@pytest.mark.parametrize("at", range(0, RECORD_SIZE, 5))
def test_flipped_in_the_journal(sent: MemoryStore, inbox: Path, at: int) -> None:
    (area,) = trees.areas(inbox)
    flip(area / "journal", 2 * RECORD_SIZE + at)
    assert sent_again(sent, inbox) == SIZE - 3 * BLOCK_SIZE


def test_flipped_in_both(sent: MemoryStore, inbox: Path) -> None:
    (area,) = trees.areas(inbox)
    flip(area / "journal", 7)
    flip(part(inbox), 3 * BLOCK_SIZE)
    assert sent_again(sent, inbox) == SIZE - 2 * BLOCK_SIZE
