"""Bytes across: tcp and unix, one interface. Only what is in here waits."""

from __future__ import annotations

from enchufe.transports import tcp, unix
from enchufe.transports.addresses import Address, TcpAddress, UnixAddress, parse_address
from enchufe.transports.listeners import Listener
from enchufe.transports.stream import Transport, advance
from enchufe.waiting import Waiter

__all__ = [
    "Address",
    "Listener",
    "TcpAddress",
    "Transport",
    "UnixAddress",
    "advance",
    "connect",
    "parse_address",
]


async def connect(address: Address, waiter: Waiter, deadline: float | None = None) -> Transport:
    """Dial `address`; raises as `tcp.connect` and `unix.connect` do."""
    if isinstance(address, UnixAddress):
        return await unix.connect(address, waiter, deadline)
    return await tcp.connect(address, waiter, deadline)
