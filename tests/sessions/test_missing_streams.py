"""Streams that the receiver has never heard of, with so much on them that nothing else may be offered."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.entry import NO_PARENT, Answer, Entry, Kind
from enchufe.session import Greeted, Options, ReceivingSession, SendingSession, receiving
from enchufe.session.base import HELLO_TIMEOUT
from enchufe.session.carrier import Plain
from enchufe.store.memory import MemoryStore
from enchufe.transfer import sender
from enchufe.transfer.message import Message, Role
from enchufe.transfer.messages import Hello, Lost, Ping, frame, next_message
from enchufe.transfer.offers import Offer
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Work
from enchufe.transports import Transport, tcp
from enchufe.waiting import BlockingWaiter
from tests.sessions.relay import HELLO_SIZE, Relay, _stream_of
from tests.sessions.transfers import PATIENCE, transfer

WINDOW = 8


class Hole(Relay):
    """What goes to a stream other than 0 stays here, until that stream is lost; then it comes after all.

    Attributes:
        eaten: there is data that stays here.
        lost: the sender knows.
        over: the receiver has closed the one that came too late.
    """

    def __init__(self) -> None:
        super().__init__()
        self.eaten, self.lost, self.over = (threading.Event() for _ in range(3))

    def _greet(self, near: socket.socket) -> None:
        first = near.recv(HELLO_SIZE, socket.MSG_PEEK | socket.MSG_WAITALL)
        if not _stream_of(first):
            super()._greet(near)
            return
        said = b""
        while piece := near.recv(65536):
            said += piece
            if len(said) > HELLO_SIZE:
                self.eaten.set()
        near.close()
        assert self.lost.wait(PATIENCE)
        host, _, port = self.to.rpartition(":")
        with socket.create_connection((host, int(port))) as far, suppress(ConnectionError):
            far.sendall(said)
            while far.recv(65536):
                pass
        self.over.set()


@pytest.mark.parametrize("full", ["window", "memory"])
def test_what_keeps_more_from_being_offered_and_never_came_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """It fills the receiver's window, or is all that the sender remembers before all is settled."""
    monkeypatch.setattr(tcp, "NEAR", 0.0)  # small files go on every stream
    monkeypatch.setattr(receiving, "_MISSING_EARLY", 0.0)
    if full == "memory":
        monkeypatch.setattr(sender, "_REMEMBERED", 0)
        monkeypatch.setattr(sender, "MAX_WINDOW", WINDOW)
    store, inbox = MemoryStore(), MemoryStore()
    for number in range(5 * WINDOW):
        store.add(f"d/{number}", b"%d" % number)
    came: list[tuple[int, bool]] = []

    class Sends(SendingSession):
        """Small files go into the hole, as long as it is there."""

        def _take_work(self) -> Work | None:
            return super()._take_work() if hole.lost.is_set() else None

        def _heed(self, message: Message) -> None:
            super()._heed(message)
            if isinstance(message, Lost):
                hole.lost.set()
                assert hole.over.wait(PATIENCE)

    class Receives(ReceivingSession):
        @property
        def window(self) -> int:
            return WINDOW if full == "window" else super().window

        def _lose_missing(self) -> float | None:
            return super()._lose_missing() if hole.eaten.is_set() else self.waiter.now() + 0.01

        def attach(self, greeted: Greeted[Receiver]) -> bool:
            came.append((greeted.hello.stream, super().attach(greeted)))
            return came[-1][1]

    with Hole() as hole:
        ends = transfer(store.source, inbox.begin, relay=hole, streams=2, sending=Sends, receiving=Receives)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert inbox.contents() == store.contents()
    assert came == [(1, False)]


class Clock(BlockingWaiter):
    time = 1000.0

    def now(self) -> float:
        return self.time


def joined(message: Message) -> bytes:
    return b"".join(frame(message))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waiting(clock: Clock) -> Iterator[ReceivingSession]:
    """A receiver whose window is filled by one file, in a transfer of three streams."""
    near, far = socket.socketpair()
    transport = Transport(near, clock, name="unix", local="here", peer="there")
    session = ReceivingSession(transport, MemoryStore().begin, Options(), lambda _: None)
    session._most = 3
    machine, entry = session.machine, Entry(0, NO_PARENT, b"a", Kind.FILE, 5)
    machine.receive_data(joined(Hello(Role.SENDER)))
    machine.next_event()
    machine.send(Hello(Role.RECEIVER, window=1))
    machine.receive_data(joined(Offer([entry])))
    machine.next_event()
    assert session._lose_missing() is None
    session.say(machine.answer([(entry, Answer.ALL)]))
    session.link.outgoing.clear()
    with far:
        yield session
    session.bell.close()
    transport.close()


def said(session: ReceivingSession) -> list[Message]:
    buffer = ReceiveBuffer()
    pieces: list[Buffer] = session.link.outgoing
    buffer.append(b"".join(pieces))
    messages = []
    while not isinstance(message := next_message(buffer), int):
        messages.append(message)
    return messages


def test_a_stream_gets_as_long_as_it_may_take_to_say_which_it_is(waiting: ReceivingSession, clock: Clock) -> None:
    begun = clock.time
    assert waiting._lose_missing() == begun + HELLO_TIMEOUT
    clock.time += HELLO_TIMEOUT - 0.1
    assert waiting._lose_missing() == begun + HELLO_TIMEOUT
    assert said(waiting) == []
    clock.time += 0.2
    assert waiting._lose_missing() is None
    assert said(waiting) == [Lost(1, 0), Lost(2, 0)]


def test_nothing_is_lost_while_data_comes_however_slowly(waiting: ReceivingSession, clock: Clock) -> None:
    for byte in range(10):
        waiting.machine.receive_data(bytes([6 if byte == 0 else 0]))  # BATCH, and on
        until = waiting._lose_missing()
        assert until == clock.time + HELLO_TIMEOUT
        clock.time += HELLO_TIMEOUT - 1
    assert said(waiting) == []


def test_a_ping_is_no_data(waiting: ReceivingSession, clock: Clock) -> None:
    until = waiting._lose_missing()
    clock.time += 1
    waiting.machine.receive_data(joined(Ping()))
    assert waiting.machine.next_event() is None
    assert waiting._lose_missing() == until


def test_one_that_comes_after_all_is_turned_away(waiting: ReceivingSession, clock: Clock) -> None:
    waiting._lose_missing()
    clock.time += HELLO_TIMEOUT
    waiting._lose_missing()
    hello = Hello(Role.SENDER, stream=1)
    late = Greeted(Plain(waiting.link.transport), Receiver(), hello)
    assert not waiting.attach(late)
