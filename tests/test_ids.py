"""Ids: a set, in little memory."""

from __future__ import annotations

import random

import pytest

from enchufe.ids import Ids
from tests.test_many_received import at_most


@pytest.mark.parametrize("first", [0, -1, -9])
def test_ids_are_a_set(first: int) -> None:
    chance = random.Random(first)
    ids, model = Ids(first), set[int]()
    assert not ids
    for _ in range(3000):
        one = chance.randrange(first, 5000)
        ids.add(one)
        model.add(one)
        assert len(ids) == len(model)
    assert [one for one in range(first - 50, 7000) if one in ids] == sorted(model)
    with pytest.raises(ValueError, match=f"{first - 1} comes before {first}"):
        ids.add(first - 1)


def test_ids_take_little() -> None:
    with at_most(1, 100_000):
        ids = Ids()
        for number in range(100_000):
            ids.add(number)
