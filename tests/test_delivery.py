"""What a receiver writes: placing, each policy, metadata, links, twins, durability, and several deliveries at once."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import stat
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enchufe.buffer import Buffer
from enchufe.entry import MAX_DEPTH, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import ClosedError, EnchufeError, LocalProtocolError, Refused, RemoteProtocolError, StoreError
from enchufe.store import Delivery, IfExists, Links, LocalStore, PipeDelivery, Receiving, Source, linux
from enchufe.store.names import NameRules

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")

Snapshot = dict[bytes, tuple[Any, ...]]
POLICIES: list[IfExists] = ["rename", "skip", "overwrite", "update", "fail"]
STRANGE = [
    b"a b",
    b"line\nbreak",
    "ñandú".encode(),
    "🧦🔌".encode(),
    b"\xff\xfe not text",
    b"n" * 255,
    b"-rf",
    b"...",
    b"\x1b[2J",
    b"back\\slash",
    b"NUL",
]
T = 1_600_000_000_123_456_789


def snapshot(folder: Path, *, times: bool = False) -> Snapshot:
    """Everything below a folder: what it is, its mode, its content; and its time."""
    found: Snapshot = {}
    top = os.fsencode(folder)
    for here, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(here, name)
            info = os.lstat(path)
            content: bytes | None = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            told = (stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), content)
            found[os.path.relpath(path, top)] = (*told, info.st_mtime_ns) if times else told
    return found


def contents(folder: Path) -> dict[str, str | None]:
    """The same for tests that only care for what is in the files."""
    return {
        os.fsdecode(path): None if told[2] is None else told[2].decode("utf-8", "replace")
        for path, told in snapshot(folder).items()
    }


def write(delivery: Receiving, entry: Entry, offset: int, data: Buffer) -> None:
    delivery.write(entry, offset, data, blake3(data).digest())


def write_whole(delivery: Receiving, entry: Entry, data: Buffer) -> None:
    delivery.write_whole(entry, data, blake3(data).digest())


class Offer:
    """Numbers entries as a sender does, and hands each to the delivery with its content."""

    def __init__(self, delivery: Receiving) -> None:
        self.delivery = delivery
        self.count = 0
        self.answers: list[Answer] = []

    def add(self, kind: Kind, name: bytes | str, parent: Entry | int | None, **fields: Any) -> Entry:
        above = NO_PARENT if parent is None else parent if isinstance(parent, int) else parent.id
        entry = Entry(self.count, above, name.encode() if isinstance(name, str) else name, kind, mtime_ns=T, **fields)
        self.count += 1
        self.answers.append(self.delivery.admit(entry))
        return entry

    def folder(self, name: bytes | str, parent: Entry | int | None = None, mode: int = 0o755) -> Entry:
        return self.add(Kind.DIRECTORY, name, parent, mode=mode)

    def link(self, name: bytes | str, target: bytes, parent: Entry | int | None = None) -> Entry:
        return self.add(Kind.SYMLINK, name, parent, target=target, mode=0o777)

    def file(
        self,
        name: bytes | str,
        data: bytes = b"new",
        parent: Entry | int | None = None,
        mode: int = 0o644,
        piece: int = 0,
    ) -> Entry:
        """Whole, or in pieces of `piece` bytes from the last to the first; of one that is here what is wrong."""
        entry = self.add(Kind.FILE, name, parent, size=len(data), mode=mode)
        if self.answers[-1] is Answer.REST:
            if self.delivery.recheck(entry, lambda: False):
                write(self.delivery, entry, 0, data)
            self.delivery.complete(entry, len(data))
        if self.answers[-1] is Answer.ALL:
            if piece:
                for offset in reversed(range(0, len(data), piece)):
                    write(self.delivery, entry, offset, data[offset : offset + piece])
                self.delivery.complete(entry, len(data))
            else:
                write_whole(self.delivery, entry, data)
        return entry

    @property
    def answer(self) -> Answer:
        return self.answers[-1]


@contextlib.contextmanager
def delivery(folder: Path, if_exists: IfExists = "rename", links: Links = "inside") -> Iterator[Delivery]:
    begun = LocalStore(folder, if_exists=if_exists, links=links).begin()
    try:
        yield begun
    finally:
        begun.abandon()
    assert not os.path.lexists(folder / ".enchufe")


@pytest.fixture(params=["renameat2", "link"])
def either_rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever renames without replacing."""
    monkeypatch.setattr(linux, "use_renameat2", request.param == "renameat2")


@pytest.fixture(params=["syncfs", "fsync"])
def either_sync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever gets many files to the disk."""
    monkeypatch.setattr(linux, "use_syncfs", request.param == "syncfs")


# Placing.


@pytest.mark.parametrize("piece", [0, 5])
@pytest.mark.parametrize("if_exists", POLICIES)
def test_new_things(inbox: Path, either_rename: None, if_exists: IfExists, piece: int) -> None:
    with delivery(inbox, if_exists) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree", mode=0o750)
        inner = offer.folder("inner", tree, mode=0o700)
        offer.file("deep", b"deep down below", inner, mode=0o600, piece=piece)
        offer.link("link", b"deep", inner)
        offer.file("shallow", b"", tree, mode=0o444, piece=piece)
        alone = offer.file("alone", b"by itself", piece=piece)
        assert offer.answers == [Answer.ALL] * 6
        assert [path.name for path in inbox.iterdir()] == [".enchufe"]
        assert stat.S_IMODE((inbox / ".enchufe").stat().st_mode) == 0o700
        assert begun.path(inner) == (b"tree", b"inner")
        assert begun.path(alone) == (b"alone",)
        begun.commit()
        assert begun.landed == {tree.id: b"tree", alone.id: b"alone"}
    assert snapshot(inbox, times=True) == {
        b"tree": (stat.S_IFDIR, 0o750, None, T),
        b"tree/inner": (stat.S_IFDIR, 0o700, None, T),
        b"tree/inner/deep": (stat.S_IFREG, 0o600, b"deep down below", T),
        b"tree/inner/link": (stat.S_IFLNK, 0o777, b"deep", T),
        b"tree/shallow": (stat.S_IFREG, 0o444, b"", T),
        b"alone": (stat.S_IFREG, 0o644, b"by itself", T),
    }


def test_abandoned(inbox: Path) -> None:
    with delivery(inbox, "overwrite", "any") as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        offer.folder("locked", tree, mode=0)
        offer.file("file", b"x", tree, mode=0)
        offer.link("link", b"/etc", tree)
        write(begun, offer.add(Kind.FILE, "half", tree, size=10), 0, b"half")
        write(begun, offer.add(Kind.FILE, "half too", None, size=10), 5, b"half")
        begun.abandon()
        begun.abandon()
        assert list(inbox.iterdir()) == []


def test_nothing_came(inbox: Path) -> None:
    with delivery(inbox) as begun:
        begun.commit()
        assert begun.landed == {}
    assert list(inbox.iterdir()) == []


def test_over_is_over(inbox: Path) -> None:
    with delivery(inbox) as begun:
        file = Offer(begun).file("file")
        begun.commit()
        for use in (
            lambda: begun.admit(file),
            lambda: write_whole(begun, file, b""),
            lambda: write(begun, file, 0, b""),
            lambda: begun.complete(file, 0),
            lambda: begun.drop(file),
            begun.commit,
        ):
            with pytest.raises(ClosedError):
                use()
        begun.abandon()
    assert contents(inbox) == {"file": "new"}


def test_destination_is_made(tmp_path: Path) -> None:
    with delivery(tmp_path / "a/b/in ñ") as begun:
        Offer(begun).file("file")
        begun.commit()
    assert contents(tmp_path) == {"a": None, "a/b": None, "a/b/in ñ": None, "a/b/in ñ/file": "new"}


def test_destination_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/sub")
    monkeypatch.chdir(tmp_path)
    for folder in ("link", "link/..", "."):
        begun = LocalStore(folder).begin()
        Offer(begun).file("file", folder.encode())
        begun.commit()
    assert (tmp_path / "real/sub/file").read_text() == "link"
    assert (tmp_path / "real/file").read_text() == "link/.."
    assert (tmp_path / "file").read_text() == "."


def test_bad_choices(tmp_path: Path) -> None:
    wrong: Any = "replace"
    with pytest.raises(LocalProtocolError):
        LocalStore(tmp_path, if_exists=wrong)
    with pytest.raises(LocalProtocolError):
        LocalStore(tmp_path, links=wrong)
    for nothing in ("", "a\0b"):
        with pytest.raises(LocalProtocolError):
            LocalStore(nothing)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_umask_changes_nothing(inbox: Path, umask: int) -> None:
    modes = [0o777, 0o666, 0o400, 0o000, 0o7777, 0o4755, 0o2755, 0o1777]
    before = os.umask(0)
    try:
        store = LocalStore(inbox)
        os.umask(umask & 0o077 if os.geteuid() else umask)
        begun = store.begin()
        offer = Offer(begun)
        tree = offer.folder("tree", mode=0o7777)
        for mode in modes:
            offer.file(f"file {mode:o}", parent=tree, mode=mode)
            offer.file(f"big {mode:o}", parent=tree, mode=mode, piece=1)
            offer.folder(f"folder {mode:o}", tree, mode=mode)
        begun.commit()
    finally:
        os.umask(before)
    for mode in modes:
        for kind in ("file", "big", "folder"):
            assert stat.S_IMODE((inbox / f"tree/{kind} {mode:o}").stat().st_mode) == mode & 0o777
    assert stat.S_IMODE((inbox / "tree").stat().st_mode) == 0o777


@pytest.mark.parametrize(("year", "nearest"), [(2060, 2**31), (1890, -(2**31))])
def test_a_time_that_does_not_fit_into_32_bits(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, year: int, nearest: int
) -> None:
    """What `os.utime` does here is what it does where a C library's time_t has 32 bits: on i386, say."""
    real = os.utime

    def utime(path: Any, *, ns: tuple[int, int], **more: Any) -> None:
        if not -(2**31) <= ns[0] // 10**9 < 2**31:
            raise OverflowError("timestamp out of range for platform time_t")
        real(path, ns=ns, **more)

    monkeypatch.setattr(os, "utime", utime)
    monkeypatch.setitem(globals(), "T", (year - 1970) * 365 * 86400 * 10**9)
    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        offer.file("small", parent=tree)
        offer.file("in pieces", parent=tree, piece=1)
        offer.link("link", b"small", tree)
        begun.commit()
    for name in ("tree", "tree/small", "tree/in pieces", "tree/link"):
        assert (inbox / name).lstat().st_mtime_ns == nearest * 10**9 - (nearest > 0)


def test_setgid_of_the_destination_is_inherited(inbox: Path) -> None:
    """A folder that a group shares stays shared below; that is its owner's wish, not the sender's."""
    inbox.chmod(0o2775)
    with delivery(inbox, "overwrite") as begun:
        offer = Offer(begun)
        offer.folder("inner", offer.folder("tree"), mode=0o750)
        begun.commit()
    assert stat.S_IMODE((inbox / "tree/inner").stat().st_mode) == 0o2750
    (inbox / "tree").chmod(0o3777)
    with delivery(inbox, "overwrite") as begun:
        Offer(begun).folder("tree", mode=0o755)
        begun.commit()
    assert stat.S_IMODE((inbox / "tree").stat().st_mode) == 0o3755


def test_strange_names(inbox: Path) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        for name in STRANGE:
            offer.file(name, name, offer.folder(name, offer.folder(name)))
        begun.commit()
        assert list(begun.landed.values()) == STRANGE
    found = snapshot(inbox)
    for name in STRANGE:
        assert found[b"/".join([name] * 3)][2] == name


def random_tree(root: Path, rng: random.Random) -> None:
    folders = [root]
    root.mkdir()
    for number in range(60):
        name = rng.choice(STRANGE)[:240] + b"%d" % number
        path = Path(os.fsdecode(os.path.join(os.fsencode(rng.choice(folders)), name)))
        if rng.random() < 0.3:
            path.mkdir()
            folders.append(path)
        elif rng.random() < 0.2:
            path.symlink_to(rng.choice(["nowhere", "a/b", "x" * 300]))
        else:
            path.write_bytes(rng.randbytes(rng.choice([0, 1, 100, 70_000])))
            path.chmod(rng.choice([0o644, 0o600, 0o755, 0o400]))
        os.utime(path, ns=(0, rng.randrange(2 * 10**18)), follow_symlinks=False)
    for folder in reversed(folders):
        folder.chmod(rng.choice([0o755, 0o700, 0o555]))
        os.utime(folder, ns=(0, rng.randrange(2 * 10**18)))


@pytest.mark.parametrize("seed", range(4))
def test_round_trip(tmp_path: Path, seed: int) -> None:
    """What a Source reads from a random tree and a Delivery writes is the same tree, to the nanosecond."""
    rng = random.Random(seed)
    random_tree(tmp_path / "tree", rng)
    with contextlib.closing(Source([tmp_path / "tree"])) as source, delivery(tmp_path / "in") as begun:
        for entry in source.walk():
            assert begun.admit(entry) is Answer.ALL
            if entry.kind is Kind.FILE and entry.size < 1000:
                write_whole(begun, entry, source.read_whole(entry))
            elif entry.kind is Kind.FILE:
                view = memoryview(bytearray(10_000))
                with contextlib.closing(source.open(entry)) as file:
                    for offset in range(0, entry.size, len(view)):
                        write(begun, entry, offset, view[: file.read_into(view, offset)])
                begun.complete(entry, entry.size)
        assert list(source.left_out) == []
        begun.commit()
    sent = snapshot(tmp_path / "tree", times=True)
    assert len(sent) == 60
    assert snapshot(tmp_path / "in/tree", times=True) == sent
    assert (tmp_path / "in/tree").stat().st_mtime_ns == (tmp_path / "tree").stat().st_mtime_ns


# Files in pieces.


def test_more_files_at_once_than_may_be_open(inbox: Path) -> None:
    rng = random.Random(3)
    wanted = {f"file {number}": rng.randbytes(rng.randrange(200)) for number in range(60)}
    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        pieces = []
        entries = {}
        for name, data in wanted.items():
            entries[name] = offer.add(Kind.FILE, name, tree, size=len(data))
            pieces += [(name, offset) for offset in range(0, len(data), 20)]
        rng.shuffle(pieces)
        before = len(os.listdir("/proc/self/fd")) + 1  # the journal, from the first whole block on
        for name, offset in pieces:
            write(begun, entries[name], offset, wanted[name][offset : offset + 20])
            assert len(os.listdir("/proc/self/fd")) <= before + 18  # with the folder and the journal
        for name, data in wanted.items():
            begun.complete(entries[name], len(data))
        begun.commit()
    assert {name: (inbox / "tree" / name).read_bytes() for name in wanted} == wanted


def test_size_is_checked(inbox: Path) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        entry = offer.add(Kind.FILE, "file", None, size=UNKNOWN_SIZE)
        write(begun, entry, 0, b"four")
        for size in (3, 5):
            with pytest.raises(StoreError, match=f"has 4 bytes on disk, not {size}"):
                begun.complete(entry, size)
        begun.complete(entry, 4)
        empty = offer.add(Kind.FILE, "empty", None, size=UNKNOWN_SIZE)
        begun.complete(empty, 0)
        begun.commit()
    assert contents(inbox) == {"file": "four", "empty": ""}


def test_unfinished_file_stops_the_commit(inbox: Path) -> None:
    with delivery(inbox) as begun:
        write(begun, Offer(begun).add(Kind.FILE, "file", None, size=10), 0, b"half")
        with pytest.raises(LocalProtocolError):
            begun.commit()
    assert list(inbox.iterdir()) == []


@pytest.mark.parametrize("inside", [True, False])
def test_left_out(inbox: Path, inside: bool) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        parent = tree if inside else None
        offer.file("stays", b"1", parent)
        never = offer.add(Kind.FILE, "never begun", parent, size=10)
        half = offer.add(Kind.FILE, "half", parent, size=10)
        write(begun, half, 0, b"half")
        begun.drop(never)
        begun.drop(half)
        begun.commit()
    assert contents(inbox) == {"tree": None, ("tree/stays" if inside else "stays"): "1"}


def test_only_what_was_wanted_is_written(inbox: Path) -> None:
    with delivery(inbox) as begun:
        for parent in (NO_PARENT, 7):
            with pytest.raises(LocalProtocolError, match="was not wanted"):
                write_whole(begun, Entry(0, parent, b"file", Kind.FILE), b"x")


# Names that exist.


def existing(inbox: Path) -> None:
    """file, folder/{file,inner/old}, link -> file, fifo"""
    (inbox / "file").write_text("old")
    (inbox / "folder/inner").mkdir(parents=True)
    (inbox / "folder/file").write_text("old")
    (inbox / "folder/inner/old").write_text("old")
    (inbox / "link").symlink_to("file")
    os.mkfifo(inbox / "fifo")


OLD = {
    "file": "old",
    "folder": None,
    "folder/inner": None,
    "folder/file": "old",
    "folder/inner/old": "old",
    "link": "file",
    "fifo": None,
}


def offer_again(begun: Delivery, offer: Offer) -> None:
    """The same names: a file, a folder with a file, a folder in it with a new file; and a folder that is new there."""
    offer.file("file")
    folder = offer.folder("folder")
    offer.file("file", b"new", folder)
    offer.file("young", b"new", offer.folder("inner", folder))
    offer.file("x", b"new", offer.folder("fresh", folder))
    begun.commit()


def test_rename(inbox: Path, either_rename: None) -> None:
    existing(inbox)
    before = snapshot(inbox, times=True)
    for number in (1, 2):
        with delivery(inbox) as begun:
            offer = Offer(begun)
            offer.file("link")
            offer.file("fifo")
            offer_again(begun, offer)
            assert offer.answers == [Answer.ALL] * 9
            mark = f" ({number})".encode()
            assert list(begun.landed.values()) == [name + mark for name in (b"link", b"fifo", b"file", b"folder")]
    after = snapshot(inbox, times=True)
    assert {path: told for path, told in after.items() if path in before} == before
    assert set(contents(inbox)) - set(OLD) == {
        name.replace("#", mark)
        for mark in (" (1)", " (2)")
        for name in [
            *("link#", "fifo#", "file#", "folder#", "folder#/file", "folder#/inner", "folder#/inner/young"),
            *("folder#/fresh", "folder#/fresh/x"),
        ]
    }


def test_skip(inbox: Path, either_rename: None) -> None:
    existing(inbox)
    (inbox / "folder").chmod(0o711)
    before = (inbox / "folder/inner").stat()
    with delivery(inbox, "skip") as begun:
        offer = Offer(begun)
        for name in ("link", "fifo", "folder"):
            offer.file(name)
        below = offer.folder("below", offer.folder("file"))
        offer.file("x", b"new", below)
        assert offer.answers == [Answer.SKIP] * 4 + [Answer.PARENT] * 2
        assert begun.path(below) == (b"file", b"below")
        begun.abandon()
    with delivery(inbox, "skip") as begun:
        offer = Offer(begun)
        offer_again(begun, offer)
        all_, skip = Answer.ALL, Answer.SKIP
        assert offer.answers == [skip, all_, skip, all_, all_, all_, all_]
        assert begun.landed == {1: b"folder"}
    assert contents(inbox) == OLD | {"folder/inner/young": "new", "folder/fresh": None, "folder/fresh/x": "new"}
    assert stat.S_IMODE((inbox / "folder").stat().st_mode) == 0o711
    assert (inbox / "folder/inner").stat().st_mode == before.st_mode


@pytest.mark.parametrize("if_exists", ["overwrite", "update"])
def test_overwrite(inbox: Path, either_rename: None, if_exists: IfExists) -> None:
    existing(inbox)
    with delivery(inbox, if_exists) as begun:
        offer = Offer(begun)
        link = offer.file("link")
        offer.file("fifo")
        conflict = offer.folder("x", offer.folder("file"))
        offer.file("y", b"new", conflict)
        assert offer.answers == [Answer.ALL, Answer.IN_THE_WAY, Answer.IN_THE_WAY, Answer.PARENT, Answer.PARENT]
        begun.commit()
        assert begun.landed == {link.id: b"link"}
    with delivery(inbox, if_exists) as begun:
        offer = Offer(begun)
        offer.file("folder")
        assert offer.answer is Answer.IN_THE_WAY
    with delivery(inbox, if_exists) as begun:
        offer = Offer(begun)
        offer_again(begun, offer)
        assert offer.answers == [Answer.ALL] * 7
        assert begun.landed == {0: b"file", 1: b"folder"}
    assert contents(inbox) == OLD | {
        "link": "new",
        "file": "new",
        "folder/file": "new",
        "folder/inner/young": "new",
        "folder/fresh": None,
        "folder/fresh/x": "new",
    }
    for path in ("link", "file", "folder", "folder/inner", "folder/fresh", "folder/file"):
        assert (inbox / path).lstat().st_mtime_ns == T
    assert stat.S_IMODE((inbox / "folder").stat().st_mode) == 0o755


def test_overwrite_takes_a_link_for_a_file_and_back(inbox: Path) -> None:
    (inbox / "folder").mkdir()
    (inbox / "folder/file").write_text("old")
    (inbox / "folder/link").symlink_to("file")
    (inbox / "folder/away").symlink_to("/etc")
    with delivery(inbox, "overwrite") as begun:
        offer = Offer(begun)
        folder = offer.folder("folder")
        offer.link("file", b"link", folder)
        offer.file("link", b"new", folder)
        offer.link("away", b"link", folder)
        begun.commit()
    found = {"folder": None, "folder/file": "link", "folder/link": "new", "folder/away": "link"}
    assert contents(inbox) == found


def test_update_skips_what_is_there(inbox: Path) -> None:
    existing(inbox)
    (inbox / "folder/link").symlink_to("file")
    for name in ("file", "folder/file"):
        (inbox / name).write_text("old")
        os.utime(inbox / name, ns=(T, T))
    (inbox / "longer").write_text("old!")
    (inbox / "later").write_text("old")
    os.utime(inbox / "longer", ns=(T, T))
    os.utime(inbox / "later", ns=(T, T + 1))
    with delivery(inbox, "update") as begun:
        offer = Offer(begun)
        offer.file("file", b"???")
        folder = offer.folder("folder")
        offer.file("file", b"???", folder)
        offer.link("link", b"file", folder)
        assert offer.answers == [Answer.SKIP, Answer.ALL, Answer.SKIP, Answer.SKIP]
        offer.link("inner", b"file", folder)
        assert offer.answer is Answer.IN_THE_WAY
        offer.file("longer")
        offer.file("later")
        unknown = offer.add(Kind.FILE, "link", None, size=UNKNOWN_SIZE)
        assert offer.answers[-3:] == [Answer.ALL] * 3
        begun.complete(unknown, 0)
        begun.commit()
    assert (inbox / "file").read_text() == "old"
    assert (inbox / "longer").read_text() == (inbox / "later").read_text() == "new"
    assert contents(inbox)["link"] == ""


def test_fail(inbox: Path) -> None:
    existing(inbox)
    for name, kind in (("file", Kind.FILE), ("folder", Kind.DIRECTORY), ("link", Kind.SYMLINK)):
        with (
            delivery(inbox, "fail", "any") as begun,
            pytest.raises(Refused, match=f"'{name}' exists already") as caught,
        ):
            Offer(begun).add(kind, name, None, target=b"x")
        assert caught.value.hint
    assert contents(inbox) == OLD


@pytest.mark.parametrize("if_exists", POLICIES)
@pytest.mark.parametrize("meanwhile", ["file", "folder"])
def test_name_taken_meanwhile(inbox: Path, either_rename: None, if_exists: IfExists, meanwhile: str) -> None:
    """Between the look and the commit somebody else takes the name: under every policy both survive."""
    with delivery(inbox, if_exists) as begun:
        offer = Offer(begun)
        file = offer.file("thing.txt")
        folder = offer.folder("thing.d")
        offer.file("inside", parent=folder)
        for name in ("thing.txt", "thing.d"):
            if meanwhile == "file":
                (inbox / name).write_text("theirs")
            else:
                (inbox / name).mkdir()
                (inbox / name / "theirs").touch()
        begun.commit()
        assert begun.landed == {file.id: b"thing (1).txt", folder.id: b"thing.d (1)"}
    assert (inbox / "thing (1).txt").read_text() == (inbox / "thing.d (1)/inside").read_text() == "new"
    for name in ("thing.txt", "thing.d"):
        assert (inbox / name / "theirs").exists() if meanwhile == "folder" else (inbox / name).read_text() == "theirs"


@pytest.mark.parametrize("change", ["vanished", "folder", "link"])
def test_replaced_thing_changed_meanwhile(inbox: Path, either_rename: None, change: str) -> None:
    (inbox / "file").write_text("old")
    with delivery(inbox, "overwrite") as begun:
        entry = Offer(begun).file("file")
        (inbox / "file").unlink()
        if change == "folder":
            (inbox / "file").mkdir()
        elif change == "link":
            (inbox / "file").symlink_to("/etc/passwd")
        begun.commit()
        assert begun.landed == {entry.id: b"file (1)" if change == "folder" else b"file"}
    assert contents(inbox) == ({"file": None, "file (1)": "new"} if change == "folder" else {"file": "new"})


def test_without_hard_links_nothing_is_lost_either(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No renameat2 and no hard links: vfat under an old kernel."""

    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(linux, "use_renameat2", False)
    monkeypatch.setattr(os, "link", no_links)
    existing(inbox)
    with delivery(inbox) as begun:
        offer_again(begun, Offer(begun))
        assert begun.landed == {0: b"file (1)", 1: b"folder (1)"}
    assert OLD.items() <= contents(inbox).items()


# What is refused.


@pytest.mark.parametrize("if_exists", POLICIES)
def test_offered_twice(inbox: Path, if_exists: IfExists) -> None:
    (inbox / "live").mkdir()
    adds: list[Callable[[Offer, Entry | None], Entry]] = [
        lambda offer, parent: offer.folder("twice", parent),
        lambda offer, parent: offer.file("twice", b"x", parent),
        lambda offer, parent: offer.link("twice", b"x", parent),
    ]
    live = "live" if if_exists in ("skip", "overwrite", "update") else "fresh"
    for first, second, top in itertools.product(adds, adds, (None, live, "fresh")):
        with delivery(inbox, if_exists, "any") as begun:
            offer = Offer(begun)
            parent = None if top is None else offer.folder(top)
            first(offer, parent)
            with pytest.raises(RemoteProtocolError, match="twice"):
                second(offer, parent)


def test_offered_twice_in_pieces(inbox: Path) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        write(begun, offer.add(Kind.FILE, "file", tree, size=2), 0, b"x")
        with pytest.raises(RemoteProtocolError, match="'tree/file' was offered twice"):
            write(begun, offer.add(Kind.FILE, "file", tree, size=2), 0, b"x")
        begun.complete(offer.add(Kind.FILE, "empty", tree, size=UNKNOWN_SIZE), 0)
        with pytest.raises(RemoteProtocolError, match="'tree/empty' was offered twice"):
            begun.complete(offer.add(Kind.FILE, "empty", tree, size=UNKNOWN_SIZE), 0)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc", b"\0", b"n" * 256])
@pytest.mark.parametrize("kind", list(Kind))
def test_unsafe_names_end_it(inbox: Path, name: bytes, kind: Kind) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        for parent in (None, offer.folder("tree")):
            with pytest.raises(RemoteProtocolError, match="unsafe name"):
                offer.add(kind, name, parent)


def test_parents_that_are_none(inbox: Path) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        file, link = offer.file("file"), offer.link("link", b"x", offer.folder("tree"))
        for parent in (file, link, 3, 77, 0xFFFF_FFFE):
            for kind in Kind:
                with pytest.raises(RemoteProtocolError, match="never offered"):
                    offer.add(kind, "child", parent)


def test_depth(inbox: Path) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        folder = offer.folder("d")
        for _ in range(MAX_DEPTH):
            folder = offer.folder("d", folder)
        assert offer.answer is Answer.ALL
        assert len(begun.path(folder)) == MAX_DEPTH + 1
        for kind in Kind:
            with pytest.raises(RemoteProtocolError, match="too deep"):
                offer.add(kind, "x", folder, target=b"x")
        begun.abandon()
        assert list(inbox.iterdir()) == []


def deep(offer: Offer, top: str) -> Entry:
    """A folder whose path is 62 KB long."""
    folder = offer.folder(top)
    for _ in range(MAX_DEPTH - 10):
        folder = offer.folder("d" * 255, folder)
    return folder


@pytest.mark.parametrize("top", ["tree", ".enchufe"], ids=["staged", "refused"])
def test_folders_deep_down_cost_their_names_and_not_their_paths(inbox: Path, top: str) -> None:
    """Whoever sends says one name for each, and no limit on entries keeps that many paths of 64 KB out of memory."""
    with delivery(inbox) as begun:
        offer = Offer(begun)
        folder = deep(offer, top)
        tracemalloc.start()
        try:
            for number in range(300):
                offer.folder(f"{number:0>255}", folder)
            assert tracemalloc.get_traced_memory()[0] < 2 << 20
        finally:
            tracemalloc.stop()


def test_nor_do_files_that_are_put_there(inbox: Path) -> None:
    with delivery(inbox) as begun:
        deep(Offer(begun), "tree")
        begun.commit()
    with delivery(inbox, "overwrite") as begun:
        offer = Offer(begun)
        folder = deep(offer, "tree")
        for number in range(300):
            offer.file(f"{number}", parent=folder)
        tracemalloc.start()
        try:
            begun.commit()
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("name", [".enchufe", ".ENCHUFE", ".Enchufe", ".en\u200cchufe", "．enchufe"])  # noqa: RUF001
def test_the_staging_folders_name(inbox: Path, name: str) -> None:
    (inbox / "live").mkdir()
    with delivery(inbox, "overwrite", "any") as begun:
        offer = Offer(begun)
        for parent in (None, offer.folder("live")):
            below = offer.folder(name, parent)
            offer.file("x", parent=below)
            assert offer.answers[-2:] == [Answer.CANNOT_STORE, Answer.PARENT]
        fresh = offer.folder("fresh")
        offer.file(name, parent=fresh)
        assert offer.answer is Answer.ALL
        begun.commit()
    assert contents(inbox) == {"live": None, "fresh": None, f"fresh/{name}": "new"}


def test_links(inbox: Path) -> None:
    outcomes = {}
    choices: list[Links] = ["inside", "any", "none"]
    for choice in choices:
        with delivery(inbox, links=choice) as begun:
            offer = Offer(begun)
            tree = offer.folder("tree")
            inner = offer.folder("inner", tree)
            for parent, target in (
                (tree, b"inner"),
                (tree, b"../file"),
                (inner, b"../file"),
                (inner, b"/etc"),
                (None, b"tree"),
                (inner, b""),
                (inner, b"a\0b"),
                (inner, b"x" * 4096),
            ):
                offer.link(f"link {offer.count}", target, parent)
            outcomes[choice] = offer.answers[2:]
            begun.commit()
    yes, no = Answer.ALL, Answer.UNSAFE_LINK
    assert outcomes == {
        "inside": [yes, no, yes, no, no, no, no, no],
        "any": [yes, yes, yes, yes, yes, no, no, no],
        "none": [Answer.UNWANTED] * 8,
    }
    assert os.readlink(inbox / "tree (1)/inner/link 5") == "/etc"


def forced(folder: Path, rules: NameRules, if_exists: IfExists = "rename") -> Delivery:
    store = LocalStore(folder, if_exists=if_exists)
    store._rules = rules
    return store.begin()


def test_twins_where_the_file_system_folds(inbox: Path) -> None:
    (inbox / "live").mkdir()
    begun = forced(inbox, NameRules(folds=True), "overwrite")
    offer = Offer(begun)
    for parent in (None, offer.folder("fresh"), offer.folder("live")):
        start = len(offer.answers)
        offer.file("xt_MARK.h", parent=parent)
        offer.file("xt_mark.h", parent=parent)
        below = offer.folder("XT_MARK.H", parent)
        offer.file("x", parent=below)
        offer.file("other", parent=parent)
        yes, no = Answer.ALL, Answer.CANNOT_STORE
        assert offer.answers[start:] == [yes, no, no, Answer.PARENT, yes]
        with pytest.raises(RemoteProtocolError, match="twice"):
            offer.file("xt_MARK.h", parent=parent)
    begun.commit()
    names = ("xt_MARK.h", "other")
    files = {f"{folder}{name}": "new" for folder in ("", "fresh/", "live/") for name in names}
    assert contents(inbox) == {"live": None, "fresh": None} | files


def test_twins_elsewhere_are_two_files(inbox: Path) -> None:
    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        for parent in (None, tree):
            offer.file("xt_MARK.h", b"1", parent)
            offer.file("xt_mark.h", b"2", parent)
        begun.commit()
    assert contents(inbox)["tree/xt_mark.h"] == contents(inbox)["xt_mark.h"] == "2"


def test_names_that_the_file_system_cannot_hold(inbox: Path) -> None:
    begun = forced(inbox, NameRules(windows=True))
    offer = Offer(begun)
    tree = offer.folder("tree")
    for parent in (None, tree):
        for name in (b"NUL", b"a:b", b"end.", b"\xff"):
            offer.file(name, parent=parent)
            assert offer.answer is Answer.CANNOT_STORE
    begun.commit()
    assert contents(inbox) == {"tree": None}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_what_the_file_system_says_itself(inbox: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """vfat has no symlinks: EPERM; exFAT by FUSE neither: ENOSYS. That refuses the entry, not the delivery."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        monkeypatch.setattr(os, "symlink", refuse)
        offer.link("link", b"x", tree)
        monkeypatch.setattr(os, "mkdir", refuse)
        below = offer.folder("below", tree)
        assert offer.answers[1:] == [Answer.CANNOT_STORE] * 2
        offer.file("x", parent=below)
        assert offer.answer is Answer.PARENT
        if number == errno.EPERM:
            monkeypatch.setattr(os, "fchmod", refuse)  # nor modes
        offer.file("y", parent=tree)
        begun.commit()
    assert contents(inbox) == {"tree": None, "tree/y": "new"}


# Several at once.


def test_two_deliveries_at_once(inbox: Path) -> None:
    with contextlib.ExitStack() as stack:
        begun = [LocalStore(inbox).begin() for _ in range(3)]
        for each in begun:
            stack.callback(each.abandon)
        offers = [Offer(each) for each in begun]
        for offer in offers:
            tree = offer.folder("tree")
            offer.file("file", parent=tree)
        begun[1].commit()
        begun[0].commit()
        begun[2].abandon()
        assert [each.landed for each in begun] == [{0: b"tree (1)"}, {0: b"tree"}, {}]
    assert sorted(os.listdir(inbox)) == ["tree", "tree (1)"]


def test_many_threads_begin_and_end(inbox: Path) -> None:
    """The staging folder comes and goes under everybody's feet."""
    failures: list[BaseException] = []
    store = LocalStore(inbox)

    def work(number: int) -> None:
        try:
            for turn in range(40):
                begun = store.begin()
                Offer(begun).file(f"{number}-{turn}")
                if turn % 2:
                    begun.commit()
                begun.abandon()
        except BaseException as error:  # noqa: BLE001 (it is raised below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(os.listdir(inbox)) == {f"{number}-{turn}" for number in range(8) for turn in range(1, 40, 2)}


def test_abandoning_waits_for_a_commit(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()
    sync = os.fsync

    def slow(descriptor: int) -> None:
        entered.set()
        assert leave.wait(30)
        sync(descriptor)

    with delivery(inbox) as begun:
        Offer(begun).file("file")
        monkeypatch.setattr(os, "fsync", slow)
        committing = threading.Thread(target=begun.commit)
        committing.start()
        assert entered.wait(30)
        abandoning = threading.Thread(target=begun.abandon)
        abandoning.start()
        abandoning.join(0.05)
        assert abandoning.is_alive()
        leave.set()
        committing.join()
        abandoning.join()
    assert contents(inbox) == {"file": "new"}


# On disk, in the right order.


@pytest.mark.parametrize("files", [1, 25, 60])
def test_order_of_a_commit(inbox: Path, either_sync: None, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    """Every file and staged folder is synced before the first rename, every folder renamed into after the last."""
    events: list[tuple[str, int]] = []
    (inbox / "live").mkdir()

    def noted(what: str, function: Callable[..., None], which: int = 0) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            events.append((what, os.fstat(arguments[which]).st_ino))
            function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", noted("sync", os.fsync))
    monkeypatch.setattr(linux, "syncfs", noted("all", linux.syncfs))
    monkeypatch.setattr(linux, "rename_noreplace", noted("put", linux.rename_noreplace, 2))
    with delivery(inbox, "skip") as begun:
        offer = Offer(begun)
        tree, live = offer.folder("tree"), offer.folder("live")
        inner = offer.folder("inner", tree)
        for number in range(files):
            offer.file(f"{number}", parent=(tree, inner, live)[number % 3], mode=0o200, piece=number % 2)
        offer.link("link", b"x", inner)
        begun.commit()
    first = next(index for index, (what, _) in enumerate(events) if what == "put")
    last = max(index for index, (what, _) in enumerate(events) if what == "put")
    before = {inode for what, inode in events[:first] if what == "sync"}
    after = {inode for what, inode in events[last:] if what == "sync"}
    assert (inbox / "tree").stat().st_ino in {inode for what, inode in events[first:] if what == "sync"}
    if files > 32 and linux.has_syncfs():
        assert [what for what, _ in events[:first]] == ["all"]
    else:
        staged = {path.stat().st_ino for path in (inbox / "tree").rglob("*") if not path.is_symlink()}
        assert staged | {(inbox / "tree").stat().st_ino} <= before
        assert {path.stat().st_ino for path in (inbox / "live").iterdir()} <= before
    assert inbox.stat().st_ino in after
    assert ((inbox / "live").stat().st_ino in after) == (files > 2)


def test_many_grafts_are_synced_together(inbox: Path, either_sync: None, monkeypatch: pytest.MonkeyPatch) -> None:
    one, all_ = Mock(wraps=os.fsync), Mock(wraps=linux.syncfs)
    monkeypatch.setattr(os, "fsync", one)
    monkeypatch.setattr(linux, "syncfs", all_)
    with delivery(inbox) as begun:
        offer = Offer(begun)
        for number in range(100):
            offer.file("x", parent=offer.folder(f"{number}"))
        begun.commit()
    assert len(begun.landed) == 100
    if linux.has_syncfs():
        assert (one.call_count, all_.call_count) == (0, 2)
    else:
        assert one.call_count > 300
    assert len(contents(inbox)) == 200
    one.reset_mock()
    all_.reset_mock()
    with delivery(inbox, "update") as begun:
        offer = Offer(begun)
        for number in range(100):
            offer.file("x", parent=offer.folder(f"{number}"))
        begun.commit()
    assert offer.answers == [Answer.ALL, Answer.SKIP] * 100
    assert one.call_count + all_.call_count == (1 if linux.has_syncfs() else 100)


def test_a_new_tree_is_one_rename(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Mock(wraps=linux.rename_noreplace)
    monkeypatch.setattr(linux, "rename_noreplace", put)
    with delivery(inbox) as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        for number in range(500):
            offer.file("file", parent=offer.folder(f"{number}", tree))
        begun.commit()
    assert put.call_count == 1
    assert len(contents(inbox)) == 1001


# Nothing ever outside, whatever is offered.

_names = st.one_of(
    st.sampled_from([b"..", b".", b"", b"/", b"a/../..", b"a\0", b".enchufe", b"up", b"out", b"abs", b"file", b"live"]),
    st.sampled_from([b"A", b"a", b"b", b"deep", b"\xff", b"n" * 255, b"n" * 256, b"..\\..", b"C:", b"0", b"1", b"2"]),
    st.binary(max_size=6),
)
_targets = st.sampled_from(
    [b"..", b"../..", b"/", b"/etc", b"../outside", b"a", b"a/..", b".", b"", b"../outside/secret"]
)
_offers = st.lists(
    st.tuples(st.sampled_from(list(Kind)), _names, st.integers(-1, 8), _targets, st.integers(0, 0o7777)), max_size=14
)


@given(offers=_offers, if_exists=st.sampled_from(POLICIES), links=st.sampled_from(["inside", "any", "none"]))
@example(
    # A symlink first, then a write through it.
    offers=[
        (Kind.SYMLINK, b"x", -1, b"../outside", 0o777),
        (Kind.DIRECTORY, b"x", -1, b"", 0o755),
        (Kind.FILE, b"secret", 0, b"", 0o644),
        (Kind.FILE, b"secret", 1, b"", 0o644),
    ],
    if_exists="overwrite",
    links="any",
)
@example(
    # Through symlinks that the destination has.
    offers=[(Kind.DIRECTORY, b"out", -1, b"", 0), (Kind.FILE, b"secret", 0, b"", 0), (Kind.FILE, b"out", -1, b"", 0)],
    if_exists="overwrite",
    links="any",
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_outside(
    tmp_path_factory: pytest.TempPathFactory,
    offers: list[tuple[Kind, bytes, int, bytes, int]],
    if_exists: IfExists,
    links: Links,
) -> None:
    home = tmp_path_factory.mktemp("home")
    inbox, outside = home / "inbox", home / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (outside / "folder").mkdir()
    (inbox / "live/deep").mkdir(parents=True)
    for link, leads in (
        ("out", "../outside"),
        ("abs", str(outside)),
        ("live/up", ".."),
        ("live/out", "../../outside"),
    ):
        (inbox / link).symlink_to(leads)
    (inbox / "file").symlink_to("../outside/secret")
    before = snapshot(outside, times=True)
    stays = snapshot(inbox, times=True)
    for _ in range(2):  # the second delivery meets what the first one left
        begun = LocalStore(inbox, if_exists=if_exists, links=links).begin()
        offer = Offer(begun)
        with contextlib.suppress(EnchufeError):
            for kind, name, parent, target, mode in offers:
                above = NO_PARENT if parent < 0 else parent
                if kind is Kind.FILE:
                    offer.file(name, b"attack", above, mode=mode, piece=mode % 3)
                else:
                    offer.add(kind, name, above, target=target if kind is Kind.SYMLINK else b"", mode=mode)
            begun.commit()
        begun.abandon()
        assert snapshot(outside, times=True) == before
        assert sorted(os.listdir(home)) == ["inbox", "outside"]
        assert not (inbox / ".enchufe").exists()
        found = snapshot(inbox, times=True)
        if if_exists in ("rename", "fail"):
            assert {path: told for path, told in found.items() if path in stays} == stays
        assert all(not mode & 0o7000 for kind_, mode, *_ in found.values() if kind_ != stat.S_IFLNK)


def test_symlink_first_then_through_it(inbox: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = os.fsencode(outside)
    with delivery(inbox, "overwrite", "any") as begun:
        offer = Offer(begun)
        tree = offer.folder("tree")
        link = offer.link("link", target, tree)
        assert offer.answer is Answer.ALL
        with pytest.raises(RemoteProtocolError, match="never offered"):
            offer.file("x", parent=link)
        with pytest.raises(RemoteProtocolError, match="twice"):
            offer.folder("link", tree)
        with pytest.raises(RemoteProtocolError, match="twice"):
            offer.file("link", parent=tree)
    with delivery(inbox, "overwrite", "any") as begun:
        offer = Offer(begun)
        offer.link("link", target, offer.folder("tree"))
        begun.commit()
    assert os.readlink(inbox / "tree/link") == str(outside)
    with delivery(inbox, "overwrite", "any") as begun:
        offer = Offer(begun)
        through = offer.folder("link", offer.folder("tree"))
        offer.file("x", parent=through)
        assert offer.answers[-2:] == [Answer.IN_THE_WAY, Answer.PARENT]
        begun.commit()
    assert list(outside.iterdir()) == []


# Standard output.


def test_pipe_delivery(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    begun = PipeDelivery(writing)
    offer = Offer(begun)
    offer.folder("tree")
    offer.file("x", parent=0)
    offer.link("link", b"x")
    entry = offer.add(Kind.FILE, "file", None, size=UNKNOWN_SIZE)
    offer.file("second")
    unwanted = Answer.UNWANTED
    assert offer.answers == [unwanted, unwanted, unwanted, Answer.ALL, unwanted]
    write(begun, entry, 0, b"ho")
    write(begun, entry, 2, bytearray(b"la"))
    for offset in (0, 5):
        with pytest.raises(StoreError, match="out of order"):
            write(begun, entry, offset, b"x")
    with pytest.raises(StoreError, match="4 bytes were written"):
        begun.complete(entry, 5)
    begun.complete(entry, 4)
    begun.commit()
    assert begun.landed == {entry.id: b"file"}
    assert begun.path(entry) == (b"file",)
    assert os.read(reading, 100) == b"hola"
    with pytest.raises(LocalProtocolError):
        write(begun, Entry(77, NO_PARENT, b"other", Kind.FILE), 4, b"x")
    with pytest.raises(RemoteProtocolError):
        begun.admit(Entry(9, NO_PARENT, b"..", Kind.FILE))
    os.close(reading)
    with pytest.raises(StoreError, match="nobody reads"):
        write(begun, entry, 4, b"x")
    with pytest.raises(StoreError, match="4 bytes of it"):
        begun.drop(entry)
    begun.abandon()
    with pytest.raises(ClosedError):
        write(begun, entry, 4, b"x")
    os.close(writing)


def test_pipe_delivery_to_a_file(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        begun = PipeDelivery(out.fileno())
        Offer(begun).file("file", b"hola")
        begun.commit()
        assert (tmp_path / "out").read_bytes() == b"hola"
        # Nothing of the next has been written: it may be left out.
        begun = PipeDelivery(out.fileno())
        begun.drop(Offer(begun).add(Kind.FILE, "file", None, size=4))


def test_pipe_delivery_waits_where_somebody_made_it_non_blocking() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = random.Random(5).randbytes(300_000)
    begun = PipeDelivery(writing)
    got = bytearray()

    def read() -> None:
        while piece := os.read(reading, 1000):
            got.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    Offer(begun).file("file", data)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert got == data
