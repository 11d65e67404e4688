"""Carrier: how the bytes of a stream cross its connection, as they are or sealed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.link import LEAST_RATE, READ_SIZE, late_after
from enchufe.transports import Transport


class Carrier(Protocol):
    """What a stream's thread moves its frames over.

    Attributes:
        transport: the connection.
    """

    transport: Transport

    async def receive(self, buffer: ReceiveBuffer, lacking: int, deadline: float) -> bool:
        """Receive once, into `buffer` as much as may be read by now, which may be nothing; False at the end.

        Args:
            lacking: bytes that the next message lacks at least.

        Raises:
            BrokenError: the connection was cut, or is not what the other side sent.
            ClosedError, DeadlineExceeded: as `Transport.receive`, or what has begun to come comes on too slowly.
        """

    async def send(self, pieces: Sequence[Buffer], deadline: float) -> None:
        """Send all of it. Raises as `Transport.send`."""


class Plain:
    """Bytes as they are: in plain text, or inside a transport that encrypts."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._due = math.inf  # when a frame that has begun is late

    async def receive(self, buffer: ReceiveBuffer, lacking: int, deadline: float) -> bool:
        """As `Carrier.receive`."""
        due = min(deadline, self._due)
        count = await self.transport.receive_into(buffer.space(lacking)[: max(lacking, READ_SIZE)], due)
        buffer.received(count)
        self._due = late_after(due, count, LEAST_RATE, whole=count >= lacking)
        return count > 0

    async def send(self, pieces: Sequence[Buffer], deadline: float) -> None:
        """As `Carrier.send`."""
        await self.transport.send(pieces, deadline)
