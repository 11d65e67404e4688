"""A heartbeat for messages: a sign of life that both sides agree on, so that a silent peer is found in bounded time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from enchufe.buffer import Buffer
from enchufe.checks import check_seconds
from enchufe.connection import Connection
from enchufe.errors import DeadlineExceeded, EnchufeError, LocalProtocolError
from enchufe.file import ConnectionFile
from enchufe.framing.base import Framing, checked
from enchufe.transports import Transport, advance
from enchufe.waiting import Turnstile


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Both sides send `message` when they have said nothing for `every` seconds, and never see it come.

    It is sent while a side receives, and not where a message is on its way just then: one that computes for longer than
    `patience` counts as dead, and so does one that takes no byte of a message and says nothing for as long. A side that
    has ended sends no more, and is not missed.

    Args:
        message: what is never said otherwise; the framing must be able to carry it.
        every: seconds.
        patience: seconds of silence after which the other side counts as dead; by default three times `every`. Whoever
            receives counts from the last byte, or from when it began to listen, and in the middle of a TLS record from
            the next beat; whoever waits to send looks once in so many seconds, and so finds it within twice as many.

    Raises:
        LocalProtocolError: the times make no sense, or `message` is no bytes.
    """

    message: bytes = b""
    every: float = 5.0
    patience: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.message, bytes):
            raise LocalProtocolError(f"a heartbeat's message is bytes, not {self.message!r}")
        check_seconds("every", self.every)
        check_seconds("patience", self.patience)
        if not self.patience:
            object.__setattr__(self, "patience", 3 * self.every)
        if not 0 < self.every < self.patience:
            raise LocalProtocolError("a heartbeat needs some seconds, and a patience of more than those")


class BeatingConnection(Connection):
    """A Connection with a heartbeat: a silent peer is BrokenError."""

    _beats = True

    __slots__ = ("_allowed", "_beat", "_counted", "_ended", "_heard", "_lock", "_said", "_sending", "heartbeat")

    def __init__(self, *args: Any, heartbeat: Heartbeat, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heartbeat = heartbeat
        self.transport.patience = heartbeat.patience
        self._heard = self._said = self.transport.waiter.now()
        self._allowed: float | None = None
        self._counted = 0
        self._ended = False
        # Messages that are on their way, from their first byte to their last, and what is left of a beat of which not
        # all went at once. One thread may receive, and beat, while another sends.
        self._lock = threading.Lock()
        self._sending = 0
        self._beat: Sequence[Buffer] = ()
        self._kept, self._flushing = [], Turnstile()  # for what is left of a beat

    async def send(self, *messages: Buffer) -> None:
        """As `Connection.send`; BrokenError where the peer takes nothing for as long as it may be silent."""
        with self._lock:
            self._sending += 1
            self._take_beat()
        try:
            await super().send(*messages)
        finally:
            with self._lock:
                self._sending -= 1
        self._said = self.transport.waiter.now()

    async def flush(self, deadline: float | None = None) -> None:
        """As `Connection.flush`."""
        with self._lock:
            self._sending += 1
            self._take_beat()
        try:
            await super().flush(deadline)
        finally:
            with self._lock:
                self._sending -= 1

    async def receive(self) -> bytes | None:
        """As `Connection.receive`; BrokenError where the peer was silent for too long."""
        self._allowed = super()._deadline()  # for a message: signs of life do not put it off
        while (message := await super().receive()) == self.heartbeat.message:
            pass
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    def in_hand(self) -> bytes | None:
        """As `Connection.in_hand`."""
        while (message := super().in_hand()) == self.heartbeat.message:
            pass
        return message

    async def end(self) -> None:
        """As `Connection.end`; no heartbeat goes out any more."""
        self._ended = True
        await super().end()

    def _patience(self) -> float | None:
        allowed = self._allowed
        beat = self._heard + self.heartbeat.patience
        if not self._ended:
            beat = min(beat, self._said + self.heartbeat.every)
        return beat if allowed is None or beat < allowed else allowed

    async def _refill(self) -> bool:
        allowed = self._allowed
        # Silence counts from when we listen: what came while nobody did waits in the kernel.
        self._heard = now = self.transport.waiter.now()
        self._counted = self.transport.heard
        while True:
            if not self._ended and now >= self._said + self.heartbeat.every:
                self._say_alive()
                self._said = now
            try:
                return await super()._refill()
            except DeadlineExceeded:
                now = self.transport.waiter.now()
                if allowed is not None and now >= allowed:
                    raise
                # Of whoever is being sent something the sender knows more; and a part of a record ends no receive.
                if self._sending or self._hears():
                    self._heard = now
                elif now >= self._heard + self.heartbeat.patience:
                    raise self.transport.silent() from None

    async def _receive_behind(self, deadline: float | None) -> None:  # noqa: ARG002 (each piece of a message moves it)
        if self._hears():
            self._heard = self.transport.waiter.now()
        await super()._receive_behind(self._patience())

    def _hears(self) -> bool:
        """Whether anything has come since this was asked."""
        before, self._counted = self._counted, self.transport.heard
        return self._counted != before

    def _say_alive(self) -> None:
        """Beat, as far as that goes without waiting; while something else is on its way, that is a sign of life."""
        with self._lock:
            if not (self._sending or self._kept or self._rest):
                self._beat = self._beat or self.framing.encode(self.heartbeat.message)
                with contextlib.suppress(EnchufeError):  # it is for who receives to find that the other side is gone
                    self._beat = advance(self._beat, self.transport.try_send(self._beat))

    def _take_beat(self) -> None:
        """What is left of a beat goes before all else that is sent, though no receive waits for it. With the lock."""
        if self._beat:
            self._rest, self._beat = self._beat, ()

    def file(self) -> ConnectionFile:
        """As `Connection.file`; half a beat comes before it."""
        beat, self._beat = b"".join(self._beat), ()
        begun = len(beat) < sum(map(len, self.framing.encode(self.heartbeat.message)))
        file = super().file()
        file.begin_with(beat if begun else b"")
        return file

    def _flush_some(self) -> bool:
        with self._lock:
            if self._sending:
                return not self.transport.waiter.blocks  # as there
            if self.unsent:
                self._take_beat()
        return super()._flush_some()


def connection_over(
    transport: Transport, framing: Framing, *, heartbeat: Heartbeat | None = None, **options: Any
) -> Connection:
    """A Connection, with a heartbeat where one is given; the options are those of Connection."""
    if heartbeat is None:
        return Connection(transport, framing, **options)
    return BeatingConnection(transport, framing, heartbeat=heartbeat, **options)


def check_options(framing: object, timeout: object, heartbeat: object) -> None:
    """See that `connection_over` can be called with them, before anybody dials or listens.

    Raises:
        LocalProtocolError: one makes no sense, or the framing cannot carry the heartbeat.
    """
    speaks = checked(framing)
    if timeout is not None:
        check_seconds("timeout", timeout)
    if isinstance(heartbeat, Heartbeat):
        speaks.encode(heartbeat.message)  # else the first beat would be what fails
    elif heartbeat is not None:
        raise LocalProtocolError(f"heartbeat must be a Heartbeat, not {heartbeat!r}")
