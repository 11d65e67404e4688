"""Bytes that change in an encrypted exchange: CI's share, half of it in handshake and access."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

from tests.crash import secured_flips
from tests.crash.flipping import counted
from tests.everywhere import everywhere

SHARE = 400


def test_flipped_in_an_encrypted_exchange() -> None:
    draw = random.Random(9)
    points = secured_flips.points()
    beginning = [point for point in points if point.harm.at < secured_flips.BEGINNING]
    chosen = draw.sample(beginning, SHARE // 2) + draw.sample(points, SHARE // 2)
    draw.shuffle(chosen)
    ends = sum(
        everywhere(partial(counted, secured_flips.run), [chosen[first::16] for first in range(16)]), Counter[str]()
    )
    assert ends.total() == SHARE
    assert ends["refused"] >= SHARE // 4
    assert ends["went another way"] >= SHARE // 4
    assert ends["no harm"] <= SHARE // 100  # where TLS has a byte ignored


def test_flipped_in_the_last_words() -> None:
    """What is on the disk stays receipted, whatever the other side makes of that."""
    points = [point for point in secured_flips.points() if point.harm.connection == 0 and point.sender_dials]
    said = [point for point in points if not point.harm.outward]
    ends = sum(
        everywhere(partial(counted, secured_flips.run), [said[-80:][first::8] for first in range(8)]), Counter[str]()
    )
    assert ends.total() == 80
