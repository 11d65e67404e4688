"""A connection handed over from one process to another, through a socket between them (SCM_RIGHTS, unix(7))."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final

from enchufe.server import Acceptor, ServerOptions
from enchufe.transports import Listener, Transport
from enchufe.waiting import READ, Interest, Waiter, no_room

_ARRIVAL: Final = struct.Struct("@II")  # the connection's number, and which listener it came to
_ENDED: Final = struct.Struct("@I")
_FDS: Final = array.array("i", [0]).itemsize
# What a handler runs must not inherit a connection: it would keep open what the worker's death is to cut.
_TAKING: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def channel() -> tuple[socket.socket, socket.socket]:
    """A socket for the process that gives connections away, and one for that which takes them.

    Raises:
        BusyError: there are no descriptors for them.
    """
    try:
        giver, taker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise no_room("no descriptors for a worker", error) from error
    giver.setblocking(False)
    return giver, taker


def give(giver: socket.socket, number: int, listener: int, transport: Transport) -> bool:
    """Give a connection away: False where the other process is gone or takes no more. Keep nothing of it afterwards."""
    fds = array.array("i", [transport.fileno()])
    try:
        giver.sendmsg([_ARRIVAL.pack(number, listener)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    except OSError:  # full, or nobody there: either way it is for another
        return False
    return True


def ended(giver: socket.socket) -> list[int] | None:
    """The numbers of the connections that have ended over there, as far as told; None where that process is gone."""
    try:
        data = giver.recv(_ENDED.size * 1024)
    except BlockingIOError:
        return []
    except OSError:
        return None
    return [number for (number,) in _ENDED.iter_unpack(data)] if data else None


class Handover(Acceptor):
    """An acceptor whose connections were accepted by another process, which keeps the limits too.

    What `open` has for each of them is the number it goes by there.

    Args:
        taker: the socket they come through; this owns it.
        listeners: the same as the other process has, in the same order; not listened on here.
        options: what this server keeps to.

    Attributes:
        gone: called when the other process gives nothing more, or is dead.
    """

    def __init__(self, taker: socket.socket, listeners: Sequence[Listener], options: ServerOptions) -> None:
        super().__init__([], options)
        taker.setblocking(True)  # for `release`; arrivals are only ever tried for
        self._taker = taker
        self._origins = listeners
        self.gone: Callable[[], None] = lambda: None
        self._telling = threading.Lock()

    def release(self, transport: Transport) -> None:
        """It has ended: tell the other process too."""
        number = self.open[transport]
        super().release(transport)
        with self._telling, contextlib.suppress(OSError):  # nobody is there to be told
            self._taker.sendall(_ENDED.pack(number))

    def dispose(self) -> None:
        """Give back what is left."""
        super().dispose()
        with self._telling:
            self._taker.close()

    def _comers(self) -> list[Interest]:
        return [(self._taker, READ)]

    def _next(self, waiter: Waiter) -> tuple[Transport, int] | None:
        while True:
            # The kernel closes what comes where there is no descriptor for it: whoever could have waited is cut off.
            try:
                os.close(os.dup(self._taker.fileno()))
            except OSError as error:
                with contextlib.suppress(OSError):  # nobody comes, or the other process is gone
                    if self._taker.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                        raise no_room("cannot take over more connections", error) from error
            try:
                data, ancillary, _, _ = self._taker.recvmsg(_ARRIVAL.size, socket.CMSG_SPACE(_FDS), _TAKING)
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            if len(data) < _ARRIVAL.size:
                self.gone()
                return None
            number, origin = _ARRIVAL.unpack(data)
            arrived = array.array("i")
            for _, _, fds in ancillary:
                arrived.frombytes(fds[: len(fds) - len(fds) % _FDS])
            transport: Transport | None = self._origins[origin].adopt(arrived[0], waiter) if arrived else None
            if transport is not None:
                transport.ends_only_by_close()
                return transport, number
            # It left on the way, or another thread took the last descriptor just then.
            with self._telling, contextlib.suppress(OSError):
                self._taker.sendall(_ENDED.pack(number))
