"""Slow links: what shrinks is compressed there, and a limit holds over all streams."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from enchufe import events
from enchufe.entry import BLOCK_SIZE
from enchufe.store.memory import MemoryStore
from tests.sessions.relay import Relay, slow
from tests.sessions.transfers import Ends, transfer

WORDS = [bytes(random.Random(4).choices(b"abcdefghij ", k=9)) for _ in range(500)]
TEXT = b"".join(random.Random(5).choices(WORDS, k=900_000))[: 6 * BLOCK_SIZE + 77]
NOISE = random.Random(6).randbytes(6 * BLOCK_SIZE + 77)


def send(relay: Relay | None = None, data: bytes = TEXT, **how: Any) -> Ends:
    store, inbox = MemoryStore(), MemoryStore()
    store.add("big", data)
    for number in range(50):
        store.add(f"small {number}", data[number : 3000 + number])
    ends = transfer(store.source, inbox.begin, relay=relay, **how)
    assert inbox.contents() == store.contents(), ends
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    return ends


def crossed(relay: Relay) -> int:
    return sum(count for way, count in relay.counts.items() if way.there)


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_what_shrinks_is_compressed_where_that_is_wanted(streams: int) -> None:
    with Relay() as relay:
        ends = send(relay, compress="always", streams=streams)
    assert crossed(relay) < 0.7 * len(TEXT)
    assert ends.sender.receipt.bytes == len(TEXT) + 50 * 3000
    assert ends.sender.receipt.sent_bytes < 0.7 * len(TEXT)


@pytest.mark.parametrize("streams", [1, 2])
def test_what_does_not_shrink_goes_as_it_is(streams: int) -> None:
    with Relay() as relay:
        ends = send(relay, NOISE, compress="always", streams=streams)
    # The small files overlap, so they may shrink together.
    assert len(NOISE) <= ends.sender.receipt.sent_bytes <= len(NOISE) + 50 * 3000
    assert len(NOISE) <= crossed(relay) <= 1.02 * (len(NOISE) + 50 * 3000)


def test_never_is_never() -> None:
    with Relay(lambda _: slow(20e6), small=True) as relay:
        ends = send(relay, compress="never", streams=2)
    assert ends.sender.receipt.sent_bytes == len(TEXT) + 50 * 3000


@pytest.mark.parametrize("streams", [1, 2])
def test_a_slow_link_is_found_out(streams: int) -> None:
    """After a second of it: so all that comes later crosses in less."""
    with Relay(lambda way: slow(4e6 / streams) if way.there else None, small=True) as relay:
        ends = send(relay, TEXT * 4, compress="auto", streams=streams)
    assert ends.sender.receipt.sent_bytes < 0.9 * 4 * len(TEXT)
    assert crossed(relay) < 0.9 * 4 * len(TEXT)


@pytest.mark.parametrize("streams", [1, 3])
def test_a_limit_holds_over_all_streams(streams: int) -> None:
    limit = 4e6
    ends = send(data=NOISE[: 4 * BLOCK_SIZE], limit=limit, streams=streams)
    seconds = ends.sender.receipt.seconds
    # What the sockets take in at once counts when it is sent, not when it arrives.
    assert 4 * BLOCK_SIZE / seconds < 1.3 * limit


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_slow_is_not_silent(streams: int, tmp_path: Path) -> None:
    """A block lasts longer than the other side's patience, on every stream."""
    ends = send(data=NOISE[: BLOCK_SIZE + 5], limit=250e3, streams=streams, timeout=3)
    assert not ends.receiver.of(events.Failed)
