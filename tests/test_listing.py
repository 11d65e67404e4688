"""Folders that are listed by their sender, and found to be the same by their receiver, or not."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from enchufe.entry import NO_PARENT, Answer, Entry, Kind, Listing, Reason
from enchufe.store import IfExists, Links, LocalStore, Source
from enchufe.store.listing import in_order, listed
from enchufe.store.names import NameRules
from enchufe.store.source import LISTED_FROM
from tests.test_delivery import Offer, contents, snapshot
from tests.test_source import walked

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")

T = 1_600_000_000_123_456_789


# What a sender lists.


def listing_walk(*paths: str | Path, **how: Any) -> tuple[Source, list[Entry]]:
    source = Source(paths, **how)
    source.lists = True
    return source, list(source.walk())


def listings(entries: Sequence[Entry]) -> dict[bytes, tuple[int, int, int]]:
    return {entry.name: entry.listing[:3] for entry in entries if entry.listing is not None}


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A folder worth listing, and two in it."""
    for folder in ("full", "full/in", "full/in/ner"):
        (tmp_path / folder).mkdir()
        for number in range(LISTED_FROM):
            (tmp_path / folder / f"f{number}").write_bytes(bytes(number))
    (tmp_path / "full" / "link").symlink_to("f1")
    return tmp_path / "full"


SIX = LISTED_FROM * (LISTED_FROM - 1) // 2  # bytes in these files


def test_a_listing_stands_for_what_is_in_a_folder_but_its_folders(full: Path) -> None:
    source, entries = listing_walk(full)
    with contextlib.closing(source):
        assert [source.path(entry)[1:] for entry in entries] == [(), (b"in",), (b"in", b"ner")]
        assert listings(entries) == {
            b"full": (LISTED_FROM, 1, SIX), b"in": (LISTED_FROM, 0, SIX), b"ner": (LISTED_FROM, 0, SIX)
        }  # fmt: skip
        records = [
            struct.pack(">BQqHH", 1, number, (full / f"f{number}").stat().st_mtime_ns, 2, 0) + b"f%d" % number
            for number in range(LISTED_FROM)
        ]
        records.append(struct.pack(">BQqHH", 3, 0, 0, 4, 2) + b"link" + b"f1")
        assert entries[0].listing is not None
        assert entries[0].listing.digest == blake3(b"".join(records)).digest()


def test_what_is_inside_comes_under_the_next_ids(full: Path) -> None:
    source, entries = listing_walk(full)
    plain, _ = walked([full])
    with contextlib.closing(source):
        inside = [entry for folder in reversed(entries) for entry in source.inside(folder)]
        assert [entry.id for entry in inside] == list(range(3, 3 + len(inside)))
        assert source.read_whole(inside[1]) == b"\0"
        found = {b"/".join(source.path(entry)): entry for entry in (*entries, *inside)}
        for path, entry in found.items():
            entry.id = plain[path].id
            entry.parent, entry.listing = plain[path].parent, None
        assert found == plain


def test_a_walk_may_list_from_any_folder_on(full: Path) -> None:
    with contextlib.closing(Source([full])) as source:
        walk = source.walk()
        entries = [next(walk) for _ in range(3)]
        source.lists = True
        entries += walk
        assert [entry.id for entry in entries] == list(range(len(entries)))
        assert set(listings(entries)) == {b"in", b"ner"}
        inside = list(source.inside(entries[-1]))
        assert [entry.name for entry in inside] == [b"f%d" % number for number in range(LISTED_FROM)]


def too_few(folder: Path) -> None:
    (folder / "f0").unlink()


def shared(folder: Path) -> None:
    os.link(folder / "f0", folder.parent.parent / "elsewhere")


def with_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def with_a_time_beyond_all(folder: Path) -> None:
    os.utime(folder / "f0", ns=(0, 2**63))


@pytest.mark.parametrize("unfit", [too_few, shared, with_a_pipe, with_a_time_beyond_all])
def test_a_folder_that_is_not_listed_is_walked_as_ever(full: Path, unfit: Callable[[Path], None]) -> None:
    unfit(full / "in")
    if unfit is with_a_time_beyond_all and (full / "in" / "f0").stat().st_mtime_ns < 2**63:
        pytest.skip("no such times on this file system")
    source, entries = listing_walk(full)
    with contextlib.closing(source):
        assert set(listings(entries)) == {b"full", b"ner"}
        names = [entry.name for entry in entries if entry.parent == 1]
        assert len(names) == LISTED_FROM + (unfit is not too_few)


def test_more_than_a_listing_holds_is_not_listed(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enchufe.store.source.LISTED", LISTED_FROM)
    source, entries = listing_walk(full)
    source.close()
    assert set(listings(entries)) == {b"in", b"ner"}  # the first has a link besides


def test_what_is_excluded_is_in_no_listing(full: Path) -> None:
    (full / "in" / "more.o").touch()
    source, entries = listing_walk(full, exclude=["*.o", "link"])
    with contextlib.closing(source):
        assert listings(entries)[b"full"] == (LISTED_FROM, 0, SIX)
        assert listings(entries)[b"in"] == (LISTED_FROM, 0, SIX)
        assert len(list(source.inside(entries[0]))) == len(list(source.inside(entries[1]))) == LISTED_FROM


def test_attributes_keep_folders_from_being_listed(full: Path) -> None:
    source, entries = listing_walk(full, attributes=True)
    source.close()
    assert not listings(entries)


def test_a_folder_that_became_a_file_since_its_folder_was_listed_is_left_out(full: Path) -> None:
    with contextlib.closing(Source([full])) as source:
        source.lists = True
        walk = source.walk()
        next(walk)
        (full / "in").rename(full / "away")
        (full / "in").write_text("a file by now")
        assert list(walk) == []
        assert list(source.left_out) == [((b"full", b"in"), Reason.CHANGED.told)]


def test_what_is_kept_of_a_listed_folder_is_little(tmp_path: Path) -> None:
    """For as long as the walk lasts, where it is the same: nobody asks what is in it then, and nobody says so."""
    folders = 300
    for number in range(folders):
        (tmp_path / f"{number}" / "in").mkdir(parents=True)
        for file in range(LISTED_FROM):
            (tmp_path / f"{number}" / f"{file}").touch()
    assert (kept_of(tmp_path, lists=True) - kept_of(tmp_path, lists=False)) / folders < 250  # bytes


def kept_of(tree: Path, *, lists: bool) -> int:
    with contextlib.closing(Source([tree])) as source:
        source.lists = lists
        tracemalloc.start()
        try:
            for _ in source.walk():
                pass
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()


def test_what_is_inside_is_looked_at_again(full: Path) -> None:
    source, entries = listing_walk(full)
    with contextlib.closing(source):
        (full / "in" / "f0").unlink()
        (full / "in" / "f1").unlink()
        (full / "in" / "f1").mkdir()
        (full / "in" / "new").write_text("new")
        os.mkfifo(full / "in" / "pipe")
        assert [entry.name for entry in source.inside(entries[1])] == [b"f2", b"f3", b"new"]
        assert list(source.left_out) == [
            ((b"full", b"in", b"f1"), Reason.CHANGED.told),
            ((b"full", b"in", b"pipe"), "a named pipe, not a file"),
        ]


# What a receiver finds to be the same.


def a_listing(folder: Path) -> Listing:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        leaves = [name for name in os.listdir(folder) if (folder / name).is_symlink() or not (folder / name).is_dir()]
        found = listed(in_order(leaves), descriptor)
    finally:
        os.close(descriptor)
    assert found is not None
    return found


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder at the destination with two files, a link and a folder."""
    folder = tmp_path / "tree"
    (folder / "in").mkdir(parents=True)
    for name in ("f", "g"):
        (folder / name).write_text(name)
    (folder / "link").symlink_to("f")
    return folder


def answer_to(folder: Path, listing: Listing | None, **how: Any) -> Answer:
    begun = LocalStore(folder.parent, **{"if_exists": "update", **how}).begin()
    try:
        return begun.admit(Entry(0, NO_PARENT, b"tree", Kind.DIRECTORY, mtime_ns=T, listing=listing))
    finally:
        begun.abandon()


def test_a_folder_that_holds_just_what_is_listed_is_the_same(there: Path) -> None:
    assert answer_to(there, a_listing(there)) is Answer.SAME
    assert answer_to(there, None) is Answer.ALL
    assert contents(there) == {"f": "f", "g": "g", "link": "f", "in": None}


@pytest.mark.parametrize("if_exists", ["rename", "overwrite"])
def test_without_update_no_folder_is_the_same(there: Path, if_exists: IfExists) -> None:
    assert answer_to(there, a_listing(there), if_exists=if_exists) is Answer.ALL


def test_where_content_is_compared_no_folder_is_the_same(there: Path) -> None:
    assert answer_to(there, a_listing(there), checksum=True) is Answer.ALL


def test_where_names_may_be_taken_for_others_no_folder_is_the_same(there: Path) -> None:
    store = LocalStore(there.parent, if_exists="update")
    store._rules = NameRules(folds=True)
    begun = store.begin()
    assert begun.admit(Entry(0, NO_PARENT, b"tree", Kind.DIRECTORY, listing=a_listing(there))) is Answer.ALL
    begun.abandon()


@pytest.mark.parametrize(("links", "answer"), [("inside", Answer.SAME), ("any", Answer.SAME), ("none", Answer.ALL)])
def test_links_that_would_not_be_taken_are_not_the_same(there: Path, links: Links, answer: Answer) -> None:
    assert answer_to(there, a_listing(there), links=links) is answer
    (there / "link").unlink()
    (there / "link").symlink_to("../..")
    assert answer_to(there, a_listing(there), links=links) is (Answer.SAME if links == "any" else Answer.ALL)


def add_file(there: Path) -> None:
    (there / "more").touch()


def remove_file(there: Path) -> None:
    (there / "f").unlink()


def touch(there: Path) -> None:
    os.utime(there / "f", ns=(T, T))


def add_pipe(there: Path) -> None:
    os.mkfifo(there / "pipe")


def swap_names(there: Path) -> None:
    (there / "f").rename(there / "h")
    (there / "g").rename(there / "f")
    (there / "h").rename(there / "g")


def swap_for_folder(there: Path) -> None:
    (there / "f").unlink()
    (there / "f").mkdir()


@pytest.mark.parametrize("change", [add_file, remove_file, touch, add_pipe, swap_names, swap_for_folder])
def test_a_folder_that_holds_anything_else_is_not_the_same(there: Path, change: Callable[[Path], None]) -> None:
    listing = a_listing(there)
    change(there)
    assert answer_to(there, listing) is Answer.ALL


def test_folders_in_a_folder_are_no_part_of_it(there: Path) -> None:
    listing = a_listing(there)
    (there / "another").mkdir()
    (there / "in").rmdir()
    assert answer_to(there, listing) is Answer.SAME


@pytest.mark.parametrize("field", ["files", "links", "size"])
def test_counts_that_do_not_fit_the_digest_are_not_the_same(there: Path, field: str) -> None:
    listing = a_listing(there)
    assert answer_to(there, listing._replace(**{field: getattr(listing, field) + 1})) is Answer.ALL
    shifted = listing._replace(files=listing.files + 1, links=listing.links - 1)
    assert answer_to(there, shifted) is Answer.ALL


def test_the_name_of_the_staging_area_is_never_the_same(there: Path) -> None:
    (there / ".Enchufe").write_text("refused, each time")
    assert answer_to(there, a_listing(there)) is Answer.ALL


def test_a_big_folder_is_not_read_further_than_the_listing_goes(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = a_listing(there)
    for number in range(100):
        (there / f"more {number}").touch()
    looked: list[object] = []
    monkeypatch.setattr("enchufe.store.plan.listed", lambda *names, **_: looked.append(names))
    assert answer_to(there, listing) is Answer.ALL
    assert not looked


def test_a_new_folder_and_one_in_the_way_are_not_the_same(there: Path) -> None:
    listing = a_listing(there)
    there.rename(there.parent / "away")
    assert answer_to(there, listing) is Answer.ALL
    there.write_text("a file")
    assert answer_to(there, listing) is Answer.IN_THE_WAY
    there.unlink()
    there.symlink_to("away")
    assert answer_to(there, listing) is Answer.IN_THE_WAY


def test_a_folder_that_is_the_same_gets_mode_and_time_and_what_is_in_it_stays(there: Path) -> None:
    listing = a_listing(there)
    os.utime(there / "in", ns=(T, T))
    before = snapshot(there, times=True)
    begun = LocalStore(there.parent, if_exists="update").begin()
    offer = Offer(begun)
    tree = offer.add(Kind.DIRECTORY, "tree", None, mode=0o711, listing=listing)
    assert offer.answer is Answer.SAME
    offer.file("f", b"new", offer.folder("new", tree))
    begun.commit()
    assert stat.S_IMODE(there.stat().st_mode) == 0o711
    assert there.stat().st_mtime_ns == T
    assert {**snapshot(there, times=True), **before} == snapshot(there, times=True)
    assert contents(there)["new/f"] == "new"
