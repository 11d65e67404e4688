"""Many names in one folder: the same order, in little memory."""

from __future__ import annotations

import contextlib
import os
import random
import tracemalloc
from pathlib import Path

import pytest

from enchufe.entry import LISTED
from enchufe.store import Source, many, source
from enchufe.store.many import Names
from enchufe.store.put_away import PutAway


def gathered(count: int) -> Names:
    names = Names()
    for number in range(count):
        names.found.append(f"file-{number * 7919 % count:07}.jpg")
        if not number % 10_000:
            names.settle()
    return names


def test_few_are_a_list() -> None:
    names = Names(lambda name: name != "b")
    names.found += ["c", "b", "a"]
    names.settle()
    assert names.all() == [b"a", b"c"]


@pytest.mark.parametrize("count", [0, 1, LISTED, LISTED + 10_000, 2 * LISTED + 17])
def test_all_of_them_come_in_order(count: int) -> None:
    names = gathered(count).all()
    assert len(names) == count
    assert list(names) == [b"file-%07d.jpg" % number for number in range(count)]
    assert (b"file-0000000.jpg" in names) == (count > 0)
    assert b"file-0000000" not in names


def test_many_take_little_memory() -> None:
    tracemalloc.start()
    try:
        names = gathered(4 * LISTED).all()
        kept, _ = tracemalloc.get_traced_memory()
        assert len(names) == 4 * LISTED  # in 60 bytes each, were they a list
        assert kept < 20 * 4 * LISTED
        assert sum(1 for _ in names) == 4 * LISTED
        assert tracemalloc.get_traced_memory()[1] < 250 * LISTED  # as when the first are put away
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("exclude", [(), ("*3*",)])
@pytest.mark.parametrize("lists", [False, True])
def test_walk_of_a_folder_with_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exclude: tuple[str, ...], lists: bool
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    names = [random.Random(number).randbytes(4).hex() + "\xe9\udcff" for number in range(400)]
    for number, name in enumerate(names):
        if number % 2:
            (tree / name).mkdir()
        else:
            (tree / name).touch()

    def walked() -> list[tuple[bytes, ...]]:
        with contextlib.closing(Source([tree], exclude=exclude)) as opened:
            opened.lists = lists
            entries = list(opened.walk())
            assert not any(entry.listing for entry in entries)
            return [opened.path(entry) for entry in entries]

    monkeypatch.setattr(source, "LISTED", 50)
    few = walked()
    assert len(few) > 100
    monkeypatch.setattr(many, "LISTED", 50)
    monkeypatch.setattr(source, "_SETTLED", 9)
    monkeypatch.setattr(many, "_AT_ONCE", 7)
    assert walked() == few


def test_what_is_left_out_takes_little_memory(tmp_path: Path) -> None:
    tree, count = tmp_path / "tree", 12_345
    (tree / "in").mkdir(parents=True)
    for number in range(count):
        os.mkfifo(tree / "in" / f"{number:05}.jpg")
    with contextlib.closing(Source([tree])) as source:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            assert [entry.name for entry in source.walk()] == [b"tree", b"in"]
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept - before < 40 * count
        assert len(source.left_out) == count
        told = [((b"tree", b"in", b"%05d.jpg" % number), "a named pipe, not a file") for number in range(count)]
        assert list(source.left_out) == told
        assert told[-1] in source.left_out
        assert (told[0][0], "") not in source.left_out


@pytest.mark.parametrize("before", [0, 1, 999, 1000, 1001, 2500])
@pytest.mark.parametrize("more", [0, 1, 999, 1000, 2500])
def test_what_is_put_away_while_it_is_gone_through_comes_too(before: int, more: int) -> None:
    rows = PutAway()
    for number in range(before):
        rows.append((number, b"%d" % number))
    through = iter(rows)
    first = next(through, None)
    for number in range(before, before + more):
        rows.append((number, b"%d" % number))
    found = [first, *through] if before else list(rows)
    assert found == [(number, b"%d" % number) for number in range(before + more)]
    assert len(rows) == before + more


def test_how_often_files_were_offered_again_takes_a_byte_each(tmp_path: Path) -> None:
    file, count = tmp_path / "file", 12_345
    file.touch()
    with contextlib.closing(Source([tmp_path])) as source:
        _, entry = source.walk()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(count):
                latest = source.again(entry)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept - before < 3 * count  # with what it has in hand to grow by
        assert latest is not None
        twice = source.again(latest)
        assert twice is not None
        assert source.again(twice) is None
