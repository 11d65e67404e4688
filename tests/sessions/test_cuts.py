"""Connections that die at chosen bytes: the others go on, or all is told; and what had arrived is not sent again."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enchufe import events
from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, NO_PARENT, Answer, Entry, Kind
from enchufe.errors import BrokenError, EnchufeError, VerificationError
from enchufe.session import SendingSession
from enchufe.store import LocalStore, Source
from enchufe.store.memory import MemoryStore
from enchufe.store.reading import SourceFile
from enchufe.transfer import messages as m
from enchufe.transfer.message import Message
from enchufe.transfer.sender import Work
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import HEARD_SIZE, HELLO_SIZE, Bend, CuttingRelay, Relay, Way, cut_at, flip_at
from tests.sessions.transfers import PATIENCE, send, snapshot, transfer, visible

BIG = random.Random(2).randbytes(12 * BLOCK_SIZE + 4_321)
MIDDLES = [HELLO_SIZE, HELLO_SIZE + 1, HELLO_SIZE + 90_000, 2 * BLOCK_SIZE + 7]

dialing = pytest.mark.parametrize("sender_dials", [True, False], ids=["sender dials", "receiver dials"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Big files and small ones, so that both kinds are on their way when a stream dies."""
    root = tmp_path / "tree"
    (root / "in").mkdir(parents=True)
    for number in range(400):
        # Of its own, so that nothing shrinks: where the machine is busy the link passes for a slow one.
        (root / "in" / f"small {number}").write_bytes(BIG[number * 8000 :][: number * 20])
    (root / "big").write_bytes(BIG)
    (root / "in" / "big").write_bytes(BIG[: 5 * BLOCK_SIZE])
    return root


def size_of(tree: Path) -> int:
    return sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())


def to_receiver(way: Way, *, sender_dials: bool) -> bool:
    """Whether that is the direction that data goes."""
    return way.there == sender_dials


@pytest.mark.parametrize("position", MIDDLES)
@dialing
def test_a_stream_dies_and_the_others_go_on(tree: Path, tmp_path: Path, position: int, sender_dials: bool) -> None:
    def choose(way: Way) -> Bend | None:
        return cut_at(position) if way.stream == 1 and to_receiver(way, sender_dials=sender_dials) else None

    with Relay(choose, expects=3) as relay:
        ends = send(tree, tmp_path / "inbox", relay=relay, streams=3, sender_dials=sender_dials)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert snapshot(tmp_path / "inbox" / "tree") == snapshot(tree)
    assert relay.streams == {(0, 0), (0, 1), (0, 2)}
    assert not ends.sender.of(events.Retrying)


@dialing
def test_every_stream_but_the_first_dies(tree: Path, tmp_path: Path, sender_dials: bool) -> None:
    def choose(way: Way) -> Bend | None:
        data = to_receiver(way, sender_dials=sender_dials)
        return cut_at(HELLO_SIZE + way.stream * 700_000) if way.stream and data else None

    with Relay(choose) as relay:
        ends = send(tree, tmp_path / "inbox", relay=relay, streams=5, sender_dials=sender_dials)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert snapshot(tmp_path / "inbox" / "tree") == snapshot(tree)


def test_a_file_does_not_end_while_a_lost_block_of_it_is_read_again(tmp_path: Path) -> None:
    """All was said when stream 1 died with a block of it: the file does not end before that is said again."""
    has_one, all_said, losing, lost, rereading, ended = (threading.Event() for _ in range(6))

    class Slow(SourceFile):
        def read_into(self, view: memoryview, offset: int) -> int:
            if losing.is_set():
                rereading.set()
                ended.wait(0.5)
            return super().read_into(view, offset)

    class SlowSource(Source):
        def open(self, entry: Entry) -> SourceFile:
            return Slow(os.open(tmp_path / "big", os.O_RDONLY), entry, self.path(entry))

    class Late(SendingSession):
        def read(self, stream: int, work: Work, block: memoryview) -> list[Buffer]:
            has_one.set() if stream == 1 else has_one.wait(PATIENCE)
            return super().read(stream, work, block)

        def _heed(self, message: Message) -> None:
            if isinstance(message, m.Lost):
                losing.set()  # before it is heeded: another stream may take what it says is lost at once
            super()._heed(message)
            if isinstance(message, m.Lost):
                lost.set()
                assert rereading.wait(PATIENCE)

        def _say_ends(self) -> None:
            if self.machine.whole:
                all_said.set()
            if lost.is_set() or not all_said.is_set():
                super()._say_ends()

    def choose(way: Way) -> Bend | None:
        return cut_when_all_said if way.stream == 1 and way.there else None

    def cut_when_all_said(offset: int, piece: bytes) -> bytes | None:
        if not offset:
            return piece
        assert all_said.wait(PATIENCE)
        return None

    def note(event: events.Event) -> None:
        if isinstance(event, events.File) and event.action == "sent":
            ended.set()

    (tmp_path / "big").write_bytes(BIG)
    store = LocalStore(tmp_path / "inbox")
    with Relay(choose) as relay:
        ends = transfer(
            lambda: SlowSource([tmp_path / "big"]), store.begin, relay=relay, streams=3, sending=Late, on_event=note
        )
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert ends.sender.receipt.left_out == 0
    assert (tmp_path / "inbox" / "big").read_bytes() == BIG
    assert rereading.is_set()


@pytest.mark.parametrize("streams", [1, 2, 5])
@pytest.mark.parametrize("position", [3 * BLOCK_SIZE, 13 * BLOCK_SIZE + 5])
@dialing
def test_the_first_stream_dies_and_the_same_call_again_sends_what_is_missing(
    tree: Path, tmp_path: Path, streams: int, position: int, sender_dials: bool
) -> None:
    inbox = tmp_path / "inbox"
    is_kept = streams == 1 and position >= 4 * BLOCK_SIZE

    def some() -> bool:
        return not is_kept or kept_bytes(inbox) > 0

    with CuttingRelay(position, there=sender_dials, kept=some) as relay:
        ends = send(tree, inbox, relay=relay, streams=streams, sender_dials=sender_dials)
    assert isinstance(ends.sender.error, BrokenError)
    assert isinstance(ends.receiver.error, BrokenError)
    assert visible(inbox) == []
    kept = kept_bytes(inbox)
    assert kept > 0 or not is_kept
    ends = send(tree, inbox, streams=streams, sender_dials=sender_dials)
    missing = size_of(tree) - kept
    assert ends.sender.receipt.sent_bytes == ends.receiver.receipt.sent_bytes == missing
    assert ends.receiver.receipt.bytes == size_of(tree)
    assert snapshot(inbox / "tree") == snapshot(tree)
    assert visible(inbox) == ["tree"]
    assert not (inbox / ".enchufe").exists()


@pytest.mark.parametrize("streams", [1, 2, 5])
@dialing
def test_what_is_cut_is_tried_again_by_itself(tree: Path, tmp_path: Path, streams: int, sender_dials: bool) -> None:
    """Up to three attempts die, as long as there is enough left to send."""
    inbox = tmp_path / "inbox"

    limits = (2 * BLOCK_SIZE, BLOCK_SIZE, BLOCK_SIZE)
    with CuttingRelay(*limits, there=sender_dials) as relay:
        ends = send(tree, inbox, relay=relay, streams=streams, sender_dials=sender_dials, retry=30.0)
    dialer, listener = (ends.sender, ends.receiver) if sender_dials else (ends.receiver, ends.sender)
    cuts = len(dialer.of(events.Retrying))
    assert 1 <= cuts == len(listener.of(events.Failed)) <= 3
    assert {attempt for attempt, _ in relay.streams} == set(range(cuts + 1))
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert ends.sender.receipt.sent_bytes <= size_of(tree)
    assert snapshot(inbox / "tree") == snapshot(tree)


@pytest.mark.parametrize(("position", "got_across"), [(BLOCK_SIZE // 3, False), (3 * BLOCK_SIZE, True)])
def test_what_was_sent_and_never_taken_is_no_progress(
    tree: Path, tmp_path: Path, position: int, *, got_across: bool
) -> None:
    """Else whoever is always cut before the first block is there tries again for ever."""
    inbox = tmp_path / "inbox"
    sessions: list[SendingSession] = []

    class Sends(SendingSession):
        def __init__(self, *over: Any) -> None:
            super().__init__(*over)
            sessions.append(self)

    with CuttingRelay(position, there=True, kept=lambda: sessions[0].crossed > 0 or not got_across) as relay:
        ends = send(tree / "big", inbox, relay=relay, streams=1, sending=Sends)
    assert isinstance(ends.sender.error, BrokenError)
    assert [session.machine.sent_bytes > 0 for session in sessions] == [True]
    assert [session.crossed > 0 for session in sessions] == [got_across] == [kept_bytes(inbox) > 0]


@dialing
def test_all_streams_die_at_once(tree: Path, tmp_path: Path, sender_dials: bool) -> None:
    inbox = tmp_path / "inbox"
    with Relay() as relay:

        def cut_late(event: events.Event) -> None:
            if isinstance(event, events.File) and event.path == (b"tree", b"in", b"big") and event.action == "sent":
                relay.cut()

        ends = send(tree, inbox, relay=relay, streams=3, sender_dials=sender_dials, retry=30.0, on_event=once(cut_late))
    assert snapshot(inbox / "tree") == snapshot(tree)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert {attempt for attempt, _ in relay.streams} == {0, 1}


def once(cut: Callable[[events.Event], None]) -> Callable[[events.Event], None]:
    """Until the other side has told that it was cut."""
    over: list[events.Event] = []

    def maybe(event: events.Event) -> None:
        if isinstance(event, events.Retrying | events.Failed):
            over.append(event)
        elif not over:
            cut(event)

    return maybe


@pytest.mark.parametrize("streams", [1, 3])
def test_memory_keeps_what_had_arrived_too(streams: int) -> None:
    store, inbox = MemoryStore(), MemoryStore()
    store.add("d/big", BIG)
    for number in range(100):
        store.add(f"d/{number}", BIG[number * 1000 :][:number])  # of its own, so that nothing shrinks
    with CuttingRelay(3 * BLOCK_SIZE, there=True) as relay:
        ends = transfer(store.source, inbox.begin, relay=relay, streams=streams)
    assert isinstance(ends.sender.error, BrokenError)
    assert not inbox.nodes
    kept = sum(
        min(BLOCK_SIZE, size - block * BLOCK_SIZE)
        for versions in inbox.partials.values()
        for (size, _), part in versions.items()
        for block in part.blocks
    )
    ends = transfer(store.source, inbox.begin, streams=streams)
    assert inbox.contents() == store.contents()
    assert ends.sender.receipt.sent_bytes == len(BIG) + sum(range(100)) - kept
    assert not inbox.partials


class Unlisted(dict[Any, Any]):
    """It is looked up in, not through."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("each of a million files would go through a million")

    keys = values = items = __iter__  # type: ignore[assignment]


def test_memory_looks_for_what_it_kept_of_a_file_and_no_further() -> None:
    inbox = MemoryStore()
    cut = inbox.begin()
    old, same = (Entry(number, NO_PARENT, b"%d" % number, Kind.FILE, 4, 0o644, 1) for number in range(2))
    for entry in (old, same):
        assert cut.admit(entry) is Answer.ALL
        cut.write(entry, 0, b"cont", b"its digest")
    cut.suspend()
    inbox.partials = Unlisted(inbox.partials)
    again = inbox.begin()
    assert again.admit(replace(old, mtime_ns=2)) is Answer.ALL
    assert again.restarted == [(b"0",)]
    assert again.admit(same) is Answer.REST
    assert list(again.kept(same)) == [(0, b"its digest")]


# One stream, cut and damaged at any byte.


@pytest.fixture
def little(tmp_path: Path) -> Path:
    root = tmp_path / "little"
    (root / "in" / "ner").mkdir(parents=True)
    (root / "in" / "small").write_bytes(b"hola")
    (root / "empty").write_bytes(b"")
    (root / "in" / "ner" / "big").write_bytes(BIG[: BLOCK_SIZE * 3 // 2])
    (root / "link").symlink_to("in/small")
    return root


def wire(tree: Path, inbox: Path) -> bytes:
    """All that the sender says for a tree, until it has the receipt."""
    said = bytearray()

    def note(_offset: int, piece: bytes) -> bytes:
        said.extend(piece)
        return piece

    with Relay(lambda way: note if way.there else None) as relay:
        send(tree, inbox, relay=relay, streams=1)
    return bytes(said[:-HEARD_SIZE])


def test_cut_anywhere_nothing_half_done_is_visible_and_both_are_told(little: Path, tmp_path: Path) -> None:
    length = len(wire(little, tmp_path / "measure"))
    early, late = range(0, 500, 23), range(length - 100, length, 9)
    for position in (*early, length // 3, length // 2, *late):
        inbox = tmp_path / f"inbox {position}"
        with Relay(lambda way, position=position: cut_at(position) if way.there else None) as relay:  # type: ignore[misc]
            if position < HELLO_SIZE:  # nobody came, as far as the receiver knows
                continue
            ends = send(little, inbox, relay=relay, streams=1)
        assert isinstance(ends.sender.error, BrokenError), position
        assert isinstance(ends.receiver.error, BrokenError), position
        assert visible(inbox) == [], position
        send(little, inbox, streams=1)
        assert snapshot(inbox / "little") == snapshot(little), position


def test_cut_on_the_way_back_the_receiver_has_all_or_nothing(little: Path, tmp_path: Path) -> None:
    for position in range(0, 260, 7):
        inbox = tmp_path / f"inbox {position}"
        with Relay(lambda way, position=position: None if way.there else cut_at(position)) as relay:  # type: ignore[misc]
            ends = send(little, inbox, relay=relay, streams=1)
        if isinstance(ends.receiver.end, events.Receipt):
            assert snapshot(inbox / "little") == snapshot(little)
        else:
            assert isinstance(ends.receiver.error, BrokenError), position
            assert visible(inbox) == [], position
        if isinstance(ends.sender.end, events.Receipt):
            assert isinstance(ends.receiver.end, events.Receipt)


def test_a_flipped_byte_is_never_accepted(little: Path, tmp_path: Path) -> None:
    said = wire(little, tmp_path / "measure")
    length = len(said)
    end = said.index(b"".join(m.frame(m.OfferEnd(7, 6 + BLOCK_SIZE * 3 // 2 - 2, 0))))
    # How much was left out before it was offered is for people, and in no digest.
    uncounted = range(end + 17, end + 21)
    # The HELLO is left out: its session and epoch say nothing yet that anybody holds against another thing.
    positions = [*range(HELLO_SIZE, 420, 5), *range(420, length - 90, length // 40), *range(length - 90, length, 3)]
    for number, position in enumerate(positions):
        if position in uncounted:
            continue
        inbox = tmp_path / f"inbox {number}"
        bend = flip_at(position, 1 << number % 8)
        with Relay(lambda way, bend=bend: bend if way.there else None) as relay:  # type: ignore[misc]
            ends = send(little, inbox, relay=relay, streams=1, timeout=2.0)
        assert isinstance(ends.sender.end, EnchufeError), position
        assert isinstance(ends.receiver.end, EnchufeError), position
        assert visible(inbox) == [], position


def test_what_arrived_undamaged_is_kept(tree: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    with Relay(lambda way: flip_at(4 * BLOCK_SIZE, 1) if way.there else None) as relay:
        ends = send(tree, inbox, relay=relay, streams=1)
    assert isinstance(ends.receiver.error, VerificationError)
    assert isinstance(ends.sender.error, VerificationError)
    kept = kept_bytes(inbox)
    assert kept >= 2 * BLOCK_SIZE
    ends = send(tree, inbox, streams=1)
    assert ends.sender.receipt.sent_bytes == size_of(tree) - kept
    assert snapshot(inbox / "tree") == snapshot(tree)
