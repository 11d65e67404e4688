"""Listening sockets that a service manager made and hands over: systemd's LISTEN_FDS, sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from enchufe.errors import LocalProtocolError
from enchufe.transports import tcp, unix
from enchufe.transports.listeners import Listener

if TYPE_CHECKING:
    import ssl

_FIRST: Final = 3  # SD_LISTEN_FDS_START


def listeners(*, tls: ssl.SSLContext | None = None) -> list[Listener]:
    """A listener for each socket that was handed over; they are taken once, as sd_listen_fds does.

    Args:
        tls: as for Listener.

    Raises:
        LocalProtocolError: none were, or one is no listening stream socket.
    """
    count = os.environ.pop("LISTEN_FDS", "")
    ours = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    if not (ours and count.isascii() and count.isdigit() and int(count)):
        raise LocalProtocolError(
            "no sockets were handed over to this process (LISTEN_FDS, LISTEN_PID)",
            hint="Start it by a systemd socket unit, or name an address.",
        )
    found: list[Listener] = []
    for descriptor in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            raise LocalProtocolError(
                f"descriptor {descriptor}, which was to be handed over, is no socket: {error.strerror}",
                hint="LISTEN_FDS says how many there are, from 3 on: see the socket unit.",
            ) from error
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise LocalProtocolError(
                f"descriptor {descriptor}, which was handed over, is no listening stream socket",
                hint="Use ListenStream= and Accept=no in the socket unit.",
            )
        kind = unix if sock.family == socket.AF_UNIX else tcp
        wrap = kind.transport
        if tls is not None:
            from enchufe.transports import tls as over_tls  # noqa: PLC0415 (slow to import, and few use it)

            wrap = over_tls.server_side(kind.transport, tls)
        found.append(Listener.over([sock], wrap, [kind.written(sock)], borrowed=True))
    return found
