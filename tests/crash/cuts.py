"""Cut at the k-th byte, for every k of the first 64 KiB of either direction: `python -m tests.crash.cuts --all`.

Both sides run in this process, over stores in memory and a proxy. Nothing half-done is visible; the next attempt sends
what is missing, and nothing of what had arrived; no more was lost than a block for each stream.

Many cuts leave the same behind. The next attempt starts from nothing else: in each process it is made once for all of
those, each way of dialing.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from enchufe import events
from enchufe.entry import BLOCK_SIZE
from enchufe.store.memory import MemoryStore, _Partial
from tests.crash.everything import search
from tests.crash.wire import Harm, attempt
from tests.simulation.blocks import SMALL, small_blocks

REACH: Final = 64 << 10
TOGETHER: Final = 64  # points that a worker takes at a time
STREAMS: Final = {"new": 1, "rest": 1, "large": 2, "folders": 1}

_gone_on_from: Final[set[tuple[str, bool, bytes]]] = set()


@dataclass(frozen=True)
class Point:
    """Where to cut.

    Attributes:
        scene: "new": small files, nothing of which is there; "rest": files of small blocks, most of which are there
            from before; "large": files of several blocks on two streams; "folders": nearly all files are there, and
            unchanged.
        sender_says: whether it is what the sender says that is cut, else what the receiver says.
        sender_dials: else the receiver does.
    """

    scene: str
    sender_says: bool
    at: int
    sender_dials: bool = True
    connection: int = 0


@functools.cache
def source(scene: str) -> MemoryStore:
    rng = random.Random(scene)
    store = MemoryStore()
    if scene == "large":
        for number, size in enumerate((3 * BLOCK_SIZE + 5, BLOCK_SIZE, 2 * BLOCK_SIZE - 1)):
            store.add(f"tree/large{number}", rng.randbytes(size))
    if scene == "folders":
        for number in range(200):
            store.add(f"tree/d{number % 40}/f{number}", rng.randbytes(rng.randrange(1200)), mtime_ns=number)
        return store
    for number in range(220 if scene == "rest" else 130):
        blocks = rng.choice((0, 0, 1, 1, 10, 30)) if scene == "rest" else 0
        store.add(f"tree/f{number}", rng.randbytes(blocks * SMALL + rng.randrange(8 if scene == "rest" else 1200)))
    return store


@functools.cache
def rest() -> MemoryStore:
    """A store with most blocks of most files of that scene, from before."""
    rng, store = random.Random(0), MemoryStore()
    for path, node in source("rest").nodes.items():
        partial = _Partial(bytearray(len(node.data)))
        for start in range(0, len(node.data), SMALL):
            if rng.random() < 0.9:
                block = node.data[start : start + SMALL]
                partial.data[start : start + SMALL] = block
                partial.blocks[start // SMALL] = blake3(block).digest()
        if partial.blocks:
            store.partials[path] = {(len(node.data), node.mtime_ns): partial}
    return store


def target(scene: str) -> MemoryStore:
    store = MemoryStore(update=scene == "folders")
    if scene == "folders":
        store.nodes.update(source(scene).nodes)
        for number in range(0, 40, 9):
            store.add(f"tree/d{number}/f{number}", b"older")
    if scene == "rest":
        for path, versions in rest().partials.items():
            store.partials[path] = {
                version: _Partial(bytearray(part.data), dict(part.blocks)) for version, part in versions.items()
            }
    return store


def kept(store: MemoryStore, block_size: int = BLOCK_SIZE) -> int:
    return sum(
        min(block_size, size - block * block_size)
        for versions in store.partials.values()
        for (size, _), part in versions.items()
        for block in part.blocks
    )


def left(store: MemoryStore) -> bytes:
    """The digest of all that a cut has left behind."""
    digest = blake3()
    for path, versions in sorted(store.partials.items()):
        for version, part in sorted(versions.items()):
            blocks = sorted(part.blocks)
            digest.update(repr((path, version, blocks, len(part.data))).encode())
            digest.update(b"".join([part.blocks[block] for block in blocks]))
            digest.update(part.data)
    return digest.digest()


def length(scene: str, *, sender_says: bool, sender_dials: bool) -> int:
    """Bytes that cross where nobody cuts."""
    with blocks_of(scene):
        done = attempt(source(scene), target(scene), sender_dials=sender_dials)
    assert isinstance(done.sender, events.Receipt), done
    return done.crossed[sender_says is not sender_dials]


@contextmanager
def blocks_of(scene: str) -> Iterator[int]:
    """Blocks of a kilobyte where it is what is told of them that is cut: a receiver that tells much has few files."""
    if scene != "rest":
        yield BLOCK_SIZE
        return
    with small_blocks() as size:
        yield size


def run(point: Point) -> str:
    try:
        with blocks_of(point.scene) as block_size:
            return _run(point, block_size)
    except BaseException as error:
        error.add_note(f"cut at {point}")
        raise


def _run(point: Point, block_size: int) -> str:
    sent, store = source(point.scene), target(point.scene)
    streams = STREAMS[point.scene]
    had = kept(store, block_size)
    before = dict(store.nodes)
    size = sum(len(node.data) for path, node in sent.nodes.items() if before.get(path) != node)
    harm = Harm(point.sender_says is point.sender_dials, point.at, connection=point.connection)
    first = attempt(sent, store, harm, sender_dials=point.sender_dials, streams=streams)
    assert not first.stuck
    done = isinstance(first.receiver, events.Receipt)
    assert done or not isinstance(first.sender, events.Receipt), "a receipt came from nowhere"
    if done:
        assert store.contents() == sent.contents()
        return "done" if isinstance(first.sender, events.Receipt) else "receipt lost"
    assert store.nodes == before, "something half-done is visible"
    now = kept(store, block_size)
    if point.sender_says and point.connection == 0:
        lost = max(0, sum(first.crossed[:1] if point.sender_dials else first.crossed[1:]) + had - now)
        # Besides content, an entry and its share of a frame take less than 100 bytes.
        assert lost <= streams * block_size + 100 * len(sent.nodes), f"{lost} bytes were lost"
    state = (point.scene, point.sender_dials, left(store))
    if state not in _gone_on_from:
        _go_on(point, store, size - now)
        _gone_on_from.add(state)
    return "resumed" if now > had else "cut"


def _go_on(point: Point, store: MemoryStore, missing: int) -> None:
    sent, streams = source(point.scene), STREAMS[point.scene]
    second = attempt(sent, store, sender_dials=point.sender_dials, streams=streams, epoch=2)
    assert isinstance(second.sender, events.Receipt), second
    assert isinstance(second.receiver, events.Receipt), second
    again = second.sender.sent_bytes
    assert again == missing, f"{missing} bytes were missing, and {again} sent: what had arrived was sent again"
    assert store.contents() == sent.contents()


def runs(points: list[Point]) -> Counter[str]:
    return Counter(map(run, points))


def points() -> list[Point]:
    """All there are in the first 64 KiB; who dials alternates."""
    chosen = []
    whose = (("new", True), ("new", False), ("rest", False), ("folders", True), ("folders", False))
    for scene, sender_says in whose:
        most = max(length(scene, sender_says=sender_says, sender_dials=dials) for dials in (True, False))
        chosen += [Point(scene, sender_says, at, at % 2 == 0) for at in range(min(REACH, most))]
    return chosen


def large(seed: int, count: int) -> list[Point]:
    """Some among the blocks of large files, on either of two streams."""
    rng = random.Random(seed)
    return [
        Point(
            "large", True, rng.randrange(6 * BLOCK_SIZE if not stream else 3 * BLOCK_SIZE), rng.random() < 0.5, stream
        )
        for stream in (rng.randrange(2) for _ in range(count))
    ]


def main() -> None:
    search(
        __doc__,
        lambda _: points(),
        runs,
        "cuts: {}; nothing lost, nothing sent twice",
        default=2000,
        together=TOGETHER,
        besides=lambda seed, count: large(seed, count // 4),
        settled=True,
    )


if __name__ == "__main__":
    main()
