"""Both machines talk through memory: no socket, no clock, no disk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enchufe.buffer import Buffer
from enchufe.entry import NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Reason
from enchufe.errors import (
    BrokenError,
    EnchufeError,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    VerificationError,
)
from enchufe.transfer import messages as m
from enchufe.transfer.digests import block_digest
from enchufe.transfer.machine import VersionError
from enchufe.transfer.messages import Message, Role
from enchufe.transfer.receiver import WINDOW, Receiver
from enchufe.transfer.sender import Sender, travels_in_batch
from enchufe.transfer.states import State

Contents = dict[int, bytes]


def file(number: int, size: int, parent: int = NO_PARENT) -> Entry:
    return Entry(number, parent, b"f%d" % number, Kind.FILE, size)


class Pair:
    """A sender and a receiver, greeted; what one sends is received by the other in chunks."""

    def __init__(self, *, chunk: int = 1 << 20, sender_dials: bool = True) -> None:
        self.sender, self.receiver = Sender(), Receiver()
        self.chunk = chunk
        self.got: Contents = {}
        self.answers: dict[int, Answer] = {}
        hello, welcome = m.Hello(Role.SENDER, session=b"x" * 16), m.Hello(Role.RECEIVER, window=WINDOW)
        for step in [(self.sent, hello), (self.received, welcome)][:: 1 if sender_dials else -1]:
            step[0](step[1])

    def sent(self, message: Message) -> list[Message]:
        """The sender says it: what the receiver makes of it."""
        return self._over(self.sender.send(message), self.receiver)

    def received(self, message: Message) -> list[Message]:
        """The receiver says it: what the sender makes of it."""
        return self._over(self.receiver.send(message), self.sender)

    def _over(self, pieces: list[Buffer], to: Sender | Receiver) -> list[Message]:
        wire = b"".join(pieces)
        events = []
        for start in range(0, len(wire), self.chunk):
            to.receive_data(wire[start : start + self.chunk])
            while (event := to.next_event()) is not None:
                events.append(event)
                if isinstance(to, Receiver):
                    self._store(event)
        return events

    def _store(self, event: Message) -> None:
        match event:
            case m.Offer(entries):
                self.received(self.receiver.answer([(e, self.answers.get(e.id, Answer.ALL)) for e in entries]))
            case m.Block(number, offset, digest, payload):
                assert block_digest(payload) == digest
                self.got[number] = self.got.get(number, b"") + bytes(payload)
                self.receiver.stored(number, offset, digest, len(payload))
            case m.Batch(files):
                for number, digest, payload in files:
                    assert block_digest(payload) == digest
                    self.got[number] = bytes(payload)
                    self.receiver.stored(number, 0, digest, len(payload))
                    self.receiver.settle(number, len(payload), digest)
            case m.FileEnd(number, size, root):
                self.receiver.settle(number, size, root)

    def send_wanted(self, contents: Contents) -> None:
        while self.sender.wanted:
            entry = self.sender.wanted[0]
            data = contents[entry.id]
            if travels_in_batch(entry):
                self.sent(m.Batch([(entry.id, block_digest(data), data)]))
                continue
            for offset in range(0, len(data), m.BLOCK_SIZE):
                block = data[offset : offset + m.BLOCK_SIZE]
                self.sent(m.Block(entry.id, offset, block_digest(block), block))
            self.sent(self.sender.file_end(len(data)))

    def offer(self, *entries: Entry, left_out: int = 0) -> None:
        if entries:
            self.sent(m.Offer(entries))
        size = sum(entry.size for entry in entries if entry.size != UNKNOWN_SIZE)
        self.sent(m.OfferEnd(len(entries), size, left_out))

    def finish(self) -> None:
        assert self.sender.all_sent
        self.sent(self.sender.finish())
        self.received(self.receiver.receipt())
        assert self.sender.state is self.receiver.state is State.DONE
        self.sender.end_of_stream()
        self.receiver.end_of_stream()


BIG = bytes(range(256)) * 4096 * 2 + b"tail"  # two blocks and a bit


@pytest.mark.parametrize("sender_dials", [True, False])
@pytest.mark.parametrize("chunk", [1 << 20, 4093])
def test_a_tree_crosses(chunk: int, sender_dials: bool) -> None:
    pair = Pair(chunk=chunk, sender_dials=sender_dials)
    contents = {1: b"", 2: b"small", 4: BIG, 5: BIG[: m.BLOCK_SIZE], 6: b"x" * (m.BLOCK_SIZE - 1)}
    pair.offer(
        Entry(0, NO_PARENT, b"d", Kind.DIRECTORY),
        file(1, 0, 0),
        file(2, 5, 0),
        Entry(3, 0, b"l", Kind.SYMLINK, 0, 0o777, 0, b"f2"),
        *(file(number, len(contents[number]), 0) for number in (4, 5, 6)),
    )
    pair.send_wanted(contents)
    pair.finish()
    assert pair.got == contents
    assert (pair.sender.files, pair.sender.sent_bytes) == (5, sum(map(len, contents.values())))


@pytest.mark.parametrize("data", [b"", b"x", BIG, BIG[: 2 * m.BLOCK_SIZE]])
def test_a_pipe_crosses(data: bytes) -> None:
    pair = Pair()
    pair.offer(file(0, UNKNOWN_SIZE))
    pair.send_wanted({0: data})
    pair.finish()
    assert pair.got.get(0, b"") == data


def test_nothing_at_all_crosses() -> None:
    pair = Pair()
    pair.offer()
    pair.finish()


def test_skipped_refused_and_left_out_are_in_both_books() -> None:
    pair = Pair()
    pair.answers = {0: Answer.SKIP, 1: Answer.UNWANTED}
    pair.offer(file(0, 3), file(1, 3), file(2, 3), file(3, len(BIG)))
    assert [entry.id for entry in pair.sender.wanted] == [2, 3]
    pair.sent(m.LeftOut(2, Reason.CHANGED))
    pair.sent(m.Block(3, 0, block_digest(BIG[: m.BLOCK_SIZE]), BIG[: m.BLOCK_SIZE]))
    pair.sent(m.LeftOut(3, Reason.UNREADABLE))
    pair.finish()
    assert pair.sender.skipped == pair.receiver.skipped == 1
    assert [(entry.id, answer) for entry, answer in pair.sender.refused] == [(1, Answer.UNWANTED)]
    assert [entry.id for entry, _ in pair.receiver.left_out] == [2, 3]


def test_progress_opens_the_window_again() -> None:
    pair = Pair()
    entries = [file(number, 0) for number in range(WINDOW)]
    for start in range(0, WINDOW, 256):
        pair.sent(m.Offer(entries[start : start + 256]))
    assert pair.sender.room == 0
    with pytest.raises(LocalProtocolError, match="window"):
        pair.sender.send(m.Offer([file(WINDOW, 0)]))
    pair.sent(m.Batch([(entry.id, block_digest(b""), b"") for entry in entries[: m.BATCH_FILES]]))
    progress = pair.receiver.progress(0.0)
    assert progress == m.Progress(0, m.BATCH_FILES)
    pair.received(progress)
    assert pair.sender.room == m.BATCH_FILES


def test_progress_is_told_late_or_after_much() -> None:
    pair = Pair()
    pair.offer(file(0, 20 << 20))
    assert pair.receiver.progress(100.0) is None
    block = bytes(m.BLOCK_SIZE)
    for number in range(16):
        assert pair.receiver.progress(0.0) is None
        pair.sent(m.Block(0, number << 20, block_digest(block), block))
    assert pair.receiver.progress(0.0) == m.Progress(16 << 20, 0)
    pair.sent(m.Block(0, 16 << 20, block_digest(block), block))
    assert pair.receiver.progress(0.05) is None
    assert pair.receiver.progress(0.1) == m.Progress(17 << 20, 0)


# What a peer must not get away with. Each: the books set up by a good peer, then one lie.


def raw(pair: Pair, message: Message) -> None:
    """The receiver gets a message that no honest sender's machine would let out."""
    pair.receiver.receive_data(b"".join(m.frame(message)))
    while pair.receiver.next_event() is not None:
        pass


def blocks(number: int, offset: int, size: int) -> m.Block:
    return m.Block(number, offset, bytes(32), bytes(size))


LIES_TO_A_RECEIVER: list[tuple[str, Callable[[], Message]]] = [
    ("in place of", lambda: m.Offer([file(9, 1)])),
    ("in place of", lambda: m.Offer([file(1, 1)])),
    ("not offered", lambda: m.Offer([file(3, 1, parent=77)])),
    ("not offered", lambda: m.Offer([file(3, 1, parent=0)])),
    ("not on its way", lambda: blocks(7, 0, 1)),
    ("not on its way", lambda: blocks(2, 0, 1)),
    ("where it belongs", lambda: blocks(0, 1, 1)),
    ("where it belongs", lambda: blocks(0, 0, 5)),
    ("where it belongs", lambda: blocks(0, 0, 2)),
    ("where it belongs", lambda: blocks(1, 1 << 20, 4)),
    ("not belong", lambda: m.Batch([(0, bytes(32), b"12")])),
    ("not belong", lambda: m.Batch([(0, bytes(32), b"123"), (0, bytes(32), b"123")])),
    ("not belong", lambda: m.Batch([(1, bytes(32), bytes(9))])),
    ("ended at", lambda: m.FileEnd(0, 2, bytes(32))),
    ("ended at", lambda: m.FileEnd(0, 3, bytes(32))),
    ("not on its way", lambda: m.FileEnd(2, 0, bytes(32))),
    ("not on its way", lambda: m.LeftOut(2, Reason.CHANGED)),
    ("add up", lambda: m.OfferEnd(2, 3 + len(BIG), 0)),
    ("add up", lambda: m.OfferEnd(3, 3, 0)),
    ("FINISH while", lambda: m.Finish(bytes(32))),
    ("HELLO while", lambda: m.Hello(Role.SENDER)),
    ("WANT while", lambda: m.Want([(0, 1, Answer.ALL)])),
    ("RECEIPT while", lambda: m.Receipt(0, 0, bytes(32))),
]


@pytest.mark.parametrize(("told", "lie"), LIES_TO_A_RECEIVER)
def test_a_lying_sender_is_found(told: str, lie: Callable[[], Message]) -> None:
    pair = Pair()
    pair.answers = {2: Answer.SKIP}
    pair.sent(m.Offer([file(0, 3), file(1, len(BIG)), file(2, 1)]))
    with pytest.raises(RemoteProtocolError, match=told):
        raw(pair, lie())


def test_finishing_early_and_other_digests_are_found() -> None:
    pair = Pair()
    pair.offer(file(0, 3))
    with pytest.raises(RemoteProtocolError, match="before everything"):
        raw(pair, m.Finish(bytes(32)))
    pair = Pair()
    pair.offer(Entry(0, NO_PARENT, b"d", Kind.DIRECTORY))
    with pytest.raises(VerificationError, match="tree"):
        raw(pair, m.Finish(bytes(32)))
    pair = Pair()
    pair.offer(file(0, len(BIG)))
    for offset in range(0, len(BIG), m.BLOCK_SIZE):
        block = BIG[offset : offset + m.BLOCK_SIZE]
        pair.sent(m.Block(0, offset, block_digest(block), block))
    with pytest.raises(VerificationError, match="digests differ"):
        raw(pair, m.FileEnd(0, len(BIG), bytes(32)))


def test_too_many_too_deep_and_too_wide_are_found() -> None:
    receiver = Pair().receiver
    receiver.offered = WINDOW
    with pytest.raises(RemoteProtocolError, match="at once"):
        receiver._offer([file(WINDOW, 1)])
    pair = Pair()
    pair.receiver._max_entries = 2
    with pytest.raises(Refused, match="more than 2"):
        raw(pair, m.Offer([file(number, 1) for number in range(3)]))
    pair = Pair()
    deep = [Entry(n, n - 1 if n else NO_PARENT, b"d", Kind.DIRECTORY) for n in range(300)]
    with pytest.raises(RemoteProtocolError, match="deep"):
        pair.sent(m.Offer(deep))


LIES_TO_A_SENDER: list[Message] = [
    m.Want([(2, 1, Answer.ALL)]),
    m.Want([(0, 1, Answer.ALL)]),
    m.Want([(1, 2**32 - 1, Answer.ALL)]),
    m.Want([(1, 0, Answer.ALL)]),
    m.Progress(4, 0),
    m.Progress(0, 3),
    m.Receipt(0, 0, bytes(32)),
    m.Offer([file(0, 1)]),
    m.Hello(Role.RECEIVER, window=5),
]


@pytest.mark.parametrize("lie", LIES_TO_A_SENDER, ids=repr)
def test_a_lying_receiver_is_found(lie: Message) -> None:
    sender = Sender()
    sender.send(m.Hello(Role.SENDER))
    sender.receive_data(b"".join(m.frame(m.Hello(Role.RECEIVER, window=9))))
    assert sender.next_event() is not None
    sender.send(m.Offer([file(0, 3), file(1, 3)]))
    sender.receive_data(b"".join(m.frame(m.Want([(0, 1, Answer.ALL)]))))
    assert sender.next_event() is not None
    sender.send(m.Batch([(0, bytes(32), b"abc")]))
    sender.receive_data(b"".join(m.frame(lie)))
    with pytest.raises(RemoteProtocolError):
        sender.next_event()


def test_a_receipt_for_something_else_is_found() -> None:
    pair = Pair()
    pair.offer(file(0, 3))
    pair.send_wanted({0: b"abc"})
    pair.sent(pair.sender.finish())
    receipt = pair.receiver.receipt()
    with pytest.raises(VerificationError, match="receipt"):
        pair.received(m.Receipt(receipt.files, receipt.size, bytes(32)))


@pytest.mark.parametrize(
    ("hello", "fault"),
    [
        (m.Hello(Role.RECEIVER, window=5), RemoteProtocolError),
        (m.Hello(Role.SENDER, lowest=2, highest=3), VersionError),
    ],
)
def test_a_hello_that_does_not_fit(hello: m.Hello, fault: type[EnchufeError]) -> None:
    receiver = Receiver()
    receiver.receive_data(b"".join(m.frame(hello)))
    with pytest.raises(fault):
        receiver.next_event()


def test_a_later_version_that_still_speaks_ours_is_welcome() -> None:
    receiver = Receiver()
    hello = b"".join(m.Hello(Role.SENDER, lowest=1, highest=9, features=0xFF).pack()) + b"what comes later"
    receiver.receive_data(b"\1\0\0\0" + bytes([len(hello)]) + hello)
    assert isinstance(receiver.next_event(), m.Hello)


def test_an_end_before_the_end_is_an_error() -> None:
    pair = Pair()
    for machine in (pair.sender, pair.receiver):
        with pytest.raises(BrokenError, match="went away"):
            machine.end_of_stream()


@pytest.mark.parametrize("code", m.Code)
def test_every_error_of_the_peer_becomes_one_of_ours(code: m.Code) -> None:
    pair = Pair()
    with pytest.raises(EnchufeError) as caught:
        pair.received(m.Error(code, "\x1b[31mred"))
    assert "\x1b" not in str(caught.value)
    assert pair.sender.state is State.FAILED


def test_a_machine_does_not_let_us_break_the_protocol() -> None:
    pair = Pair()
    pair.sent(m.Offer([file(0, 3), file(1, 3)]))
    with pytest.raises(LocalProtocolError, match="turn"):
        pair.sender.send(m.Batch([(1, bytes(32), b"abc")]))
    with pytest.raises(LocalProtocolError, match="place"):
        pair.sender.send(m.Offer([file(7, 3)]))
    with pytest.raises(LocalProtocolError, match="not all blocks"):
        pair.sender.send(m.FileEnd(0, 3, bytes(32)))
    with pytest.raises(LocalProtocolError, match="FINISH"):
        pair.sender.send(m.Finish(bytes(32)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """A flipped, cut or foreign stream ends in an error of the protocol or in asking for more, never in another."""
    pair = Pair()
    pair.sent(m.Offer([file(0, 3), file(1, len(BIG))]))
    honest = b"".join(b"".join(m.frame(one)) for one in (m.Batch([(0, bytes(32), b"abc")]), m.OfferEnd(2, 3, 0)))
    wire = bytearray(data.draw(st.sampled_from([honest, data.draw(st.binary(max_size=200))])))
    for _ in range(data.draw(st.integers(0, 3))):
        if wire:
            wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    pair.receiver.receive_data(wire)
    try:
        while pair.receiver.next_event() is not None:
            pass
    except EnchufeError:
        pass


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 100, m.BLOCK_SIZE - 1, m.BLOCK_SIZE, m.BLOCK_SIZE + 1]), max_size=6),
    answers=st.lists(st.sampled_from(list(Answer)), max_size=6),
    chunk=st.sampled_from([977, 1 << 16, 1 << 22]),
)
def test_any_files_and_answers_end_in_a_receipt(sizes: list[int], answers: list[Answer], chunk: int) -> None:
    pair = Pair(chunk=chunk)
    pair.answers = dict(enumerate(answers))
    contents = {number: bytes([number + 1]) * size for number, size in enumerate(sizes)}
    pair.offer(*(file(number, size) for number, size in enumerate(sizes)))
    pair.send_wanted(contents)
    pair.finish()
    wanted = {n: data for n, data in contents.items() if pair.answers.get(n, Answer.ALL) is Answer.ALL}
    assert {n: pair.got.get(n, b"") for n in wanted} == wanted
