"""A heartbeat for messages: a sign of life that both sides agree on, so that a silent peer is found in bounded time."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self

from enchufe.buffer import Buffer
from enchufe.connection import Connection
from enchufe.errors import BrokenError, DeadlineExceeded, LocalProtocolError
from enchufe.framing.base import Framing
from enchufe.transports import Transport


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Both sides send `message` when they have said nothing for `every` seconds, and never see it come.

    It is sent while a side waits to receive or to send: one that computes for longer than `patience` counts as dead.
    A side that has ended sends no more, and is not missed.

    Args:
        message: what is never said otherwise; the framing must be able to carry it.
        every: seconds.
        patience: seconds of silence after which the other side counts as dead; by default three times `every`.

    Raises:
        LocalProtocolError: the times make no sense.
    """

    message: bytes = b""
    every: float = 5.0
    patience: float = 0.0

    def __post_init__(self) -> None:
        if not self.patience:
            object.__setattr__(self, "patience", 3 * self.every)
        if not 0 < self.every < self.patience:
            raise LocalProtocolError("a heartbeat needs some seconds, and a patience of more than those")


class BeatingConnection(Connection):
    """A Connection with a heartbeat: a silent peer is BrokenError."""

    _beats = True

    __slots__ = ("_allowed", "_counted", "_ended", "_heard", "_said", "heartbeat")

    def __init__(self, *args: Any, heartbeat: Heartbeat, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heartbeat = heartbeat
        self._heard = self._said = self.transport.waiter.now()
        self._allowed: float | None = None
        self._counted = 0
        self._ended = False

    async def send(self, *messages: Buffer) -> None:
        """As `Connection.send`; BrokenError where the peer takes nothing for as long as it may be silent."""
        allowed = super()._deadline()
        try:
            await super().send(*messages)
        except DeadlineExceeded as error:
            if allowed is not None and self.transport.waiter.now() >= allowed:
                raise
            raise self._silent() from error
        self._said = self.transport.waiter.now()

    def begin(self, *messages: Buffer) -> Coroutine[Any, Any, None]:
        """As `Connection.begin`."""
        return self.send(*messages)

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

    def _deadline(self) -> float | None:
        allowed = super()._deadline()
        dead = self.transport.waiter.now() + self.heartbeat.patience
        return dead if allowed is None or dead < allowed else allowed

    def _patience(self) -> float | None:
        allowed = self._allowed
        beat = self._heard + self.heartbeat.patience
        if not self._ended:
            beat = min(beat, self._said + self.heartbeat.every)
        return beat if allowed is None or beat < allowed else allowed

    async def _refill(self) -> bool:
        allowed = self._allowed
        # Silence counts from when we listen: what came while nobody did waits in the kernel.
        self._heard = self.transport.waiter.now()
        while True:
            try:
                return await super()._refill()
            except DeadlineExceeded:
                now = self.transport.waiter.now()
                if allowed is not None and now >= allowed:
                    raise
                if self._counted != self.transport.bytes_received:
                    self._counted = self.transport.bytes_received
                    self._heard = now
                elif now >= self._heard + self.heartbeat.patience:
                    raise self._silent() from None
                if not self._ended and now >= self._said + self.heartbeat.every:
                    await self.send(self.heartbeat.message)
                    self._sent -= 1

    def _silent(self) -> BrokenError:
        return BrokenError(
            f"{self.peer} gave no sign of life for {self.heartbeat.patience:g} s",
            hint="It is gone, stopped, or sends no heartbeat: both sides must agree on one.",
        )


def connection_over(
    transport: Transport, framing: Framing, *, heartbeat: Heartbeat | None = None, **options: Any
) -> Connection:
    """A Connection, with a heartbeat where one is given; the options are those of Connection."""
    if heartbeat is None:
        return Connection(transport, framing, **options)
    return BeatingConnection(transport, framing, heartbeat=heartbeat, **options)
