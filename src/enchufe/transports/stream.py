"""A stream socket as a transport: try first, wait after; written once, for tcp and unix alike."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Sequence
from functools import reduce
from operator import or_
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from enchufe.buffer import Buffer
from enchufe.errors import BrokenError, ClosedError, DeadlineExceeded, EnchufeError
from enchufe.waiting import READ, WRITE, Waiter

fcntl: Any
termios: Any
try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None

_TURN: Final = 8  # receives of 64 KiB at the most: one that took more counts as several
_SHARE: Final = 65536  # bytes
_LOOK: Final = 0.01  # seconds
_IOV_MAX: Final = 1024  # pieces one sendmsg takes: IOV_MAX, Linux and the BSDs

# Where waiting blocks the thread anyway, a receive that blocks in the kernel saves a poll() for each message. It
# blocks no longer than this, in seconds: then poll() waits, which somebody else can wake.
_BRIEFLY: Final = 0.05
_KERNEL_WAITS: Final = sys.platform.startswith(("linux", "darwin", "freebsd"))
# A struct timeval. Where a long has 32 bits and time_t 64 (Debian 13 on armhf, musl), the option is another one:
# SO_RCVTIMEO_NEW, asm-generic/socket.h.
_TIMEVAL: Final = "@qq" if socket.SO_RCVTIMEO == 66 else "@ll"
_RCVTIMEO: Final = struct.pack(_TIMEVAL, 0, int(_BRIEFLY * 1_000_000))
# What becomes of the last copy of a socket: sent is what was to be sent, then an end; or cut. A struct linger.
_LINGER: Final = struct.pack("@ii", 0, 0)
_NO_LINGER: Final = struct.pack("@ii", 1, 0)
_NOW: Final = getattr(socket, "MSG_DONTWAIT", 0)

INTERRUPTED: Final = "an earlier send was interrupted, and nobody knows how much of it went"
"""Why nothing more can be sent where a signal handler, as Ctrl-C's, raised something in the middle of `try_send`."""

LOST: Final = "an earlier receive was interrupted, and what had just come is lost"
"""Why nothing more can be received where a signal handler raised something just behind it."""

SOME: Final = b"?"
"""What stands for bytes that may have come, or been lost on the way from the kernel."""


class Process:
    """Which process this is: a fork has copies of what its parent has, and ends nothing of that."""

    this: ClassVar[object] = object()

    @classmethod
    def begin(cls) -> None:
        """From here on it is another one."""
        cls.this = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Process.begin)

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

    Attributes:
        encrypts: whether nobody between the two ends can read or change what crosses.
        bytes_received, bytes_sent: so far.
        patience: seconds for which the other side may take nothing and say nothing while a send waits for it, where
            both have agreed on signs of life; None: no limit.
    """

    encrypts: ClassVar[bool] = False

    __slots__ = (
        "__weakref__",
        "_broken",
        "_closed",
        "_drained",
        "_fresh",
        "_full",
        "_interruptible",
        "_kernel_waits",
        "_late",
        "_left",
        "_lives",
        "_process",
        "_sock",
        "_stopped",
        "_turn",
        "bytes_received",
        "bytes_sent",
        "local",
        "name",
        "patience",
        "peer",
        "waiter",
    )

    def __init__(self, sock: socket.socket, waiter: Waiter, *, name: str, local: str, peer: str) -> None:
        self.name = name
        self.local = local
        self.peer = peer
        self.waiter = waiter
        self.bytes_received = 0
        self.bytes_sent = 0
        self.patience: float | None = None
        self._sock = sock
        self._process = Process.this
        self._closed = False
        self._broken: str | None = None
        # cut_off() was called, and why.
        self._late: str | None = None
        # stop_receiving() was called: what had arrived is all there is, so many bytes by now.
        self._stopped = False
        self._left = 0
        # ends_only_by_close() was called.
        self._lives = False
        # Somebody waits for room to send.
        self._full = False
        # The last receive took all there was: another would find nothing.
        self._drained = False
        # Calls until the others have their turn, however fast the other side is.
        self._turn = _TURN
        # What came just now, or what stands for it, until it is counted: a signal is handled behind a call. A receive
        # that waits in the kernel, where nothing may have come, puts it here by what is no call; this costs more, and
        # is for the thread that handles signals.
        self._fresh = b""
        self._interruptible = waiter.blocks and threading.get_ident() == threading.main_thread().ident
        self._kernel_waits = waiter.blocks and _KERNEL_WAITS
        if self._kernel_waits:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RCVTIMEO)
            except OSError:  # an emulated kernel that has no such limit
                self._kernel_waits = False
        sock.setblocking(self._kernel_waits)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "broken" if self._broken else "open"
        return f"<Transport {self.name} {self.local} to {self.peer}, {state}>"

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self._sock.fileno()

    @property
    def stopped(self) -> bool:
        """`stop_receiving` was called: the end that was read may not be the other side's."""
        return self._stopped

    @property
    def sends_no_more(self) -> bool:
        """Whether every send fails: this end was closed, or an earlier send was cut."""
        return self._closed or self._broken is not None

    @property
    def heard(self) -> int:
        """What grows with each byte that comes, whether or not anything can be made of it yet: a sign of life."""
        return self.bytes_received

    def prepare(self) -> None:
        """Have what this needs of the system beside its socket, before others take that: nothing here.

        For whoever accepted the connection; `handshake` does it where this was not called.

        Raises:
            BusyError: there is no descriptor for it; to be tried again.
            BrokenError: the other side has left, or there will never be one.
        """

    def has_taken(self, since: int) -> bool:
        """Whether anything has come since `bytes_received` was so many, though a receive was interrupted behind it."""
        return bool(self._fresh) or self.bytes_received != since

    async def handshake(self, deadline: float | None = None) -> None:
        """Exchange what must cross before the first byte: nothing here, keys or memory elsewhere.

        A dialer's `connect` has done it; whoever accepted the connection awaits it first.

        Raises:
            BrokenError, ClosedError: as the verbs.
            DeadlineExceeded: it was not finished at `deadline`.
            RemoteProtocolError, Refused: the peer speaks something else, or is not who it should be.
        """

    async def peek(self, deadline: float | None = None) -> bytes:
        """The first byte of what comes, which stays to be received; b"" at the end. For plain sockets, before all else.

        Raises:
            BrokenError, ClosedError, DeadlineExceeded: as `receive`.
        """
        while (first := self.try_peek()) is None:
            await self.wait(READ, deadline)
        return first

    # Without waiting: for whoever multiplexes both directions itself.

    def try_peek(self) -> bytes | None:
        """As `peek`; None where it would block.

        Raises:
            BrokenError, ClosedError: as `try_receive`.
        """
        try:
            first = self._sock.recv(1, socket.MSG_PEEK | _NOW)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self._translated(error) from error
        if not first and self._closed:
            raise self._closed_error()
        return first

    def try_receive(self, size: int) -> bytes | None:
        """Receive what is there, `size` bytes at the most: b"" at the end, None where it would block.

        Raises:
            BrokenError: the connection was cut, not ended.
            ClosedError: this end was closed.
        """
        if stopped := self._stopped:
            size = min(size, self._left)
        self._fresh = SOME
        try:
            data = self._sock.recv(size, _NOW)
        except (BlockingIOError, InterruptedError):
            self._fresh = b""
            self._drained = False
            return b"" if self._stopped else None
        except OSError as error:
            raise self._translated(error) from error
        count = len(data)
        self.bytes_received += count
        self._fresh = b""
        if not data and (self._closed or self._late):
            raise self._closed_error()
        if stopped:
            self._left -= count
        self._drained = 0 < count < size
        return data

    def try_receive_into(self, view: Buffer) -> int | None:
        """As `try_receive`, into `view`: how many bytes, 0 at the end, None where it would block."""
        if stopped := self._stopped:
            view = memoryview(view)[: self._left]
        self._fresh = SOME
        try:
            count = self._sock.recv_into(view, 0, _NOW)
        except (BlockingIOError, InterruptedError):
            self._fresh = b""
            self._drained = False
            return 0 if self._stopped else None
        except OSError as error:
            raise self._translated(error) from error
        self.bytes_received += count
        self._fresh = b""
        if not count and (self._closed or self._late):
            raise self._closed_error()
        if stopped:
            self._left -= count
        self._drained = 0 < count < len(view)
        return count

    def try_send(self, pieces: Sequence[Buffer]) -> int:
        """Send as much of `pieces`, gathered, as goes without waiting: how many bytes, 0 where it would block.

        Where a signal handler raises something in the middle of it nobody knows how much went: it is as if cut.

        Raises:
            BrokenError: the connection was cut, or an earlier send was.
            ClosedError: this end was closed.
        """
        if self._broken is not None:
            raise self._poisoned()
        try:
            if len(pieces) == 1:
                count = self._sock.send(pieces[0], _NOW)
            else:
                count = self._sock.sendmsg(pieces[:_IOV_MAX], (), _NOW)
        except (BlockingIOError, InterruptedError):
            return 0
        except BaseException as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise self._translated(error) from error
            self.poison(INTERRUPTED)
            raise
        self.bytes_sent += count
        return count

    async def wait(self, interest: int, deadline: float | None = None) -> int:
        """Wait until a try for READ or WRITE is worth it: which of them.

        Raises:
            DeadlineExceeded: neither was until `deadline`.
        """
        if self._closed:
            raise self._closed_error()
        if self._stopped and interest & READ:
            return READ
        if interest == READ:
            await self.waiter.wait_one(self, READ, deadline)
            return READ
        # Apart, without locals here: a thousand idle connections wait in the line above, each with its own.
        return await self._wait_for_room(interest, deadline)

    async def _wait_for_room(self, interest: int, deadline: float | None) -> int:
        self._full = True
        try:
            if self._late:  # after the word that we wait, which cut_off() looks for in the other order
                raise self._closed_error()
            if interest == WRITE:
                await self.waiter.wait_one(self, WRITE, deadline)
                return WRITE
            return reduce(or_, [got for _, got in await self.waiter.wait([(self, interest)], deadline)], 0)
        finally:
            self._full = False

    # The verbs.

    async def receive(self, size: int, deadline: float | None = None) -> bytes:
        """Receive at least one byte, as many as are there up to `size`; b"" at a clean end.

        A receive that runs into its deadline or is cancelled has taken nothing.

        Raises:
            BrokenError: the connection was cut, not ended.
            ClosedError: this end was closed, before or meanwhile.
            DeadlineExceeded: nothing came until `deadline`.
        """
        if (
            self._kernel_waits
            and not self._stopped
            and ((deadline is None and not self.waiter.unsettled) or self._has_time(deadline))
        ):
            try:
                if not self._interruptible:
                    if got := self._sock.recv(size):
                        self.bytes_received += len(got)
                        return got
                else:
                    (self._fresh,) = map(self._sock.recv, (size,))
                    if got := self._fresh:
                        self.bytes_received += len(got)
                        self._fresh = b""
                        return got
            except (BlockingIOError, InterruptedError):
                pass  # nothing came in so short a time
            except OSError as error:
                raise self._translated(error) from error
        elif self._drained and not (self._stopped or self._closed):
            await self.waiter.wait_one(self._sock, READ, deadline)
        else:
            self._turn -= 1
            if self._turn <= 0:
                self._turn = _TURN
                await self.waiter.pause()
        # An end is asked for once more: it may be close() that woke us.
        while (data := self.try_receive(size)) is None:
            await self.wait(READ, deadline)
        return data

    async def receive_exactly(self, size: int, deadline: float | None = None) -> bytes:
        """So many bytes; fewer only where the other side ended before. Raises as `receive`: what had come is lost."""
        pieces: list[bytes] = []
        while size and (piece := await self.receive(size, deadline)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    async def receive_into(self, view: Buffer, deadline: float | None = None) -> int:
        """As `receive`, into `view`: how many bytes; 0 at a clean end."""
        if (
            self._kernel_waits
            and not self._stopped
            and ((deadline is None and not self.waiter.unsettled) or self._has_time(deadline))
        ):
            try:
                (filled,) = map(self._sock.recv_into, (view,))
                self.bytes_received += filled
                if filled:
                    return filled
            except (BlockingIOError, InterruptedError):
                pass  # nothing came in so short a time
            except OSError as error:
                raise self._translated(error) from error
        elif self._drained and not (self._stopped or self._closed):
            await self.waiter.wait_one(self._sock, READ, deadline)
        else:
            self._turn -= 1
            if self._turn <= 0:
                self._turn = _TURN
                await self.waiter.pause()
        while (count := self.try_receive_into(view)) is None:
            await self.wait(READ, deadline)
        if count > _SHARE:
            self._turn -= count // _SHARE
        return count

    def _has_time(self, deadline: float | None) -> bool:
        """About to block in the kernel: whether `deadline` allows it."""
        waiter = self.waiter
        if waiter.unsettled:
            waiter.settle()
        # A call that a signal interrupts begins anew (PEP 475), for as long as each time: signals that come more often
        # than that, which the main thread gets, would have it never end.
        return deadline is None or (
            threading.get_ident() != threading.main_thread().ident and deadline - waiter.now() > _BRIEFLY
        )

    async def send(self, pieces: Sequence[Buffer], deadline: float | None = None, sent: int = 0) -> None:
        """Send all of `pieces`, gathered; the kernel has every byte when this returns.

        Where `try_send` has sent some of it just now, `sent` says how many bytes.

        A send that was cut midway, by its deadline or a cancellation, leaves half a message on the wire: the
        connection is poisoned, and every later send raises BrokenError.

        Raises:
            BrokenError: the connection was cut.
            ClosedError: this end was closed, before or meanwhile.
            DeadlineExceeded: the other side did not take it all until `deadline`.
        """
        begun = sent > 0
        rest = advance(pieces, sent) if begun else pieces
        try:
            while True:
                count = self.try_send(rest)
                begun = begun or count > 0
                rest = advance(rest, count)
                if not rest:
                    break
                if not count:
                    await self.until_room(deadline)
        except BaseException:
            if begun:
                self.poison("an earlier send was cut in the middle of a message")
            raise

    async def until_room(self, deadline: float | None, interest: int = WRITE) -> int:
        """`wait` for room to send, until `deadline`, or until the other side was silent for as long as it may be."""
        if self.patience is None:
            return await self.wait(interest, deadline)
        now, pulse = self.waiter.now(), self._pulse()
        while True:
            silent = now + self.patience
            try:
                return await self.wait(interest, silent if deadline is None else min(silent, deadline))
            except DeadlineExceeded:
                if deadline is not None and (now := self.waiter.now()) >= deadline:
                    raise
            before, pulse, now = pulse, self._pulse(), self.waiter.now()
            if pulse == before:
                raise self.silent()

    async def until_taken(self, deadline: float) -> None:
        """Wait until the other side's kernel has what was sent, which `abort` would throw away; or for so long."""
        if self._sock.family == getattr(socket, "AF_UNIX", None):
            return  # it has: there is but one, which counts as sent what nobody has read
        with contextlib.suppress(OSError):
            while self._queued("TIOCOUTQ") and (now := self.waiter.now()) < deadline:
                self._sock.getpeername()  # fails where it was cut: what nobody takes any more is still counted
                with contextlib.suppress(DeadlineExceeded):
                    await self.waiter.wait([], min(now + _LOOK, deadline))

    def _pulse(self) -> tuple[int, ...]:
        """What does not stay the same, while a send waits, where the other side takes or says anything."""
        return self.heard, self._queued("FIONREAD"), self._queued("TIOCOUTQ")

    def _queued(self, which: str) -> int:
        """Bytes in the kernel that we have not received (FIONREAD), or that the other side has not taken (TIOCOUTQ)."""
        told = bytearray(4)
        if fcntl is not None:
            with contextlib.suppress(OSError, ValueError):  # closed; or a system that does not say
                fcntl.ioctl(self._sock.fileno(), getattr(termios, which), told)
        return int.from_bytes(told, sys.byteorder)

    def silent(self) -> BrokenError:
        """What to raise where the other side gives no signs of life."""
        return BrokenError(
            f"{self.peer} gave no sign of life for {self.patience:g} s",
            hint="It is gone, stopped, or sends no heartbeat: both sides must agree on one.",
        )

    def poison(self, told: str) -> None:
        """Something that was to be sent is lost: have every later send raise BrokenError, saying why."""
        self._broken = self._broken or told

    async def end(self, deadline: float | None = None) -> None:  # noqa: ARG002 (a TLS sibling must wait)
        """Half-close: the other side reads an end after all that was sent; it may still send.

        Raises:
            BrokenError: the connection was cut, or an earlier send was.
            ClosedError: this end was closed.
        """
        if self._closed:
            raise self._closed_error()
        if self._broken is not None:
            raise self._poisoned()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Close both directions, waking whoever waits here (ClosedError). Closing again does nothing.

        In the middle of a send, or after one that was cut, it is to `abort`: what went may end with a whole message.
        """
        if self._late or self._full or self._broken is not None:
            self.abort()
        if self._closed:
            return
        # In this order: poll() in another thread does not notice a bare close.
        self._closed = True
        with contextlib.suppress(OSError):  # cut already: there is nobody to tell
            if self._lives:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            self._sock.shutdown(socket.SHUT_RDWR)
        self.waiter.forget(self)
        self._sock.close()

    def hang_up(self) -> None:
        """End both directions, waking whoever waits here: it reads an end, and can send no more (BrokenError).

        For whoever is not the one who uses it. The descriptor stays until `close`: one that is closed beside somebody
        who is about to use it may be another thing's by then.
        """
        with contextlib.suppress(OSError):  # as in close()
            self._sock.shutdown(socket.SHUT_RDWR)

    def stop_receiving(self) -> None:
        """Read what has arrived by now, then an end: how a drain tells a handler, from another thread, to finish."""
        if self._stopped:
            return
        self._left = self._arrived_by_now()
        self._stopped = True
        if not self.waiter.wake(self):
            with contextlib.suppress(OSError):  # as in close()
                self._sock.shutdown(socket.SHUT_RD)

    def receive_no_more(self) -> None:
        """Read an end from here on, whoever waits for more included; what is to be sent may still go."""
        self._left = 0
        self._stopped = True
        if self.waiter.blocks:  # not by its bell, which is for all of a server's
            with contextlib.suppress(OSError):  # as in close()
                self._sock.shutdown(socket.SHUT_RD)
        else:
            self.waiter.wake(self)

    def cut_off(self, why: str) -> None:
        """From outside, where its time is over: whoever uses this gets ClosedError, and to close it is to `abort`.

        As with `hang_up` the descriptor stays until then.
        """
        if self._closed:
            return
        self._late = why
        self._left = 0
        self._stopped = True
        self.poison(why)
        self._wake_all()

    def _arrived_by_now(self) -> int:
        return sys.maxsize if fcntl is None else self._queued("FIONREAD")  # unsaid: all that comes before it is quiet

    def _wake_all(self) -> None:
        """Wake whoever waits here, in another thread too, and do not tell the other side that it were an end."""
        self.waiter.forget(self)
        with contextlib.suppress(OSError):  # as in close()
            # Who waits to send hears of nothing less; and what waits to be sent stands before the end.
            self._sock.shutdown(socket.SHUT_RDWR if self._full else socket.SHUT_RD)

    def abandon(self) -> None:
        """Close this process' copy only: another, to which it was handed over, goes on with the connection."""
        self._closed = True
        self.waiter.forget(self)
        self._sock.close()

    async def drop(self, quiet: float, deadline: float) -> None:
        """Receive and drop, until the other side ends, was silent for `quiet` seconds, or `deadline`.

        To close over unread bytes resets the connection, and a reset may overtake what was sent before.

        Raises:
            BrokenError, ClosedError: as `receive`.
        """
        if self._late:
            raise self._closed_error()
        self._stopped = False
        with contextlib.suppress(DeadlineExceeded):
            while (data := self.try_receive(65536)) != b"":
                now = self.waiter.now()
                if now >= deadline:
                    return
                if data is not None:
                    await self.waiter.pause()  # there may be more, without an end
                else:
                    # Not by wait_one, which a bell for all that receive may end at once.
                    await self.waiter.wait([(self, READ)], min(deadline, now + quiet))

    def abort(self) -> None:
        """Close so that the other side learns at once that this is no orderly end (RST where there is one).

        Whoever waits here is woken, as by `close`.
        """
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):  # as in close()
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        if self.waiter.blocks:  # another thread that waits here keeps it open until it is woken
            self._wake_all()
        else:
            self.waiter.forget(self)
        self._sock.close()

    def ends_only_by_close(self) -> None:
        """From here on the death of the process that has this is no orderly end: the kernel cuts the connection."""
        self._lives = True
        with contextlib.suppress(OSError):  # as in close()
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)

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
        if getattr(self, "_closed", True):
            return
        if self._process is not Process.this:
            # To shut down is to shut down the other's too, and so it is to watch a loop's descriptor no more.
            self._closed = True
            self._sock.close()
            return
        _warn(f"unclosed {self!r}", ResourceWarning, source=self)
        self.close()

    def _closed_error(self) -> ClosedError:
        why = f": {self._late}" if self._late else ""
        return ClosedError(f"the connection to {self.peer} is closed at this end{why}")

    def _poisoned(self) -> EnchufeError:
        return self._closed_error() if self._late or self._broken is None else BrokenError(self._broken)

    def _translated(self, error: OSError) -> EnchufeError:
        if error.errno is None:  # not the system's: a signal handler raised it meanwhile
            raise error
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
