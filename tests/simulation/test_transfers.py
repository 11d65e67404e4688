"""The real sessions on a simulated network and disk: CI's share of the seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from enchufe.entry import Entry
from enchufe.session import SendingSession
from enchufe.testing import ModelDelivery
from enchufe.transfer.sender import Work
from tests.simulation import transfers
from tests.simulation.at_hand import Answered, ModelHands
from tests.simulation.blocks import small_blocks

SHARE = 1500


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with small_blocks():
        yield


@pytest.mark.parametrize("tenth", range(10))
def test_transfers_go_as_the_model_says(tenth: int) -> None:
    for seed in range(tenth * SHARE // 10, (tenth + 1) * SHARE // 10):
        transfers.run(seed)


def test_of_a_hundred_attempts_at_once_one_wins() -> None:
    transfer = transfers.Transfer(1, rivals=100)
    transfer.run()
    there = Counter(len(path) for path in transfer.store.nodes())
    assert there == Counter(len(path) for path in transfer.tree.nodes)
    assert not transfer.store.twice


def test_the_same_seed_gives_the_same_run() -> None:
    def told(seed: int, rivals: int | None = None) -> object:
        transfer = transfers.Transfer(seed, rivals)
        transfer.run()
        return transfer.network.clock(), transfer.turns.steps, transfer.store.twice

    for seed in range(100):
        assert told(seed) == told(seed)
    assert told(1, 50) == told(1, 50)  # so many that the door drops some


def test_whole_folders_are_found_to_be_the_same_and_not() -> None:
    same = differing = 0
    for seed in range(300):
        transfer = transfers.Transfer(seed)
        transfer.run()
        same += sum(session.machine.same_entries for _, session in transfer.sources)
        differing += sum(session._differing_entries for _, session in transfer.sources)
    assert same > 20
    assert differing > 20


def test_small_files_are_read_and_written_by_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    ask = ModelHands.ask

    def counted(hands: ModelHands, job: Callable[[], Any], answered: Answered) -> None:
        asked[job.__qualname__.rsplit(".<locals>")[0]] += 1
        ask(hands, job, answered)

    monkeypatch.setattr(ModelHands, "ask", counted)
    for seed in range(100):
        transfers.run(seed)
    assert asked["Source.read_together"] > 50
    assert asked["Delivery.write_together"] > 50
    assert asked["Delivery.recheck_together"] > 2


def test_a_sender_that_drops_a_block_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it once did where small files turned out to be read just when it had taken one."""
    take_work = SendingSession._take_work

    def forgetful(session: SendingSession) -> Work | None:
        work = take_work(session)
        return None if session._read and not isinstance(work, list) else work

    monkeypatch.setattr(SendingSession, "_take_work", forgetful)
    with pytest.raises(AssertionError, match="goes on for ever"):
        for seed in range(500):
            transfers.run(seed)


def test_a_store_that_takes_any_folder_for_the_same_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Anything:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = object.__hash__

    monkeypatch.setattr(ModelDelivery, "_listing", lambda _delivery, _folder: Anything())
    with pytest.raises(AssertionError):
        for seed in range(500):
            transfers.run(seed)


def test_a_store_that_believes_its_journal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def believe(_delivery: ModelDelivery, _entry: Entry) -> Sequence[int]:
        return []

    monkeypatch.setattr(transfers.Delivery, "recheck", believe)
    with pytest.raises(AssertionError) as caught:
        for seed in range(500):
            transfers.run(seed)
    assert "--from" in caught.value.__notes__[0]


def test_a_store_that_keeps_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers.Delivery, "suspend", ModelDelivery.abandon)
    with pytest.raises(AssertionError, match="came twice"):
        for seed in range(500):
            transfers.run(seed)
