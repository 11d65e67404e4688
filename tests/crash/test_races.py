"""Threads that are held up, connections that are cut, files that change: CI's share."""

from __future__ import annotations

from tests.crash import races

SHARE = 24


def test_what_timing_alone_shows() -> None:
    ends = races.runs(list(range(SHARE)))
    assert ends.total() == SHARE
    assert ends["done"] >= SHARE // 4
    assert ends["resumed"] > 0
