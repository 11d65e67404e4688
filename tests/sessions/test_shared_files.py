"""Files that several threads read: closed once, and never while somebody reads."""

from __future__ import annotations

import pytest

from enchufe.entry import Entry, Reason
from enchufe.session.shared_files import SharedFiles
from enchufe.store import LeftOut
from tests.pairs.pair import file

ONE, TWO = file(1, 10), file(2, 20)


class File:
    def __init__(self) -> None:
        self.closed = 0
        self.same = True

    def read_into(self, _view: memoryview, _offset: int) -> int:
        return 0

    def holes(self, _start: int, _stop: int) -> int:
        return 0

    def unchanged(self) -> bool:
        return self.same

    def close(self) -> None:
        self.closed += 1


class Disk:
    def __init__(self) -> None:
        self.opened: list[File] = []

    def open(self, _entry: Entry) -> File:
        self.opened.append(File())
        return self.opened[-1]


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def files(disk: Disk) -> SharedFiles:
    return SharedFiles(disk.open)


def test_a_file_is_opened_once_and_stays_open(disk: Disk, files: SharedFiles) -> None:
    with files.reading(ONE) as first, files.reading(ONE) as second:
        assert first is second
    with files.reading(ONE) as third, files.reading(TWO) as other:
        assert third is first is not other
    assert [file.closed for file in disk.opened] == [0, 0]


def test_closing_waits_for_the_last_reader(disk: Disk, files: SharedFiles) -> None:
    with files.reading(ONE):
        with files.reading(ONE):
            files.close(ONE)
        assert disk.opened[0].closed == 0
        with files.reading(ONE):  # wanted again: that is another
            assert len(disk.opened) == 2
        assert disk.opened[0].closed == 0
    assert [file.closed for file in disk.opened] == [1, 0]
    files.close(ONE)
    files.close(ONE)
    files.close(TWO)
    assert [file.closed for file in disk.opened] == [1, 1]


def test_after_all_are_closed_none_stays_open(disk: Disk, files: SharedFiles) -> None:
    with files.reading(ONE), files.reading(TWO):
        files.close(TWO)
        files.close_all()
        assert [file.closed for file in disk.opened] == [0, 0]
        with files.reading(ONE):
            pass
    assert [file.closed for file in disk.opened] == [1, 1, 1]


def test_a_reader_that_fails_has_read(disk: Disk, files: SharedFiles) -> None:
    with pytest.raises(LeftOut), files.reading(ONE):
        raise LeftOut(Reason.CHANGED, (b"a",))
    files.close(ONE)
    assert disk.opened[0].closed == 1


def test_what_cannot_be_opened_is_tried_again(disk: Disk) -> None:
    tries: list[Entry] = []

    def refuse_once(entry: Entry) -> File:
        tries.append(entry)
        if len(tries) == 1:
            raise LeftOut(Reason.VANISHED, (b"a",))
        return disk.open(entry)

    files = SharedFiles(refuse_once)
    with pytest.raises(LeftOut), files.reading(ONE):
        pass
    with files.reading(ONE):
        pass
    assert tries == [ONE, ONE]


def test_whether_it_changed_is_asked_of_what_is_open(disk: Disk, files: SharedFiles) -> None:
    assert files.unchanged(ONE)
    with files.reading(ONE):
        disk.opened[0].same = False
    assert not files.unchanged(ONE)
