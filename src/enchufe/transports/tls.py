"""tls: TLS 1.3 over the socket of a tcp or unix connection.

OpenSSL never sees the socket. `tls_machine.py` encrypts and decrypts in memory, and what is written here moves the
ciphertext: so a half-close works both ways, and whoever waits is told the truth, though decrypted bytes may be at hand
while the descriptor is silent. One lock guards the machine, another the way into the kernel; neither is ever held while
waiting, so one thread may receive while another sends.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
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
from enchufe.transports.certificates import client_context, server_context
from enchufe.transports.stream import _NOW, _SHARE, _TURN, INTERRUPTED, SOME, Transport, advance
from enchufe.transports.tls_machine import PLAIN, RECORD, SLICE, TlsMachine
from enchufe.waiting import READ, Waiter

__all__ = ["NAME", "TlsTransport", "client_context", "connect", "over", "server_context", "server_side"]

NAME: Final = "tls"

_STEP: Final = 16  # records sent or received in one call at the most; tuning

# What a TLS connection can begin with: an alert or a handshake record, RFC 8446 section 5.1.
_FIRST_BYTES: Final = (0x15, 0x16)
# The fatal alert unexpected_message, RFC 8446 section 6: who speaks plain text can tell that this is TLS.
_UNEXPECTED: Final = b"\x15\x03\x03\0\2\2\x0a"

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
            raise LocalProtocolError(
                f"{address} has no host name to check", hint="Say whose certificate it must be (--server-name)."
            )
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

    encrypts = True

    __slots__ = ("_credit", "_heard", "_machine", "_midway", "_owed", "_rest", "_sending", "_shaken")

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
        try:
            self._machine = TlsMachine(context, server_side=server_side, server_hostname=server_hostname, peer=peer)
        except LocalProtocolError:
            sock.close()
            raise
        # All this first: what is interrupted behind it is to be closed.
        # Around the way into the kernel: what is encrypted first must go first. Taken before the machine's lock;
        # re-entrant as that is.
        self._sending = threading.RLock()
        self._shaken = False
        self._heard = 0  # bytes of ciphertext
        # Sending. Encrypted and not in the kernel; bytes that are counted when it is; bytes of kernel memory that are
        # free at least; in the middle of a send.
        self._rest: list[Buffer] = []
        self._owed = 0
        self._credit = 0
        self._midway = False
        super().__init__(sock, waiter, name=NAME, local=local, peer=peer)

    @property
    def heard(self) -> int:
        """As `Transport.heard`: the rest of a record may be long in coming."""
        return self._heard

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
                    with contextlib.suppress(OSError):  # it may be gone already
                        self._sock.send(_UNEXPECTED, _NOW)
                    raise RemoteProtocolError(
                        f"{self.peer} speaks plain text, not TLS",
                        hint="Use TLS on both sides, or on neither; for files, --plain on both or on neither.",
                    )
                heard = True
                self._machine.put(data)
            await self._send_rest(deadline)
        except DeadlineExceeded:
            raise DeadlineExceeded(f"{self.peer} did not finish the TLS handshake in the time allowed") from None
        self._shaken = True

    def peer_certificate(self) -> bytes | None:
        """The certificate that the other side showed, in DER; None: it showed none, as dialers do.

        Raises:
            LocalProtocolError: before the handshake.
        """
        if not self._shaken:
            raise _too_early()
        return self._machine.certificate()

    def alpn(self) -> str | None:
        """The protocol that both sides agreed on (ALPN); None: none.

        Raises:
            LocalProtocolError: before the handshake.
        """
        if not self._shaken:
            raise _too_early()
        return self._machine.alpn()

    def _shake(self) -> bool:
        """One step of the handshake: whether it was the last."""
        with self._sending:
            try:
                return self._machine.shake()
            except EnchufeError:
                with contextlib.suppress(EnchufeError):  # the other side may be gone already
                    self._flush()
                raise

    async def _hear(self, deadline: float | None) -> bytes:
        """Receive some of the handshake; b"" at the end."""
        while True:
            try:
                data = self._sock.recv(RECORD, _NOW)
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
        size, room, machine = len(view), memoryview(view), self._machine
        self._fresh = SOME
        try:
            filled = machine.decrypt(room)
            while filled < size and not (machine.over or machine.failure or (filled and self._drained)):
                count = self._fetch(room[filled:])
                if count is None:
                    break
                filled += count
            self.bytes_received += filled
        except EnchufeError:
            self._fresh = b""
            raise
        self._fresh = b""
        if machine.failure is not None and not filled:
            raise machine.failure
        return filled if filled or machine.over or self._stopped else None

    def _fetch(self, view: memoryview) -> int | None:
        """Receive ciphertext and decrypt it into `view`: how many bytes; None where nothing came."""
        # Lent for the moment of the call: there are only as many as there are threads that receive at once.
        if self._stopped and not self._left:
            return None  # and no end: who drops what still comes goes on
        scratch = _SCRATCH.pop() if _SCRATCH else memoryview(bytearray(_STEP * RECORD))
        asked = _asked(len(view))
        if stopped := self._stopped:
            asked = min(asked, self._left)
        try:
            count = self._sock.recv_into(scratch[:asked], 0, _NOW)
            if stopped:
                self._left -= count
            self._arrived(scratch[: min(count, SLICE * RECORD)], asked, count)
            filled = self._machine.decrypt(view)
            for start in range(SLICE * RECORD, count, SLICE * RECORD):
                self._machine.put(scratch[start : min(start + SLICE * RECORD, count)])
                filled += self._machine.decrypt(view[filled:])
            return filled
        except (BlockingIOError, InterruptedError):
            self._drained = False
            return None
        except OSError as error:
            self._machine.fail(self._translated(error), error)
            return 0
        finally:
            _SCRATCH.append(scratch)

    def _arrived(self, data: Buffer, asked: int, count: int) -> None:
        """Of the `asked` bytes of ciphertext `count` came, first `data`; none: the socket's end, whatever TLS says."""
        self._drained = 0 < count < asked
        if count:
            self._heard += count
            self._machine.put(data)
        elif self._closed:
            raise self._closed_error()
        elif self._stopped:
            self._machine.finish()
        else:
            self._machine.fail(BrokenError(f"the other side went without a word, or was cut off ({self.peer})"))

    def try_send(self, pieces: Sequence[Buffer]) -> int:
        """As `Transport.try_send`: what is counted is in the kernel, encrypted.

        On Linux no more is encrypted than the kernel is known to have room for. Where it took less all the same, the
        last byte is counted later, when everything before has left: the same bytes must be tried again until then.
        """
        if self._broken is not None:
            raise self._poisoned()
        self._check_open()
        if not self._shaken:
            raise _too_early()
        size = sum(map(len, pieces))
        if self._machine.ended and size:
            raise BrokenError(f"this end has said that it sends no more ({self.peer})")
        try:
            with self._sending:
                if not self._flush() or not size:
                    return 0
                count, self._owed = self._owed, 0
                if not count and (count := self._allowed(min(size, _STEP * PLAIN))):
                    try:
                        self._machine.encrypt(pieces, count, self._rest)
                    except EnchufeError:
                        self.poison("TLS has failed")
                        raise
                    if not self._flush():
                        self._owed = 1
                        count -= 1
        except EnchufeError:
            raise
        except BaseException:
            self.poison(INTERRUPTED)
            raise
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
            return 2 * _STEP * RECORD + _CALL
        limit = told[3]
        free = limit - max(told[2], told[5])
        # poll() says WRITE from a third on (tcp) or from three quarters (unix), so whoever is sent to wait there waits.
        return free if 4 * free >= limit else 0

    def _flush(self) -> bool:
        """Give the kernel what is encrypted: whether it took all. The caller holds `_sending`."""
        while True:
            if data := self._machine.take():
                self._rest.append(data)
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
        if interest & READ and self._machine.at_hand and not self._closed:
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
        if count > _SHARE:
            self._turn -= count // _SHARE
        return count

    async def _begin(self, size: int, deadline: float | None) -> None:
        """Spare a receive the look into a socket that is most likely empty; else give the others their turn."""
        if self._shaken and not self._machine.at_hand and (self._drained or self._kernel_waits):
            await self._arrival(size, deadline)
            return
        self._turn -= 1
        if self._turn <= 0:
            self._turn = _TURN
            await self.waiter.pause()

    async def _arrival(self, size: int, deadline: float | None) -> None:
        """Wait for ciphertext; where the thread may block in the kernel, take it along."""
        if self._kernel_waits and not self._stopped and self._has_time(deadline):
            asked = min(_asked(size), SLICE * RECORD)
            try:
                (self._fresh,) = map(self._sock.recv, (asked,))  # as in Transport.receive
            except (BlockingIOError, InterruptedError):
                pass  # nothing came in so short a time
            except OSError as error:
                raise self._translated(error) from error
            else:
                self._arrived(self._fresh, asked, len(self._fresh))
                self._fresh = b""
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
            raise self._poisoned()
        if not self._shaken:
            raise _too_early()
        self._say_end()
        await self._send_rest(deadline)

    def _say_end(self) -> None:
        with self._sending:  # not in the middle of a send
            self._machine.end()

    async def _send_rest(self, deadline: float | None) -> None:
        while True:
            with self._sending:
                if self._flush():
                    return
            await self.until_room(deadline)

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
        self._machine.failure = None  # it has all that it was raised through, and so this transport

    def _check_open(self) -> None:
        if self._closed or self._late:
            raise self._closed_error()


def _asked(size: int) -> int:
    """Bytes of ciphertext to receive for `size` of plaintext: in whole records."""
    return min(-(-size // PLAIN), _STEP) * RECORD


def _too_early() -> LocalProtocolError:
    return LocalProtocolError("TLS has agreed on no keys yet", hint="Await handshake() first.")
