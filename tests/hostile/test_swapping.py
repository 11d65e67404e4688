"""A process swaps parents, and the files themselves, for links to the outside while we write: nothing ever gets out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchufe.entry import BLOCK_SIZE, Answer, Kind, Listing
from enchufe.errors import EnchufeError
from enchufe.store import IfExists, LocalStore
from enchufe.store.listing import in_order, listed
from tests.hostile.around import Around, around
from tests.test_delivery import Offer, write

ENOUGH = 4.0  # seconds of trying where each outcome was seen by then
PATIENCE = 60.0
SWAPS = 20


@pytest.fixture
def home() -> Iterator[Around]:
    with around() as made:
        yield made


@contextlib.contextmanager
def swapping(pairs: dict[Path, Path]) -> Iterator[list[int]]:
    """An attacker at work; afterwards its list has how many swaps it made."""
    swaps: list[int] = []
    command = [sys.executable, "-m", "tests.hostile.swapper", *(f"{one}={other}" for one, other in pairs.items())]
    here = Path(__file__).parent.parent.parent
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here) as attacker:
        try:
            yield swaps
        finally:
            told, _ = attacker.communicate("", timeout=PATIENCE)
            swaps.append(int(told))


def lay(home: Around) -> dict[Path, Path]:
    """Live folders to be merged into, each with a link that takes its place; and what the links lead to."""
    inbox, outside, links = home.inbox, home.home / "outside", home.inbox / "links"
    links.mkdir()
    pairs = {}
    # What is behind the links has the same names, so that whatever follows one finds what it expects.
    for folder, leads in (
        (inbox / "a", outside / "folder"),
        (inbox / "a/b", outside / "folder/deep"),
        (inbox / "a/b/c", outside),
    ):
        folder.mkdir()
        pairs[folder] = links / f"to {folder.name}"
        pairs[folder].symlink_to(leads)
    for file in (inbox / "a/file", inbox / "a/b/file", inbox / "a/big"):
        file.write_bytes(b"theirs" if file.name == "file" else bytes(3 * BLOCK_SIZE))
        pairs[file] = links / f"to {file.parent.name} {file.name}"
        pairs[file].symlink_to(outside / "secret")
    # Ours, for as long as a delivery lasts; only its owner could do this in a folder that he alone can write to.
    pairs[inbox / ".enchufe"] = links / "to staging"
    pairs[inbox / ".enchufe"].symlink_to(outside / "folder")
    return pairs


def outside_listed(folder: Path) -> Listing:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        names = [name for name in os.listdir(folder) if not (folder / name).is_dir() or (folder / name).is_symlink()]
        found = listed(in_order(names), descriptor)
    finally:
        os.close(descriptor)
    assert found is not None
    return found


def deliver(inbox: Path, if_exists: IfExists, turn: int) -> Answer | None:
    """All that a receiver does: write, link, rename, chmod, utimes, set attributes, remove; over what is there."""
    begun = LocalStore(inbox, if_exists=if_exists, links="any").begin()
    try:
        offer = Offer(begun)
        parents = [offer.folder("a", mode=(0o755, 0o700)[turn % 2])]
        for name in ("b", "c"):
            # As if it held what is outside, where a link leads in its place: whoever looks there says so.
            lists = outside_listed(inbox.parent / "outside")
            more = {"mode": 0o755, "attributes": ((b"user.x", b"y"),), "listing": lists}
            parents.append(offer.add(Kind.DIRECTORY, name, parents[-1], **more))
            assert offer.answer is not Answer.SAME, "it has looked outside"
        for parent in parents:
            file = offer.file("file", b"ours %d" % turn, parent, mode=0o600, piece=3)
            offer.file("secret", b"ours", parent, mode=0o777)
            offer.link("x", b"file", parent)
            linked = offer.add(Kind.FILE, "hard", parent, size=file.size, linked=file.id)
            if offer.answer is Answer.LINK:
                begun.link(linked, file)
            offer.file("file", b"ours", offer.folder("new", parent))
            half = offer.add(Kind.FILE, "half", parent, size=2 * BLOCK_SIZE)
            if offer.answer in (Answer.ALL, Answer.REST):
                write(begun, half, 0, bytes(BLOCK_SIZE))
                if turn % 3:
                    begun.drop(half)
        big = offer.add(Kind.FILE, "big", parents[0], size=3 * BLOCK_SIZE)
        if offer.answer is Answer.DELTA:
            digests = [
                digest
                for some, _ in begun.own(big)
                for digest in (some[at : at + 32] for at in range(0, len(some), 32))
            ]
            changed = begun.same(big, 0, digests)
            for number in {*changed, *range(len(digests), 3)}:
                write(begun, big, number * BLOCK_SIZE, bytes(BLOCK_SIZE))
            begun.complete(big, big.size)
        if turn % 3 == 0:
            begun.suspend()  # and the next one takes it over
            return None
        begun.commit()
        return Answer.IN_THE_WAY if Answer.IN_THE_WAY in offer.answers else Answer.ALL
    finally:
        begun.abandon()


@pytest.mark.parametrize("if_exists", ["rename", "overwrite", "update"])
def test_zero_escapes(home: Around, if_exists: IfExists) -> None:
    pairs = lay(home)
    ends: Counter[str] = Counter()
    with swapping(pairs) as swaps:
        soon, end = time.monotonic() + ENOUGH, time.monotonic() + PATIENCE
        turn = 0
        while time.monotonic() < (soon if ends["committed"] and ends["failed"] else end):
            turn += 1
            try:
                answer = deliver(home.inbox, if_exists, turn)
            except EnchufeError:
                ends["failed"] += 1
            else:
                ends["suspended" if answer is None else "committed"] += 1
            home.check()
            if if_exists == "rename":
                forget(home.inbox)
    home.check()
    assert swaps[0] > SWAPS
    assert min(ends["committed"], ends["failed"]) > 0, ends


def forget(inbox: Path) -> None:
    """Remove what was delivered beside what is there, so that names stay free."""
    for name in os.listdir(inbox):
        if name.startswith("a ("):
            subprocess.run(["rm", "-r", inbox / name], check=True)


def test_a_receiver_that_looks_through_links_is_caught(home: Around, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that opens its folders through links finds outside what it was told, and gives that away."""
    monkeypatch.setattr("enchufe.store.folders.DIRECTORY", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    pairs = {home.inbox / "a/b/c": lay(home)[home.inbox / "a/b/c"]}
    with swapping(pairs):
        end = time.monotonic() + PATIENCE
        turn = 0
        while time.monotonic() < end:
            turn += 1
            try:
                deliver(home.inbox, "update", turn)
            except AssertionError as error:
                assert "looked outside" in str(error)
                return
            except EnchufeError:
                continue
    raise AssertionError("nobody looked outside")


def test_a_receiver_that_follows_links_is_caught(home: Around, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attack on one that opens its folders through links: then something outside does change."""
    monkeypatch.setattr("enchufe.store.folders.DIRECTORY", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    pairs = lay(home)
    with swapping(pairs):
        end = time.monotonic() + PATIENCE
        turn = 0
        while time.monotonic() < end:
            turn += 1
            with contextlib.suppress(EnchufeError):
                deliver(home.inbox, "overwrite", turn)
            try:
                home.check()
            except AssertionError:
                return
    raise AssertionError("nobody got out")
