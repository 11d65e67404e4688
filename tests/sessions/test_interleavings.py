"""What two threads of one side can do to each other, forced: one waits at the very line where the other gets in."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from enchufe import events
from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, Entry, Reason
from enchufe.errors import BrokenError, BusyError
from enchufe.session import ReceivingSession, SendingSession
from enchufe.session.carrier import Plain
from enchufe.session.door import Door
from enchufe.session.streams import Stream
from enchufe.store import LocalStore, Receiving, Source
from enchufe.store.pipe import PipeDelivery, PipeSource
from enchufe.store.reading import SourceFile
from enchufe.store.sparse import zeros_ahead
from enchufe.transfer.message import Message
from enchufe.transfer.messages import FileEnd, Lost
from enchufe.transfer.receiver import Arriving
from enchufe.transfer.sender import Sender, Work
from enchufe.transports import Listener, Transport
from enchufe.waiting import READ, BlockingWaiter, Waitable
from tests.sessions.relay import Relay
from tests.sessions.transfers import HERE, PATIENCE, snapshot, transfer

BIG = random.Random(11).randbytes(6 * BLOCK_SIZE + 4_321)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(BIG)
    return path


def test_a_name_is_free_before_it_is_offered_again(big: Path, tmp_path: Path) -> None:
    """A file is offered again, and a stream has just done with a block of what it was."""
    claimed, goes_on, done = (threading.Event() for _ in range(3))

    class LeavesOut(SendingSession):
        def read(self, stream: int, work: Work, block: memoryview) -> list[Buffer]:
            assert not isinstance(work, list)
            entry = work[0].entry
            if not stream and entry.id == 0:
                assert claimed.wait(PATIENCE)
                self._unsendable.append((entry, Reason.CHANGED))
                return []
            return super().read(stream, work, block)

    class Slow(ReceivingSession):
        def take(self, stream: int, message: Message) -> None:
            super().take(stream, message)
            if goes_on.is_set():
                done.set()

        def _verify(self, entry: Entry, payload: Buffer, digest: bytes) -> None:
            if entry.id == 0 and not claimed.is_set():
                claimed.set()
                assert goes_on.wait(PATIENCE)
            super()._verify(entry, payload, digest)

        def _drop(self) -> None:
            super()._drop()
            if self._offers and self.machine.dropping:
                goes_on.set()
                assert done.wait(PATIENCE)

    ends = transfer(
        lambda: Source([big]),
        LocalStore(tmp_path / "inbox").begin,
        streams=2,
        sending=LeavesOut,
        receiving=Slow,
    )
    assert done.is_set()
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert (tmp_path / "inbox" / "big").read_bytes() == BIG


def test_a_lost_block_has_changed_and_its_file_has_not_ended(big: Path, tmp_path: Path) -> None:
    """It is not too late: that one file is offered again, and nothing else ends."""
    has_one, lost = threading.Event(), threading.Event()
    changed, changing = bytes(len(BIG)), threading.Lock()

    class Changing(SourceFile):
        def read_into(self, view: memoryview, offset: int) -> int:
            with changing:
                if lost.is_set() and big.read_bytes() == BIG:
                    big.write_bytes(changed)
                    os.utime(big, ns=(1, 1))
            return super().read_into(view, offset)

    class ChangingSource(Source):
        def open(self, entry: Entry) -> SourceFile:
            return Changing(self._opened(entry), entry, self.path(entry))

    class Late(SendingSession):
        def read(self, stream: int, work: Work, block: memoryview) -> list[Buffer]:
            has_one.set() if stream == 1 else has_one.wait(PATIENCE)
            return super().read(stream, work, block)

        def _heed(self, message: Message) -> None:
            super()._heed(message)
            if isinstance(message, Lost):
                lost.set()

        def _say_ends(self) -> None:
            if lost.is_set():
                super()._say_ends()

    class Loses(ReceivingSession):
        def take(self, stream: int, message: Message) -> None:
            if stream:
                raise BrokenError("lost")
            super().take(stream, message)

    ends = transfer(
        lambda: ChangingSource([big]),
        LocalStore(tmp_path / "inbox").begin,
        streams=2,
        sending=Late,
        receiving=Loses,
    )
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert ends.sender.receipt.left_out == 0
    assert (tmp_path / "inbox" / "big").read_bytes() == changed


def test_a_stream_is_stopped_just_before_it_waits() -> None:
    """Its descriptor is its own until its thread is done with it: nobody waits for what is closed, or for another's."""
    waits, stopped = threading.Event(), threading.Event()
    ended: list[BaseException | None] = []
    near, far = socket.socketpair()

    class Late(BlockingWaiter):
        async def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> None:
            waits.set()
            assert stopped.wait(PATIENCE)
            await super().wait_one(thing, interest, deadline)

    class Owner:
        async def run_stream(self, stream: Stream) -> None:
            transport = stream.carrier.transport
            await transport.wait(READ, transport.waiter.now() + PATIENCE)
            assert await transport.receive(1) == b""

        def stream_ended(self, stream: Stream, error: BaseException | None) -> None:
            ended.append(error)

    transport = Transport(near, Late(), name="unix", local="here", peer="there")
    stream = Stream(Owner(), 1, carrier=Plain(transport))
    with far:
        stream.start()
        assert waits.wait(PATIENCE)
        stream.stop()
        assert transport.fileno() >= 0
        stopped.set()
        stream.join()
    assert ended == [None]
    assert transport.fileno() < 0


def without_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left for what is called so."""
    start = threading.Thread.start

    def start_some(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)


@pytest.mark.parametrize("name", ["enchufe stream 1", "enchufe beside", "enchufe commit"])
@pytest.mark.parametrize("sender_dials", [True, False])
def test_threads_that_a_transfer_can_do_without(
    big: Path, tmp_path: Path, sender_dials: bool, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    without_threads(name, monkeypatch)
    inbox = tmp_path / "inbox"
    ends = transfer(lambda: Source([big]), LocalStore(inbox).begin, streams=3, sender_dials=sender_dials)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert (inbox / "big").read_bytes() == BIG


@pytest.mark.parametrize("name", ["enchufe own", "enchufe question"])
def test_threads_that_a_transfer_cannot_do_without(
    big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    without_threads(name, monkeypatch)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "big").write_bytes(BIG[::-1])
    store = LocalStore(inbox, if_exists="update")
    asked: dict[str, Any] = {"ask": lambda _: True} if name == "enchufe question" else {}
    ends = transfer(lambda: Source([big]), store.begin, **asked)
    assert isinstance(ends.receiver.error, BusyError)
    assert isinstance(ends.sender.error, BusyError)
    assert (inbox / "big").read_bytes() == BIG[::-1]


def test_no_thread_is_left_for_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    without_threads("enchufe door", monkeypatch)
    with Listener(HERE) as listener, pytest.raises(BusyError, match="no thread"), Door(listener, Sender, 20.0):
        pass


def test_files_are_closed_that_are_sent_again_after_their_ends(tmp_path: Path) -> None:
    """All that is there of many files proves damaged, and by then the ends of all are said."""
    files, ended = 30, threading.Event()
    (tmp_path / "tree").mkdir()
    for number in range(files):
        (tmp_path / "tree" / f"{number}").write_bytes(b"right")
    inbox = tmp_path / "inbox"

    class Cut(ReceivingSession):
        async def _finish(self) -> events.Receipt:
            raise BrokenError("cut")

    class Late(ReceivingSession):
        ends = 0

        async def _heed(self, message: Message) -> None:
            await super()._heed(message)
            self.ends += isinstance(message, FileEnd)
            if self.ends == files:
                ended.set()

        def _recheck(self, arriving: Arriving) -> None:
            assert ended.wait(PATIENCE)
            super()._recheck(arriving)

    class Counting(Source):
        now_open = most = 0

        def open(self, entry: Entry) -> SourceFile:
            counting = self

            class Counted(SourceFile):
                def close(self) -> None:
                    counting.now_open -= 1
                    super().close()

            self.now_open += 1
            self.most = max(self.most, self.now_open)
            return Counted(self._opened(entry), entry, self.path(entry))

    def begin(_: bytes) -> Receiving:
        return LocalStore(inbox).begin()

    transfer(lambda: Source([tmp_path / "tree"]), begin, streams=1, receiving=Cut)
    for part in inbox.glob(".enchufe/*/*/*"):
        part.write_bytes(b"wrong")
    source = Counting([tmp_path / "tree"])
    ends = transfer(lambda: source, begin, streams=1, receiving=Late)
    assert ends.sender.receipt.sent_bytes == files * len(b"right")
    assert snapshot(inbox / "tree") == snapshot(tmp_path / "tree")
    assert (source.now_open, source.most) == (0, 1)


def test_whoever_is_left_behind_at_a_pipe_leaves_nothing(tmp_path: Path, no_descriptor_stays: None) -> None:
    """The other side is gone while a thread waits for what comes out of a pipe; it comes later."""
    reading, writing = os.pipe()
    with Relay() as relay:

        class Cut(PipeSource):
            def read_into(self, view: memoryview, offset: int) -> int:
                relay.cut()
                return super().read_into(view, offset)

        begin = LocalStore(tmp_path / "inbox").begin
        ends = transfer(lambda: Cut(reading, "piped"), begin, relay=relay, streams=1)
    assert isinstance(ends.sender.error, BrokenError)
    (left,) = [thread for thread in threading.enumerate() if thread.name == "enchufe beside"]
    os.close(writing)
    left.join(PATIENCE)
    os.close(reading)


class IntoPipe(ReceivingSession):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, into_pipe=True)


@pytest.mark.parametrize("data", [(), (0,), (3_000_000,), (0, 5_242_880)])
@pytest.mark.parametrize("size", [5 << 20, 5_500_000])
def test_holes_go_into_a_pipe_as_zeros(place: Path, data: tuple[int, ...], size: int) -> None:
    """A file of nothing but a hole, one that begins with it and one that ends so."""
    path = place / "sparse"
    with path.open("w+b") as file:
        for offset in data:
            os.pwrite(file.fileno(), b"hello", offset)
        file.truncate(max(size, file.seek(0, os.SEEK_END)))
        if not zeros_ahead(file.fileno(), 1 << 20, 2 << 20):
            pytest.skip("this file system does not tell of holes")
    reading, writing = os.pipe()
    got = bytearray()

    def read() -> None:
        with open(reading, "rb", buffering=0) as file:
            while piece := file.read(1 << 16):
                got.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    ends = transfer(lambda: Source([path]), lambda _: PipeDelivery(writing), streams=1, receiving=IntoPipe)
    os.close(writing)
    reader.join()
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert bytes(got) == path.read_bytes()
    assert ends.sender.receipt.sent_bytes < size


def test_whoever_reads_the_pipe_that_is_received_into_may_pause(big: Path) -> None:
    """For longer than either side would wait for a sign of life, in the middle of a block."""
    timeout = 4.0
    reading, writing = os.pipe()
    got = bytearray()

    def read_later() -> None:
        with open(reading, "rb", buffering=0) as file:
            got.extend(file.read(10))
            time.sleep(timeout + 1.5)
            while piece := file.read(1 << 16):
                got.extend(piece)

    reader = threading.Thread(target=read_later)
    reader.start()
    ends = transfer(
        lambda: Source([big]), lambda _: PipeDelivery(writing), streams=1, timeout=timeout, receiving=IntoPipe
    )
    os.close(writing)
    reader.join()
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert bytes(got) == BIG
