"""Streams that have nothing to send say so, whatever goes on beside them; by a clock that does what it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

import pytest

from enchufe.buffer import Buffer
from enchufe.link import PING_AFTER
from enchufe.session import Options, SendingSession
from enchufe.session.carrier import Plain
from enchufe.session.streams import Stream
from enchufe.store.memory import MemoryStore
from enchufe.transfer.messages import Ping, frame
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
