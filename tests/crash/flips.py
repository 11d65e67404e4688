"""A byte changed on the wire: `python -m tests.crash.flips --all`, for every bit of a small exchange.

What is not encrypted is not authenticated either, so that some changes make no difference, or make an attempt fail in
any way there is. What must never be is a receipt for something else than was sent, or something else that shows.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Final

from enchufe import events
from enchufe.store.memory import MemoryStore
from tests.crash.everything import search
from tests.crash.wire import Harm, attempt

PATIENCE: Final = 4.0  # seconds: a length that is told too big has its receiver wait for bytes that pings bring
TOGETHER: Final = 64


@dataclass(frozen=True)
class Point:
    """One byte of what the dialer says or hears, and how it changes."""

    outward: bool
    at: int
    mask: int
    sender_dials: bool


def source() -> MemoryStore:
    rng = random.Random(6)
    store = MemoryStore()
    for name, size in (("tree/a/one", 300), ("tree/a/two", 5), ("tree/empty", 0), ("last", 700)):
        store.add(name, rng.randbytes(size), mode=0o640, mtime_ns=rng.getrandbits(60))
    return store


def told(store: MemoryStore) -> object:
    return {path: (node.kind, bytes(node.data), node.mode, node.mtime_ns) for path, node in store.nodes.items()}


def run(point: Point) -> str:
    try:
        return _run(point)
    except BaseException as error:
        error.add_note(f"flip at {point}")
        raise


def _run(point: Point) -> str:
    sent, store = source(), MemoryStore()
    harm = Harm(point.outward, point.at, point.mask)
    first = attempt(sent, store, harm, sender_dials=point.sender_dials, patience=PATIENCE)
    done = isinstance(first.receiver, events.Receipt)
    assert done or not isinstance(first.sender, events.Receipt), "a receipt came from nowhere"
    if done:
        assert told(store) == told(sent), "what arrived is not what was sent"
        return "no harm" if isinstance(first.sender, events.Receipt) else "receipt not believed"
    assert not store.nodes, "something half-done is visible"
    second = attempt(sent, store, sender_dials=point.sender_dials, epoch=2)
    assert isinstance(second.sender, events.Receipt), second
    assert told(store) == told(sent)
    return "stuck" if first.stuck else "refused"


def points() -> list[Point]:
    chosen = []
    for sender_dials in (True, False):
        crossed = attempt(source(), MemoryStore(), sender_dials=sender_dials).crossed
        chosen += [
            Point(outward, at, 1 << bit, sender_dials)
            for outward, most in zip((True, False), crossed, strict=True)
            for at in range(most)
            for bit in range(8)
        ]
    return chosen


def runs(points: list[Point]) -> Counter[str]:
    return Counter(map(run, points))


def main() -> None:
    search(__doc__, lambda _: points(), runs, "flips: {}; nothing wrong was taken", default=2000, together=TOGETHER)


if __name__ == "__main__":
    main()
