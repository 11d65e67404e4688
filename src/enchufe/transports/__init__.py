"""Bytes across: tcp and unix, one interface. Only what is in here waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enchufe.errors import LocalProtocolError
from enchufe.transports import tcp, unix
from enchufe.transports.addresses import Address, SharedMemoryAddress, TcpAddress, UnixAddress, parse_address
from enchufe.transports.listeners import Listener
from enchufe.transports.stream import Transport, advance
from enchufe.waiting import Waiter

if TYPE_CHECKING:
    import ssl

__all__ = [
    "Address",
    "Listener",
    "SharedMemoryAddress",
    "TcpAddress",
    "Transport",
    "UnixAddress",
    "advance",
    "connect",
    "parse_address",
]


async def connect(
    address: Address,
    waiter: Waiter,
    deadline: float | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> Transport:
    """Dial `address`, over TLS where a context is given; raises as `tcp.connect`, `unix.connect`, `tls.connect` do."""
    if isinstance(address, SharedMemoryAddress):
        if tls is not None:
            raise LocalProtocolError("shared memory needs no TLS: nobody stands between two processes")
        from enchufe.transports import shared_memory  # noqa: PLC0415 (slow to import, and not everybody needs it)

        return await shared_memory.connect(address, waiter, deadline)
    if tls is not None:
        from enchufe.transports import tls as over_tls  # noqa: PLC0415 (slow to import, and few use it)

        return await over_tls.connect(address, waiter, deadline, context=tls, server_hostname=server_hostname)
    if isinstance(address, UnixAddress):
        return await unix.connect(address, waiter, deadline)
    return await tcp.connect(address, waiter, deadline)
