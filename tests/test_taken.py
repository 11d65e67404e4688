"""Small files that an attempt before has left, read again and moved by processes of their own: as by this one."""

from __future__ import annotations

import gc
import os
import random
import signal
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from blake3 import blake3

from enchufe.entry import BLOCK_SIZE, NO_PARENT, Answer, Entry, Kind
from enchufe.errors import LocalProtocolError, StoreError
from enchufe.store import Delivery, LocalStore, hand, journal, taken
from enchufe.store.journal import RECORD_SIZE, Journal
from enchufe.store.records import Records
from tests import handing
from tests.test_delivery import Snapshot, T, snapshot
from tests.test_hands import begun, collected, needed, none_stays, running
from tests.until import until

pytestmark = [pytest.mark.usefixtures("no_descriptor_stays", none_stays.__name__), needed]

COUNT = 40


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    handing.at_once(monkeypatch.setattr)


def entries() -> list[Entry]:
    """Two folders and what is in them, beside them and alone; one as big as a block."""
    rng = random.Random(8)
    offered = [Entry(number, NO_PARENT, name, Kind.DIRECTORY, mtime_ns=T) for number, name in enumerate((b"a", b"b"))]
    for number in range(2, COUNT):
        size = BLOCK_SIZE if number == 7 else rng.choice((0, 5, 9000))
        mode = rng.choice((0o644, 0o600, 0o755, 0o400, 0o666))
        parent = (0, 1, NO_PARENT)[number % 3]
        offered.append(Entry(number, parent, b"f%d" % number, Kind.FILE, size, mode, T + number))
    return offered


def data(entry: Entry) -> bytes:
    return random.Random(entry.id).randbytes(entry.size)


def digest(entry: Entry) -> bytes:
    return blake3(data(entry)).digest()


def write(delivery: Delivery, entry: Entry) -> None:
    if entry.size < BLOCK_SIZE:
        delivery.write_whole(entry, data(entry), digest(entry))
        return
    delivery.write(entry, 0, data(entry), digest(entry))
    delivery.complete(entry, entry.size)


def cut(inbox: Path, *, until: int = COUNT) -> None:
    """An attempt that gets so far."""
    delivery = begun(inbox)
    for entry in entries()[:until]:
        assert delivery.admit(entry) is Answer.ALL
        if entry.kind is Kind.FILE:
            write(delivery, entry)
    delivery.suspend()


def area(inbox: Path) -> Path:
    (only,) = (inbox / ".enchufe").iterdir()
    return only


def left(inbox: Path, entry: Entry) -> Path:
    """Where a file is that was left."""
    (found,) = (path for path in area(inbox).rglob("*") if path.is_file() and path.name.endswith(f"f{entry.id}"))
    return found


class Taking:
    """The next attempt: all is offered, and what is here is to be read again.

    Attributes:
        good, others: what came of it.
        alone: for which nothing was begun.
    """

    def __init__(self, inbox: Path) -> None:
        self.delivery = begun(inbox)
        self.answers = {entry.id: self.delivery.admit(entry) for entry in entries()}
        self.rest = [entry for entry in entries() if self.answers[entry.id] is Answer.REST]
        self.good: list[Entry] = []
        self.others: list[Entry] = []
        self.alone: Sequence[Entry] = ()

    def done(self, good: Sequence[Entry], others: Sequence[Entry]) -> None:
        self.good += good
        self.others += others

    def begin(self) -> None:
        self.alone = self.delivery.recheck_together(self.rest, self.done)

    def take(self) -> None:
        """Have all of it read again."""
        self.begin()
        until(self.heard)

    def heard(self) -> bool:
        collected(self.delivery.hands, [])
        return len(self.good) + len(self.others) + len(self.alone) == len(self.rest)

    def finish(self) -> int:
        """Do what a session does with the rest, and commit: how many came again."""
        again = 0
        for entry in self.rest:
            if entry not in self.good and self.delivery.recheck(entry, lambda: False):
                self.delivery.write(entry, 0, data(entry), digest(entry))
                again += 1
            self.delivery.complete(entry, entry.size)
        for entry in entries():
            if self.answers[entry.id] is Answer.ALL and entry.kind is Kind.FILE:
                write(self.delivery, entry)
        self.delivery.commit()
        return again


def expected(tmp_path: Path) -> Snapshot:
    """What an attempt that nothing cuts brings."""
    whole = tmp_path / "whole"
    delivery = LocalStore(whole).begin()
    for entry in entries():
        delivery.admit(entry)
        if entry.kind is Kind.FILE:
            delivery.write(entry, 0, data(entry), digest(entry))
            delivery.complete(entry, entry.size)
    delivery.commit()
    return snapshot(whole, times=True)


@pytest.mark.parametrize("far", [COUNT, 30, 8])
def test_all_is_taken(tmp_path: Path, far: int) -> None:
    inbox = tmp_path / "in"
    cut(inbox, until=far)
    taking = Taking(inbox)
    assert [entry.id for entry in taking.rest] == list(range(2, far))
    taking.take()
    assert [entry.id for entry in taking.alone] == [7]  # a block is read where there is time
    assert taking.good == [entry for entry in taking.rest if entry.id != 7]
    assert running()
    assert taking.finish() == 0
    assert snapshot(inbox, times=True) == expected(tmp_path)


def test_what_is_taken_may_be_taken_again(tmp_path: Path) -> None:
    """Its journal knows all of it, and what was not taken is where it was."""
    inbox = tmp_path / "in"
    cut(inbox)
    for count in (1, 2):
        taking = Taking(inbox)
        assert len(taking.rest) == COUNT - 2
        taking.rest = taking.rest[:: 3 - count]
        taking.take()
        assert not taking.others
        taking.delivery.suspend()
    taking = Taking(inbox)
    taking.take()
    assert taking.finish() == 0
    assert snapshot(inbox, times=True) == expected(tmp_path)


def test_what_moves_here_is_synced_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old journal loses sight of it: a power cut would cost all of it else."""
    inbox = tmp_path / "in"
    cut(inbox)
    synced: list[int] = []
    monkeypatch.setattr(journal, "AT_RISK", BLOCK_SIZE + 1)
    monkeypatch.setattr(Journal, "_sync", lambda one: synced.append(one._at_risk))
    taking = Taking(inbox)
    taking.rest = [entry for entry in taking.rest if entry.size < BLOCK_SIZE]
    assert not synced  # by the one that was moved at once
    taking.take()
    assert synced == [sum(entry.size for entry in taking.rest) + BLOCK_SIZE]
    taking.delivery.suspend()


def test_nothing_is_taken_before_it_is_read(tmp_path: Path) -> None:
    """Until then it is where it was: whoever ends now takes nothing with him."""
    inbox = tmp_path / "in"
    cut(inbox)
    before = snapshot(area(inbox), times=True)
    there = area(inbox)
    taking = Taking(inbox)
    small = taking.rest[0]
    with pytest.raises(LocalProtocolError, match="was here before, and not read again"):
        taking.delivery.complete(small, small.size)
    with pytest.raises(LocalProtocolError, match="38 files are not complete"):
        taking.delivery.commit()
    taking.delivery.abandon()
    after = snapshot(there, times=True)
    gone = {path for path in before if path not in after}
    assert {path[-2:] for path in gone} == {b"f7"}  # which is moved at once, as it may be gone on with


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def replace(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    content = path.read_bytes()
    path.rename(path.parent.parent / "elsewhere")
    (path.parent.parent / "elsewhere").write_bytes(content)
    path.symlink_to(path.parent.parent / "elsewhere")


def name_twice(path: Path) -> None:
    os.link(path, path.parent.parent / "twice")


@pytest.mark.parametrize("spoil", [damage, shorten, replace, link, name_twice, Path.unlink])
@pytest.mark.parametrize("late", [True, False])
def test_what_is_not_as_it_was_left_comes_again(tmp_path: Path, spoil: Callable[[Path], None], late: bool) -> None:
    """Whether that is so when it is offered, or only when it is read."""
    inbox = tmp_path / "in"
    cut(inbox)
    wrong = next(entry for entry in entries() if entry.kind is Kind.FILE and entry.size == 9000)
    path = left(inbox, wrong)
    if late:
        taking = Taking(inbox)
        spoil(path)
    else:
        spoil(path)
        taking = Taking(inbox)
    assert late or (taking.answers[wrong.id] is Answer.REST) == (spoil is damage)
    taking.take()
    assert wrong not in taking.good
    assert len(taking.good) == COUNT - 4
    assert taking.finish() == (taking.answers[wrong.id] is Answer.REST)
    assert snapshot(inbox, times=True) == expected(tmp_path)


def test_modes_and_times_are_given_again(tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    cut(inbox)
    for path in area(inbox).rglob("*f*"):
        path.chmod(0o640)
        os.utime(path, ns=(T, T - 1))
    taking = Taking(inbox)
    taking.take()
    assert len(taking.good) == COUNT - 3
    assert taking.finish() == 0
    assert snapshot(inbox, times=True) == expected(tmp_path)


def test_what_was_taken_may_be_left_out(tmp_path: Path) -> None:
    """Its sender finds that it has changed since."""
    inbox = tmp_path / "in"
    cut(inbox)
    taking = Taking(inbox)
    taking.take()
    gone = taking.good[4]
    taking.delivery.drop(gone)
    taking.rest.remove(gone)
    assert taking.finish() == 0
    found = snapshot(inbox, times=True)
    (lost,) = set(expected(tmp_path)) - set(found)
    assert lost.endswith(b"/" + gone.name)


def test_nobody_keeps_a_delivery_that_is_over(tmp_path: Path) -> None:
    cut(tmp_path)
    taking = Taking(tmp_path)
    taking.take()
    taking.delivery.suspend()
    gone = weakref.ref(taking.delivery)
    gc.disable()
    try:
        del taking
        assert gone() is None
    finally:
        gc.enable()


def test_a_hand_that_is_killed_over_it_costs_nothing_that_was_there(tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    cut(inbox)
    taking = Taking(inbox)
    for process in running():
        os.kill(process, signal.SIGSTOP)
    taking.begin()
    for process in running():
        os.kill(process, signal.SIGKILL)
    with pytest.raises(StoreError, match="is gone"):
        until(taking.heard)
    taking.delivery.suspend()
    again = Taking(inbox)
    again.take()
    assert again.finish() == 0
    assert snapshot(inbox, times=True) == expected(tmp_path)


def test_hands_that_never_begin_leave_it_to_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = tmp_path / "in"
    cut(inbox)
    monkeypatch.setattr(hand, "__file__", os.devnull)
    monkeypatch.setattr(os.path, "isfile", lambda _: True)
    monkeypatch.setattr("tests.handing.PATIENCE", 0.0)
    taking = Taking(inbox)
    assert len(taking.rest) == COUNT - 2
    taking.take()
    assert not taking.good
    assert taking.finish() == 0
    assert snapshot(inbox, times=True) == expected(tmp_path)


def test_more_than_one_request_may_bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand, "FOLDERS", 4)
    monkeypatch.setattr(taken, "_FILES", 3)
    inbox = tmp_path / "in"
    cut(inbox)
    taking = Taking(inbox)
    taking.take()
    assert len(taking.good) == COUNT - 3
    assert taking.finish() == 0
    assert snapshot(inbox, times=True) == expected(tmp_path)


def test_what_two_attempts_have_left(tmp_path: Path) -> None:
    """What both have is looked at first; the rest of each is taken."""
    inbox = tmp_path / "in"
    first, second = begun(inbox), begun(inbox)
    for delivery, numbers in ((first, range(2, 20)), (second, range(15, 30))):
        for entry in entries():
            delivery.admit(entry)
            if entry.id in numbers:
                write(delivery, entry)
    first.suspend()
    second.suspend()
    taking = Taking(inbox)
    taking.take()
    assert {entry.id for entry in taking.alone} == {7, *range(15, 20)}
    assert not taking.others
    assert taking.finish() == 0
    assert snapshot(inbox, times=True) == expected(tmp_path)


def test_a_folder_that_is_gone_leaves_the_looking_to_us(tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    cut(inbox)
    below = left(inbox, entries()[4]).parent
    taking = Taking(inbox)
    folders = taking.delivery._leftovers._left[0].folders  # those that are open would be there all the same
    while folders._open:
        os.close(folders._open.popitem()[1])
    folders._latest = (0, -1)
    below.rename(below.parent / "elsewhere")
    taking.take()
    assert taking.others
    assert taking.finish() > 10
    assert snapshot(inbox, times=True) == expected(tmp_path)


def test_new_files_do_not_wait_for_those_that_are_taken(tmp_path: Path) -> None:
    """One is stopped over these; the other writes."""
    inbox = tmp_path / "in"
    cut(inbox, until=30)
    taking = Taking(inbox)
    new = [entry for entry in entries() if taking.answers[entry.id] is Answer.ALL and entry.kind is Kind.FILE]
    last = max(running())
    assert len(running()) == 2
    os.kill(last, signal.SIGSTOP)
    taking.begin()
    written: list[None] = []
    told = [(entry, data(entry), digest(entry)) for entry in new]
    assert taking.delivery.write_together(told, lambda: written.append(None))
    until(lambda: collected(taking.delivery.hands, written))
    assert not taking.good
    os.kill(last, signal.SIGCONT)
    until(taking.heard)
    assert len(taking.good) == 27
    for entry in taking.rest:
        if entry in taking.alone:
            assert taking.delivery.recheck(entry, lambda: False) == []
        taking.delivery.complete(entry, entry.size)
    taking.delivery.commit()
    assert snapshot(inbox, times=True) == expected(tmp_path)


# What a hand does.


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, list[int]]:
    """A folder to take from and one to take to, and what a hand has open: the latter, the former, a journal."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    flags = os.O_RDWR | os.O_CREAT
    return here, there, [os.open(here, os.O_RDONLY), os.open(there, os.O_RDONLY), os.open(tmp_path / "journal", flags)]


def requested(there: Path, count: int = 3) -> list[hand.Take]:
    files: list[hand.Take] = []
    for number in range(count):
        content = b"%d" % number
        (there / f"f{number}").write_bytes(content)
        files.append((0, b"f%d" % number, 0o600, T, 1, blake3(content).digest(), b""))
    return files


def pulse() -> memoryview:
    return memoryview(bytearray(1))


def test_the_journal_is_told_before_anything_is_moved(
    places: tuple[Path, Path, list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, there, descriptors = places
    files = requested(there)
    moved: list[int] = []

    def killed(*_: object) -> None:
        moved.append(os.path.getsize(tmp_path / "journal"))
        raise KeyboardInterrupt

    monkeypatch.setattr(hand, "renaming", lambda: killed)
    with pytest.raises(KeyboardInterrupt):
        hand._take(pulse(), descriptors, files, [b""], RECORD_SIZE)
    assert moved == [4 * RECORD_SIZE]
    records = Records(descriptors.pop())
    assert tuple(records.kept(hand.identity(b"", b"f1", 1, T), 1, 1)) == ((0, blake3(b"1").digest()),)
    records.close()
    for descriptor in descriptors:
        os.close(descriptor)
    assert not os.listdir(here)


def test_what_the_journal_cannot_be_told_of_stays(places: tuple[Path, Path, list[int]], tmp_path: Path) -> None:
    here, there, descriptors = places
    os.close(descriptors[2])
    descriptors[2] = os.open(tmp_path / "journal", os.O_RDONLY)
    assert hand._take(pulse(), descriptors, requested(there), [b""], 0) == [0, 1, 2]
    for descriptor in descriptors:
        os.close(descriptor)
    assert not os.listdir(here)


@pytest.mark.parametrize("able", [True, False])
def test_what_has_the_name_is_never_replaced(
    places: tuple[Path, Path, list[int]], monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    """Nor is anything moved where that cannot be had in one step."""
    here, there, descriptors = places
    (here / "f1").write_bytes(b"taken")
    if not able:
        monkeypatch.setattr(hand, "renaming", lambda: None)
    assert hand._take(pulse(), descriptors, requested(there), [b""], 0) == ([1] if able else [0, 1, 2])
    for descriptor in descriptors:
        os.close(descriptor)
    assert (here / "f1").read_bytes() == b"taken"
    assert sorted(os.listdir(there)) == (["f1"] if able else ["f0", "f1", "f2"])
