"""Kill -9 at system calls of a receive and of a send of 200 files: CI's share of them."""

from __future__ import annotations

import random

import pytest

from tests.crash import kills
from tests.crash.peers import no_strace
from tests.everywhere import everywhere

SHARE = 30

pytestmark = pytest.mark.skipif(bool(no_strace()), reason=no_strace())


def test_killed_at_any_call() -> None:
    """Some calls of each kind of thread, and those of a commit in the first place."""
    rng = random.Random(20)
    chosen = kills.points()
    commit = [point for point in chosen if point.moment == "commit"]
    share = rng.sample(chosen, SHARE - 10) + rng.sample(commit, 10)
    ends = list(everywhere(kills.run, share))
    assert ends.count("hidden") >= 5  # most were killed in time, and left something to be done


def test_every_call_is_counted() -> None:
    made = kills.calls()
    assert set(made) == set(kills.KINDS)
    assert {"renameat2", "fsync", "linkat"} <= made["receiver", "commit"].keys()
    assert made["receiver", "start"]["utimensat"] + made["receiver", "stream"].get("utimensat", 0) >= 100
