"""A byte changed on the wire: `python -m tests.crash.flips --all`, for every bit of a small exchange.

What is not encrypted is not authenticated either, so that some changes make no difference, or make an attempt fail in
any way there is. What must never be is a receipt for something else than was sent, or something else that shows.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from typing import Final

from enchufe.buffer import ReceiveBuffer
from enchufe.store.memory import MemoryStore
from enchufe.transfer.message import Type
from enchufe.transfer.messages import next_message
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
    harm, sender_dials = flip.harm, flip.sender_dials
    answer = harm.outward is not sender_dials and harm.at in answers(sender_dials=sender_dials)
    return Counter([ended(flip, source(), first={"timeout": TIMEOUT}, again={}, may_hang=answer)])


@cache
def answers(*, sender_dials: bool) -> range:
    """Where in what the receiver says its answers stand.

    Where one became another, each side waits for the other, and neither can tell that from one that is slow.
    """
    done = attempt(source(), MemoryStore(), sender_dials=sender_dials)
    said = ReceiveBuffer()
    said.append(done.connections[0][sender_dials])
    whole = len(said)
    while True:
        start = whole - len(said)
        message = next_message(said)
        assert not isinstance(message, int), "nothing is answered"
        if message.type is Type.WANT:
            return range(start + 5, whole - len(said))


def points() -> list[Flip]:
    return [
        Flip(Harm(outward, at, 1 << bit), sender_dials)
        for sender_dials in (True, False)
        for _, outward, at in places([attempt(source(), MemoryStore(), sender_dials=sender_dials).crossed])
        for bit in range(8)
    ]


if __name__ == "__main__":
    search(__doc__, points, run)
