"""Carrier: how the bytes of a stream cross its connection, as they are or sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.link import READ_SIZE
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
            ClosedError, DeadlineExceeded: as `Transport.receive`.
        """

    async def send(self, pieces: Sequence[Buffer], deadline: float) -> None:
        """Send all of it. Raises as `Transport.send`."""


class Plain:
    """Bytes as they are: in plain text, or inside a transport that encrypts."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def receive(self, buffer: ReceiveBuffer, lacking: int, deadline: float) -> bool:
        """As `Carrier.receive`."""
        count = await self.transport.receive_into(buffer.space(lacking)[: max(lacking, READ_SIZE)], deadline)
        buffer.received(count)
        return count > 0

    async def send(self, pieces: Sequence[Buffer], deadline: float) -> None:
        """As `Carrier.send`."""
        await self.transport.send(pieces, deadline)
