"""Searches on every processor end when they cannot go on."""

from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool

import pytest

from tests.everywhere import everywhere


def test_every_point_is_tried() -> None:
    assert sorted(everywhere(abs, range(-30, 0), 2)) == list(range(1, 31))


def test_the_first_failure_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        list(everywhere(divmod_of, [1, 0, *range(1, 1000)], 2))


def divmod_of(number: int) -> tuple[int, int]:
    return divmod(1, number)


def test_a_process_that_dies_ends_it() -> None:
    with pytest.raises(BrokenProcessPool):
        list(everywhere(os._exit, [1], 1))
