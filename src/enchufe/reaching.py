"""How a dialer reaches whom it wants over an encrypted connection: by address, code, link or name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from enchufe import events, transports
from enchufe.access import Admitted, AnotherMachine, CodeGone, WrongCode
from enchufe.access.certificate import dialing_context
from enchufe.access.dialing import ByCode, ByKey, ByPass, ByToken, Introduction, Proof, knock
from enchufe.acquaintance import acquaint, introduction
from enchufe.errors import BrokenError, DeadlineExceeded, EnchufeError, LocalProtocolError, RemoteProtocolError
from enchufe.events import OnEvent
from enchufe.meeting import Reached
from enchufe.transports import Address, TcpAddress, Transport, tcp, tls
from enchufe.waiting import Waiter, drive

_ANNOUNCERS: Final = 3  # that hear a code at the most: each may guess once
_MACHINES: Final = 16  # announcers that are asked whether they are the known machine
_LOOK: Final = 10.0  # seconds to look for an announcer

Place = Sequence[Address]
"""The addresses of one machine."""


class Secured:
    """Whoever proves to be the one that is wanted: an `Aim`.

    Args:
        places: makes the places to try, in their order; for a fixed address just one.
        proof: of who we are, and of who it is.
        fingerprint: of the certificate that it must show; None: any.
        fixed: whether the one place is where it must be, so that a refusal there is final.
        remember: whether to be introduced, and to pin its key.
    """

    def __init__(
        self,
        places: Callable[[], Iterable[Place]],
        proof: Proof,
        *,
        fingerprint: bytes | None = None,
        fixed: bool,
        remember: bool,
        on_event: OnEvent,
    ) -> None:
        self._places = places
        self._proof = proof
        self._fingerprint = fingerprint
        self._fixed = fixed
        self._remember = remember
        self._on_event = on_event
        self._context = dialing_context()

    async def reach(self, waiter: Waiter, timeout: float) -> Reached:
        """As `Aim.reach`."""
        failure: EnchufeError | None = None
        for place in self._places():
            try:
                return await self._enter(place, waiter, timeout)
            except (BrokenError, DeadlineExceeded, WrongCode, CodeGone, AnotherMachine, RemoteProtocolError) as error:
                if self._fixed:
                    raise
                failure = error
        raise failure or BrokenError(
            "nobody of this network says that it is the one",
            hint="Is it running, and in the same network? Else give its address or its link:"
            " --to host:port, or enchufe://...",
        )

    async def _enter(self, place: Place, waiter: Waiter, timeout: float) -> Reached:
        deadline = waiter.now() + timeout
        plain = await _dialed(place, waiter, deadline)
        there = transports.parse_address(plain.peer) if plain.name == tcp.NAME else place[0]
        transport = tls.over(plain, self._context, server_side=False)
        try:
            await transport.handshake(deadline)
            if self._fingerprint is not None and transport.peer_certificate_sha256 != self._fingerprint:
                raise _another_certificate(transport.peer)
            admitted = await knock(
                transport,
                self._proof,
                deadline,
                introduction=introduction() if self._remember else None,
            )
            acquaint(admitted, str(there), remember=self._remember, on_event=self._on_event)
        except BaseException:
            transport.close()
            raise
        self._settle(there, admitted)

        def dial() -> Transport:
            return drive(transports.connect(there, waiter, waiter.now() + timeout))

        return Reached(transport, dial, admitted.secret)

    def _settle(self, there: Address, admitted: Admitted) -> None:
        """After a cut, go back to the same."""
        self._places = lambda: [[there]]
        self._fixed = True
        if admitted.way in ("code", "again"):
            self._proof = ByPass(admitted.secret)


async def _dialed(place: Place, waiter: Waiter, deadline: float) -> Transport:
    over_tcp = [address for address in place if isinstance(address, TcpAddress)]
    if over_tcp:
        return await tcp.connect_any(over_tcp, waiter, deadline)
    return await transports.connect(place[0], waiter, deadline)
