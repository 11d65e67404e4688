"""A stream socket as a transport: try first, wait after; written once, for tcp and unix alike."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from enchufe.buffer import Buffer
from enchufe.errors import BrokenError, ClosedError, EnchufeError
from enchufe.waiting import READ, WRITE, Waiter

_IOV_MAX: Final = 1024  # pieces one sendmsg takes: IOV_MAX, Linux and the BSDs

# What recv and send say when the world, not the caller, ended the connection.
_BROKEN: Final = {
    errno.ECONNRESET: "the other side cut the connection",
    errno.EPIPE: "the other side has closed and takes no more",
    errno.ETIMEDOUT: "the other side stopped answering",
    errno.EHOSTUNREACH: "no way leads to the other side any more",
    errno.ENETUNREACH: "the network is gone",
    errno.ENETDOWN: "the network is down",
    errno.ECONNABORTED: "the connection was aborted",
    errno.ENOTCONN: "the connection is gone",
}


class Transport:
    """Bytes both ways between two ends; the same class on both, whoever dialed.

    One task may receive while another sends; no two may do the same at once.

    Args:
        sock: a connected stream socket; this owns it from here on.
        waiter: how whoever uses this waits.
        name: what kind this is: "tcp", "unix".
        local, peer: the addresses, as people write them.
    """

    def __init__(self, sock: socket.socket, waiter: Waiter, *, name: str, local: str, peer: str) -> None:
        sock.setblocking(False)
        self.name = name
        self.local = local
        self.peer = peer
        self.waiter = waiter
        self._sock = sock
        self._closed = False
        self._broken: str | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "broken" if self._broken else "open"
        return f"<Transport {self.name} {self.local} to {self.peer}, {state}>"

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self._sock.fileno()

    # Without waiting: for whoever multiplexes both directions itself.

    def try_receive_into(self, view: Buffer) -> int | None:
        """Receive what is there into `view`: how many bytes, 0 at the end, None where it would block.

        Raises:
            BrokenError: the connection was cut, not ended.
            ClosedError: this end was closed.
        """
        try:
            return self._sock.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self._translated(error) from error

    def try_send(self, pieces: Sequence[Buffer]) -> int:
        """Send as much of `pieces`, gathered, as goes without waiting: how many bytes, 0 where it would block.

        Raises:
            BrokenError: the connection was cut, or an earlier send was.
            ClosedError: this end was closed.
        """
        if self._broken is not None:
            raise BrokenError(self._broken)
        try:
            if len(pieces) == 1:
                return self._sock.send(pieces[0])
            return self._sock.sendmsg(pieces[:_IOV_MAX])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise self._translated(error) from error

    async def wait(self, interest: int, deadline: float | None = None) -> int:
        """Wait until a try for READ or WRITE is worth it: which of them.

        Raises:
            DeadlineExceeded: neither was until `deadline`.
        """
        if self._closed:
            raise self._closed_error()
        if interest in (READ, WRITE):
            await self.waiter.wait_one(self, interest, deadline)
            return interest
        ready = 0
        for _, got in await self.waiter.wait([(self, interest)], deadline):
            ready |= got
        return ready

    # The verbs.

    async def receive_into(self, view: Buffer, deadline: float | None = None) -> int:
        """Receive into `view`: at least one byte, as many as are there; 0 at a clean end.

        A receive that runs into its deadline or is cancelled has taken nothing.

        Raises:
            BrokenError: the connection was cut, not ended.
            ClosedError: this end was closed, before or meanwhile.
            DeadlineExceeded: nothing came until `deadline`.
        """
        while (count := self.try_receive_into(view)) is None:
            await self.wait(READ, deadline)
        return count

    async def send(self, pieces: Sequence[Buffer], deadline: float | None = None) -> None:
        """Send all of `pieces`, gathered; the kernel has every byte when this returns.

        A send that was cut midway, by its deadline or a cancellation, leaves half a message on the wire: the
        connection is poisoned, and every later send raises BrokenError.

        Raises:
            BrokenError: the connection was cut.
            ClosedError: this end was closed, before or meanwhile.
            DeadlineExceeded: the other side did not take it all until `deadline`.
        """
        rest = [piece for piece in pieces if len(piece)]
        begun = False
        try:
            while rest:
                count = self.try_send(rest)
                if count:
                    begun = True
                    rest = advance(rest, count)
                else:
                    await self.wait(WRITE, deadline)
        except BaseException:
            if begun and self._broken is None:
                self._broken = "an earlier send was cut in the middle of a message"
            raise

    async def end(self, deadline: float | None = None) -> None:  # noqa: ARG002 (a TLS sibling must wait)
        """Half-close: the other side reads an end after all that was sent; it may still send.

        Raises:
            BrokenError: the connection was cut.
            ClosedError: this end was closed.
        """
        if self._closed:
            raise self._closed_error()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Close both directions, waking whoever waits here (ClosedError). Closing again does nothing."""
        if self._closed:
            return
        # In this order: poll() in another thread does not notice a bare close.
        self._closed = True
        with contextlib.suppress(OSError):  # cut already: there is nobody to tell
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def stop_receiving(self) -> None:
        """Read what has arrived, then an end: how a drain tells a handler, from another thread, to finish."""
        with contextlib.suppress(OSError):  # as in close()
            self._sock.shutdown(socket.SHUT_RD)

    def abort(self) -> None:
        """Close so that the other side learns at once that this is no orderly end (RST where there is one)."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):  # as in close()
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not getattr(self, "_closed", True):
            _warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"the connection to {self.peer} is closed at this end")

    def _translated(self, error: OSError) -> EnchufeError:
        if self._closed:
            return self._closed_error()
        told = _BROKEN.get(error.errno or 0) or f"the connection failed: {error.strerror or error}"
        return BrokenError(f"{told} ({self.peer})")


def advance(pieces: Sequence[Buffer], count: int) -> list[Buffer]:
    """What of `pieces` is left when their first `count` bytes are gone."""
    for index, piece in enumerate(pieces):
        if count < len(piece):
            return [memoryview(piece)[count:], *pieces[index + 1 :]]
        count -= len(piece)
    return []
