"""Bytes that change in an encrypted exchange: CI's share, half of it in handshake and access."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial

from tests.crash import secured_flips
from tests.crash.flipping import counted
from tests.crash.stretches import Stretch
from tests.everywhere import everywhere

SHARE = 400


def test_flipped_in_an_encrypted_exchange() -> None:
    draw = random.Random(9)
    points = secured_flips.flips()
    beginning = [point for point in points if point.harm.at < secured_flips.BEGINNING]
    ends = tried(draw.sample(beginning, SHARE // 2) + draw.sample(points, SHARE // 2))
    assert ends.total() == SHARE
    assert ends["refused"] >= SHARE // 4
    assert ends["went another way"] >= SHARE // 8
    assert ends["no harm"] <= SHARE // 100  # where TLS has a byte ignored


def test_flipped_in_the_last_words() -> None:
    """What is on the disk stays receipted, whatever the other side makes of that."""
    points = [point for point in secured_flips.flips() if point.harm.connection == 0 and not point.by_code]
    said = [point for point in points if point.sender_dials and not point.harm.outward]
    assert tried(said[-80:]).total() == 80


def test_flipped_in_sealed_records() -> None:
    openings = secured_flips.openings()
    chosen = [openings[0], openings[-1], *random.Random(9).sample(openings, 6)]
    assert tried(chosen) == {"not opened": sum(len(stretch.places) for stretch in chosen)}


def tried(points: Sequence[secured_flips.SecuredFlip | Stretch]) -> Counter[str]:
    mixed = [points[first::16] for first in range(min(16, len(points)))]
    return sum(everywhere(partial(counted, secured_flips.run), mixed), Counter[str]())
