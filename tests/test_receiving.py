"""What a receiver does besides taking all: deltas, hard links, holes, limits and the room on the disk."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from enchufe.entry import BLOCK_SIZE, NO_LINK, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import LocalProtocolError, NoSpaceError, Refused, StoreError
from enchufe.store import Delivery, IfExists, LocalStore, PipeDelivery, delta, linux, part_files
from enchufe.transfer.messages import HAVE_DIGESTS
from tests.test_delivery import T, delivery
from tests.test_delivery_faults import as_nobody, public, small_disk  # noqa: F401 (fixtures)
from tests.test_resume import areas, blocks, digest

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")

OLD = random.Random(1).randbytes(40 * BLOCK_SIZE + 500)


def a_file(
    number: int, name: bytes, size: int, parent: int = NO_PARENT, linked: int = NO_LINK, mtime_ns: int = T, **more: Any
) -> Entry:

    return Entry(number, parent, name, Kind.FILE, size, 0o644, mtime_ns, linked=linked, **more)


# Deltas.


@pytest.mark.parametrize("if_exists", ["update", "overwrite"])
@pytest.mark.parametrize("where", ["top", "folder"])
def test_delta(inbox: Path, if_exists: IfExists, where: str) -> None:
    """Blocks that are there already come from there; the last one, which is not full, is sent."""
    folder = inbox if where == "top" else inbox / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "file").write_bytes(OLD)
    new = bytearray(OLD[: 39 * BLOCK_SIZE] + b"something more")
    new[3 * BLOCK_SIZE + 7] ^= 1
    with delivery(inbox, if_exists) as begun:
        begun.admit(Entry(0, NO_PARENT, b"folder", Kind.DIRECTORY, mtime_ns=T))
        entry = a_file(1, b"file", len(new), NO_PARENT if where == "top" else 0)
        assert begun.admit(entry) is Answer.DELTA
        told = list(begun.own(entry))
        assert len(told) == 2
        own = b"".join(digests for digests, _ in told)
        assert own == b"".join(map(digest, blocks(OLD)[:40]))
        sent = 0
        for number, piece in enumerate(blocks(bytes(new))):
            wanted = own[number * 32 : number * 32 + 32]
            if digest(piece) == wanted:
                assert begun.same(entry, number, [wanted]) == []
            else:
                begun.write(entry, number * BLOCK_SIZE, piece, digest(piece))
                sent += len(piece)
        begun.complete(entry, len(new))
        assert (folder / "file").read_bytes() == OLD
        begun.commit()
    assert sent == BLOCK_SIZE + len(b"something more")
    assert (folder / "file").read_bytes() == new
    assert (folder / "file").stat().st_mtime_ns == T


@pytest.mark.parametrize("data", [(), (0,), (5,), (3, 39, 40)])
def test_holes_of_the_version_that_is_here_are_not_read(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, data: tuple[int, ...]
) -> None:
    with (inbox / "file").open("wb") as file:
        file.truncate(40 * BLOCK_SIZE + 500)
        for number in data:
            os.pwrite(file.fileno(), b"data", number * BLOCK_SIZE + 100)
        if os.lseek(file.fileno(), BLOCK_SIZE, os.SEEK_HOLE) != BLOCK_SIZE:
            pytest.skip("this file system does not tell of holes")
    old, read, read_block = (inbox / "file").read_bytes(), list[int](), delta.read_block

    def reading(descriptor: int, buffer: memoryview, offset: int) -> memoryview:
        read.append(offset // BLOCK_SIZE)
        return read_block(descriptor, buffer, offset)

    monkeypatch.setattr(delta, "read_block", reading)
    with delivery(inbox, "update") as begun:
        entry = a_file(0, b"file", 3 * BLOCK_SIZE)
        assert begun.admit(entry) is Answer.DELTA
        told = list(begun.own(entry, 1 << 16))
        assert b"".join(digests for digests, _ in told) == b"".join(map(digest, blocks(old)[:40]))
        starts = range(0, len(old) - (1 << 16) + 1, 1 << 16)
        records = b"".join(old[at : at + 32] + digest(old[at : at + (1 << 16)])[:16] for at in starts)
        assert b"".join(records for _, records in told) == records
    assert read == sorted({*data, 40})


def test_of_a_long_hole_no_more_is_told_at_once_than_one_message_holds(inbox: Path) -> None:
    """And no less than that by far: whoever tells of it looks after each few messages whether they have left."""
    with (inbox / "file").open("wb") as file:
        file.truncate(5000 * BLOCK_SIZE)
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) != 0:
            pytest.skip("this file system does not tell of holes")
    with delivery(inbox, "update") as begun:
        entry = a_file(0, b"file", 3 * BLOCK_SIZE)
        assert begun.admit(entry) is Answer.DELTA
        told = [len(digests) // 32 for digests, _ in begun.own(entry)]
    assert sum(told) == 5000
    assert max(told) <= HAVE_DIGESTS
    assert len(told) < 10


def test_pieces_of_the_version_that_is_here(inbox: Path) -> None:
    (inbox / "file").write_bytes(OLD)
    with delivery(inbox, "update") as begun:
        entry = a_file(0, b"file", 3 * BLOCK_SIZE)
        assert begun.admit(entry) is Answer.DELTA
        told = b"".join(records for _, records in begun.own(entry, 1 << 16))
        starts = range(0, len(OLD) - (1 << 16) + 1, 1 << 16)
        assert told == b"".join(OLD[at : at + 32] + digest(OLD[at : at + (1 << 16)])[:16] for at in starts)
        views = memoryview(bytearray(10)), memoryview(bytearray(BLOCK_SIZE))
        assert begun.read_own(entry, [(7, views[0]), (5 * BLOCK_SIZE + 3, views[1])])
        assert list(map(bytes, views)) == [OLD[7:17], OLD[5 * BLOCK_SIZE + 3 : 6 * BLOCK_SIZE + 3]]
        assert begun.read_own(entry, [(len(OLD) - 10, views[0])])
        assert not begun.read_own(entry, [(0, views[0]), (len(OLD) - 9, views[0])])
        assert not begun.read_own(entry, [(2**63 - 1, views[0])])
        (inbox / "file").unlink()
        assert not begun.read_own(entry, [(0, views[0])])
        os.mkfifo(inbox / "file")
        assert not begun.read_own(entry, [(0, views[0])])


def test_delta_against_what_changes(inbox: Path) -> None:
    """What it was when it was read is checked when it is copied; and it may vanish, or be another thing."""
    path = inbox / "file"
    path.write_bytes(OLD)
    with delivery(inbox, "update") as begun:
        entry = a_file(0, b"file", 3 * BLOCK_SIZE)
        assert begun.admit(entry) is Answer.DELTA
        told = [digest(piece) for piece in blocks(OLD)[:3]]
        with open(path, "r+b") as file:
            file.seek(BLOCK_SIZE)
            file.write(b"?")
        assert begun.same(entry, 0, told) == [1]
        os.truncate(path, 10)
        assert begun.same(entry, 2, told[2:]) == [2]
        path.unlink()
        assert begun.same(entry, 1, told[1:]) == [1, 2]
        assert list(begun.own(entry)) == []
        path.symlink_to("/etc/passwd")
        assert begun.same(entry, 1, told[1:]) == [1, 2]
        path.unlink()
        os.mkfifo(path)
        assert begun.same(entry, 1, told[1:]) == [1, 2]
        assert list(begun.own(entry)) == []


def test_what_was_dropped_tells_of_no_older_version(inbox: Path) -> None:
    """Its sender left it out before another thread came to read that."""
    (inbox / "file").write_bytes(OLD)
    with delivery(inbox, "update") as begun:
        entry = a_file(0, b"file", 3 * BLOCK_SIZE)
        assert begun.admit(entry) is Answer.DELTA
        begun.drop(entry)
        assert list(begun.own(entry)) == []


@pytest.mark.parametrize(
    ("there", "size", "answer"),
    [
        (BLOCK_SIZE - 1, 5 * BLOCK_SIZE, Answer.ALL),
        (BLOCK_SIZE, 5 * BLOCK_SIZE, Answer.DELTA),
        (BLOCK_SIZE, BLOCK_SIZE, Answer.DELTA),
        (BLOCK_SIZE, BLOCK_SIZE - 1, Answer.ALL),
        (BLOCK_SIZE, UNKNOWN_SIZE, Answer.ALL),
    ],
)
def test_when_there_is_a_delta(inbox: Path, there: int, size: int, answer: Answer) -> None:
    (inbox / "file").write_bytes(OLD[:there])
    (inbox / "link").symlink_to("file")
    with delivery(inbox, "update") as begun:
        assert begun.admit(a_file(0, b"file", size)) is answer
        assert begun.admit(a_file(1, b"link", size)) is Answer.ALL
    with delivery(inbox) as begun:
        entry = a_file(0, b"file", size)
        assert begun.admit(entry) is Answer.ALL
        with pytest.raises(LocalProtocolError):
            begun.same(entry, 0, [bytes(32)])


@pytest.mark.parametrize("checksum", [False, True])
def test_checksum(inbox: Path, checksum: bool) -> None:
    for name, size in (("big", BLOCK_SIZE), ("small", 5)):
        (inbox / name).write_bytes(OLD[:size])
        os.utime(inbox / name, ns=(T, T))
    (inbox / "link").symlink_to("x")
    begun = LocalStore(inbox, if_exists="update", links="any", checksum=checksum).begin()
    answers = [
        begun.admit(a_file(0, b"big", BLOCK_SIZE)),
        begun.admit(a_file(1, b"small", 5)),
        begun.admit(Entry(2, NO_PARENT, b"link", Kind.SYMLINK, target=b"x")),
    ]
    begun.abandon()
    assert answers == ([Answer.DELTA, Answer.ALL, Answer.SKIP] if checksum else [Answer.SKIP] * 3)


# Hard links.


def linked_tree(begun: Delivery) -> list[Answer]:
    begun.admit(Entry(0, NO_PARENT, b"tree", Kind.DIRECTORY, mtime_ns=T))
    begun.admit(Entry(1, 0, b"inner", Kind.DIRECTORY, mtime_ns=T))
    first = a_file(2, b"first", 3, 1)
    answers = [begun.admit(first)]
    links = [a_file(3, b"second", 3, 0, 2), a_file(4, b"third", 3, NO_PARENT, 2), a_file(5, b"fourth", 3, 1, 3)]
    answers += [begun.admit(entry) for entry in links]
    begun.write_whole(first, b"abc", digest(b"abc"))
    for entry in links:
        begun.link(entry, first if entry.id < 5 else links[0])
    return answers


@pytest.mark.parametrize("able", [True, False])
def test_hard_links(inbox: Path, monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "not here")

    if not able:
        monkeypatch.setattr(os, "link", refuse)
    with delivery(inbox) as begun:
        assert linked_tree(begun) == [Answer.ALL, Answer.LINK, Answer.LINK, Answer.LINK]
        begun.commit()
    paths = [inbox / "tree/inner/first", inbox / "tree/second", inbox / "third", inbox / "tree/inner/fourth"]
    assert [path.read_bytes() for path in paths] == [b"abc"] * 4
    assert len({path.stat().st_ino for path in paths}) == (1 if able else 4)
    assert {(path.stat().st_mtime_ns, stat.S_IMODE(path.stat().st_mode)) for path in paths} == {(T, 0o644)}


def test_hard_links_to_what_is_not_staged(inbox: Path) -> None:
    """The other one stays where it is: this one is sent."""
    (inbox / "first").write_bytes(b"abc")
    os.utime(inbox / "first", ns=(T, T))
    with delivery(inbox, "update") as begun:
        first, second = a_file(0, b"first", 3), a_file(1, b"second", 3, linked=0)
        assert [begun.admit(first), begun.admit(second)] == [Answer.SKIP, Answer.ALL]
        assert begun.admit(a_file(2, b"third", 3, linked=77)) is Answer.ALL
        assert begun.admit(a_file(3, b"fourth", 3, linked=3)) is Answer.ALL
        with pytest.raises(LocalProtocolError):
            begun.link(second, first)
        dropped = a_file(4, b"fifth", 3)
        begun.admit(dropped)
        begun.drop(dropped)
        assert begun.admit(a_file(5, b"sixth", 3, linked=4)) is Answer.ALL


def test_hard_links_after_a_cut(inbox: Path) -> None:
    begun = LocalStore(inbox).begin()
    linked_tree(begun)
    begun.suspend()
    assert len(areas(inbox)) == 1
    with delivery(inbox) as begun:
        begun.admit(Entry(0, NO_PARENT, b"tree", Kind.DIRECTORY, mtime_ns=T))
        begun.admit(Entry(1, 0, b"inner", Kind.DIRECTORY, mtime_ns=T))
        first, second = a_file(2, b"first", 3, 1), a_file(3, b"second", 3, 0, 2)
        assert [begun.admit(first), begun.admit(second)] == [Answer.REST, Answer.LINK]
        assert begun.recheck(first, lambda: False) == []
        begun.complete(first, 3)
        begun.link(second, first)
        begun.commit()
    assert (inbox / "tree/second").samefile(inbox / "tree/inner/first")


# Holes, and what is dropped.


@pytest.mark.parametrize("sparse", [True, False])
def test_a_hole_at_the_end(inbox: Path, sparse: bool) -> None:
    with delivery(inbox) as begun:
        entry = a_file(0, b"image", 10 * BLOCK_SIZE, sparse=sparse)
        begun.admit(entry)
        begun.write(entry, BLOCK_SIZE, OLD[:BLOCK_SIZE], digest(OLD[:BLOCK_SIZE]))
        if not sparse:
            with pytest.raises(StoreError, match="has 2,097,152 bytes on disk"):
                begun.complete(entry, entry.size)
            return
        begun.complete(entry, entry.size)
        nothing_but = a_file(1, b"hole", 5 * BLOCK_SIZE, sparse=True)
        begun.admit(nothing_but)
        begun.complete(nothing_but, 5 * BLOCK_SIZE)
        longer = a_file(2, b"longer", 5, sparse=True)
        begun.admit(longer)
        begun.write(longer, 0, b"123456", digest(b"123456"))
        with pytest.raises(StoreError, match="has 6 bytes on disk, not 5"):
            begun.complete(longer, 5)
        begun.drop(longer)
        begun.commit()
    image, hole = inbox / "image", inbox / "hole"
    assert image.read_bytes() == bytes(BLOCK_SIZE) + OLD[:BLOCK_SIZE] + bytes(8 * BLOCK_SIZE)
    assert image.stat().st_blocks * 512 < 2 * BLOCK_SIZE
    assert (hole.stat().st_size, hole.stat().st_blocks) == (5 * BLOCK_SIZE, 0)


@pytest.mark.parametrize("live", [True, False])
def test_dropped_and_offered_again(inbox: Path, live: bool) -> None:
    """A file that changed while it was read comes again under another id; what still comes of the first is lost."""
    if live:
        (inbox / "tree").mkdir()
    with delivery(inbox, "skip") as begun:
        begun.admit(Entry(0, NO_PARENT, b"tree", Kind.DIRECTORY, mode=0o755, mtime_ns=T))
        for parent in (NO_PARENT, 0):
            first, second = (a_file(2 * (parent == 0) + at, b"file", 3, parent, mtime_ns=T + at) for at in (1, 2))
            assert begun.admit(first) is Answer.ALL
            begun.write(first, 0, b"ab", digest(b"ab"))
            begun.drop(first)
            assert begun.admit(second) is Answer.ALL
            begun.write(first, 2, b"?", digest(b"?"))
            begun.write_whole(first, b"??", digest(b"??"))
            begun.write_whole(second, b"new", digest(b"new"))
            begun.write(first, 0, b"?", digest(b"?"))
        begun.commit()
    assert [(inbox / name).read_bytes() for name in ("file", "tree/file")] == [b"new"] * 2


# Limits.


def test_max_size(inbox: Path) -> None:
    begun = LocalStore(inbox, max_size=100).begin()
    first, second, third = (a_file(number, b"%d" % number, size) for number, size in enumerate((60, 41, 40)))
    assert [begun.admit(entry) for entry in (first, second, third)] == [Answer.ALL, Answer.TOO_BIG, Answer.ALL]
    begun.drop(third)
    assert begun.admit(a_file(3, b"3", 39)) is Answer.ALL
    pipe = a_file(4, b"pipe", UNKNOWN_SIZE)
    assert begun.admit(pipe) is Answer.ALL
    begun.write(pipe, 0, b"1", digest(b"1"))
    with pytest.raises(Refused, match="bigger than 100 bytes"):
        begun.write(pipe, 1, b"2", digest(b"2"))
    begun.abandon()


def test_what_is_left_out_gives_up_what_it_was_counted_for(inbox: Path) -> None:
    """A link was counted for nothing, a pipe for what had come of it."""
    begun = LocalStore(inbox, max_size=1000).begin()
    assert begun.admit(a_file(0, b"file", 1, shared=True)) is Answer.ALL
    for number in range(1, 6):
        link = a_file(number, b"link%d" % number, 900, linked=0)
        assert begun.admit(link) is Answer.LINK
        begun.drop(link)
    pipe = a_file(6, b"pipe", UNKNOWN_SIZE)
    assert begun.admit(pipe) is Answer.ALL
    for offset in (0, 250):
        begun.write(pipe, offset, bytes(250), bytes(32))
    assert begun.admit(a_file(7, b"too big", 500)) is Answer.TOO_BIG
    begun.drop(pipe)
    begun.drop(pipe)
    assert begun.admit(a_file(8, b"too big too", 1000)) is Answer.TOO_BIG
    assert begun.admit(a_file(9, b"fits", 999)) is Answer.ALL
    begun.abandon()


def test_no_space_by_leaving_out(small_disk: Path) -> None:  # noqa: F811
    """As often as it likes: links that were counted for nothing, files that were here in part, and what has come."""
    half = a_file(0, b"half", 3 << 20)
    begun = LocalStore(small_disk).begin()
    begun.admit(half)
    for number, piece in enumerate(blocks(OLD[: 2 << 20])):
        begun.write(half, number * BLOCK_SIZE, piece, digest(piece))
    begun.suspend()
    begun = LocalStore(small_disk).begin()
    assert begun.admit(half) is Answer.REST
    begun.drop(half)
    begun.admit(a_file(1, b"file", 1, shared=True))
    for number in range(2, 11, 3):
        link = a_file(number, b"%d" % number, 3 << 20, linked=1)
        assert begun.admit(link) is Answer.LINK
        begun.drop(link)
        for sparse in (False, True):
            entry = a_file(number + 1 + sparse, b"%d" % (number + 1 + sparse), 2 << 20, sparse=sparse)
            assert begun.admit(entry) is Answer.ALL
            begun.write(entry, 0, OLD[:BLOCK_SIZE], digest(OLD[:BLOCK_SIZE]))
            begun.drop(entry)
    with pytest.raises(NoSpaceError, match="bytes more are needed"):
        begun.admit(a_file(11, b"too much", 4 << 20))
    begun.abandon()


def test_no_space(small_disk: Path) -> None:  # noqa: F811
    """4 MiB, a tenth of it for others."""
    with delivery(small_disk) as begun:
        assert begun.admit(a_file(0, b"fits", 3 << 20)) is Answer.ALL
        assert begun.admit(a_file(1, b"image", 3 << 30, sparse=True)) is Answer.ALL
        assert begun.admit(a_file(2, b"pipe", UNKNOWN_SIZE)) is Answer.ALL
        with pytest.raises(NoSpaceError, match="bytes more are needed on the disk of"):
            begun.admit(a_file(3, b"too much", 1 << 20))
    (small_disk / "ballast").write_bytes(bytes(3 << 20))
    with delivery(small_disk) as begun:
        with pytest.raises(NoSpaceError, match="bytes more are needed"):
            begun.admit(a_file(0, b"big", 2 << 20))
        (small_disk / "ballast").unlink()
        assert begun.admit(a_file(1, b"big too", 1 << 20)) is Answer.ALL


def test_space_of_what_is_there_is_not_needed_again(small_disk: Path) -> None:  # noqa: F811
    entry = a_file(0, b"file", 3 << 20)
    begun = LocalStore(small_disk).begin()
    begun.admit(entry)
    for number, piece in enumerate(blocks(OLD[: 3 << 20])):
        begun.write(entry, number * BLOCK_SIZE, piece, digest(piece))
    begun.suspend()
    with delivery(small_disk) as begun:
        assert begun.admit(entry) is Answer.REST
        assert begun.recheck(entry, lambda: False) == []
        begun.complete(entry, entry.size)
        begun.commit()
    assert (small_disk / "file").read_bytes() == OLD[: 3 << 20]


# Writing early.


def test_the_disk_begins_early(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    real = linux.begin_writing

    def noted(descriptor: int) -> None:
        told.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(linux, "begin_writing", noted)
    monkeypatch.setattr(part_files, "WRITE_BEHIND", 4 * BLOCK_SIZE)
    has_disk = linux.has_disk
    for forced in (True, False):
        monkeypatch.setattr(linux, "has_disk", lambda _descriptor, forced=forced: forced)
        with delivery(inbox) as begun:
            entry = a_file(0, b"file", len(OLD))
            begun.admit(entry)
            for number, piece in enumerate(blocks(OLD)):
                begun.write(entry, number * BLOCK_SIZE, piece, digest(piece))
            begun.complete(entry, len(OLD))
            begun.commit()
        assert told == ([at * BLOCK_SIZE for at in range(4, 41, 4)] if forced else [])
        told.clear()
    memory = os.open("/dev/shm", os.O_RDONLY)
    try:
        assert not has_disk(memory)
    finally:
        os.close(memory)


@pytest.mark.parametrize("able", [True, False])
def test_blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr(linux, "use_fallocate", able)
    with open(tmp_path / "file", "w+b") as file:
        file.write(OLD[: 5 * BLOCK_SIZE])
        file.flush()
        linux.blank(file.fileno(), 1000, 3 * BLOCK_SIZE)
        file.seek(0)
        assert file.read() == OLD[:1000] + bytes(3 * BLOCK_SIZE) + OLD[3 * BLOCK_SIZE + 1000 : 5 * BLOCK_SIZE]


def test_a_libc_that_calls_it_by_its_one_name_makes_holes_too(tmp_path: Path) -> None:
    """As musl, where each offset has 64 bits and what ends so is not there to be looked up."""
    code = """if True:
        import ctypes, os, sys

        class Musl(ctypes.CDLL):
            def __getattr__(self, name):
                if name.endswith("64"):
                    raise AttributeError(name)
                return super().__getattr__(name)

        ctypes.CDLL = Musl
        from enchufe.store import linux
        with open(sys.argv[1], "w+b") as file:
            file.write(b"x" * (1 << 20))
            file.flush()
            linux.blank(file.fileno(), 0, 1 << 20)
            os.fsync(file.fileno())
            print(os.fstat(file.fileno()).st_blocks)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "file"], stdout=subprocess.PIPE, check=True, timeout=30
    )
    assert int(done.stdout) == 0


# Modes that keep us out.


def test_files_that_may_not_be_read(public: Path) -> None:  # noqa: F811
    """Unprivileged: what was complete with a mode of 0 is taken over, read again, and mended."""

    def receive() -> None:
        inbox = public / "in"
        file = Entry(0, NO_PARENT, b"locked", Kind.FILE, 3, 0, T)
        other = Entry(1, NO_PARENT, b"other", Kind.FILE, 3, 0, T)
        begun = LocalStore(inbox).begin()
        for entry in (file, other):
            begun.admit(entry)
            begun.write_whole(entry, b"abc", digest(b"abc"))
        begun.suspend()
        (area,) = areas(inbox)
        for path in area.iterdir():
            if path.name not in ("journal", "root"):
                assert stat.S_IMODE(path.stat().st_mode) == 0
                path.chmod(0o600)
                path.write_bytes(b"abx")
                path.chmod(0)
        with delivery(inbox) as begun:
            for entry in (file, other):
                assert begun.admit(entry) is Answer.REST
            for entry in (file, other):
                assert begun.recheck(entry, lambda: False) == [0]
                begun.write(entry, 0, b"abc", digest(b"abc"))
                begun.complete(entry, 3)
            begun.commit()
        for name in ("locked", "other"):
            assert stat.S_IMODE((inbox / name).stat().st_mode) == 0
            (inbox / name).chmod(0o600)
            assert (inbox / name).read_bytes() == b"abc"
            assert (inbox / name).stat().st_mtime_ns == T

    as_nobody(receive)


# Pipes.


def test_a_pipe_keeps_nothing() -> None:
    reading, writing = os.pipe()
    begun = PipeDelivery(writing)
    entry = a_file(0, b"file", UNKNOWN_SIZE)
    assert begun.admit(entry) is Answer.ALL
    assert (list(begun.kept(entry)), list(begun.own(entry)), begun.recheck(entry, lambda: False)) == ([], [], [])
    assert begun.same(entry, 3, [bytes(32)] * 2) == [3, 4]
    with pytest.raises(LocalProtocolError):
        begun.link(entry, entry)
    begun.suspend()
    os.close(reading)
    os.close(writing)


def test_small_files_from_many_threads_in_many_folders(inbox: Path) -> None:
    """More folders than are kept open, while others are about to make a file in one: each lands where it belongs."""
    with delivery(inbox) as begun:
        before = len(os.listdir("/proc/self/fd"))
        folders = [Entry(number, NO_PARENT, b"%d" % number, Kind.DIRECTORY) for number in range(200)]
        for folder in folders:
            begun.admit(folder)
        files = [a_file(200 + at, b"%d" % at, 4, at % 200) for at in range(4000)]
        for entry in files:
            begun.admit(entry)
        random.Random(3).shuffle(files)
        most = 0

        def work(some: list[Entry]) -> None:
            nonlocal most
            for entry in some:
                data = b"%04d" % (entry.parent + 1)
                begun.write_whole(entry, data, digest(data))
                most = max(most, len(os.listdir("/proc/self/fd")))

        threads = [threading.Thread(target=work, args=(files[start::8],)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most <= before + 2 * 32 + 2 * 8 + 8
        begun.commit()
    for number in range(200):
        found = {path.name: path.read_bytes() for path in (inbox / str(number)).iterdir()}
        assert found == {str(at): b"%04d" % (number + 1) for at in range(number, 4000, 200)}


@pytest.mark.parametrize("if_exists", ["skip", "rename", "overwrite", "update"])
def test_what_is_offered_says_nothing_of_the_destination_itself(inbox: Path, if_exists: IfExists) -> None:
    """A folder that nobody else may enter stays one, though folders in it get the modes that were offered."""
    inbox.chmod(0o700)
    (inbox / "folder").mkdir()
    with delivery(inbox, if_exists) as begun:
        begun.admit(Entry(0, NO_PARENT, b"folder", Kind.DIRECTORY, 0, 0o755, T))
        begun.admit(Entry(1, 0, b"link", Kind.SYMLINK, mtime_ns=T, target=b"."))
        begun.commit()
    assert len(list(inbox.glob("*/link"))) == 1
    assert stat.S_IMODE(inbox.stat().st_mode) == 0o700
    assert inbox.stat().st_mtime_ns != 0


@pytest.mark.parametrize("live", [False, True])
def test_only_where_somebody_may_deliver_a_name_is_the_staging_folders(inbox: Path, live: bool) -> None:
    """In a folder that is new here as a whole it is a name as any other, and what has it arrives."""
    if live:
        (inbox / "folder").mkdir()
    with delivery(inbox, "update") as begun:
        begun.admit(Entry(0, NO_PARENT, b"folder", Kind.DIRECTORY, 0, 0o755, T))
        answer = begun.admit(Entry(1, 0, b".enchufe", Kind.DIRECTORY, 0, 0o755, T))
        assert answer is (Answer.CANNOT_STORE if live else Answer.ALL)
        begun.commit()
    assert (inbox / "folder/.enchufe").exists() == (not live)
