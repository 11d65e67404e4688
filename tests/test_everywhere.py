"""Searches on every processor end when they cannot go on."""

from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool

import pytest

from tests.everywhere import everywhere


def test_every_point_is_tried() -> None:
    assert sorted(everywhere(abs, range(-30, 0), 2)) == list(range(1, 31))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes choose no processors here")
def test_each_process_keeps_to_a_processor() -> None:
    kept = dict(everywhere(kept_to, range(40), 2, settled=True))
    assert all(len(processors) == 1 for processors in kept.values())
    several = len(kept) > 1 and len(os.sched_getaffinity(0)) > 1
    assert len(set(map(frozenset, kept.values()))) == len(kept) or not several


def kept_to(_point: int) -> tuple[int, set[int]]:
    return os.getpid(), os.sched_getaffinity(0)


def test_the_first_failure_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        list(everywhere(divmod_of, [1, 0, *range(1, 1000)], 2))


def divmod_of(number: int) -> tuple[int, int]:
    return divmod(1, number)


def test_a_process_that_dies_ends_it() -> None:
    with pytest.raises(BrokenProcessPool):
        list(everywhere(os._exit, [1], 1))
