"""Where fuzzing begins: inputs that lead every check beyond its first refusal."""

from __future__ import annotations

import random

from enchufe.transfer.messages import frame
from tests.fuzz.check import CHECKS
from tests.fuzz.framing_checks import check_framing
from tests.fuzz.message_checks import MESSAGES, check_messages


def seeds() -> list[bytes]:
    """The same ones each time."""
    chance = random.Random(1)
    frames = [b"".join(frame(message)) for message in MESSAGES]
    # No cuts, and the rest as it is.
    whole = [bytes([CHECKS.index(check_messages), 0, 1]) + wire for wire in [*frames, b"".join(frames)]]
    streams = [
        bytes([CHECKS.index(check_framing), kind]) + chance.randbytes(size)
        for kind in range(6)
        for size in (20, 100, 200) * 5
    ]
    return [*whole, *streams, *(bytes([door]) + chance.randbytes(20) for door in range(len(CHECKS)))]
