"""Power cuts on a real ext4: CI's share of them."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.crash import power
from tests.everywhere import everywhere

CUTS = 12


@pytest.mark.skipif(bool(power.refused()), reason=power.refused() or "-")
def test_power_cuts() -> None:
    halves = [(0, CUTS // 2, "ext4"), (CUTS // 2, CUTS - CUTS // 2, "ext4")]
    ends = sum(everywhere(power.run, halves, 2), Counter[str]())
    assert ends.total() == CUTS
    assert ends["receipted"] >= 2
    assert ends["receipted"] < CUTS
