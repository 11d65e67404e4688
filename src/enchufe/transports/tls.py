"""tls: TLS 1.3 over the socket of a tcp or unix connection.

OpenSSL never sees the socket. An `SSLObject` works between two queues of ciphertext, and what is written here moves
their ends: so a half-close works both ways, and whoever waits is told the truth, though decrypted bytes may be at hand
while the descriptor is silent. One lock guards every use of OpenSSL, another the way into the kernel; neither is ever
held while waiting, so one thread may receive while another sends.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from enchufe.buffer import Buffer
from enchufe.errors import (
    BrokenError,
    ClosedError,
    DeadlineExceeded,
    EnchufeError,
    LocalProtocolError,
    RemoteProtocolError,
)
from enchufe.transports import tcp, unix
from enchufe.transports.addresses import Address, TcpAddress, UnixAddress
from enchufe.transports.certificates import client_context, explained, server_context
from enchufe.transports.stream import _NOW, _TURN, Transport, advance
from enchufe.waiting import READ, WRITE, Waiter

__all__ = ["NAME", "TlsTransport", "client_context", "connect", "over", "server_context", "server_side"]

NAME: Final = "tls"

_PLAIN: Final = 16384  # bytes of plaintext in one record at the most: RFC 8446 section 5.1
_RECORD: Final = _PLAIN + 22  # bytes, encrypted: header, content type and tag, RFC 8446 section 5.2
# Tuning. Records sent or received in one call at the most, and records that OpenSSL's queues take at a time: the
# queues never shrink, so that is what an idle connection keeps.
_STEP: Final = 16
_SLICE: Final = 4

# What a TLS connection can begin with: an alert or a handshake record, RFC 8446 section 5.1.
_FIRST_BYTES: Final = (0x15, 0x16)

# How full the kernel's queue is (Linux 4.12): nine counts, of which 2, 3 and 5 are wmem_alloc, sndbuf and wmem_queued.
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("@9I")
# Bytes of kernel memory that a call of send() costs beside twice its data, which is what tiny packets take.
_CALL: Final = 2048
_LEAST: Final = 256  # bytes that fit wherever anything does

# Memory to receive into, for whoever just does; an idle connection has none.
_SCRATCH: Final[list[memoryview]] = []


async def connect(
    address: Address,
    waiter: Waiter,
    deadline: float | None = None,
    *,
    context: ssl.SSLContext,
    server_hostname: str | None = None,
) -> TlsTransport:
    """Dial, then shake hands.

    Args:
        address, waiter, deadline: as for `tcp.connect`; `deadline` holds for both.
        context: see `client_context`.
        server_hostname: whose certificate it must be; by default the host that is dialed. A Unix socket has none.

    Raises:
        LocalProtocolError: nobody can tell whose certificate it must be.
        BrokenError, DeadlineExceeded: as `tcp.connect`, `unix.connect` and `TlsTransport.handshake`.
        RemoteProtocolError, Refused: as `TlsTransport.handshake`.
    """
    if not isinstance(address, TcpAddress):
        if context.check_hostname and not server_hostname:
            raise LocalProtocolError(f"{address} has no host name to check", hint="Say whose certificate it must be.")
        plain = await unix.connect(UnixAddress(address.path), waiter, deadline)
    else:
        plain = await tcp.connect(address, waiter, deadline)
        server_hostname = server_hostname or address.host or "localhost"
    transport = over(plain, context, server_side=False, server_hostname=server_hostname)
    try:
        await transport.handshake(deadline)
    except BaseException:
        transport.close()
        raise
    return transport


def over(
    plain: Transport, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
) -> TlsTransport:
    """TLS over a connection on which nothing was said yet; it takes the socket, and `plain` is used up.

    Raises:
        LocalProtocolError: as TlsTransport.
    """
    plain._closed = True
    return TlsTransport(
        plain._sock,
        plain.waiter,
        context,
        server_side=server_side,
        server_hostname=server_hostname,
        local=plain.local,
        peer=plain.peer,
    )


def server_side(
    transport: Callable[[socket.socket, Waiter], Transport], context: ssl.SSLContext
) -> Callable[[socket.socket, Waiter], TlsTransport]:
    """`transport`, which is that of tcp or unix, for a listener whose connections speak TLS.

    Raises:
        LocalProtocolError: the context is a client's.
    """
    if context.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise LocalProtocolError("this TLS context is a client's", hint="Make one by server_context().")

    def wrapped(sock: socket.socket, waiter: Waiter) -> TlsTransport:
        return over(transport(sock, waiter), context, server_side=True)

    return wrapped


class TlsTransport(Transport):
    """A Transport whose bytes nobody between can read or change. `handshake` comes first.

    What a Transport promises holds here too, and more: a cut is BrokenError wherever it falls, since an orderly end is
    said inside TLS (`close_notify`). What is counted as sent has left for the kernel, encrypted.

    Args:
        sock: a connected stream socket; this owns it from here on.
        waiter: how whoever uses this waits.
        context: see `client_context` and `server_context`.
        server_side: whether this end shows its certificate.
        server_hostname: whose certificate the other side must show.
        local, peer: the addresses, as people write them.

    Raises:
        LocalProtocolError: the context does not fit the side, or lacks the name that it must check.
    """

    __slots__ = (
        "_ahead",
        "_at_hand",
        "_credit",
        "_ended",
        "_failure",
        "_incoming",
        "_lock",
        "_midway",
        "_outgoing",
        "_over",
        "_owed",
        "_rest",
        "_sending",
        "_shaken",
        "_ssl",
    )

    def __init__(
        self,
        sock: socket.socket,
        waiter: Waiter,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        local: str,
        peer: str,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        except (ValueError, ssl.SSLError) as error:
            sock.close()
            raise LocalProtocolError(
                f"TLS cannot begin: {error}", hint="Check the context's side and the name of the server."
            ) from error
        super().__init__(sock, waiter, name=NAME, local=local, peer=peer)
        # Around every use of OpenSSL and its queues; re-entrant, for a signal handler that closes.
        self._lock = threading.RLock()
        # Around the way into the kernel: what is encrypted first must go first. Taken before the other one.
        self._sending = threading.RLock()
        self._shaken = False
        # Receiving. Decrypted before it was asked for; whether a try may find something without asking the
        # kernel; the other side has ended; what went wrong for good.
        self._ahead = bytearray()
        self._at_hand = False
        self._over = False
        self._failure: EnchufeError | None = None
        # Sending. Encrypted and not in the kernel; bytes that are counted when it is; bytes of kernel memory that are
        # free at least; in the middle of a send; end() was called.
        self._rest: list[Buffer] = []
        self._owed = 0
        self._credit = 0
        self._midway = False
        self._ended = False

    async def handshake(self, deadline: float | None = None) -> None:
        """Agree on keys, and learn who the other side is.

        Raises:
            RemoteProtocolError: the other side is not who it should be, speaks no TLS, or none that is new enough.
            Refused: it does not want us.
            BrokenError: it was cut, or closed in the middle.
            DeadlineExceeded: it was not finished at `deadline`.
        """
        heard = False
        try:
            while not self._shake():
                await self._send_rest(deadline)
                data = await self._hear(deadline)
                if not data:
                    raise BrokenError(
                        f"{self.peer} closed the connection in the middle of the TLS handshake",
                        hint="It may not speak TLS there; if it does, its log says why.",
                    )
                if not heard and data[0] not in _FIRST_BYTES:
                    raise RemoteProtocolError(
                        f"{self.peer} speaks plain text, not TLS", hint="Use TLS on both sides, or on neither."
                    )
                heard = True
                with self._lock:
                    self._incoming.write(data)
            await self._send_rest(deadline)
        except DeadlineExceeded:
            raise DeadlineExceeded(f"{self.peer} did not finish the TLS handshake in the time allowed") from None
        # The other side's first message may have come along with the last of its handshake.
        self._at_hand = self._incoming.pending > 0
        self._shaken = True

    def _shake(self) -> bool:
        """One step of the handshake: whether it was the last."""
        with self._sending, self._lock:
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                return False
            except ssl.SSLError as error:
                with contextlib.suppress(EnchufeError):  # the other side may be gone already
                    self._flush()
                raise self._told(error) from error
        return True

    async def _hear(self, deadline: float | None) -> bytes:
        """Receive some of the handshake; b"" at the end."""
        while True:
            try:
                data = self._sock.recv(_RECORD, _NOW)
            except (BlockingIOError, InterruptedError):
                data = None
            except OSError as error:
                raise self._translated(error) from error
            if not data and self._stopped:
                raise ClosedError(f"this end stopped before {self.peer} finished the TLS handshake")
            if data is not None:
                self._check_open()
                return data
            await self.wait(READ, deadline)

    # Without waiting.

    def try_receive(self, size: int) -> bytes | None:
        """As `Transport.try_receive`."""
        view = memoryview(bytearray(size))
        count = self.try_receive_into(view)
        return None if count is None else bytes(view[:count])

    def try_receive_into(self, view: Buffer) -> int | None:
        """As `Transport.try_receive_into`; fills `view` from as many records as have arrived."""
        self._check_open()
        if not self._shaken:
            raise _too_early()
        size, room = len(view), memoryview(view)
        filled = self._decrypt(room)
        while filled < size and not (self._over or self._failure or (filled and self._drained)):
            count = self._fetch(room[filled:])
            if count is None:
                break
            filled += count
        self.bytes_received += filled
        if self._failure is not None and not filled:
            raise self._failure
        return filled if filled or self._over or self._stopped else None

    def _decrypt(self, view: memoryview) -> int:
        """Decrypt what has arrived into `view`: how many bytes. An end or a failure is left for whoever asks next."""
        # typeshed does not know that a read into a buffer tells how much.
        read: Callable[[int, memoryview], int] = self._ssl.read  # type: ignore[assignment]
        size, filled = len(view), 0
        with self._lock:
            if self._ahead:
                filled = min(size, len(self._ahead))
                view[:filled] = self._ahead[:filled]
                del self._ahead[:filled]
            try:
                while filled < size and (self._incoming.pending or self._ssl.pending()):
                    if not (count := read(size - filled, view[filled:])):
                        self._over = True
                        break
                    filled += count
            except ssl.SSLWantReadError:
                pass  # the rest of a record is still to come
            except ssl.SSLZeroReturnError:
                self._over = True
            except ssl.SSLError as error:
                self._fail(self._told(error), error)
            self._at_hand = filled == size or self._over or self._failure is not None
        return filled

    def _fetch(self, view: memoryview) -> int | None:
        """Receive ciphertext and decrypt it into `view`: how many bytes; None where nothing came."""
        # Lent for the moment of the call: there are only as many as there are threads that receive at once.
        scratch = _SCRATCH.pop() if _SCRATCH else memoryview(bytearray(_STEP * _RECORD))
        asked = _asked(len(view))
        try:
            count = self._sock.recv_into(scratch, asked, _NOW)
            self._arrived(scratch[: min(count, _SLICE * _RECORD)], asked, count)
            filled = self._decrypt(view)
            for start in range(_SLICE * _RECORD, count, _SLICE * _RECORD):
                with self._lock:
                    self._incoming.write(scratch[start : min(start + _SLICE * _RECORD, count)])
                filled += self._decrypt(view[filled:])
            return filled
        except (BlockingIOError, InterruptedError):
            self._drained = False
            return None
        except OSError as error:
            self._fail(self._translated(error), error)
            return 0
        finally:
            _SCRATCH.append(scratch)

    def _arrived(self, data: Buffer, asked: int, count: int) -> None:
        """Of the `asked` bytes of ciphertext `count` came, first `data`; none: the socket's end, whatever TLS says."""
        self._drained = 0 < count < asked
        if count:
            with self._lock:
                self._incoming.write(data)
        elif self._closed:
            raise self._closed_error()
        elif self._stopped:
            self._over = self._at_hand = True
        else:
            self._fail(BrokenError(f"the other side went without a word, or was cut off ({self.peer})"))

    def _fail(self, failure: EnchufeError, cause: Exception | None = None) -> None:
        """There is nothing more to receive, and why."""
        failure.__cause__ = cause
        self._failure, self._at_hand = failure, True

    def try_send(self, pieces: Sequence[Buffer]) -> int:
        """As `Transport.try_send`: what is counted is in the kernel, encrypted.

        On Linux no more is encrypted than the kernel is known to have room for. Where it took less all the same, the
        last byte is counted later, when everything before has left: the same bytes must be tried again until then.
        """
        if self._broken is not None:
            raise BrokenError(self._broken)
        self._check_open()
        if not self._shaken:
            raise _too_early()
        size = sum(map(len, pieces))
        if self._ended and size:
            raise BrokenError(f"this end has said that it sends no more ({self.peer})")
        with self._sending:
            if not self._flush() or not size:
                return 0
            count, self._owed = self._owed, 0
            if not count and (count := self._allowed(min(size, _STEP * _PLAIN))):
                self._encrypt(pieces, count)
                if not self._flush():
                    self._owed = 1
                    count -= 1
        self.bytes_sent += count
        return count

    def _allowed(self, size: int) -> int:
        """How many of `size` bytes surely fit into the kernel, once encrypted; 0 where it is worth waiting."""
        if self._credit < 2 * size + _CALL:
            self._credit = self._free()
            if not self._credit:
                return 0
            size = min(size, max((self._credit - _CALL) // 2, _LEAST))
        self._credit -= 2 * size + _CALL
        return size

    def _free(self) -> int:
        """Bytes of memory that the kernel has for what we send; 0 where it is about to say so itself."""
        try:
            told = _MEMINFO.unpack(self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
        except (OSError, struct.error):  # not Linux, or an old one
            return 2 * _STEP * _RECORD + _CALL
        limit = told[3]
        free = limit - max(told[2], told[5])
        # poll() says WRITE from a third on (tcp) or from three quarters (unix), so whoever is sent to wait there waits.
        return free if 4 * free >= limit else 0

    def _encrypt(self, pieces: Sequence[Buffer], count: int) -> None:
        """Encrypt the first `count` bytes of `pieces` into the queue of what goes out."""
        with self._lock:
            try:
                for data in records(pieces, count):
                    for start in range(0, len(data), _SLICE * _PLAIN):
                        self._ssl.write(memoryview(data)[start : start + _SLICE * _PLAIN])
                        self._rest.append(self._outgoing.read())
            except ssl.SSLError as error:
                self.poison("TLS has failed")
                raise self._told(error) from error

    def _flush(self) -> bool:
        """Give the kernel what is encrypted: whether it took all. The caller holds `_sending`."""
        while True:
            with self._lock:
                if self._outgoing.pending:  # of the handshake, an alert, the end
                    self._rest.append(self._outgoing.read())
            if not self._rest:
                return True
            try:
                sent = self._sock.sendmsg(self._rest, (), _NOW)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise self._translated(error) from error
            self._rest = advance(self._rest, sent)

    # The verbs.

    async def wait(self, interest: int, deadline: float | None = None) -> int:
        """As `Transport.wait`; what is decrypted or failed already is READ at once."""
        if interest & READ and self._at_hand and not self._closed:
            return READ
        return await super().wait(interest, deadline)

    async def receive(self, size: int, deadline: float | None = None) -> bytes:
        """As `Transport.receive`."""
        await self._begin(size, deadline)
        while (data := self.try_receive(size)) is None:
            await self._arrival(size, deadline)
        return data

    async def receive_into(self, view: Buffer, deadline: float | None = None) -> int:
        """As `Transport.receive_into`."""
        await self._begin(len(view), deadline)
        while (count := self.try_receive_into(view)) is None:
            await self._arrival(len(view), deadline)
        return count

    async def _begin(self, size: int, deadline: float | None) -> None:
        """Spare a receive the look into a socket that is most likely empty; else give the others their turn."""
        if self._shaken and not self._at_hand and (self._drained or self._kernel_waits):
            await self._arrival(size, deadline)
            return
        self._turn -= 1
        if not self._turn:
            self._turn = _TURN
            await self.waiter.pause()

    async def _arrival(self, size: int, deadline: float | None) -> None:
        """Wait for ciphertext; where the thread may block in the kernel, take it along."""
        if self._kernel_waits and not self._stopped and self._has_time(deadline):
            asked = min(_asked(size), _SLICE * _RECORD)
            try:
                data = self._sock.recv(asked)
            except (BlockingIOError, InterruptedError):
                pass  # nothing came in so short a time
            except OSError as error:
                raise self._translated(error) from error
            else:
                self._arrived(data, asked, len(data))
                return
        await self.wait(READ, deadline)

    async def send(self, pieces: Sequence[Buffer], deadline: float | None = None, sent: int = 0) -> None:
        """As `Transport.send`; the kernel has all of it, encrypted, when this returns."""
        self._midway = True
        try:
            await super().send(pieces, deadline, sent)
        except BaseException:
            if self._owed:
                self.poison("an earlier send was cut in the middle of a message")
            raise
        finally:
            self._midway = False

    async def end(self, deadline: float | None = None) -> None:
        """As `Transport.end`, said inside TLS; the socket stays open both ways.

        Raises:
            BrokenError: the connection was cut, or an earlier send was.
            ClosedError: this end was closed.
            DeadlineExceeded: what was sent before did not get away until `deadline`.
        """
        self._check_open()
        if self._broken is not None:
            raise BrokenError(self._broken)
        if not self._shaken:
            raise _too_early()
        self._say_end()
        await self._send_rest(deadline)

    def _say_end(self) -> None:
        with self._sending, self._lock:
            if self._ended:
                return
            self._ended = True
            # unwrap() also looks for the other side's end, and drops what stands before it: bring that to safety.
            scratch, ahead = memoryview(bytearray(_PLAIN)), bytearray()
            while count := self._decrypt(scratch):
                ahead += scratch[:count]
            self._ahead = ahead
            self._at_hand = self._at_hand or len(ahead) > 0
            try:
                self._ssl.unwrap()
            except ssl.SSLWantReadError:
                pass  # the other side has not ended yet
            except ssl.SSLError as error:
                raise self._told(error) from error

    async def _send_rest(self, deadline: float | None) -> None:
        while True:
            with self._sending:
                if self._flush():
                    return
            await self.wait(WRITE, deadline)

    def close(self) -> None:
        """As `Transport.close`; the other side is told that this is an end, where it is one."""
        whole = self._broken is None and not self._midway and not self._owed
        if self._shaken and whole and not self._closed:
            # Cut already: there is nobody to tell. Failed: what is left to say is the alert.
            with contextlib.suppress(EnchufeError):
                self._say_end()
            with contextlib.suppress(EnchufeError), self._sending:
                self._flush()
        super().close()

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _told(self, error: ssl.SSLError) -> EnchufeError:
        return explained(error, self.peer, self._ssl.server_hostname)


def records(pieces: Sequence[Buffer], count: int) -> Iterator[Buffer]:
    """The first `count` bytes of `pieces`, cut for encryption: small ones share a record, large ones are not copied."""
    small: list[Buffer] = []
    held = 0
    for piece in pieces:
        part = piece if len(piece) <= count else memoryview(piece)[:count]
        count -= len(part)
        if held + len(part) >= _PLAIN:
            if small:
                cut = _PLAIN - held
                yield b"".join([*small, memoryview(part)[:cut]])
                part = memoryview(part)[cut:]
                small, held = [], 0
            if len(part) >= _PLAIN:
                yield part
                part = b""
        if part:
            small.append(part)
            held += len(part)
        if not count:
            break
    if small:
        yield small[0] if len(small) == 1 else b"".join(small)


def _asked(size: int) -> int:
    """Bytes of ciphertext to receive for `size` of plaintext: in whole records."""
    return min(-(-size // _PLAIN), _STEP) * _RECORD


def _too_early() -> LocalProtocolError:
    return LocalProtocolError("TLS has agreed on no keys yet", hint="Await handshake() first.")
