"""How long a dialer goes on after a cut, by a clock that does what it is told."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from enchufe import events, meeting
from enchufe.errors import BrokenError, BusyError, DeadlineExceeded, EnchufeError
from enchufe.meeting import _FIRST_PAUSE, _LONGEST_PAUSE, Patience
from enchufe.session import Options
from enchufe.transfer.machine import InterruptedThere, TakenOver

CUT = BrokenError("cut")


class Clock:
    """Seconds, as far as somebody has waited."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_pauses_grow_up_to_a_longest_and_are_not_in_step(clock: Clock) -> None:
    patience = Patience(1e9, clock)
    pauses = [patience.pause(CUT, met=True, moved=False) for _ in range(12)]
    for number, pause in enumerate(pauses):
        most = min(_FIRST_PAUSE * 2**number, _LONGEST_PAUSE)
        assert pause is not None
        assert most / 2 <= pause <= most
    others = [Patience(1e9, clock).pause(CUT, met=True, moved=False) for _ in range(20)]
    assert len(set(others)) > 1


def test_it_ends_after_so_many_seconds_without_progress(clock: Clock) -> None:
    patience = Patience(10.0, clock)
    waited = 0.0
    while (pause := patience.pause(CUT, met=True, moved=False)) is not None:
        assert pause > 0
        waited += pause
        clock.now += pause
        assert waited <= 10.0 + 1e-6
    assert waited == pytest.approx(10.0)


def test_progress_begins_anew(clock: Clock) -> None:
    patience = Patience(10.0, clock)
    for _ in range(100):
        pause = patience.pause(CUT, met=True, moved=True)
        assert pause is not None
        assert pause <= _FIRST_PAUSE
        clock.now += 9.0
    assert patience.pause(CUT, met=True, moved=False) is not None
    clock.now += 10.0
    assert patience.pause(CUT, met=True, moved=False) is None


def test_nobody_there_from_the_start_is_no_cut(clock: Clock) -> None:
    patience = Patience(10.0, clock)
    assert patience.pause(CUT, met=False, moved=False) is None


def test_nobody_there_after_a_cut_is_waited_for(clock: Clock) -> None:
    """A receiver that is started again takes a moment."""
    patience = Patience(10.0, clock)
    assert patience.pause(CUT, met=True, moved=True) is not None
    assert patience.pause(CUT, met=False, moved=False) is not None


@pytest.mark.parametrize("error", [CUT, TakenOver("by another"), BusyError("busy"), DeadlineExceeded("late")])
def test_what_passes_is_waited_for_and_zero_means_never(clock: Clock, error: EnchufeError) -> None:
    assert Patience(10.0, clock).pause(error, met=True, moved=False) is not None
    assert Patience(0.0, clock).pause(error, met=True, moved=True) is None


def test_whoever_was_taken_over_keeps_its_epoch_until_it_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would end the one that has taken over."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    epochs: list[int] = []
    # Whether somebody is reached, whether we are let in, and how it ends.
    tries: list[tuple[bool, bool, EnchufeError]] = [
        (True, True, CUT),
        (True, True, TakenOver("by another")),
        (False, False, CUT),
        (True, False, BusyError("busy")),
        (True, False, CUT),
        (True, True, TakenOver("again")),
        (True, True, CUT),
        (True, True, InterruptedThere("there")),
    ]

    class Aim:
        met = True

        async def reach(self, waiter: object, timeout: float) -> object:
            if not tries[0][0]:
                raise tries.pop(0)[2]
            return SimpleNamespace(transport=nullcontext(), dial=None, secret=None, name=None)

    def make(transport: object, options: Options) -> object:
        epochs.append(options.epoch)
        _, let_in, error = tries.pop(0)

        async def complete() -> None:
            raise error

        return SimpleNamespace(
            machine=SimpleNamespace(peer=let_in or None), crossed=1, complete=complete, concluded=None
        )

    with pytest.raises(InterruptedThere):
        meeting.dialing(Aim(), make, b"", Options(), 3600.0, id)  # type: ignore[arg-type]
    first, second, busy, cut, again, after, last = epochs
    assert first < second == busy == cut == again == after < last


def test_who_has_looked_for_the_other_side_does_not_pause_beside() -> None:
    """Or whoever is back where he was is found that much later."""
    told: list[events.Event] = []

    class Aim:
        met = True

        async def reach(self, waiter: object, timeout: float) -> object:
            if len(told) == 3:
                raise InterruptedThere("there")
            time.sleep(2 * _FIRST_PAUSE)
            raise CUT

    with pytest.raises(InterruptedThere):
        meeting.dialing(Aim(), lambda *_: None, b"", Options(), 3600.0, told.append)  # type: ignore[arg-type]
    assert [event.seconds for event in told[:2] if isinstance(event, events.Retrying)] == [0.0, 0.0]


def test_an_interruption_is_somebodys_will(clock: Clock) -> None:
    assert Patience(10.0, clock).pause(InterruptedThere("there"), met=True, moved=True) is None
