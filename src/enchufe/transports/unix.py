"""unix: the same stream between two processes of one machine, named by a path."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Any, Final

from enchufe.errors import BrokenError, DeadlineExceeded, LocalProtocolError
from enchufe.printable import printable
from enchufe.transports.addresses import SharedMemoryAddress, UnixAddress
from enchufe.transports.stream import Transport
from enchufe.waiting import Waiter, no_room

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows, which has no such sockets in Python either
    fcntl = None

NAME: Final = "unix"

_BUSY_PAUSE: Final = 0.01  # seconds between tries where the listener's queue is full: unix(7) cannot wait
_LOCK_TRIES: Final = 100  # so far apart too


def transport(sock: socket.socket, waiter: Waiter) -> Transport:
    """A transport over a connected socket."""
    # The peer chose its own path, and whatever tells of it goes to terminals and logs.
    local, peer = written(sock), f"unix:{printable(os.fsdecode(sock.getpeername()))}"
    return Transport(sock, waiter, name=NAME, local=local, peer=peer)


async def connect(
    address: UnixAddress | SharedMemoryAddress, waiter: Waiter, deadline: float | None = None
) -> Transport:
    """Dial.

    Raises:
        BrokenError: nobody listens there.
        BusyError: there is no descriptor for it.
        DeadlineExceeded: the listener's queue stayed full until `deadline`.
    """
    sock = _socket(address)
    try:
        sock.setblocking(False)
        while True:
            code = sock.connect_ex(address.path)
            if code == 0:
                return transport(sock, waiter)
            if code != errno.EAGAIN:
                raise BrokenError(
                    f"could not reach {address}: {os.strerror(code)}",
                    hint="Check the path, and that the other side is listening.",
                )
            # A full queue gives EAGAIN and nothing to wait on.
            pause = waiter.now() + _BUSY_PAUSE
            if deadline is not None and pause > deadline:
                raise DeadlineExceeded(f"{address} has too many waiting before us")
            with contextlib.suppress(DeadlineExceeded):
                await waiter.wait([], pause)
    except BaseException:
        sock.close()
        raise


def listen(address: UnixAddress | SharedMemoryAddress, backlog: int) -> list[socket.socket]:
    """One listening socket; a socket file that nobody listens on any more is replaced.

    Raises:
        LocalProtocolError: another program listens there, or the path cannot be used.
        BusyError: there is no descriptor for it.
    """
    sock = _socket(address)
    sock.setblocking(False)
    try:
        with _alone_in(os.path.dirname(address.path) or "."):
            try:
                sock.bind(address.path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_dead(address)
                sock.bind(address.path)
            sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise LocalProtocolError(
            f"cannot listen on {address}: {error.strerror}", hint="Choose another path."
        ) from error
    except BaseException:
        sock.close()
        raise
    return [sock]


def _socket(address: UnixAddress | SharedMemoryAddress) -> socket.socket:
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise no_room(f"no socket for {address}", error) from error


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """No other listener begins there meanwhile: one that is bound and does not listen yet looks as if it were dead.

    Where the folder cannot be read or locked, or somebody else keeps it locked, this goes on without.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            _lock(descriptor)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # whoever is forked meanwhile has a copy that would keep it
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_BUSY_PAUSE)


def _remove_dead(address: UnixAddress | SharedMemoryAddress) -> None:
    with _socket(address) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(address.path)
    if code != errno.ECONNREFUSED or not stat.S_ISSOCK(os.lstat(address.path).st_mode):
        raise LocalProtocolError(
            f"{address} is taken", hint="Another program listens there, or it is no socket: choose another path."
        )
    os.unlink(address.path)


def written(sock: socket.socket) -> str:
    """A bound socket's own address as people write it."""
    return f"unix:{os.fsdecode(sock.getsockname())}"
