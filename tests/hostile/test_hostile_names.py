"""Hostile names against a real destination: each is refused or arrives as just that name, and nothing else changes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enchufe.entry import BLOCK_SIZE, LISTED, NO_LINK, NO_PARENT, Answer, Entry, Kind, Listing
from enchufe.errors import EnchufeError, RemoteProtocolError
from enchufe.store import IfExists, LocalStore, Receiving, plan
from enchufe.store.listing import link_record, listing
from tests.hostile.around import Around, Names, around, corpus, deliver, harmless, tried
from tests.test_delivery import write, write_whole

CI = 100_000  # names; a million by tests/hostile/around.py
CORPUS = corpus()
T = 1_600_000_000_000_000_000


@pytest.fixture
def home() -> Iterator[Around]:
    with around() as made:
        yield made


@pytest.mark.parametrize(("name", "fine"), CORPUS, ids=[repr(name)[:40] for name, _ in CORPUS])
def test_the_corpus(home: Around, name: bytes, fine: bool) -> None:
    """As a file, a folder and a link; as a root, in a new folder, and in one that is there."""
    assert harmless(name) == fine
    for kind in Kind:
        begun = LocalStore(home.inbox, if_exists="update", links="any").begin()
        try:
            for id_, root in enumerate((b"new", b"live", b"d")):
                begun.admit(Entry(id_, NO_PARENT, root, Kind.DIRECTORY, mode=0o755))
            for id_, parent in enumerate((0, 2, NO_PARENT), 3):
                target = b"nowhere" if kind is Kind.SYMLINK else b""
                entry = Entry(id_, parent, name, kind, 3 if kind is Kind.FILE else 0, 0o755, T, target)
                if not fine:
                    with pytest.raises(RemoteProtocolError):
                        begun.admit(entry)
                    continue
                answer = begun.admit(entry)
                if kind is Kind.FILE and answer is Answer.ALL:
                    write_whole(begun, entry, b"new")
                assert answer is Answer.ALL or parent == NO_PARENT  # the destination may have something of that name
            begun.commit()
        finally:
            begun.abandon()
        home.check()
        found = os.listdir(os.fsencode(home.inbox / "new"))
        assert found == ([name] if fine else [])
        assert os.listdir(os.fsencode(home.inbox / "d")) == found
        for folder in ("new", "d"):
            clear(os.fsencode(home.inbox / folder))
    assert sorted(os.listdir(home.inbox / "live")) == ["deep", "new", "out", "up", "x"]


def clear(folder: bytes) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        else:
            os.unlink(path)


def test_a_hundred_thousand_names() -> None:
    ends = tried(CI)
    assert ends.total() > CI
    # Neither are they all refused, nor all harmless; and every way to be answered was met.
    assert ends["refused"] > CI / 5
    assert ends["ALL"] > CI / 5
    assert min(ends[answer] for answer in ("SKIP", "UNSAFE_LINK", "IN_THE_WAY", "CANNOT_STORE", "PARENT", "UNWANTED"))
    assert ends["committed"] == CI / 1000


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", [b"../../../../inbox2/new", b"../../../../cwd/new", b"../../../../new"])
def test_without_the_check_it_is_seen(home: Around, monkeypatch: pytest.MonkeyPatch, name: bytes, kind: Kind) -> None:
    """A delivery that checks no names does get out; then `check()` fails."""
    monkeypatch.setattr(plan, "safe_name", lambda name: None)
    begun = LocalStore(home.inbox, links="any").begin()
    try:
        begun.admit(Entry(0, NO_PARENT, b"new", Kind.DIRECTORY, mode=0o755))
        entry = Entry(1, 0, name, kind, target=b"x" if kind is Kind.SYMLINK else b"")
        assert begun.admit(entry) is Answer.ALL
        if kind is Kind.FILE:
            write_whole(begun, entry, b"attack")
    finally:
        begun.abandon()
    with pytest.raises(AssertionError):
        home.check()


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": lambda outside: (outside / "secret").write_text("ours"),
    "append nothing": lambda outside: os.utime(outside / "secret"),
    "touch back": lambda outside: os.utime(outside / "secret", ns=(0, (outside / "secret").stat().st_mtime_ns)),
    "chmod": lambda outside: (outside / "secret").chmod(0o600),
    "chmod of a folder": lambda outside: (outside / "folder").chmod(0o700),
    "make": lambda outside: (outside / "folder/deep/new").touch(),
    "make beside the destination": lambda outside: (outside.parent / "new").touch(),
    "make and remove": lambda outside: os.rmdir(tempfile.mkdtemp(dir=outside.parent)),
    "make a folder": lambda outside: (outside.parent / "inbox2/new").mkdir(),
    "remove": lambda outside: (outside / "folder/x").unlink(),
    "rename": lambda outside: (outside / "secret").rename(outside / "known"),
    "link": lambda outside: os.link(outside / "secret", outside.parent / "inbox/known"),
    "another of the same": lambda outside: os.replace(
        shutil.copy2(outside / "secret", outside / "x"), outside / "secret"
    ),
    "a relative path": lambda _: Path("new").touch(),
    "replace the destination": lambda outside: (outside.parent / "inbox").rename(outside.parent / "away"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_outside_is_seen(home: Around, change: str) -> None:
    home.check()
    CHANGES[change](home.home / "outside")
    with pytest.raises(AssertionError):
        home.check()


def test_a_seed_says_the_same_again() -> None:
    one, other = Names(7), Names(7)
    assert [one.name() for _ in range(500)] == [other.name() for _ in range(500)]
    with around() as here, around() as there:
        assert deliver(here, Names(3), 300) == deliver(there, Names(3), 300)


# Whatever a sender may do besides, in whatever order.

_THERE = [b"x", b"y", b"live", b"deep", b"out", b"up", b"secret", b"new"]
_POOL = [name for name, _ in CORPUS if len(name) < 300] + _THERE
_paths = st.lists(st.sampled_from(_POOL), max_size=3).map(b"/".join)
_names = st.one_of(st.sampled_from(_THERE), st.sampled_from(_POOL), st.binary(max_size=6), _paths)
_parents = st.integers(-1, 6)
_attributes = st.lists(st.tuples(st.one_of(_names, st.just(b"user.x")), st.binary(max_size=9)), max_size=2).map(tuple)
_LISTINGS = [
    Listing(1, 0, 6, b"d" * 32),
    Listing(LISTED, 0, 0, b"d" * 32),
    listing([link_record(b"root", b"/")], 1, 0),  # what there is in `live/deep`
]
_acts = st.one_of(
    st.tuples(st.just("file"), _names, _parents, _attributes),
    st.tuples(st.just("half"), _names, _parents, st.integers(0, 2)),
    st.tuples(st.just("folder"), _names, _parents, _attributes),
    st.tuples(st.just("listed"), _names, _parents, st.sampled_from(_LISTINGS)),
    st.tuples(st.just("symlink"), _names, _parents, _names),
    st.tuples(st.just("hard link"), _names, _parents, st.integers(0, 8)),
    st.tuples(st.just("unknown size"), _names, _parents, st.integers(0, 3)),
    st.tuples(st.just("drop"), st.integers(0, 8)),
    st.tuples(st.just("same"), st.integers(0, 8), st.integers(0, 3)),
    st.tuples(st.just("again"), st.sampled_from(["suspend", "abandon", "commit"])),
)


class Sender:
    """One who does as it is told, over several deliveries into one destination."""

    def __init__(self, home: Around, if_exists: IfExists) -> None:
        self._store = LocalStore(home.inbox, if_exists=if_exists, links="any")
        self._begin()

    def _begin(self) -> None:
        self.delivery: Receiving = self._store.begin()
        self._entries: list[Entry] = []

    def close(self) -> None:
        self.delivery.abandon()

    def _offer(self, kind: Kind, name: bytes, parent: int, **fields: object) -> tuple[Entry, Answer]:
        above = NO_PARENT if parent < 0 else parent
        entry = Entry(len(self._entries), above, name, kind, mode=0o755, mtime_ns=T)
        for field, value in fields.items():
            setattr(entry, field, value)
        self._entries.append(entry)
        return entry, self.delivery.admit(entry)

    def act(self, what: str, *how: object) -> None:
        delivery = self.delivery
        match (what, *how):
            case "file", bytes(name), int(parent), tuple(attributes):
                entry, answer = self._offer(Kind.FILE, name, parent, size=6, attributes=attributes)
                if answer is Answer.ALL:
                    write_whole(delivery, entry, b"attack")
            case "half", bytes(name), int(parent), int(block):
                entry, answer = self._offer(Kind.FILE, name, parent, size=2 * BLOCK_SIZE + 5)
                if answer in (Answer.ALL, Answer.REST, Answer.DELTA):
                    size = 5 if block == 2 else BLOCK_SIZE
                    write(delivery, entry, block * BLOCK_SIZE, b"a" * size)
                    if block == 2:
                        delivery.complete(entry, entry.size)
            case "unknown size", bytes(name), int(parent), int(size):
                entry, answer = self._offer(Kind.FILE, name, parent, size=2**64 - 1)
                if answer is Answer.ALL:
                    write(delivery, entry, size, b"attack")
                    delivery.complete(entry, size + 6)
            case "folder", bytes(name), int(parent), tuple(attributes):
                self._offer(Kind.DIRECTORY, name, parent, attributes=attributes)
            case "listed", bytes(name), int(parent), Listing() as listed:
                entry, answer = self._offer(Kind.DIRECTORY, name, parent, listing=listed)
                assert answer is not Answer.SAME or (name, listed) == (b"deep", _LISTINGS[-1])
            case "symlink", bytes(name), int(parent), bytes(target):
                self._offer(Kind.SYMLINK, name, parent, target=target)
            case "hard link", bytes(name), int(parent), int(to):
                linked = to if to < len(self._entries) else NO_LINK
                entry, answer = self._offer(Kind.FILE, name, parent, size=6, linked=linked)
                if answer is Answer.LINK:
                    delivery.link(entry, self._entries[linked])
            case "drop", int(which):
                if which < len(self._entries):
                    delivery.drop(self._entries[which])
            case "same", int(which), int(first):
                if which < len(self._entries):
                    delivery.same(self._entries[which], first, [b"d" * 32])
            case "again", str(how_it_ends):
                try:
                    getattr(delivery, how_it_ends)()
                finally:
                    delivery.abandon()
                    self._begin()
            case other:
                raise AssertionError(other)


@given(acts=st.lists(_acts, max_size=16), if_exists=st.sampled_from(["rename", "skip", "overwrite", "update"]))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_whatever_is_done_in_whatever_order(acts: list[tuple[str, ...]], if_exists: IfExists) -> None:
    with around() as home:
        sender = Sender(home, if_exists)
        try:
            for act in acts:
                with contextlib.suppress(EnchufeError, KeyError):
                    sender.act(*act)
                home.check()
            with contextlib.suppress(EnchufeError):
                sender.delivery.commit()
            home.check()
        finally:
            sender.close()
        home.check()
