"""The rate that is told: after a pause, after a cut, and while nothing comes."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from enchufe import events
from enchufe.entry import BLOCK_SIZE
from enchufe.session.base import Rates
from tests.sessions.relay import Bend, CuttingRelay, Relay, Way
from tests.sessions.transfers import PATIENCE, send

DATA = random.Random(17).randbytes(24 * BLOCK_SIZE)


def test_what_comes_at_once_after_a_pause_is_not_the_work_of_a_moment() -> None:
    rates = Rates(100.0)
    assert rates.rate(101.0, 1000) == pytest.approx(1000)
    assert rates.rate(102.0, 2000) == pytest.approx(1000)
    assert rates.rate(112.0, 2000) == 0
    assert rates.rate(117.0, 3000) == pytest.approx(200)
    assert rates.rate(117.001, 4000) == pytest.approx(400, rel=0.01)
    assert rates.rate(121.0, 4000) == 0


def test_it_forgets_what_is_long_past() -> None:
    rates = Rates(0.0)
    for second in range(1, 50):
        rates.rate(second, 1000 * second)
    assert rates.rate(50, 49_000 + 7000) == pytest.approx((1000 * 2 + 7000) / 3)


def test_it_is_never_negative() -> None:
    """What was found damaged is not there any more."""
    rates = Rates(0.0)
    rates.rate(1.0, 5000)
    assert rates.rate(2.0, 0) == 0
    assert rates.rate(6.0, 100) > 0


@pytest.mark.parametrize("sender_dials", [True, False], ids=["sender dials", "receiver dials"])
def test_what_was_there_before_a_cut_does_not_count(tmp_path: Path, sender_dials: bool) -> None:
    """It is there in no time, and says nothing of how long the rest will take."""
    tree = tmp_path / "tree"
    tree.write_bytes(DATA)
    limit = 8 * BLOCK_SIZE
    with CuttingRelay(20 * BLOCK_SIZE, there=sender_dials) as relay:
        ends = send(
            tree, tmp_path / "inbox", relay=relay, retry=60.0, streams=1, limit=limit, sender_dials=sender_dials
        )
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    for side in (ends.sender, ends.receiver):
        after = side.told[max(at for at, told in enumerate(side.told) if isinstance(told, events.Connected)) :]
        told = [event for event in after if isinstance(event, events.Progress)]
        assert told[-1].bytes == len(DATA)
        # What one second lets through, and what the buffers of sockets hold.
        assert max(event.rate for event in told) < 3 * limit


@pytest.mark.parametrize("sender_dials", [True, False], ids=["sender dials", "receiver dials"])
def test_a_rate_falls_to_nothing_while_nothing_comes(tmp_path: Path, sender_dials: bool) -> None:
    (tmp_path / "tree").write_bytes(DATA)
    on = threading.Event()

    def hold(offset: int, piece: bytes) -> bytes:
        if offset > len(DATA) // 2:
            assert on.wait(PATIENCE)
        return piece

    def choose(way: Way) -> Bend | None:
        return hold if way.there == sender_dials else None

    still: set[int] = set()

    def look(event: events.Event) -> None:
        if isinstance(event, events.Progress) and event.bytes and not event.rate:
            still.add(threading.get_ident())
            if len(still) == 2:  # both sides have told
                on.set()

    with Relay(choose) as relay:
        ends = send(
            tmp_path / "tree", tmp_path / "inbox", relay=relay, streams=1, sender_dials=sender_dials, on_event=look
        )
        on.set()
    assert len(still) == 2
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
