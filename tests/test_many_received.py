"""Many entries received: little memory each, and nothing forgotten of what was put away."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from enchufe.entry import NO_PARENT, Answer, Entry, Kind
from enchufe.errors import RemoteProtocolError
from enchufe.store import Delivery, LocalStore
from enchufe.store.names import NameRules
from enchufe.store.seen import Seen
from enchufe.transfer.offers import Offer as Offered
from enchufe.transfer.receiver import Receiver
from tests.test_delivery import Offer, contents, delivery, forced

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")

COUNT = 20_000


@contextlib.contextmanager
def at_most(each: int, count: int = COUNT) -> Iterator[None]:
    """What is kept of so many things takes so many bytes each, at the most."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        kept, _ = tracemalloc.get_traced_memory()
        assert kept - before < each * count
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def abandoned(begun: Delivery) -> Iterator[Delivery]:
    try:
        yield begun
    finally:
        begun.abandon()


@pytest.mark.parametrize("folds", [False, True])
def test_files_into_a_folder_that_exists(inbox: Path, folds: bool) -> None:
    (inbox / "live").mkdir()
    with abandoned(forced(inbox, NameRules(folds=folds), "update")) as begun:
        offer = Offer(begun)
        live = offer.folder("live")
        with at_most(80 if folds else 60):
            for number in range(COUNT):
                begun.admit(Entry(1 + number, live.id, b"File-%05d.jpg" % number, Kind.FILE))
        for number in (0, 999, 1000, 1001, COUNT - 1):
            with pytest.raises(RemoteProtocolError, match="offered twice in the same folder"):
                begun.admit(Entry(COUNT + 1, live.id, b"File-%05d.jpg" % number, Kind.FILE))
        answer = begun.admit(Entry(COUNT + 1, live.id, b"fILE-00000.jpg", Kind.FILE))
        assert answer is (Answer.CANNOT_STORE if folds else Answer.ALL)


def test_files_that_were_put_away_are_put_in_place(inbox: Path) -> None:
    """Some are dropped, offered again, replace others, or are folders."""
    existing = inbox / "live" / "inner"
    existing.mkdir(parents=True)
    expected: dict[str, str | None] = {"live": None, "live/inner": None}
    for number in range(0, 2500, 100):
        (existing / f"{number}").write_text("old")
    with delivery(inbox, "overwrite") as begun:
        offer = Offer(begun)
        live = offer.folder("live")
        inner = offer.folder("inner", live)
        for number in range(2500):
            parent, path = (inner, "live/inner") if number % 3 else (live, "live")
            if number % 50 == 7:
                folder = offer.folder(f"{number}", parent)
                offer.file("in it", b"x", folder)
                expected |= {f"{path}/{number}": None, f"{path}/{number}/in it": "x"}
                continue
            offer.file(f"{number}", b"new", parent)
            expected[f"{path}/{number}"] = "new"
        left = [offer.add(Kind.FILE, f"left out {number}", inner, size=3) for number in range(1500)]
        for entry in left:
            begun.drop(entry)
        again = offer.file("left out 7", b"2nd", inner)
        assert again.id > left[-1].id
        expected["live/inner/left out 7"] = "2nd"
        for number in range(0, 2500, 100):
            expected.setdefault(f"live/inner/{number}", "old")
        begun.commit()
    assert contents(inbox) == expected


def test_of_files_that_were_here_nothing_is_kept_once_they_are_complete(inbox: Path) -> None:
    count = 3000
    files = [Entry(number, 0, b"%d" % number, Kind.FILE, 3) for number in range(1, count)]
    folder = Entry(0, NO_PARENT, b"folder", Kind.DIRECTORY)
    first = LocalStore(inbox).begin()
    first.admit(folder)
    for entry in files:
        first.admit(entry)
        first.write_whole(entry, b"abc", blake3(b"abc").digest())
    first.suspend()
    with abandoned(LocalStore(inbox).begin()) as begun, at_most(40, count):
        begun.admit(folder)
        for entry in files:
            assert begun.admit(entry) is Answer.REST
            assert begun.recheck(entry, lambda: False) == []
            begun.complete(entry, 3)


def test_seen_is_a_set_of_names_by_folder() -> None:
    chance = random.Random(7)
    seen, model = Seen(), set[tuple[int, bytes]]()
    for _ in range(30_000):
        name = chance.randrange(-1, 4), b"%d" % chance.randrange(4000)
        if chance.random() < 0.3:
            seen.discard(*name)
            model.discard(name)
        else:
            assert seen.add(*name) is (name not in model)
            model.add(name)
        assert (name in seen) is (name in model)


def test_seen_takes_little() -> None:
    with at_most(30, 100_000):
        seen = Seen()
        for number in range(100_000):
            seen.add(0, b"%d" % number)


def test_hard_links(inbox: Path) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        first = offer.add(Kind.FILE, "first", tree, size=5, shared=True)
        begun.write_whole(first, b"first", blake3(b"first").digest())
        with at_most(60):
            for number in range(2, 2 + COUNT):
                link = Entry(number, tree.id, b"%d" % number, Kind.FILE, size=5, linked=first.id)
                assert begun.admit(link) is Answer.LINK
                begun.link(link, first)
        begun.commit()
    assert (inbox / "tree" / "first").stat().st_nlink == 1 + COUNT


@pytest.mark.parametrize("exist", [False, True])
def test_folders(inbox: Path, exist: bool) -> None:
    count = 10_000
    top = inbox / "live"
    top.mkdir()
    if exist:
        for number in range(count):
            (top / f"{number}").mkdir()
    with delivery(inbox, "update") as begun:
        live = Offer(begun).folder("live")
        with at_most(250, count):
            for number in range(count):
                begun.admit(Entry(1 + number, live.id, b"%d" % number, Kind.DIRECTORY, mtime_ns=number << 20))
        begun.commit()
    assert len(list(top.iterdir())) == count


def test_the_machine_keeps_little_of_folders() -> None:
    receiver = Receiver()
    with at_most(20):
        for number in range(COUNT):
            parent = number - 1 if number % 9 else NO_PARENT
            receiver._got(Offered([Entry(number, parent, b"x", Kind.DIRECTORY)]))
            receiver._sent(receiver.answer([(receiver._unanswered[number], Answer.ALL)]))
    assert receiver.offered == COUNT
