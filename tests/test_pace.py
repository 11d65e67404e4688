"""A rate that several streams keep to."""

from __future__ import annotations

from enchufe.pace import Pace


def drawn(pace: Pace, streams: list[int], seconds: float) -> dict[int, int]:
    """How many bytes each stream gets, if all ask a hundred times a second, in this order, and spend what they get."""
    got = dict.fromkeys(streams, 0)
    for moment in range(int(seconds * 100)):
        for stream in streams:
            granted, _ = pace.grant(stream, moment / 100)
            pace.spend(granted)
            got[stream] += granted
    return got


def test_all_together_keep_to_it_and_each_has_its_turn() -> None:
    got = drawn(Pace(1000.0, 0.0), [0, 1, 2], 10)
    assert 9_000 <= sum(got.values()) <= 10_100
    assert min(got.values()) > 3_000


def test_who_does_not_ask_any_more_holds_up_nobody_for_long() -> None:
    pace = Pace(1000.0, 0.0)
    assert pace.grant(1, 0.0)[0] == 0
    assert drawn(pace, [0], 2)[0] > 1_300


def test_what_was_not_used_is_lost_but_for_a_moment() -> None:
    pace = Pace(1000.0, 0.0)
    granted, _ = pace.grant(0, 60.0)
    assert 0 < granted <= 100
