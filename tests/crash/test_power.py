"""Power cuts on a real ext4: CI's share of them."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from enchufe.entry import Answer
from enchufe.store import LocalStore, journal
from tests.crash import power
from tests.everywhere import everywhere
from tests.test_resume import ALL, TREE, entries, finish, receive
from tests.until import until

FIRST, CUTS = 7, 12  # of these seeds four have the power go behind the receipt, whatever else takes how long


@pytest.mark.skipif(bool(power.refused()), reason=power.refused() or "-")
def test_power_cuts() -> None:
    halves = [(FIRST, CUTS // 2, "ext4"), (FIRST + CUTS // 2, CUTS - CUTS // 2, "ext4")]
    ends = sum(everywhere(power.run, halves, 2), Counter[str]())
    assert ends.total() == CUTS
    assert ends["receipted"] >= 2
    assert ends["receipted"] < CUTS


def taken_over(at_risk: int) -> int:
    """Bytes that are sent again after a power cut shortly after what was cut goes on; in a process for nothing else."""
    power.see_alone()
    journal.AT_RISK = at_risk  # type: ignore[misc]
    with power.disk("ext4") as made:
        inbox = made.at / "inbox"
        begun = LocalStore(inbox).begin()
        assert receive(begun) == ALL
        begun.suspend()
        made.settle()
        begun = LocalStore(inbox).begin()
        assert [begun.admit(entry) for entry in (TREE, *entries())] == [Answer.ALL, *[Answer.REST] * 4]
        until(lambda: begun._journal._syncing is None)
        with open(made.at / "other", "wb") as other:
            os.fsync(other.fileno())  # and with it all names, as the kernel does it every few seconds by itself
        made.pull()
        begun.suspend()
        made.unplug()
        made.plug()
        return finish(inbox)


@pytest.mark.skipif(bool(power.refused()), reason=power.refused() or "-")
def test_what_was_taken_over_outlives_a_power_cut() -> None:
    assert list(everywhere(taken_over, [1], 1)) == [0]
