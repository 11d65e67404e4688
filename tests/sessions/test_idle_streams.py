"""Streams that have nothing to send say so, whatever goes on beside them; by a clock that does what it is told."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Sequence

import pytest

from enchufe import events
from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.entry import Answer
from enchufe.errors import BrokenError
from enchufe.link import PING_AFTER
from enchufe.session import Greeted, Options, SendingSession
from enchufe.session.carrier import Plain
from enchufe.session.streams import Stream
from enchufe.store import Sending
from enchufe.store.memory import MemoryStore, Node
from enchufe.transfer.message import Message, Role
from enchufe.transfer.messages import WINDOW, Hello, Ping, Want, frame, next_message
from enchufe.transfer.offers import Offer
from enchufe.transfer.sender import Sender
from enchufe.transports import Transport
from enchufe.waiting import BlockingWaiter, drive

TOLD_EVERY = 0.3  # seconds: the other side tells how far it is


class Clock(BlockingWaiter):
    time = 1000.0

    def now(self) -> float:
        return self.time


class Chatty(threading.Condition):
    """Whoever waits is woken by what the other side has said."""

    def __init__(self, session: SendingSession, clock: Clock) -> None:
        super().__init__(session.lock)
        self._clock = clock
        self._times = 100

    def wait(self, timeout: float | None = None) -> bool:
        assert self._times, "it waits for ever"
        self._times -= 1
        assert timeout is not None
        self._clock.time += min(timeout, TOLD_EVERY)
        return timeout > TOLD_EVERY


class Said(Plain):
    """Notes when something is said, and ends it all after a while."""

    def __init__(self, transport: Transport, session: SendingSession, clock: Clock) -> None:
        super().__init__(transport)
        self.times: list[float] = []
        self._session = session
        self._clock = clock

    async def send(self, pieces: Sequence[Buffer], deadline: float) -> None:
        assert b"".join(pieces) == b"".join(frame(Ping()))
        self.times.append(self._clock.time)
        self._session.over = len(self.times) == 3


def test_a_stream_pings_though_messages_keep_coming() -> None:
    near, far = socket.socketpair()
    clock = Clock()
    with far:
        transport = Transport(near, clock, name="unix", local="here", peer="there")
        session = SendingSession(transport, MemoryStore().source(), Options(), lambda _: None)
        session.changed = Chatty(session, clock)
        said = Said(transport, session, clock)
        drive(session.run_stream(Stream(session, 1, carrier=said)))
        session.bell.close()
        transport.close()
    assert said.times == pytest.approx([1000.0 + number * PING_AFTER for number in (1, 2, 3)])


TOLD = 250  # fewer than are in one OFFER
SLOW = 0.05  # seconds that a terminal takes to show a line


class Timed(Transport):
    """Notes when something is sent; the other side says no to all that it is offered, and pings at every line."""

    def __init__(self, clock: Clock) -> None:
        near, self.far = socket.socketpair()
        self.far.settimeout(0)
        super().__init__(near, clock, name="unix", local="here", peer="there")
        self.clock = clock
        self.told: list[float] = []
        self.sent: list[float] = []
        self._heard = ReceiveBuffer()

    def try_send(self, pieces: Sequence[Buffer]) -> int:
        count = super().try_send(pieces)
        if count:
            self.sent.append(self.clock.time)
            self._heard.append(self.far.recv(1 << 20))
        while isinstance(message := next_message(self._heard), Message):
            if isinstance(message, Offer):
                self.say(Want([(message.entries[0].id, len(message.entries), Answer.UNWANTED)]))
        return count

    def say(self, message: Message) -> None:
        self.far.sendall(b"".join(frame(message)))

    def tell(self, event: events.Event) -> None:
        if isinstance(event, events.File):
            self.clock.time += SLOW
            self.told.append(self.clock.time)
            self.say(Ping())
            if len(self.told) == TOLD:
                self.far.close()


def left_out() -> Sending:
    source = MemoryStore().source()
    source.left_out += [((b"a",), "it is no file")] * TOLD
    return source


def refused() -> Sending:
    store = MemoryStore()
    store.nodes.update({(b"%d" % number,): Node() for number in range(TOLD)})
    return store.source()


@pytest.mark.parametrize("source", [left_out, refused])
def test_a_sender_that_tells_very_much_gives_signs_of_life(source: Callable[[], Sending]) -> None:
    clock = Clock()
    transport = Timed(clock)
    machine, hello = Sender(), Hello(Role.RECEIVER, window=WINDOW)
    machine.receive_data(b"".join(frame(hello)))
    assert machine.next_event() == hello
    session = SendingSession(Greeted(Plain(transport), machine, hello), source(), Options(), transport.tell)
    with pytest.raises(BrokenError):
        drive(session.complete())
    transport.close()
    first, *_, last = transport.told
    times = [first, *(when for when in transport.sent if first < when < last), last]
    assert max(later - sooner for sooner, later in itertools.pairwise(times)) < 2 * PING_AFTER
