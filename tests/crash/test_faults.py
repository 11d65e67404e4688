"""Calls that fail: CI's share of them; and a disk that is really full."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest

from enchufe import events
from enchufe.cli import exits
from enchufe.entry import BLOCK_SIZE, Entry
from enchufe.errors import NoSpaceError, Refused
from enchufe.store import LocalStore
from enchufe.store.memory import MemoryFile, MemorySource, MemoryStore, Node
from tests.crash import faults, trees
from tests.crash.faults import Point
from tests.crash.peers import folder, no_strace
from tests.crash.power import call, see_alone
from tests.crash.wire import Outcome, attempt
from tests.everywhere import everywhere

EACH = 1  # points for each call that may fail, at each moment and for either tree
SYNCS = 12

traced = pytest.mark.skipif(bool(no_strace()), reason=no_strace() or "-")


@traced
def test_calls_that_fail() -> None:
    """Each call there is, at least once; its number and its error are drawn."""
    rng = random.Random(8)
    kinds: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in faults.points():
        kinds[point.moment, point.call].append(point)
    assert {"openat", "write", "pwrite64", "syncfs", "fsync", "renameat2"} <= {call for _, call in kinds}
    ends = list(everywhere(faults.run, [point for kind in kinds.values() for point in rng.sample(kind, EACH)]))
    assert ends.count("refused") >= 10


@traced
def test_a_sync_that_fails_is_never_tried_again() -> None:
    """Whichever it is, of few files or of many; `faults` counts them."""
    rng = random.Random(9)
    syncs = [point for point in faults.points() if point.call in ("fsync", "syncfs") and point.moment == "commit"]
    ends = list(everywhere(faults.run, rng.sample(syncs, SYNCS)))
    assert set(ends) <= {"refused", "shown"}
    assert "refused" in ends


# A disk that is really full.

SIZE = 8 * BLOCK_SIZE + 77
DISK = 16 << 20


class Filling(MemoryStore):
    """Whoever reads its fourth block has the receiver's disk full by then."""

    hog: Path | None = None

    def source(self) -> MemorySource:
        return _Source(self)


class _Source(MemorySource):
    def __init__(self, store: Filling) -> None:
        super().__init__(store)
        self._store = store

    def open(self, entry: Entry) -> MemoryFile:
        node = super().open(entry).node
        return _File(node, (entry.size, entry.mtime_ns), self._store)


class _File(MemoryFile):
    def __init__(self, node: Node, offered: tuple[int, int], store: Filling) -> None:
        super().__init__(node, offered)
        self._store = store

    def read_into(self, view: memoryview, offset: int) -> int:
        if offset == 3 * BLOCK_SIZE and self._store.hog is not None:
            with suppress(OSError), self._store.hog.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        return super().read_into(view, offset)


def fill(_point: int) -> str:
    """In a process of its own, which may mount: why not, if it may not."""
    with folder() as here:
        at, inbox = here / "disk", here / "disk" / "inbox"
        at.mkdir()
        try:
            see_alone()
            call("mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", at)
        except OSError as error:
            return f"nothing can be mounted here: {error}"
        try:
            _too_big(inbox)
            _filled_meanwhile(inbox, at / "hog")
        finally:
            call("umount", at)
    return ""


def _too_big(inbox: Path) -> None:
    """Said before the first byte of it comes."""
    store = MemoryStore()
    store.add("big", bytes(DISK))
    done = attempt(store, LocalStore(inbox))
    _both_say_full(done)
    assert max(done.crossed) < 1000
    assert trees.shown(inbox) == []
    trees.check_swept(inbox)


def _filled_meanwhile(inbox: Path, hog: Path) -> None:
    store = Filling()
    store.add("big", random.Random(3).randbytes(SIZE), mtime_ns=trees.T)
    store.hog = hog
    done = attempt(store, LocalStore(inbox))
    _both_say_full(done)
    assert trees.shown(inbox) == []
    (area,) = trees.areas(inbox)
    kept = trees.journaled(area)
    assert kept >= 2 * BLOCK_SIZE, "what had arrived is not kept"
    # As long as there is no room it says so again, and loses nothing.
    _both_say_full(attempt(store, LocalStore(inbox), epoch=2))
    assert trees.shown(inbox) == []
    hog.unlink()
    store.hog = None
    done = attempt(store, LocalStore(inbox), epoch=3)
    assert isinstance(done.sender, events.Receipt), done
    assert done.sender.sent_bytes == SIZE - kept
    assert (inbox / "big").read_bytes() == store.contents()["big"]
    trees.check_swept(inbox)


def _both_say_full(done: Outcome) -> None:
    assert isinstance(done.receiver, NoSpaceError), done
    assert isinstance(done.sender, Refused), done
    assert "full" in str(done.sender)
    assert exits.exit_code(done.receiver) == exits.DISK
    assert exits.exit_code(done.sender) == exits.REFUSED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_disk_full() -> None:
    """Both say so, what had arrived is kept, and once there is room the same command goes on."""
    if why := next(everywhere(fill, [0], 1)):
        pytest.skip(why)
