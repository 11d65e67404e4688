"""Kill -9 at each system call: `python -m tests.crash.kills --all`.

A point is a side, a moment from which on calls are counted, and a call by its name and number (strace counts those of
each name and each thread for themselves): the one at which the process is killed.
Then the same command runs again, in half of the points to be killed too, and again, to the end. In between: a receipt
was given => everything is there and right; else whatever shows is whole. In the end everything is right, nothing is
left over, and no block was sent again that the journal had.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from enchufe import events
from enchufe.cli import exits
from enchufe.entry import BLOCK_SIZE
from tests.crash import trees
from tests.crash.everything import search
from tests.crash.peers import Peer, Receiving, Tracing, folder, send

STREAMS = 2


@dataclass(frozen=True)
class Point:
    """Where to kill.

    Attributes:
        again: the call at which the second attempt is killed, counted from the same moment; 0: it is not.
    """

    side: str
    moment: str
    call: str = ""
    number: int = 0
    again: tuple[str, int] = ("", 0)


def traced(point: Point, *options: str) -> Tracing:
    return Tracing(point.moment, *options, threads=point.moment in ("start", "hands"))


def killings(point: Point) -> list[Tracing]:
    """What is done to one attempt after the other."""
    return [
        traced(point, "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        for call, number in ((point.call, point.number), point.again)
        if number
    ]


def receiver(inbox: Path, tracing: Tracing | None) -> Peer:
    return Peer("receive", "-o", inbox, "--listen", "127.0.0.1:0", "--streams", str(STREAMS), tracing=tracing)


def sender(root: Path, to: str, tracing: Tracing | None) -> Peer:
    return Peer("send", root, "--to", to, "--streams", str(STREAMS), "--retry", "0", tracing=tracing)


def count(side: str, moment: str) -> dict[str, int]:
    """How often each call is made from that moment on, by the thread that makes most of them."""
    with folder() as here:
        trees.make(here / "tree")
        tracing = traced(Point(side, moment), "-o", str(here / "log"))
        if side == "receiver":
            peer = receiver(here / "inbox", tracing)
            address = peer.address()
            assert address is not None
            send(here / "tree", address, streams=STREAMS)
        else:
            other = Receiving(here / "inbox")
            peer = sender(here / "tree", other.address(), tracing)
        assert peer.end() == 0, peer.errors
        if side == "sender":
            other.end()
        made = Counter(re.findall(r"^(\d*) *(\w+)\(", (here / "log").read_text(), re.MULTILINE))
    most: dict[str, int] = {}
    for (_, call), number in made.items():
        if call not in ("exit", "exit_group"):
            most[call] = max(most.get(call, 0), number)
    return most


def kill_receiver(point: Point) -> str:
    with folder() as here:
        root, inbox = here / "tree", here / "inbox"
        size = trees.make(root)
        sent = trees.seen(root)
        receipts = 0
        for tracing in killings(point):
            receipts += _attempt_received(here, tracing, size)
            names = trees.check_shown(inbox, sent)
            assert names or not receipts, "there was a receipt, and it is not there"
        before = len(trees.shown(inbox))
        expected = before if trees.is_unheard(inbox) else before + 1
        assert expected == 1 or receipts, "what its sender has not heard of would come twice"
        last = _attempt_received(here, None, size)
        assert last == 1
        trees.check_receipted(inbox, sent, root, expected)
        trees.check_swept(inbox)
        return "receipt" if receipts else "shown" if before else "hidden"


def _attempt_received(here: Path, tracing: Tracing | None, size: int) -> int:
    """How many receipts it gave."""
    inbox = here / "inbox"
    kept = trees.kept(inbox, size)
    peer = receiver(inbox, tracing)
    address = peer.address()
    ended = send(here / "tree", address, streams=STREAMS) if address is not None else None
    code = peer.end()
    # Where a hand is killed the others tell of it.
    moment = "" if tracing is None else tracing.moment
    ends = {"": (0,), "hands": (0, -9, exits.DISK)}.get(moment, (0, -9))
    assert code in ends, (code, peer.errors, peer.told)
    got = isinstance(ended, events.Receipt) or peer.receipt is not None
    if got:
        trees.check_receipted(inbox, trees.seen(here / "tree"), here / "tree", len(trees.shown(inbox)))
    if isinstance(ended, events.Receipt) and tracing is None:
        # What has a second name already may have it in the destination, and is not touched.
        linked = (here / "tree" / "f0").stat().st_size
        assert ended.sent_bytes <= max(size - kept, 0) + linked, "what the journal had was sent again"
    assert trees.unnoted(inbox) <= (STREAMS + 1) * BLOCK_SIZE, "more was written and not noted than a block per stream"
    return int(got)


def kill_sender(point: Point) -> str:
    with folder() as here:
        root, inbox = here / "tree", here / "inbox"
        trees.make(root)
        sent = trees.seen(root)
        other = Receiving(inbox)
        for tracing in killings(point):
            if other.ended is None:
                peer = sender(root, other.address(), tracing)
                code = peer.end()
                assert code in (0, -9) or other.ended is not None, (code, peer.errors, peer.told)
                if peer.receipt is not None:
                    other.end()
                names = trees.check_shown(inbox, sent)
                assert names or peer.receipt is None
        early = other.ended is not None or bool(trees.shown(inbox))
        if not early:
            peer = sender(root, other.address(), None)
            code = peer.end()
            # One that the receiver was still busy committing for comes too late.
            assert code == 0 or trees.shown(inbox), (code, peer.errors, peer.told)
        assert isinstance(other.end(), events.Receipt), other.end()
        trees.check_receipted(inbox, sent, root)
        if trees.is_unheard(inbox):  # and whoever sends it again hears that
            other = Receiving(inbox)
            peer = sender(root, other.address(), None)
            assert peer.end() == 0, peer.errors
            assert isinstance(other.end(), events.Receipt), other.end()
            trees.check_receipted(inbox, sent, root)
        trees.check_swept(inbox)
        return "receipt" if early else "hidden"


def run(point: Point) -> str:
    try:
        return (kill_receiver if point.side == "receiver" else kill_sender)(point)
    except BaseException as error:
        error.add_note(f"kill at {point}")
        raise


# The main thread, and those beside it that do what matters; and the processes that read and write small files.
KINDS = (
    ("receiver", "start"),
    ("receiver", "stream"),
    ("receiver", "commit"),
    ("receiver", "hands"),
    ("sender", "start"),
    ("sender", "stream"),
    ("sender", "hands"),
)


@functools.cache
def calls() -> dict[tuple[str, str], dict[str, int]]:
    return {kind: count(*kind) for kind in KINDS}


def points(seed: int = 0) -> list[Point]:
    """Every one there is; who is killed twice, and where, is up to the seed."""
    rng = random.Random(seed)
    chosen = []
    for (side, moment), made in calls().items():
        every = [(call, number) for call, most in sorted(made.items()) for number in range(1, most + 1)]
        chosen += [Point(side, moment, *each, rng.choice((("", 0), rng.choice(every)))) for each in every]
    return chosen


def runs(points: list[Point]) -> Counter[str]:
    return Counter(map(run, points))


def main() -> None:
    print({" ".join(kind): sum(made.values()) for kind, made in calls().items()}, "calls", flush=True)
    search(__doc__, points, runs, "kills: {}, none lost or half done", default=100)


if __name__ == "__main__":
    main()
