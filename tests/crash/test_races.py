"""Threads that are held up, connections that are cut, files that change: CI's share."""

from __future__ import annotations

from collections import Counter

from tests.crash import races
from tests.crash.peers import everywhere

SHARE = 80


def test_what_timing_alone_shows() -> None:
    ends = sum(everywhere(races.runs, [[seed] for seed in range(SHARE)]), Counter[str]())
    assert ends.total() == SHARE
    assert ends["done"] >= SHARE // 4
    assert ends["resumed"] > 0
