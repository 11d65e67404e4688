"""A listener only produces connections: it binds, listens, and accepts one at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from enchufe.errors import BrokenError, ClosedError, LocalProtocolError
from enchufe.transports import tcp, unix
from enchufe.transports.addresses import Address, TcpAddress, UnixAddress
from enchufe.transports.stream import Process, Transport
from enchufe.waiting import NO_ROOM, READ, Interest, Waitable, Waiter, no_room

if TYPE_CHECKING:
    import ssl

# What accept() says of a connection that died in the queue, or of the network under it: accept(2), "Error
# handling". The listener itself is unharmed.
_THEIR_ERRORS: Final = {
    errno.ECONNABORTED,
    errno.EPERM,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
}


class Listener:
    """The listening sockets of one address.

    Args:
        address: where to listen; port 0 takes a free port.
        backlog: how many connections the kernel queues before it refuses.
        tls: speak TLS with this context, see `tls.server_context`; the handshake is for whoever gets the connection.

    Raises:
        LocalProtocolError: the address cannot be listened on, or the context is no server's.
    """

    def __init__(self, address: Address, *, backlog: int = 128, tls: ssl.SSLContext | None = None) -> None:
        self._closed = True
        self._file: tuple[str, os.stat_result] | None = None  # what to remove, where it is still ours
        self._borrowed = False
        self._sockets: list[socket.socket]
        self.addresses: list[str]
        kind: Any = tcp
        if not isinstance(address, TcpAddress):
            kind = unix
            if not isinstance(address, UnixAddress):
                from enchufe.transports import shared_memory  # noqa: PLC0415 (slow to import, and not everybody needs it)

                kind = shared_memory
        if tls is not None and kind not in (tcp, unix):
            raise LocalProtocolError("shared memory needs no TLS: nobody stands between two processes")
        self._transport: Callable[[socket.socket, Waiter], Transport] = kind.transport
        if tls is not None:
            from enchufe.transports import tls as over_tls  # noqa: PLC0415 (slow to import, and few use it)

            self._transport = over_tls.server_side(kind.transport, tls)
        self._sockets = kind.listen(address, backlog)
        self.addresses = [kind.written(sock) for sock in self._sockets]
        if not isinstance(address, TcpAddress):
            self._file = address.path, os.lstat(address.path)
        self._process = Process.this
        self._closed = False

    @classmethod
    def over(
        cls,
        sockets: Sequence[socket.socket],
        wrap: Callable[[socket.socket, Waiter], Transport],
        addresses: list[str],
        *,
        borrowed: bool = False,
    ) -> Self:
        """A listener over sockets that somebody else made listen; owns them from here on.

        Args:
            wrap: makes a transport of a socket that one of them accepted.
            addresses: of them, as people write them.
            borrowed: another process keeps them too, and goes on listening when this one closes its copies.
        """
        listener = cls.__new__(cls)
        listener._sockets, listener._transport = list(sockets), wrap
        for sock in sockets:
            sock.setblocking(False)
        listener.addresses = addresses
        listener._file = None
        listener._borrowed = borrowed
        listener._process = Process.this
        listener._closed = False
        return listener

    def __repr__(self) -> str:
        return f"<Listener {', '.join(self.addresses)}{', closed' if self._closed else ''}>"

    @property
    def interests(self) -> list[Interest]:
        """What to wait for before accepting, for whoever waits on several listeners at once."""
        return [(sock, READ) for sock in self._sockets]

    def try_accept(self, waiter: Waiter) -> Transport | None:
        """Accept a connection that is there already, or None.

        Args:
            waiter: how the task that will use the connection waits.

        Raises:
            BusyError: this process or machine has no descriptor or memory left for it; it stays queued.
            ClosedError: the listener was closed.
        """
        for sock in self._sockets:
            try:
                connected, _ = sock.accept()
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                if self._closed:
                    raise self._closed_error() from error
                if error.errno in NO_ROOM:
                    raise no_room("cannot accept more connections", error) from error
                if error.errno in _THEIR_ERRORS:
                    continue
                raise BrokenError(f"cannot accept on {self!r}: {error.strerror}") from error
            try:
                return self._transport(connected, waiter)
            except BrokenError:
                continue  # it left while it was queued
        if self._closed:
            raise self._closed_error()
        return None

    async def accept(
        self, waiter: Waiter, *, stop: Waitable | None = None, deadline: float | None = None
    ) -> Transport | None:
        """Accept one connection; None as soon as `stop` is readable.

        Raises:
            BusyError, ClosedError: as `try_accept`.
            DeadlineExceeded: nobody came until `deadline`.
        """
        interests = self.interests + ([(stop, READ)] if stop is not None else [])
        while (accepted := self.try_accept(waiter)) is None:
            ready = await waiter.wait(interests, deadline)
            if stop is not None and any(thing is stop for thing, _ in ready):
                return None
        return accepted

    def adopt(self, descriptor: int, waiter: Waiter) -> Transport | None:
        """A connection that this listener accepted in another process; None where it has left. Owns `descriptor`."""
        try:
            connected = socket.socket(fileno=descriptor)
        except OSError:  # it is none
            os.close(descriptor)
            return None
        try:
            connected.set_inheritable(False)  # where the kernel has not seen to it (macOS)
            return self._transport(connected, waiter)
        except (BrokenError, OSError):
            connected.close()  # and not the descriptor: closed already, it may be another thread's by now
            return None

    def abandon(self) -> None:
        """Close this process' copies only: another, from which or to which this one was forked, goes on listening."""
        self._closed = True
        for sock in self._sockets:
            sock.close()

    def close(self) -> None:
        """Stop listening; who is queued is refused. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._file is not None:
            path, mine = self._file
            # While it listens: from then on another may have taken its place.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(path), mine):
                    os.unlink(path)
        for sock in self._sockets:
            if not self._borrowed:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in accept
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_closed", True):
            return
        if self._process is not Process.this:
            self.abandon()
            return
        _warn(f"unclosed {self!r}", ResourceWarning, source=self)
        self.close()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self!r} is closed")
