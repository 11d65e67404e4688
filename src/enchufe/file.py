"""A connection as a file: the HOWTO's other way to use a socket, with read, write, and the flush that people forget.

What is written is buffered, and goes out when the buffer is full, on `flush`, when the file is closed, and always
before a read that has to wait for the other side: it may be waiting for just that.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.errors import EnchufeError, LocalProtocolError
from enchufe.transports import Transport
from enchufe.transports.stream import LOST
from enchufe.waiting import READ, WRITE, Ticket, Turnstile, drive

T = TypeVar("T")

_HELD: Final = 65536  # bytes written that are held back at the most
_CHUNK: Final = 65536  # bytes asked for at once


class ConnectionFile:
    """Bytes both ways, without messages. Take it from `Connection.file()`; closing it closes the connection.

    One task or thread may read while others write: what each call writes stays together.

    Args:
        transport: the bytes; this owns it from here on.
        buffer: what has arrived already.
        timeout: seconds that any one call may take; None: no limit.
        written: what is to be sent first.
        at_end: the end has arrived behind what is in the buffer.
        deadline: when the connection ends at the latest, on the waiter's clock; None: never.
        sending: whoever is in there may still be waiting for room to send.
    """

    def __init__(
        self,
        transport: Transport,
        buffer: ReceiveBuffer,
        timeout: float | None,
        *,
        written: bytes = b"",
        at_end: bool = False,
        deadline: float | None = None,
        sending: Turnstile | None = None,
    ) -> None:
        self.transport = transport
        self.timeout = timeout
        self.deadline = deadline
        self._buffer = buffer
        self._held = bytearray(written)
        self._changing = threading.RLock()  # who reads may be about to send it; re-entrant for a signal handler
        self._sending = sending or Turnstile()
        self.at_end = at_end

    def __repr__(self) -> str:
        return f"<ConnectionFile over {self.transport!r}>"

    async def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer only at the end; all up to the end by default.

        Raises:
            BrokenError, ClosedError, DeadlineExceeded: as `Transport.receive`; what came stays for the next read.
        """
        while (size < 0 or len(self._buffer) < size) and await self._more():
            pass
        return self._buffer.take(len(self._buffer) if size < 0 else min(size, len(self._buffer)))

    async def readinto(self, view: memoryview) -> int:
        """As `read`, into `view`, which is of single bytes: how many came."""
        while len(self._buffer) < len(view) and await self._more():
            pass
        count = min(len(view), len(self._buffer))
        view[:count] = self._buffer.view(0, count)
        self._buffer.skip(count)
        return count

    async def read_some(self, size: int) -> bytes:
        """What is there, at least one byte and `size` (0 gives none) at the most; b"" at the end. Raises as `read`."""
        if size and not len(self._buffer):
            await self._more()
        return self._buffer.take(min(size, len(self._buffer)))

    async def readline(self, limit: int = -1) -> bytes:
        """A line with its line feed; without one at the end, or where `limit` bytes held none. Raises as `read`."""
        searched = 0
        while True:
            found = self._buffer.find(b"\n", searched)
            searched = len(self._buffer)
            if found >= 0 or 0 <= limit <= searched or not await self._more():
                stop = found + 1 if found >= 0 else searched
                return self._buffer.take(stop if limit < 0 else min(stop, limit))

    async def write(self, data: Buffer) -> int:
        """Buffer `data`, sending where there is too much of it: its size.

        Raises:
            BrokenError, ClosedError, DeadlineExceeded: as `Transport.send`.
        """
        view = memoryview(data).cast("B")
        with self._changing:
            if fits := len(self._held) + len(view) < _HELD:
                self._held += view
        if not fits:
            await self._send(view)
        return len(view)

    async def flush(self) -> None:
        """Send what is buffered. Raises as `write`."""
        if self._held or self._sending.taken:  # whoever reads may be sending what we wrote
            await self._send()

    async def end(self) -> None:
        """Flush, and half-close: "I am done writing, still reading". Raises as `write`."""
        await self.flush()
        await self.transport.end(self._deadline())

    async def close(self) -> None:
        """Flush and close both directions. Raises as `write`; it is closed then, too."""
        try:
            await self.flush()
        finally:
            self.leave()

    def begin_with(self, rest: bytes) -> None:
        """What was to leave the connection comes before all that is written."""
        self._held[:0] = rest

    def leave(self) -> None:
        """Close without waiting. Where written bytes are lost by it, the other side learns that this is no end."""
        if self._held or self._sending.taken:
            self.transport.abort()
        self.transport.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            self.leave()

    async def _send(self, *more: Buffer) -> None:
        """Send what is held, and `more` behind it, behind what others are sending."""
        deadline = self._deadline()
        ticket: Ticket = []
        try:
            await self._sending.enter(ticket, self.transport.waiter, deadline)
            await self._send_now(more, deadline)
            self._sending.leave(ticket)
        except BaseException:  # in there too
            self._sending.leave(ticket)
            raise
        if more:  # there may be no end to it
            await self.transport.waiter.pause()

    async def _send_now(self, more: Sequence[Buffer], deadline: float | None) -> None:
        """As `_send`, for who has entered."""
        held = bytearray()
        try:
            with self._changing:
                held, self._held = self._held, held
            if held or more:
                await self.transport.send([held, *more], deadline)
        except BaseException:
            # Nothing of it went, so it can go later; or some did, and the transport sends no more.
            with self._changing:
                self._held = held + self._held
            raise

    async def _send_until_heard(self) -> None:
        """Send what is held, or as much as goes until something comes, where nobody sends already."""
        transport, deadline = self.transport, self._deadline()
        ticket: Ticket = []
        try:
            while self._sending.try_enter(ticket) is ticket:
                with self._changing:
                    del self._held[: transport.try_send([self._held])]
                    left = len(self._held)
                # The other side may take no more before we have read what it says.
                if not left or await transport.until_room(deadline, READ | WRITE) & READ:
                    break
            self._sending.leave(ticket)
        except BaseException:
            self._sending.leave(ticket)
            raise

    async def _more(self) -> bool:
        """Have more bytes in hand: False at the end."""
        if not self.at_end:
            transport, view = self.transport, self._buffer.space(_CHUNK)
            noted = transport.bytes_received
            try:
                count = transport.try_receive_into(view)
                if count is None:
                    # Not behind another who sends: the other side may take it only when we have read.
                    if self._held:
                        await self._send_until_heard()
                    count = await transport.receive_into(view, self._deadline())
                self._buffer.received(count)
            except EnchufeError:
                raise
            except BaseException:  # a signal handler's, or it is cancelled
                if transport.has_taken(noted):
                    transport.cut_off(LOST)
                raise
            self.at_end = not count
        return not self.at_end

    def _deadline(self) -> float | None:
        if self.timeout is None:
            return self.deadline
        soon = self.transport.waiter.now() + self.timeout
        return soon if self.deadline is None else min(soon, self.deadline)


class BlockingFile(io.BufferedIOBase):
    """The same for code that does not await: what `csv`, `pickle`, `io.TextIOWrapper` and `shutil` take for a file."""

    def __init__(self, file: ConnectionFile) -> None:
        self._file = file

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._file)[1:]}"

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """The connection's descriptor. Who reads or writes it past this file mixes up the order of the bytes."""
        return self._file.transport.fileno()

    def read(self, size: int | None = -1, /) -> bytes:
        """As `ConnectionFile.read`."""
        return self._do(self._file.read(-1 if size is None else size))

    def read1(self, size: int = -1, /) -> bytes:
        """As `ConnectionFile.read_some`."""
        return self._do(self._file.read_some(_CHUNK if size < 0 else size))

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer`; less only at the end: how many bytes."""
        return self._do(self._file.readinto(memoryview(buffer).cast("B")))

    def readline(self, size: int | None = -1, /) -> bytes:
        """As `ConnectionFile.readline`."""
        return self._do(self._file.readline(-1 if size is None else size))

    def write(self, data: Any, /) -> int:
        """As `ConnectionFile.write`."""
        return self._do(self._file.write(data))

    def flush(self) -> None:
        """As `ConnectionFile.flush`."""
        if not self.closed:
            self._do(self._file.flush())

    def end(self) -> None:
        """As `ConnectionFile.end`."""
        self._do(self._file.end())

    def close(self) -> None:
        """As `ConnectionFile.close`; closing again does nothing."""
        if not self.closed:
            try:
                super().close()  # flushes
            finally:
                self._file.leave()

    def __del__(self) -> None:
        # As io's own, which prints what went wrong since Python 3.13. That not all was sent the other side knows.
        with contextlib.suppress(EnchufeError):
            self.close()

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self.closed:
            coroutine.close()
            raise LocalProtocolError("the file is closed")
        return drive(coroutine)
