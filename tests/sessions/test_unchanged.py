"""Folders that are unchanged as a whole: what comes of it is what comes of offering each of their files."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from enchufe import events, files
from enchufe.entry import Kind
from enchufe.session import Greeted, Offering, Options, ReceivingSession, SendingSession, receiving, sending
from enchufe.store import LocalStore, Sending, Source, listing
from enchufe.store.memory import MemoryStore, Node
from enchufe.transfer.messages import FOLDERS, ZSTD
from enchufe.transfer.sender import Sender
from enchufe.transports import Transport
from tests.sessions.relay import CuttingRelay, Relay
from tests.sessions.transfers import Ends, Side, snapshot, transfer

FILES = 6
T = 10**18


class Watched(SendingSession):
    """Its books, and what it offered one by one."""

    all: ClassVar[list[Watched]] = []

    def __init__(self, over: Transport | Greeted[Sender], source: Sending, options: Options, on_event: Any) -> None:
        super().__init__(over, source, options, on_event)
        self.offered: list[bytes] = []
        self.refused = 0
        self.all.append(self)

    def tell_file(self, path: Any, size: int, action: str, **more: Any) -> None:
        super().tell_file(path, size, action, **more)
        self.refused += action == "refused"

    def _next_entries(self) -> list[Any]:
        entries = super()._next_entries()
        self.offered += [entry.name for entry in entries if entry.kind is not Kind.DIRECTORY]
        return entries


@pytest.fixture(autouse=True)
def _forget() -> None:
    Watched.all.clear()


def grow(root: Path) -> Path:
    """Folders of a few files and links each, some inside others."""
    for folder in ("a", "b", "b/inner", "b/inner/most", "c"):
        (root / folder).mkdir(parents=True)
        for number in range(FILES):
            (root / folder / f"f{number}").write_bytes(folder.encode() * number)
        (root / folder / "link").symlink_to("f1")
    (root / "empty").mkdir()
    (root / "few").mkdir()
    (root / "few" / "one").write_text("one")
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, ns=(T, T + number), follow_symlinks=False)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return grow(tmp_path / "tree")


def copied(tree: Path, inbox: Path) -> Path:
    """The destination of a first run."""
    inbox.mkdir()
    copy(tree, inbox / "tree")
    return inbox


def copy(tree: Path, to: Path) -> None:
    """With all that is in it: hard links, times, pipes."""
    subprocess.run(["cp", "-a", tree, to], check=True)


def update(tree: Path, inbox: Path, *, compares: bool = True, exclude: tuple[str, ...] = (), **how: Any) -> Ends:
    """What `receive --if-exists update` does."""
    store = LocalStore(inbox, if_exists="update", **how.pop("store", {}))
    chosen = {"each_file": False, "sending": Watched, "compares": compares, **how}
    return transfer(lambda: Source([tree], exclude=exclude), store.begin, **chosen)


def told(side: Side) -> tuple[Any, ...]:
    """All that may not depend on how it was offered."""
    receipt = side.receipt
    return (
        (receipt.files, receipt.bytes, receipt.sent_bytes, receipt.skipped, receipt.left_out),
        [(offered.entries, offered.bytes) for offered in side.of(events.Offered)],
        sorted((file.path, file.action, file.bytes, file.reason) for file in side.of(events.File)),
        (side.of(events.Progress)[-1].bytes, side.of(events.Progress)[-1].total),
    )


def check_alike(tree: Path, inbox: Path, **how: Any) -> Watched:
    """It comes to the same as offering each file; returns the session that listed folders."""
    plain = inbox.with_name("plain")
    copy(inbox, plain)
    ends = [update(tree, plain, compares=False, **how), update(tree, inbox, **how)]
    assert snapshot(inbox) == snapshot(plain)
    assert told(ends[0].sender) == told(ends[1].sender)
    assert told(ends[0].receiver) == told(ends[1].receiver)
    assert ends[1].sender.receipt.digest == ends[1].receiver.receipt.digest
    shutil.rmtree(plain)
    plainly, listed = Watched.all[-2:]
    assert (plainly.machine.same_entries, plainly.machine.listed) == (0, 0)
    assert plainly.machine.skipped == listed.machine.skipped
    return listed


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("sender_dials", [True, False])
def test_nothing_of_what_is_unchanged_is_offered(tree: Path, tmp_path: Path, streams: int, sender_dials: bool) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    ends = update(tree, inbox, streams=streams, sender_dials=sender_dials)
    (session,) = Watched.all
    assert session.offered == [b"one"]  # a folder of one file is not worth a digest
    assert session.machine.same_entries == 5 * (FILES + 1)
    assert snapshot(inbox / "tree") == snapshot(tree)
    assert ends.sender.receipt.skipped == ends.receiver.receipt.skipped == 5 * FILES + 1
    assert check_alike(tree, inbox).offered == [b"one"]


def change(path: Path, data: bytes, mtime_ns: int = T) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(T, mtime_ns))


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def become_folder(tree: Path) -> None:
    (tree / "a" / "f1").unlink()
    (tree / "a" / "f1").mkdir()
    (tree / "a" / "f1" / "in it").write_text("x")


def become_file(tree: Path) -> None:
    shutil.rmtree(tree / "b" / "inner")
    (tree / "b" / "inner").write_text("x")


def change_all(tree: Path, *folders: str) -> None:
    for folder in folders:
        change(tree / folder / "f3", b"x")


def have_odd_names(tree: Path) -> None:
    for name in (b" ", b"new\nline", b"\xff\xfe", "ñ".encode(), b"-rf", b"x" * 255):
        change(Path(os.fsdecode(os.fsencode(tree) + b"/a/" + name)), b"x")


# What happens to a tree after the first run, and in how many of the five folders that shows.
CHANGES: dict[str, tuple[Callable[[Path], object], int]] = {
    "a changed file": (lambda tree: change(tree / "a/f1", b"other"), 1),
    "a changed file of the same size": (lambda tree: change(tree / "a/f1", b"b"), 1),
    "a changed file of the same time": (
        lambda tree: change(tree / "a/f1", b"longer", (tree / "a/f1").stat().st_mtime_ns),
        1,
    ),
    "another mode": (lambda tree: (tree / "a/f1").chmod(0o600), 0),
    "a new file": (lambda tree: change(tree / "b/new", b"x"), 1),
    "a removed file": (lambda tree: (tree / "b/inner/f1").unlink(), 1),
    "a renamed file": (lambda tree: (tree / "b/f1").rename(tree / "b/f10"), 1),
    "a changed link": (lambda tree: link(tree / "c/link", "f2"), 1),
    "a link that was made again": (lambda tree: link(tree / "c/link", "f1"), 0),
    "a link in place of a file": (lambda tree: link(tree / "c/f2", "f1"), 1),
    "a folder in place of a file": (become_folder, 1),
    "a file in place of a folder": (become_file, 3),
    "a new folder": (lambda tree: grow(tree / "new"), 0),
    "an empty folder": (lambda tree: (tree / "a/empty").mkdir(), 0),
    "two of three folders": (lambda tree: change_all(tree, "b", "b/inner/most"), 2),
    "all folders": (lambda tree: change_all(tree, "a", "b", "b/inner", "b/inner/most", "c"), 5),
    "a hard link": (lambda tree: os.link(tree / "a/f1", tree / "c/f1 too"), 2),
    "a pipe": (lambda tree: os.mkfifo(tree / "a/pipe"), 1),
    "a file that cannot be read": (lambda tree: (tree / "a/f1").chmod(0), 0),
    "a link that leads out": (lambda tree: (tree / "a/out").symlink_to("/etc"), 1),
    "the name of the staging area": (lambda tree: change(tree / "a/.enchufe", b"x"), 1),
    "odd names": (have_odd_names, 1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_source_that_changed(tree: Path, tmp_path: Path, what: str) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    happens, folders = CHANGES[what]
    happens(tree)
    assert check_alike(tree, inbox).machine.same_entries == (5 - folders) * (FILES + 1)


# Only one folder shows a hard link by what is in it.
@pytest.mark.parametrize("what", [what for what in CHANGES if what != "a hard link"])
def test_a_destination_that_changed(tree: Path, tmp_path: Path, what: str) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    happens, folders = CHANGES[what]
    happens(inbox / "tree")
    assert check_alike(tree, inbox).machine.same_entries == (5 - folders) * (FILES + 1)


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_on_both_sides_alike_is_the_same_again(tree: Path, tmp_path: Path, what: str) -> None:
    CHANGES[what][0](tree)
    inbox = copied(tree, tmp_path / "inbox")
    session = check_alike(tree, inbox)
    never = {"a hard link": 2, "a pipe": 1, "a link that leads out": 1, "the name of the staging area": 1}
    # Besides those of folders that are never the same, files that are alone or two in theirs.
    assert len(session.offered) <= 2 + (FILES + 2) * never.get(what, 0)


def test_hard_links_at_the_destination_are_no_difference(tree: Path, tmp_path: Path) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    os.link(inbox / "tree/a/f1", inbox / "elsewhere")
    assert check_alike(tree, inbox).machine.same_entries == 5 * (FILES + 1)


def test_a_link_in_place_of_a_folder_is_not_followed(tree: Path, tmp_path: Path) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    (inbox / "tree" / "a").rename(tmp_path / "elsewhere")
    (inbox / "tree" / "a").symlink_to(tmp_path / "elsewhere")
    session = check_alike(tree, inbox)
    assert session.machine.same_entries == 4 * (FILES + 1)
    assert session.refused == 1 + FILES + 1


@pytest.mark.parametrize("links", ["inside", "any", "none"])
def test_links_that_are_not_taken_are_refused_one_by_one(tree: Path, tmp_path: Path, links: str) -> None:
    (tree / "a" / "out").symlink_to("../../..")
    inbox = copied(tree, tmp_path / "inbox")
    session = check_alike(tree, inbox, store={"links": links})
    assert session.refused == {"inside": 1, "any": 0, "none": 6}[links]
    assert not session.machine.refused  # there may be a million of them


def test_excluded_names_are_in_no_listing(tree: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    update(tree, inbox, exclude=("f2", "c/"))
    change(tree / "a" / "f2", b"changed, and at home")
    session = check_alike(tree, inbox, exclude=("f2", "c/"))
    assert session.machine.same_entries == 4 * FILES
    assert not (inbox / "tree" / "a" / "f2").exists()


def test_another_run_with_what_was_excluded_finds_it(tree: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    update(tree, inbox, exclude=("f2",))
    session = check_alike(tree, inbox)
    assert session.machine.same_entries == 0
    assert snapshot(inbox / "tree") == snapshot(tree)


def test_one_root_that_is_a_folder_of_files_and_one_that_is_a_file(tmp_path: Path) -> None:
    tree, inbox = tmp_path / "tree", tmp_path / "inbox"
    tree.mkdir()
    for number in range(FILES):
        change(tree / f"f{number}", b"x" * number)
    copied(tree, inbox)
    assert check_alike(tree, inbox).machine.same_entries == FILES
    change(tmp_path / "file", b"x")
    ends = update(tmp_path / "file", inbox)
    assert ends.sender.receipt.files == 1


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_folder_of_50_000_files(place: Path) -> None:
    tree, inbox = place / "tree", place / "inbox" / "tree"
    for folder in (tree, inbox):
        folder.mkdir(parents=True)
        for number in range(50_000):
            os.close(os.open(folder / f"{number}", os.O_CREAT | os.O_WRONLY, 0o644))
            os.utime(folder / f"{number}", ns=(T, T + number))
    for same, offered in ((50_000, 1), (0, 50_001)):
        ends = update(tree, inbox.parent)
        machine = Watched.all[-1].machine
        assert (machine.same_entries, machine.offered) == (same, offered)
        assert ends.receiver.receipt.skipped == 50_000 - (not same)
        change(tree / "777", b"x")
    assert (inbox / "777").read_bytes() == b"x"


def test_memory_into_memory() -> None:
    store, inbox = MemoryStore(), MemoryStore(update=True)
    for number in range(40):
        store.add(f"d/{number % 4}/f{number}", bytes(number), mtime_ns=number)
    store.nodes[b"d", b"0", b"link"] = Node(Kind.SYMLINK, target=b"f0")
    store.nodes[b"d", b"1", b"same"] = store.nodes[b"d", b"1", b"f1"]
    for skipped, same in ((0, 0), (41, 31), (40, 20)):
        ends = transfer(store.source, inbox.begin, sending=Watched, compares=True, each_file=False)
        assert inbox.nodes == store.nodes
        assert ends.sender.receipt.skipped == ends.receiver.receipt.skipped == skipped
        assert Watched.all[-1].machine.same_entries == same
        if same:
            store.nodes[b"d", b"0", b"f4"] = Node(data=bytearray(b"changed"), mtime_ns=99)


# Who agrees to it.


def test_a_receiver_that_is_older_is_offered_each_file(tree: Path, tmp_path: Path) -> None:
    class Older(ReceivingSession):
        features = ZSTD

    inbox = copied(tree, tmp_path / "inbox")
    ends = update(tree, inbox, receiving=Older)
    assert len(Watched.all[0].offered) == 5 * (FILES + 1) + 1
    assert ends.sender.receipt.skipped == 5 * FILES + 1


def test_a_sender_that_is_older_offers_each_file(tree: Path, tmp_path: Path) -> None:
    class Older(Watched):
        features = ZSTD

    inbox = copied(tree, tmp_path / "inbox")
    ends = update(tree, inbox, sending=Older)
    assert len(Watched.all[0].offered) == 5 * (FILES + 1) + 1
    assert ends.receiver.receipt.skipped == 5 * FILES + 1


def test_where_each_file_is_told_each_is_offered(tree: Path, tmp_path: Path) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    ends = update(tree, inbox, each_file=True)
    assert Watched.all[0].machine.same_entries == 0
    assert len([file for file in ends.receiver.of(events.File) if file.action == "skipped"]) == 5 * FILES + 1


def test_who_is_asked_sees_each_file(tree: Path, tmp_path: Path) -> None:
    shown: list[int] = []

    def ask(offering: Offering) -> bool:
        shown.append(len(offering))
        return True

    inbox = copied(tree, tmp_path / "inbox")
    update(tree, inbox, ask=ask)
    assert shown == [1 + 5 * (FILES + 2) + 3]


def test_extended_attributes_are_listed_nowhere(tree: Path, tmp_path: Path) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    store = LocalStore(inbox, if_exists="update")
    ends = transfer(
        lambda: Source([tree], attributes=True), store.begin, sending=Watched, compares=True, each_file=False
    )
    assert ends.sender.receipt.skipped == 5 * FILES + 1
    assert Watched.all[0].machine.same_entries == 0


@pytest.mark.parametrize(("checksum", "listed"), [(False, True), (True, False)])
def test_what_the_commands_do(tree: Path, tmp_path: Path, checksum: bool, listed: bool, monkeypatch: Any) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    agreed: list[int] = []

    class Noting(ReceivingSession):
        @property
        def features(self) -> int:
            agreed.append(super().features)
            return super().features

    monkeypatch.setattr(receiving, "ReceivingSession", Noting)
    monkeypatch.setattr(sending, "SendingSession", Watched)
    how: Any = {"plain": True, "retry": 0.0}
    sent: list[events.Receipt] = []

    def hear(event: events.Event) -> None:
        if isinstance(event, events.Listening):
            thread.append(_in_thread(lambda: sent.append(files.send_files([tree], to=event.address, **how))))

    thread: list[threading.Thread] = []
    listen = "127.0.0.1:0"
    receipt = files.receive_files(inbox, listen=listen, if_exists="update", checksum=checksum, on_event=hear, **how)
    thread[0].join()
    assert {bool(each & FOLDERS) for each in agreed} == {listed}
    assert bool(Watched.all[0].machine.same_entries) is listed
    assert receipt.digest == sent[0].digest


def _in_thread(job: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=job)
    thread.start()
    return thread


# When it does not pay, or takes long.


def test_a_first_run_stops_listing(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_LISTED_IN_VAIN", FILES)
    monkeypatch.setattr(sending, "_OFFER_ENTRIES", 1)
    source = Source([tree])
    store = LocalStore(tmp_path / "inbox", if_exists="update")
    ends = transfer(lambda: source, store.begin, sending=Watched, compares=True, each_file=False)
    assert snapshot(tmp_path / "inbox" / "tree") == snapshot(tree)
    assert ends.sender.receipt.files == 5 * FILES + 1
    assert not source.lists


def test_one_folder_for_each_turn_does(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_WALKING", 0.0)
    monkeypatch.setattr(receiving, "_TURN", 0.0)
    inbox = copied(tree, tmp_path / "inbox")
    assert check_alike(tree, inbox).machine.same_entries == 5 * (FILES + 1)


@pytest.mark.parametrize("listed", [0, 1])
def test_an_offer_with_little_to_look_at_does(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    monkeypatch.setattr(sending, "_OFFER_LISTED", 1 + listed * 2 * FILES)
    monkeypatch.setattr(receiving, "_TURN", 0.0)
    inbox = copied(tree, tmp_path / "inbox")
    assert check_alike(tree, inbox).machine.same_entries == 5 * (FILES + 1)


def test_a_disk_that_is_slow_is_not_waited_for(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PATIENCE", -1.0)
    inbox = copied(tree, tmp_path / "inbox")
    assert check_alike(tree, inbox).machine.same_entries == 0


# What is cut in the middle of it.


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("at", [60, 150, 300, 450, 600])
def test_a_cut_and_the_next_attempt(tree: Path, tmp_path: Path, at: int, there: bool) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    change(tree / "b" / "f3", b"new")
    with CuttingRelay(at, there=there) as relay:
        ends = update(tree, inbox, relay=relay, retry=20.0)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert ends.sender.receipt.skipped == ends.receiver.receipt.skipped == 5 * FILES
    assert snapshot(inbox / "tree") == snapshot(tree)


def test_little_of_it_crosses(tree: Path, tmp_path: Path) -> None:
    inbox = copied(tree, tmp_path / "inbox")
    with Relay() as relay:
        update(tree, inbox, relay=relay, streams=1)
    # Both HELLOs; then for each of eight folders and a file some 85 bytes.
    assert sum(relay.counts.values()) < 1500


# What changes while it goes on.


def test_a_folder_that_changed_since_it_was_listed_is_offered_as_it_is(tree: Path, tmp_path: Path) -> None:
    """Between the listing and the answer, which is not `same`: nothing of what was listed is believed."""

    class Changing(Source):
        def inside(self, folder: Any) -> Any:
            if folder.name == b"a":
                change(tree / "a" / "f2", b"changed since")
                (tree / "a" / "f3").unlink()
                (tree / "a" / "f4").unlink()
                (tree / "a" / "f4").mkdir()
            return super().inside(folder)

    store = LocalStore(tmp_path / "inbox", if_exists="update")
    source = Changing([tree])
    ends = transfer(lambda: source, store.begin, compares=True, each_file=False)
    assert ends.sender.receipt.left_out == ends.receiver.receipt.left_out == 1
    assert [file.path for file in ends.sender.of(events.File) if file.action == "left out"] == [(b"tree", b"a", b"f4")]
    assert (tmp_path / "inbox/tree/a/f2").read_bytes() == b"changed since"
    assert not (tmp_path / "inbox/tree/a/f3").exists()


def test_a_folder_that_is_gone_since_it_was_listed_is_empty(tree: Path, tmp_path: Path) -> None:
    class Vanishing(Source):
        def inside(self, folder: Any) -> Any:
            if folder.name == b"a":
                shutil.rmtree(tree / "a")
            return super().inside(folder)

    store = LocalStore(tmp_path / "inbox", if_exists="update")
    ends = transfer(lambda: Vanishing([tree]), store.begin, compares=True, each_file=False)
    assert ends.sender.receipt.files == ends.receiver.receipt.files == 4 * FILES + 1
    assert os.listdir(tmp_path / "inbox/tree/a") == []


def test_a_folder_that_is_a_link_since_it_was_listed_is_left_out(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("x")

    class Swapping(Source):
        def inside(self, folder: Any) -> Any:
            if folder.name == b"a":
                shutil.rmtree(tree / "a")
                (tree / "a").symlink_to(tmp_path / "elsewhere")
                self._folders.close()
            return super().inside(folder)

    store = LocalStore(tmp_path / "inbox", if_exists="update")
    ends = transfer(lambda: Swapping([tree]), store.begin, compares=True, each_file=False)
    (left_out,) = [file for file in ends.sender.of(events.File) if file.action == "left out"]
    assert left_out.path == (b"tree", b"a")
    assert ends.sender.receipt.left_out == ends.receiver.receipt.left_out == 1
    assert os.listdir(tmp_path / "inbox/tree/a") == []
