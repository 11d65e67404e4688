"""What a plan keeps of folders and grafts, in little memory, is what was put in."""

from __future__ import annotations

import itertools

import pytest

from enchufe.entry import NO_PARENT, Entry, Kind
from enchufe.store.grafts import Grafts
from enchufe.store.plan import TOP, Folder, Standing

ATTRIBUTES = ((b"user.one", b"1"), (b"user.two", b""))


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("attributes", [(), ATTRIBUTES])
@pytest.mark.parametrize(("depth", "mode", "mtime_ns"), [(0, 0, 0), (65535, 0o7777, -(2**63)), (1, 0o755, 2**63 - 1)])
def test_a_folder_is_what_it_was_before_it_was_packed(
    standing: Standing, attributes: tuple[tuple[bytes, bytes], ...], depth: int, mode: int, mtime_ns: int
) -> None:
    for counted, grafted, plain in itertools.product([False, True], repeat=3):
        folder = Folder(7, standing, depth, mode, mtime_ns, attributes, counted, grafted, plain)
        row = folder.packed()
        assert Folder.unpacked(7, row) == folder
        assert attributes or len(row) == 13


def a_graft(number: int, kind: Kind = Kind.FILE) -> Entry:
    return Entry(number, NO_PARENT, b"%d" % number, kind)


def test_grafts_are_counted_and_found_as_they_come_and_go() -> None:
    grafts = Grafts(lambda _folder: b"")
    for number in (0, 1, 5000, 5001):
        grafts.add(a_graft(number, Kind.DIRECTORY if number % 2 else Kind.FILE), TOP, replaces=number == 5000)
    assert (len(grafts), grafts.directories) == (4, 2)
    assert [number for number in range(7000) if number in grafts] == [0, 1, 5000, 5001]
    assert [number for number in range(7000) if grafts.replaces(number)] == [5000]
    for number in (1, 1, 5000, 6999, 2):  # some twice, and some that are none
        grafts.discard(number)
    assert (len(grafts), grafts.directories) == (2, 1)
    assert not grafts.replaces(5000)
    assert [(graft.id, graft.parent, graft.name, graft.kind, graft.replaces) for graft in grafts] == [
        (0, TOP, b"0", Kind.FILE, False),
        (5001, TOP, b"5001", Kind.DIRECTORY, False),
    ]
    assert grafts.parents() == {TOP}
