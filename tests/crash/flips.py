"""A byte changed on the wire: `python -m tests.crash.flips --all`, for every bit of a small exchange.

What is not encrypted is not authenticated either, so that some changes make no difference, or make an attempt fail in
any way there is. What must never be is a receipt for something else than was sent, or something else that shows.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from enchufe.store.memory import MemoryStore
from tests.crash.flipping import Flip, ended, places, search
from tests.crash.wire import Harm, attempt

TIMEOUT: Final = 2.0  # seconds: a length that grew has its receiver wait for twice that


def source() -> MemoryStore:
    rng = random.Random(6)
    store = MemoryStore()
    for name, size in (("tree/a/one", 300), ("tree/a/two", 5), ("tree/empty", 0), ("last", 700)):
        store.add(name, rng.randbytes(size), mode=0o640, mtime_ns=rng.getrandbits(60))
    return store


def run(flip: Flip) -> Counter[str]:
    return Counter([ended(flip, source(), first={"timeout": TIMEOUT}, again={})])


def points() -> list[Flip]:
    return [
        Flip(Harm(outward, at, 1 << bit), sender_dials)
        for sender_dials in (True, False)
        for _, outward, at in places([attempt(source(), MemoryStore(), sender_dials=sender_dials).crossed])
        for bit in range(8)
    ]


if __name__ == "__main__":
    search(__doc__, points, run)
