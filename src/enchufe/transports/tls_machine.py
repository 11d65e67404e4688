"""TLS without a socket: what is received goes in, what is to be sent comes out, for whoever moves it.

An `SSLObject` between two queues of ciphertext. One lock guards every use of it, never held while waiting: so one
thread may decrypt while another encrypts.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from enchufe.buffer import Buffer
from enchufe.errors import EnchufeError, LocalProtocolError
from enchufe.transports.certificates import explained

PLAIN: Final = 16384  # bytes of plaintext in one record at the most: RFC 8446 section 5.1
RECORD: Final = PLAIN + 22  # bytes, encrypted: header, content type and tag, RFC 8446 section 5.2
# Tuning. Records that OpenSSL's queues take at a time: they never shrink, so that is what an idle connection keeps.
SLICE: Final = 4


class TlsMachine:
    """One end of a TLS connection.

    Args:
        context: see `client_context` and `server_context`.
        server_side: whether this end shows its certificate.
        server_hostname: whose certificate the other side must show.
        peer: the other side's address, as people write it.

    Attributes:
        at_hand: whether there is something to decrypt or to tell without receiving more.
        over: the other side has ended.
        failure: what went wrong for good, where something did.
        ended: this side has ended.

    Raises:
        LocalProtocolError: the context does not fit the side, or lacks the name that it must check.
    """

    __slots__ = (
        "_ahead",
        "_incoming",
        "_lock",
        "_outgoing",
        "_peer",
        "_ssl",
        "at_hand",
        "ended",
        "failure",
        "over",
    )

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None, peer: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        except (ValueError, TypeError, AttributeError, ssl.SSLError) as error:  # or the name is none
            raise LocalProtocolError(
                f"TLS cannot begin: {error}", hint="Check the context's side and the name of the server."
            ) from error
        # Re-entrant, for a signal handler that closes.
        self._lock = threading.RLock()
        self._peer = peer
        # Decrypted before it was asked for.
        self._ahead = bytearray()
        self.at_hand = False
        self.over = False
        self.failure: EnchufeError | None = None
        self.ended = False

    def shake(self) -> bool:
        """One step of the handshake: whether it was the last.

        Raises:
            RemoteProtocolError, Refused: as `explained` tells; what `take` gives then is for the other side to know.
        """
        with self._lock:
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                return False
            except ssl.SSLError as error:
                raise self._told(error) from error
            # The other side's first message may have come along with the last of its handshake.
            self.at_hand = self._incoming.pending > 0
        return True

    def certificate(self) -> bytes | None:
        """What the other side has shown in the handshake, in DER; None: nothing."""
        with self._lock:
            return self._ssl.getpeercert(binary_form=True)

    def alpn(self) -> str | None:
        """The protocol that both sides agreed on in the handshake (ALPN, RFC 7301); None: none."""
        with self._lock:
            return self._ssl.selected_alpn_protocol()

    def put(self, data: Buffer) -> None:
        """Ciphertext has arrived."""
        with self._lock:
            self._incoming.write(data)

    def decrypt(self, view: memoryview) -> int:
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
                        self.over = True
                        break
                    filled += count
            except ssl.SSLWantReadError:
                pass  # the rest of a record is still to come
            except ssl.SSLZeroReturnError:
                self.over = True
            except ssl.SSLError as error:
                self.fail(self._told(error), error)
            self.at_hand = filled == size or self.over or self.failure is not None
        return filled

    def fail(self, failure: EnchufeError, cause: Exception | None = None) -> None:
        """There is nothing more to receive, and why."""
        failure.__cause__ = cause
        self.failure, self.at_hand = failure, True

    def finish(self) -> None:
        """There is nothing more to receive, as this end has it."""
        self.over = self.at_hand = True

    def encrypt(self, pieces: Sequence[Buffer], count: int, outgoing: list[Buffer]) -> None:
        """Encrypt the first `count` bytes of `pieces`, and append what is to be sent for them to `outgoing`.

        Raises:
            RemoteProtocolError, Refused: TLS has failed for good, as `explained` tells.
        """
        with self._lock:
            try:
                for data in records(pieces, count):
                    for start in range(0, len(data), SLICE * PLAIN):
                        self._ssl.write(memoryview(data)[start : start + SLICE * PLAIN])
                        outgoing.append(self._outgoing.read())
            except ssl.SSLError as error:
                raise self._told(error) from error

    def take(self) -> bytes:
        """What is to be sent beside data: of the handshake, an alert, the end; b"" for nothing."""
        with self._lock:
            return self._outgoing.read() if self._outgoing.pending else b""

    def end(self) -> None:
        """Say that no more data will follow (`close_notify`); again does nothing.

        Raises:
            RemoteProtocolError, Refused: as `explained` tells.
        """
        with self._lock:
            if self.ended:
                return
            self.ended = True
            # unwrap() also looks for the other side's end, and drops what stands before it: bring that to safety.
            scratch, ahead = memoryview(bytearray(PLAIN)), bytearray()
            while count := self.decrypt(scratch):
                ahead += scratch[:count]
            self._ahead = ahead
            self.at_hand = self.at_hand or len(ahead) > 0
            try:
                self._ssl.unwrap()
            except ssl.SSLWantReadError:
                pass  # the other side has not ended yet
            except ssl.SSLError as error:
                raise self._told(error) from error

    def _told(self, error: ssl.SSLError) -> EnchufeError:
        return explained(error, self._peer, self._ssl.server_hostname)


def records(pieces: Sequence[Buffer], count: int) -> Iterator[Buffer]:
    """The first `count` bytes of `pieces`, cut for encryption: small ones share a record, large ones are not copied."""
    small: list[Buffer] = []
    held = 0
    for piece in pieces:
        part = piece if len(piece) <= count else memoryview(piece)[:count]
        count -= len(part)
        if held + len(part) >= PLAIN:
            if small:
                cut = PLAIN - held
                yield b"".join([*small, memoryview(part)[:cut]])
                part = memoryview(part)[cut:]
                small, held = [], 0
            if len(part) >= PLAIN:
                yield part
                part = b""
        if part:
            small.append(part)
            held += len(part)
        if not count:
            break
    if small:
        yield small[0] if len(small) == 1 else b"".join(small)
