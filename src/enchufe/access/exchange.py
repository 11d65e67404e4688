"""Exchange: access frames over a TLS connection, by one absolute deadline; what both sides say and hear with."""

from __future__ import annotations

import contextlib
from typing import Final, TypeVar

from enchufe.access import refusals
from enchufe.access.admitted import Introduced, Introduction
from enchufe.access.binding import Binding
from enchufe.access.certificate import ALPN
from enchufe.access.messages import HEADER_SIZE, Denied, Message, Reason, Welcome, announced, frame
from enchufe.errors import BrokenError, DeadlineExceeded, EnchufeError, RemoteProtocolError
from enchufe.transports.tls import TlsTransport

M = TypeVar("M", bound=Message)

_FAREWELL: Final = 3.0  # seconds that whoever is denied gets to hear why


class Exchange:
    """What is said and heard until both sides are convinced.

    Args:
        transport: after its handshake; the caller closes it.
        deadline: for all of it, on the transport's waiter's clock.
        side: who we are: "dialer" or "listener".

    Raises:
        RemoteProtocolError: the other side wants another protocol.
        LocalProtocolError: before the handshake.
    """

    def __init__(self, transport: TlsTransport, deadline: float, side: str) -> None:
        if transport.alpn() != ALPN:
            raise RemoteProtocolError(f"{transport.peer} does not speak {ALPN}, as enchufe does for files")
        self.transport = transport
        self.deadline = deadline
        self._side = side
        self._other = "listener" if side == "dialer" else "dialer"

    async def say(self, *messages: Message) -> None:
        """Send them.

        Raises:
            BrokenError, ClosedError, DeadlineExceeded: as Transport.send.
        """
        try:
            await self.transport.send([b"".join(map(frame, messages))], self.deadline)
        except DeadlineExceeded:
            raise self._too_late() from None

    async def hear(self, *kinds: type[M]) -> M:
        """Receive the next message, and nothing behind it: one of `kinds`.

        Raises:
            RemoteProtocolError: it is none of them.
            Refused: we are denied, as `refusals.heard` tells.
            BrokenError: the connection was cut, or ended.
            DeadlineExceeded: it was not there in time.
        """
        kind, size = announced(await self._exactly(HEADER_SIZE))
        denied = kind is Denied and self._side == "dialer"
        if kind not in kinds and not denied:
            due = " or ".join(kind.type.name for kind in kinds)
            raise RemoteProtocolError(f"the peer sent {kind.type.name} where {due} was due")
        message = kind.unpack(await self._exactly(size))
        if isinstance(message, Denied):
            raise refusals.heard(message.reason, self.transport.peer)
        assert isinstance(message, kinds)
        return message

    async def _exactly(self, size: int) -> bytes:
        try:
            data = await self.transport.receive_exactly(size, self.deadline)
        except DeadlineExceeded:
            raise self._too_late() from None
        if len(data) < size:
            raise BrokenError(f"{self.transport.peer} ended the connection before it was settled who is who")
        return data

    def welcome(self, binding: Binding, introduction: Introduction | None) -> Welcome:
        """What we say last, with our name if `introduction` is given."""
        if introduction is None:
            return Welcome()
        signature = introduction.identity.sign(binding.signed(_name_of(self._side, introduction.name)))
        return Welcome(introduction.identity.public, signature, introduction.name)

    def introduced(self, binding: Binding, welcome: Welcome, proved: bytes | None = None) -> Introduced | None:
        """Who the other side says it is, in its WELCOME.

        Args:
            binding: of this connection.
            welcome: what it said.
            proved: the key that it has proved to hold already; no other will do then.

        Raises:
            RemoteProtocolError: it cannot prove it.
        """
        if not welcome.public:
            return None
        what = _name_of(self._other, welcome.name)
        if proved not in (None, welcome.public) or not binding.is_signature(welcome.public, what, welcome.signature):
            raise RemoteProtocolError("the peer introduces itself as somebody that it does not prove to be")
        return Introduced(welcome.public, welcome.name)

    async def deny(self, reason: Reason) -> None:
        """Say that there is no way in, and let it arrive; who is gone already is not told."""
        self.deadline = min(self.deadline, self.transport.waiter.now() + _FAREWELL)
        with contextlib.suppress(EnchufeError):
            await self.say(Denied(reason))
            await self.transport.drop(_FAREWELL, self.deadline)

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"{self.transport.peer} did not settle who is who in the time allowed")


def _name_of(side: str, name: str) -> bytes:
    return b"enchufe name of " + side.encode() + b" is " + name.encode()
