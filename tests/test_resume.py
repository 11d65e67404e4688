"""What is kept of a cut delivery: suspended, killed, damaged, changed; never wrong, and nothing sent twice."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from blake3 import blake3

from enchufe.entry import BLOCK_SIZE, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import LocalProtocolError, NoSpaceError, RemoteProtocolError, StoreError
from enchufe.store import Delivery, LocalStore, commit, journal, linux, staging
from enchufe.store.journal import Journal
from enchufe.store.records import Records
from tests.test_delivery import Snapshot, T, snapshot

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")

BIG = random.Random(1).randbytes(5 * BLOCK_SIZE + 12_345)
TREE = Entry(0, NO_PARENT, b"tree", Kind.DIRECTORY, mode=0o755, mtime_ns=T)
FILES: dict[bytes, bytes] = {b"big": BIG, b"small": b"small one", b"empty": b"", b"locked": b"mode 0"}
MODES = {b"locked": 0}


@pytest.fixture(params=["renameat2", "link"], autouse=True)
def either_rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever renames without replacing; the one without also lacks all else."""
    for name in ("use_renameat2", "use_syncfs", "use_sync_file_range", "use_fallocate"):
        monkeypatch.setattr(linux, name, request.param == "renameat2")


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def blocks(data: bytes) -> list[bytes]:
    """A file in blocks; one block where it is empty."""
    return [data[start : start + BLOCK_SIZE] for start in range(0, max(len(data), 1), BLOCK_SIZE)]


def entries(files: dict[bytes, bytes] = FILES, mtime_ns: int = T, *, sparse: bool = False) -> Iterator[Entry]:
    for number, (name, data) in enumerate(files.items(), 1):
        yield Entry(number, 0, name, Kind.FILE, len(data), MODES.get(name, 0o644), mtime_ns=mtime_ns, sparse=sparse)


def receive(
    begun: Delivery, files: dict[bytes, bytes] = FILES, mtime_ns: int = T, *, until: int = 1 << 62, sparse: bool = False
) -> int:
    """Do what a session does with an offer, up to so many bytes; returns how many bytes were sent."""
    sent = 0
    assert begun.admit(TREE) is Answer.ALL
    wanted = [(entry, begun.admit(entry)) for entry in entries(files, mtime_ns, sparse=sparse)]
    for entry, answer in wanted:
        pieces = blocks(files[entry.name])
        kept = {
            first + index
            for first, digests in begun.kept(entry)
            for index in range(len(digests) // 32)
            if digest(pieces[first + index]) == digests[32 * index : 32 * index + 32]
        }
        assert bool(kept) == (answer is Answer.REST)
        for number, piece in enumerate(pieces):
            if number in kept:
                continue
            if sent >= until:
                return sent
            if len(pieces) == 1:
                begun.write_whole(entry, piece, digest(piece))
            else:
                begun.write(entry, number * BLOCK_SIZE, piece, digest(piece))
            sent += max(len(piece), 1)
        if answer is not Answer.REST and len(pieces) > 1:
            begun.complete(entry, entry.size)
    for entry, answer in wanted:
        if answer is Answer.REST:
            pieces = blocks(files[entry.name])
            for number in begun.recheck(entry, lambda: False):
                begun.write(entry, number * BLOCK_SIZE, pieces[number], digest(pieces[number]))
                sent += max(len(pieces[number]), 1)
            begun.complete(entry, entry.size)
    return sent


def expected(files: dict[bytes, bytes] = FILES, mtime_ns: int = T) -> Snapshot:
    tree: Snapshot = {b"tree": (stat.S_IFDIR, 0o755, None, T)}
    for name, data in files.items():
        tree[b"tree/" + name] = (stat.S_IFREG, MODES.get(name, 0o644), data, mtime_ns)
    return tree


def areas(inbox: Path) -> list[Path]:
    return sorted((inbox / ".enchufe").iterdir()) if (inbox / ".enchufe").exists() else []


def finish(inbox: Path, files: dict[bytes, bytes] = FILES, mtime_ns: int = T, *, sparse: bool = False) -> int:
    """The next attempt, up to the commit; everything is right, and nothing left over."""
    begun = LocalStore(inbox).begin()
    sent = receive(begun, files, mtime_ns, sparse=sparse)
    begun.commit()
    assert snapshot(inbox, times=True) == expected(files, mtime_ns)
    return sent


ALL = sum(max(len(data), 1) for data in FILES.values())


@pytest.mark.parametrize("until", [0, 1, BLOCK_SIZE, 3 * BLOCK_SIZE, len(BIG), len(BIG) + 9, ALL])
def test_suspended(inbox: Path, until: int) -> None:
    begun = LocalStore(inbox).begin()
    sent = receive(begun, until=until)
    begun.suspend()
    begun.suspend()
    begun.abandon()
    assert os.listdir(inbox) == ([".enchufe"] if sent else [])
    assert sent + finish(inbox) == ALL


def test_suspended_again_and_again(inbox: Path) -> None:
    sent = 0
    for _ in range(20):
        begun = LocalStore(inbox).begin()
        some = receive(begun, until=BLOCK_SIZE)
        begun.suspend()
        sent += some
        assert len(areas(inbox)) == 1
    assert sent == ALL
    assert finish(inbox) == 0


def test_abandoned_leaves_what_it_did_not_take(inbox: Path) -> None:
    begun = LocalStore(inbox).begin()
    sent = receive(begun, until=2 * BLOCK_SIZE)
    begun.suspend()
    LocalStore(inbox).begin().abandon()
    assert len(areas(inbox)) == 1
    assert sent + finish(inbox) == ALL


def test_an_area_whose_journal_says_nothing_goes(inbox: Path) -> None:
    begun = LocalStore(inbox).begin()
    receive(begun, until=2 * BLOCK_SIZE)
    begun.suspend()
    (area,) = areas(inbox)
    (area / "journal").write_bytes(bytes(64))
    LocalStore(inbox).begin().abandon()
    assert not areas(inbox)


def test_abandoned_leaves_of_two_that_had_the_same_the_one_it_did_not_take(inbox: Path) -> None:
    """Of a file that is in two areas only one is moved."""
    first, second = LocalStore(inbox).begin(), LocalStore(inbox).begin()
    sent = [receive(begun, until=until) for begun, until in ((first, BLOCK_SIZE), (second, 2 * BLOCK_SIZE))]
    first.suspend()
    second.suspend()
    assert len(areas(inbox)) == 2
    begun = LocalStore(inbox).begin()
    receive(begun, until=0)
    begun.abandon()
    assert min(sent) + finish(inbox) == ALL


# Killed, at any moment.

KILLED = """
import os, signal, sys
sys.path.insert(0, {project!r})
from pathlib import Path
from enchufe.store import LocalStore, linux
from tests.test_resume import kill_at, receive
kill_at(int(sys.argv[2]))
if sys.argv[3] != "renameat2":
    linux.use_renameat2 = linux.use_syncfs = False
begun = LocalStore(sys.argv[1]).begin()
receive(begun)
begun.commit()
begun.abandon()
print("done")
"""
CALLS = ("open", "write", "pwrite", "utime", "fchmod", "close", "mkdir", "rename", "link", "unlink", "rmdir", "fsync")


def kill_at(number: int) -> None:
    """Have this process die before its `number`-th call that changes something."""
    count = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    linux.rename_noreplace = counted(linux.rename_noreplace)  # type: ignore[assignment]


def run_killed(inbox: Path, number: int, how: str) -> bool:
    """Receive in a process that dies; whether it came to its end before."""
    project = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", KILLED.format(project=project), str(inbox), str(number), how]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode == 0


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_call(inbox: Path, request: pytest.FixtureRequest, seed: int) -> None:
    """One attempt after the other is killed: nothing shows half done, and the last one has all."""
    rng = random.Random(seed)
    how = "renameat2" if "renameat2" in request.node.name else "link"
    for _ in range(6):
        ended = run_killed(inbox, rng.randrange(1, 140), how)
        shown = [name for name in os.listdir(inbox) if name != ".enchufe"]
        for name in shown:  # killed after the rename: it is whole, and the next attempt's is another
            found = {path: told[2] for path, told in snapshot(inbox / name).items()}
            assert found == {path.removeprefix(b"tree/"): told[2] for path, told in expected().items() if b"/" in path}
            subprocess.run(["rm", "-r", inbox / name], check=True)
        assert shown or not ended
    finish(inbox)


def test_killed_after_each_block(inbox: Path) -> None:
    """What the receiver had written is not sent again."""
    project = str(Path(__file__).parent.parent)
    program = f"""
import os, signal, sys
sys.path.insert(0, {project!r})
from enchufe.store import LocalStore
from tests.test_resume import receive
receive(LocalStore(sys.argv[1]).begin(), until=int(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""
    for turn in range(3):
        subprocess.run([sys.executable, "-c", program, inbox, str(2 * BLOCK_SIZE)], check=False)
        assert len(areas(inbox)) == turn + 1
    assert finish(inbox) == ALL - len(BIG)  # small files count once they make up a block


def test_small_files_are_noted_when_they_make_up_a_block(inbox: Path) -> None:
    """So what a death costs is a block, and not each of them."""
    begun = LocalStore(inbox).begin()
    data = bytes(BLOCK_SIZE // 8)
    for number in range(20):
        entry = Entry(number, NO_PARENT, b"%d" % number, Kind.FILE, len(data))
        assert begun.admit(entry) is Answer.ALL
        begun.write_whole(entry, data, digest(data))
    (area,) = areas(inbox)
    assert (area / "journal").stat().st_size == 16 * 64
    begun.abandon()


def test_killed_while_the_disk_is_waited_for(inbox: Path) -> None:
    """That takes minutes where there is much; no file has two names by then, which it could not be taken over with."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from enchufe.entry import Kind, Entry
from enchufe.store import LocalStore, linux
from tests.test_resume import T, entries, receive
begun = LocalStore(sys.argv[1]).begin()
receive(begun)
big = next(entries())
link = Entry(5, 0, b"too", Kind.FILE, big.size, 0o644, T, linked=1)
begun.admit(link)
begun.link(link, big)
os.fsync = linux.syncfs = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
begun.commit()
"""
    assert subprocess.run([sys.executable, "-c", program, inbox], check=False).returncode == -signal.SIGKILL
    assert finish(inbox) == 0


# Damaged.


def cut(inbox: Path, until: int = ALL, *, sparse: bool = False) -> Path:
    begun = LocalStore(inbox).begin()
    receive(begun, until=until, sparse=sparse)
    begun.suspend()
    (area,) = areas(inbox)
    return area


def part(area: Path, name: str) -> Path:
    (found,) = area.rglob(name)
    return found


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_what_waits_for_its_rest_is_nobody_elses_to_read(inbox: Path) -> None:
    umask = os.umask(0)
    try:
        area = cut(inbox)
    finally:
        os.umask(umask)
    folders = [path for path in area.rglob("*") if path.is_dir()]
    assert folders
    for path in (area, *folders, area / "journal", area / "root"):
        assert not path.stat().st_mode & 0o077, path


def test_flipped_bits_in_the_journal(inbox: Path) -> None:
    area = cut(inbox)
    journal = area / "journal"
    records = journal.stat().st_size // 64
    assert records == 9
    rng = random.Random(5)
    for number in (1, 4):
        flip(journal, number * 64 + rng.randrange(64))
    assert finish(inbox) == 2 * BLOCK_SIZE


def test_every_flipped_bit_costs_one_record(inbox: Path) -> None:
    area = cut(inbox, BLOCK_SIZE)
    journal = area / "journal"
    good = journal.read_bytes()
    assert len(good) == 64
    for bit in range(0, 512, 7):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with closing_records(journal, bytes(bad)) as records:
            assert len(records) == 0
    with closing_records(journal, bytes(64) + good + good[:63]) as records:
        assert len(records) == 1


@contextlib.contextmanager
def closing_records(path: Path, data: bytes) -> Iterator[Records]:
    path.write_bytes(data)
    records = Records(os.open(path, os.O_RDONLY))
    try:
        yield records
    finally:
        records.close()


def test_torn_journal(inbox: Path) -> None:
    area = cut(inbox, len(BIG))
    journal = area / "journal"
    os.truncate(journal, 64 * 3 + 17)
    assert ALL - finish(inbox) == 3 * BLOCK_SIZE


def test_journal_that_lies(inbox: Path) -> None:
    """Records that are well formed and say what cannot be, of a file that is too short, or another's content."""
    area = cut(inbox, len(BIG))
    journal = area / "journal"
    first = journal.read_bytes()[:64]
    file, _, size, right, _ = struct.unpack_from(">16sII32sI", first)
    for block, length, told in (
        (77, BLOCK_SIZE, right),
        (0xFFFF_FFFF, BLOCK_SIZE, right),
        (5, BLOCK_SIZE, right),
        (2, 5, right),
        (2, 0, right),
        (3, BLOCK_SIZE, right),  # only this one can only be found by reading
    ):
        body = struct.pack(">16sII32sI", file, block, length, told, 0)
        with open(journal, "ab") as out:
            out.write(body + struct.pack(">I", crc32(body)))
    assert size == BLOCK_SIZE
    begun = LocalStore(inbox).begin()
    begun.admit(TREE)
    wanted = list(entries())
    assert [begun.admit(entry) for entry in wanted] == [Answer.REST, Answer.ALL, Answer.ALL, Answer.ALL]
    ((number, told),) = begun.kept(wanted[0])
    assert (number, len(told)) == (0, 6 * 32)
    assert begun.recheck(wanted[0], lambda: False) == [3]
    begun.write(wanted[0], 3 * BLOCK_SIZE, blocks(BIG)[3], digest(blocks(BIG)[3]))
    begun.complete(wanted[0], len(BIG))
    for entry in wanted[1:]:
        begun.write_whole(entry, FILES[entry.name], digest(FILES[entry.name]))
    begun.commit()
    assert snapshot(inbox, times=True) == expected()


@pytest.mark.parametrize("sparse", [False, True])
def test_flipped_bits_in_part_files(inbox: Path, sparse: bool) -> None:
    area = cut(inbox, sparse=sparse)
    flip(part(area, "big"), 2 * BLOCK_SIZE + 77)
    flip(part(area, "big"), 5 * BLOCK_SIZE + 12_344)
    flip(part(area, "small"), 0)
    assert finish(inbox, sparse=sparse) == BLOCK_SIZE + 12_345 + len(FILES[b"small"])


def test_part_files_cut_short(inbox: Path) -> None:
    area = cut(inbox)
    os.truncate(part(area, "big"), 2 * BLOCK_SIZE + 5)
    os.truncate(part(area, "small"), 3)
    part(area, "empty").unlink()
    assert finish(inbox) == len(BIG) - 2 * BLOCK_SIZE + len(FILES[b"small"]) + 1


def test_part_files_that_grew(inbox: Path) -> None:
    area = cut(inbox)
    os.truncate(part(area, "big"), len(BIG) + 1)
    assert finish(inbox) == len(BIG)


@pytest.mark.parametrize("planted", ["link", "dangling", "folder", "fifo", "hard link", "folder link"])
def test_planted_in_a_dead_area(inbox: Path, tmp_path: Path, planted: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(BIG)
    (outside / "small").write_bytes(FILES[b"small"])
    before = snapshot(outside, times=True)
    area = cut(inbox)
    big = part(area, "big")
    if planted == "folder link":
        big.parent.rename(tmp_path / "moved")
        big.parent.symlink_to(outside)
    else:
        big.unlink()
        if planted == "link":
            big.symlink_to(outside / "big")
        elif planted == "dangling":
            big.symlink_to("/nowhere")
        elif planted == "folder":
            big.mkdir()
        elif planted == "fifo":
            os.mkfifo(big)
        else:
            big.hardlink_to(outside / "big")
    assert finish(inbox) == (ALL if planted == "folder link" else len(BIG))
    assert snapshot(outside, times=True) == before


@pytest.mark.parametrize("planted", ["link", "folder", "fifo"])
def test_planted_for_a_journal(inbox: Path, tmp_path: Path, planted: str) -> None:
    area = cut(inbox)
    journal = area / "journal"
    journal.rename(tmp_path / "journal")
    if planted == "link":
        journal.symlink_to(tmp_path / "journal")
    elif planted == "folder":
        journal.mkdir()
    else:
        os.mkfifo(journal)
    assert finish(inbox) == ALL


# Changed meanwhile.


def test_changed_source_starts_over(inbox: Path) -> None:
    cut(inbox, len(BIG) + 9)
    begun = LocalStore(inbox).begin()
    sent = receive(begun, mtime_ns=T + 1)
    assert sent == ALL
    assert begun.restarted == [(b"tree", b"big")]
    begun.commit()
    assert snapshot(inbox, times=True) == expected(mtime_ns=T + 1)


@pytest.mark.parametrize("spoilt", ["two names", "too long"])
def test_a_file_that_cannot_be_used_is_not_called_another(inbox: Path, tmp_path: Path, spoilt: str) -> None:
    """Its source is what it was."""
    big = part(cut(inbox), "big")
    if spoilt == "two names":
        (tmp_path / "too").hardlink_to(big)
    else:
        os.truncate(big, len(BIG) + 1)
    begun = LocalStore(inbox).begin()
    assert receive(begun) == len(BIG)
    assert begun.restarted == []
    begun.abandon()


def test_other_files_are_left_alone(inbox: Path) -> None:
    """A delivery of something else neither takes nor removes what another left, nor keeps it from a third."""
    area = cut(inbox)
    busy = LocalStore(inbox).begin()
    entry = Entry(0, NO_PARENT, b"other", Kind.FILE, 5)
    for _ in range(3):
        other = LocalStore(inbox).begin()
        assert other.admit(entry) is Answer.ALL
        other.write_whole(entry, b"12345", digest(b"12345"))
        other.commit()
        assert area.exists()
    begun = LocalStore(inbox).begin()
    assert receive(begun) == 0
    begun.commit()
    busy.abandon()
    assert sorted(os.listdir(inbox)) == ["other", "other (1)", "other (2)", "tree"]


def test_two_want_the_same(inbox: Path) -> None:
    """Who comes first takes it over; the other receives all."""
    cut(inbox)
    first, second = LocalStore(inbox).begin(), LocalStore(inbox).begin()
    assert receive(first) == 0
    assert receive(second) == ALL
    second.commit()
    first.commit()
    assert sorted(os.listdir(inbox)) == ["tree", "tree (1)"]
    for name in ("tree", "tree (1)"):
        assert (inbox / name / "big").read_bytes() == BIG


def test_mode_changed_meanwhile(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(inbox)
    for name in FILES:
        monkeypatch.setitem(MODES, name, 0o640)
    assert finish(inbox) == 0


def test_nothing_is_committed_unread(inbox: Path) -> None:
    cut(inbox)
    begun = LocalStore(inbox).begin()
    begun.admit(TREE)
    for entry in entries():
        assert begun.admit(entry) is Answer.REST
        with pytest.raises(LocalProtocolError, match="was here before, and not read again"):
            begun.complete(entry, entry.size)
    with pytest.raises(LocalProtocolError, match="4 files are not complete"):
        begun.commit()
    begun.suspend()
    assert finish(inbox) == 0


def test_offered_twice_after_a_cut(inbox: Path) -> None:
    cut(inbox)
    begun = LocalStore(inbox).begin()
    begun.admit(TREE)
    one = next(entries())
    assert begun.admit(one) is Answer.REST
    again = Entry(9, 0, one.name, Kind.FILE, one.size, mtime_ns=T)
    assert begun.admit(again) is Answer.ALL
    with pytest.raises(RemoteProtocolError, match="twice"):
        begun.write(again, 0, b"x" * BLOCK_SIZE, bytes(32))
    begun.abandon()


def test_unknown_size_is_not_kept(inbox: Path) -> None:
    begun = LocalStore(inbox).begin()
    entry = Entry(0, NO_PARENT, b"pipe", Kind.FILE, UNKNOWN_SIZE)
    begun.admit(entry)
    for number in range(3):
        begun.write(entry, number * BLOCK_SIZE, BIG[:BLOCK_SIZE], digest(BIG[:BLOCK_SIZE]))
    begun.suspend()
    assert os.listdir(inbox) == []


def test_after_a_failed_sync_nothing_is_kept(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel has dropped still reads well: it must come anew."""

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    begun = LocalStore(inbox).begin()
    receive(begun)
    with monkeypatch.context() as patched, pytest.raises(StoreError, match="Input/output error"):
        patched.setattr(os, "fsync", fail)
        begun.commit()
    begun.suspend()
    assert os.listdir(inbox) == []


def test_after_a_failed_sync_before_the_commit_nothing_is_kept(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no syncfs, and one file more than descriptors are kept open for."""
    monkeypatch.setattr(linux, "use_syncfs", False)
    monkeypatch.setattr(os, "fsync", refuse)
    begun = LocalStore(inbox).begin()
    with pytest.raises(StoreError, match="No space left"):
        receive(begun, {b"%d" % number: b"small" for number in range(100)})
    begun.suspend()
    assert os.listdir(inbox) == []


# A disk that is full, but for a sync.


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


TWO = {b"a": BIG, b"z": BIG[::-1]}


def test_a_disk_with_no_room_for_the_journal_costs_nothing(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What of a file was here is to be taken over when there is: it is not removed as if it had been."""
    begun = LocalStore(inbox).begin()
    sent = receive(begun, TWO, until=len(BIG) + 4 * BLOCK_SIZE)
    begun.suspend()
    begun = LocalStore(inbox).begin()
    assert begun.admit(TREE) is Answer.ALL
    first, last = entries(TWO)
    assert begun.admit(first) is Answer.REST
    with monkeypatch.context() as patched, pytest.raises(NoSpaceError):
        patched.setattr(os, "pwrite", refuse)
        begun.admit(last)
    begun.suspend()
    assert sent + finish(inbox, TWO) == 2 * len(BIG)


def test_what_the_file_system_does_not_let_move_comes_again(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As overlayfs where the file is in a lower layer, and its path is too long to be noted in the upper one."""
    begun = LocalStore(inbox).begin()
    receive(begun, TWO)
    begun.suspend()
    begun = LocalStore(inbox).begin()
    rename = linux.rename_noreplace

    def stuck(source_dir: int, source: bytes, target_dir: int, target: bytes) -> None:
        if source == b"a":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source_dir, source, target_dir, target)

    with monkeypatch.context() as patched:
        patched.setattr(linux, "rename_noreplace", stuck)
        assert receive(begun, TWO) == len(BIG)
    begun.commit()
    assert snapshot(inbox, times=True) == expected(TWO)
    assert areas(inbox) == []


@pytest.mark.parametrize("fails", [False, True])
def test_nobody_waits_for_the_disk_to_note_what_is_taken_over(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    begun = LocalStore(inbox).begin()
    receive(begun, TWO)
    begun.suspend()
    disk, calls = threading.Event(), []

    def sync(descriptor: int) -> None:
        calls.append(descriptor)
        assert disk.wait(60)
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    begun = LocalStore(inbox).begin()
    with monkeypatch.context() as patched:
        patched.setattr(journal, "AT_RISK", 1)
        patched.setattr(os, "fsync", sync)
        try:
            assert [begun.admit(entry) for entry in (TREE, *entries(TWO))] == [Answer.ALL, Answer.REST, Answer.REST]
        finally:
            disk.set()
        begun.suspend()
    assert 1 <= len(calls) <= (1 if fails else 2)
    assert finish(inbox, TWO) == 0


def test_what_somebody_else_has_is_not_removed_when_he_gives_it_back(inbox: Path) -> None:
    """Two deliveries that know of one area: who found it in use has taken nothing from it."""
    begun = LocalStore(inbox).begin()
    sent = receive(begun, TWO, until=len(BIG) + 4 * BLOCK_SIZE)
    begun.suspend()
    first, second = LocalStore(inbox).begin(), LocalStore(inbox).begin()
    a, z = entries(TWO)
    for each in (first, second):
        assert each.admit(TREE) is Answer.ALL
    assert [first.admit(a), second.admit(a), second.admit(z)] == [Answer.REST, Answer.ALL, Answer.ALL]
    second.write(z, 0, TWO[b"z"][:BLOCK_SIZE], digest(TWO[b"z"][:BLOCK_SIZE]))
    first.suspend()
    second.suspend()
    assert sent + finish(inbox, TWO) == 2 * len(BIG)


def test_a_journal_that_cannot_be_written_any_more_fails_no_commit(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = LocalStore(inbox).begin()
    receive(begun)
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "flush", refuse)
        begun.commit()
    assert snapshot(inbox, times=True) == expected()


@pytest.mark.parametrize("links", [True, False])
def test_a_commit_that_fails_before_the_first_sync_keeps_all(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """A second link cannot be made; the first has given a file another name, under which it would not be taken over."""
    begun = LocalStore(inbox).begin()
    receive(begun)
    to = next(entries())
    for number in (8, 9):
        entry = Entry(number, 0, b"link%d" % number, Kind.FILE, to.size, linked=to.id)
        assert begun.admit(entry) is Answer.LINK
        begun.link(entry, to)
    link = os.link

    def one(source: bytes, name: bytes, **how: Any) -> None:
        if not links:
            raise OSError(errno.EPERM, "no hard links here")
        if name == b"link9":
            refuse()
        link(source, name, **how)

    with monkeypatch.context() as patched, pytest.raises(StoreError, match="No space left"):
        patched.setattr(os, "link", one)
        if not links:
            patched.setattr(os, "utime", refuse)
        begun.commit()
    begun.suspend()
    assert finish(inbox) == 0


def test_a_commit_that_cannot_rename_keeps_all(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = LocalStore(inbox).begin()
    receive(begun)
    with monkeypatch.context() as patched, pytest.raises(StoreError, match="cannot put in place"):
        patched.setattr(linux, "rename_noreplace", refuse)
        begun.commit()
    begun.suspend()
    assert finish(inbox) == 0


def merge(inbox: Path, names: Sequence[bytes]) -> tuple[Delivery, list[Answer]]:
    """Have files received into a folder that may be there, as far as they have not come yet."""
    begun = LocalStore(inbox, if_exists="update").begin()
    begun.admit(TREE)
    answers = []
    for number, name in enumerate(names, 1):
        entry = Entry(number, 0, name, Kind.FILE, 5, mtime_ns=T)
        answers.append(begun.admit(entry))
        if answers[-1] is Answer.ALL:
            begun.write_whole(entry, b"small", digest(b"small"))
        elif answers[-1] is Answer.REST:
            assert begun.recheck(entry, lambda: False) == []
            begun.complete(entry, 5)
    return begun, answers


def test_a_folder_that_is_removed_meanwhile_costs_nothing(inbox: Path) -> None:
    (inbox / "tree").mkdir()
    names = [b"a", b"b", b"c"]
    begun, _ = merge(inbox, names)
    (inbox / "tree").rmdir()
    with pytest.raises(StoreError, match="cannot put in place"):
        begun.commit()
    begun.suspend()
    (inbox / "tree").mkdir()
    begun, answers = merge(inbox, names)
    assert answers == [Answer.REST] * 3
    begun.commit()
    assert sorted(os.listdir(inbox / "tree")) == ["a", "b", "c"]
    assert areas(inbox) == []


@pytest.mark.parametrize("renamed", [1, 2])
def test_a_commit_that_fails_between_two_renames_keeps_what_is_to_come(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    (inbox / "tree").mkdir()
    begun, _ = merge(inbox, [b"a", b"b", b"c"])
    rename, left = linux.rename_noreplace, renamed

    def some(*places: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            refuse()
        rename(*places)

    with monkeypatch.context() as patched, pytest.raises(StoreError, match="in place already: 'tree/a'"):
        patched.setattr(linux, "rename_noreplace", some)
        begun.commit()
    begun.suspend()
    (inbox / "tree/a").unlink()  # what is not there any more is not taken from elsewhere
    begun, answers = merge(inbox, [b"a", b"b", b"c"])
    assert answers == [Answer.ALL, *[Answer.SKIP] * (renamed - 1), *[Answer.REST] * (3 - renamed)]
    begun.commit()
    assert sorted(os.listdir(inbox / "tree")) == ["a", "b", "c"]
    assert areas(inbox) == []


def test_a_commit_that_fails_after_the_last_rename_has_nothing_to_keep(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "tree").mkdir()
    begun, _ = merge(inbox, [b"a", b"b"])
    with monkeypatch.context() as patched, pytest.raises(StoreError, match="in place already: 'tree/a', 'tree/b'"):
        patched.setattr(commit, "dress_directory", refuse)
        begun.commit()
    begun.suspend()
    assert areas(inbox) == []
    assert sorted(os.listdir(inbox / "tree")) == ["a", "b"]


def test_without_locks_nothing_is_kept(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can tell the dead from the living, nobody could ever take it over or clean it up."""
    monkeypatch.setattr(staging, "fcntl", None)
    begun = LocalStore(inbox).begin()
    receive(begun)
    begun.suspend()
    assert os.listdir(inbox) == []


# Holes.


def test_garbage_under_a_hole_is_gone(inbox: Path) -> None:
    """A block that was written and not noted is a hole next time: what is not written must be zeros."""
    size = 4 * BLOCK_SIZE + 100
    sparse = Entry(0, NO_PARENT, b"image", Kind.FILE, size, mtime_ns=T, sparse=True)
    begun = LocalStore(inbox).begin()
    begun.admit(sparse)
    data = BIG[:BLOCK_SIZE]
    for block in (0, 1, 2):
        begun.write(sparse, block * BLOCK_SIZE, data, digest(data))
    begun.suspend()
    (area,) = areas(inbox)
    flip(area / "journal", 64)
    (image,) = (path for path in area.iterdir() if len(path.name) == 32)
    flip(image, 2 * BLOCK_SIZE)
    begun = LocalStore(inbox).begin()
    assert begun.admit(sparse) is Answer.REST
    assert [first for first, _ in begun.kept(sparse)] == [0, 2]
    assert begun.recheck(sparse, lambda: False) == [2]
    begun.complete(sparse, size)
    begun.commit()
    assert (inbox / "image").read_bytes() == data + bytes(size - BLOCK_SIZE)


# Several threads.


def test_blocks_from_many_threads(inbox: Path) -> None:
    """Many files in pieces and whole, from several threads; some of the pieces read again while others are written."""
    files = {b"%d" % number: BIG[: BLOCK_SIZE * (number % 4) + number] for number in range(60)}
    begun = LocalStore(inbox).begin()
    receive(begun, files, until=40 * BLOCK_SIZE)
    begun.suspend()
    begun = LocalStore(inbox).begin()
    begun.admit(TREE)
    jobs: list[Callable[[], object]] = []
    wanted = list(entries(files))
    answers = {entry.id: begun.admit(entry) for entry in wanted}
    assert {Answer.REST, Answer.ALL} == set(answers.values())
    for entry in wanted:
        pieces = blocks(files[entry.name])
        kept = {first + index for first, told in begun.kept(entry) for index in range(len(told) // 32)}
        for number, piece in enumerate(pieces):
            if number not in kept and len(pieces) == 1:
                jobs.append(functools.partial(begun.write_whole, entry, piece, digest(piece)))
            elif number not in kept:
                jobs.append(functools.partial(begun.write, entry, number * BLOCK_SIZE, piece, digest(piece)))
        if kept:
            jobs.append(functools.partial(begun.recheck, entry, lambda: False))
    random.Random(2).shuffle(jobs)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                job = jobs.pop()
                assert not job()
        except IndexError:
            pass
        except BaseException as error:  # noqa: BLE001 (it is raised below)
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for entry in wanted:
        if answers[entry.id] is Answer.REST or len(blocks(files[entry.name])) > 1:
            begun.complete(entry, entry.size)
    begun.commit()
    assert snapshot(inbox, times=True) == expected(files)
