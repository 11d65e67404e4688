"""How a dialer reaches whom it wants over an encrypted connection: by address, code, link or name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final

from enchufe import transports
from enchufe.access import (
    Admitted,
    ByCode,
    ByKey,
    ByPass,
    ByToken,
    Code,
    Denial,
    Proof,
    dialing_context,
    knock,
    shown_by,
)
from enchufe.access.discovery import find
from enchufe.access.identity import Identity
from enchufe.access.interfaces import dialable
from enchufe.access.known import ChangedKey, KnownMachines, Machine
from enchufe.access.links import Link, is_link
from enchufe.access.targets import KnownName, SpokenCode, target
from enchufe.access.tokens import Token
from enchufe.acquaintance import acquaint, introduction, meet
from enchufe.dataclass import dataclass
from enchufe.errors import (
    BrokenError,
    BusyError,
    DeadlineExceeded,
    EnchufeError,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
)
from enchufe.events import OnEvent
from enchufe.meeting import DIAL_AGAIN, Reached, for_files
from enchufe.transports import Address, TcpAddress, Transport, parse_address, tcp, tls
from enchufe.waiting import Waiter, drive

_GUESSES: Final = 3  # how often a code is said: whoever hears it may guess once
_LOOK: Final = 10.0  # seconds to look for announcers
_ENTER: Final = DIAL_AGAIN + 10.0  # seconds for one place of several: a listener lets in nobody later, docs/access.md
_LOOK_AGAIN: Final = 3.0  # the same after a cut: then it is tried again where it was
# Attempts in vain where it was, and seconds since the first of them: then it is looked for elsewhere too. Most come
# back there soon, and are not to be missed meanwhile.
_MOVED_AFTER: Final = 2
_MOVED_FOR: Final = 3.0
_ELSEWHERE: Final = 10.0  # seconds for all those others, before it is tried again where it was
_ENTER_AGAIN: Final = 6.0  # seconds for one of them, who may be anybody, and say nothing

Place = Sequence[Address]
"""The addresses of one machine."""


class Secured:
    """Whoever proves to be the one that is wanted: an `Aim`.

    Args:
        places: the places to try, in their order.
        elsewhere: where it may be after a cut, if not where it was; None: `places`.
        proof: of who we are, and of who it is.
        certificate: the SHA-256 of the one that it must show; None: any.
        fixed: whether the one place is where it must be, so that what goes wrong there is final.
        name: what is known here by the key that it must prove to have.
        remember: whether to be introduced, and to pin its key.
    """

    def __init__(
        self,
        places: Callable[[], Iterable[Place]],
        proof: Proof,
        *,
        elsewhere: Callable[[], Iterable[Place]] | None = None,
        certificate: bytes | None = None,
        fixed: bool,
        name: str | None = None,
        remember: bool,
        on_event: OnEvent,
    ) -> None:
        self._places = places
        self._elsewhere = elsewhere or places
        self._there: Address | None = None  # where it was, once it has been met
        self._in_vain = 0  # attempts that have not found it there
        self._gone_since = 0.0  # when the first of them had failed
        self._name = name
        self._proof = proof
        self._certificate = certificate
        self._shown: bytes | None = certificate  # by the one that was met
        self._fixed = fixed
        self._remember = remember
        self._on_event = on_event
        self._context = dialing_context()
        self._said = 0  # how often the code was, to whomever
        self._met: Admitted | None = None  # whom we do not know yet whether he goes on with us
        self.met = False

    async def reach(self, waiter: Waiter, timeout: float) -> Reached:
        """As `Aim.reach`."""
        if self._there is None:
            return await self._find(waiter, timeout)
        try:
            return await self._enter([self._there], waiter, timeout, self._certificate)
        except (BrokenError, DeadlineExceeded):
            if not self._in_vain:
                self._gone_since = waiter.now()
            self._in_vain += 1
            if self._in_vain > _MOVED_AFTER and waiter.now() >= self._gone_since + _MOVED_FOR:
                found = await self._find_again(waiter, timeout)
                if found is not None:
                    return found
            raise

    async def _find_again(self, waiter: Waiter, timeout: float) -> Reached | None:
        """Where it is now; None: it was not found, and whoever else is there may have said anything."""
        until = waiter.now() + _ELSEWHERE
        with suppress(LocalProtocolError):  # an interface to look on that has gone, and may come back
            for place in self._elsewhere():
                if waiter.now() >= until:
                    break
                if list(place) == [self._there]:
                    continue
                with suppress(BrokenError, BusyError, DeadlineExceeded, Refused, RemoteProtocolError):
                    return await self._enter(place, waiter, min(timeout, _ENTER_AGAIN), self._shown)
        return None

    async def _find(self, waiter: Waiter, timeout: float) -> Reached:
        """The first of the places where it is."""
        failure: EnchufeError | None = None
        seconds = timeout if self._fixed else min(timeout, _ENTER)
        for place in self._places():
            try:
                return await self._enter(place, waiter, seconds, self._certificate)
            except ChangedKey:
                raise
            except (BrokenError, BusyError, DeadlineExceeded, Refused, RemoteProtocolError) as error:
                if self._fixed:
                    raise
                if failure is None or isinstance(error, Denial):  # which says more than that nobody answered
                    failure = error
        raise failure or BrokenError(
            "nobody on this network says that it is the one",
            hint="Does it run, and in the same network? Else give its address too (--to host:port), or its link.",
        )

    async def _enter(self, place: Place, waiter: Waiter, timeout: float, certificate: bytes | None) -> Reached:
        deadline = waiter.now() + timeout
        patient = self._fixed and self._there is None
        plain = await _dialed(place, waiter, deadline if patient else min(deadline, waiter.now() + DIAL_AGAIN))
        there = parse_address(plain.peer) if plain.name == tcp.NAME else place[0]
        self.met = True
        transport = tls.over(plain, self._context, server_side=False)
        try:
            await _shake(transport, deadline)
            self._count_guess()
            admitted = await knock(
                transport,
                self._proof,
                deadline,
                introduction=introduction() if self._remember else None,
                certificate=certificate,
            )
            admitted = replace(admitted, name=self._name)
            meet(admitted, remember=self._remember, on_event=self._on_event)
        except BaseException:
            transport.close()
            raise
        self._settle(there, admitted, transport)
        if admitted.way != "again":
            self._met = admitted
        dial = _Dial(there, waiter, timeout, partial(self._acquaint, str(there)))
        return Reached(transport, dial, admitted.secret, self._name)

    def _acquaint(self, address: str) -> None:
        met, self._met = self._met, None
        if met is not None:
            acquaint(met, address, remember=self._remember, on_event=self._on_event)

    def _count_guess(self) -> None:
        """Say the code to no more than may hear it: who stands between can guess once, each time that it is said."""
        if not isinstance(self._proof, ByCode):
            return
        if self._said == _GUESSES:
            raise Refused(
                "the code was said three times, and the connection was cut each time",
                hint="Somebody may stand between and try to guess. Ask for a new code, and use another network.",
            )
        self._said += 1

    def _settle(self, there: Address, admitted: Admitted, transport: tls.TlsTransport) -> None:
        """After a cut, go back to the same one; a code has had its use."""
        self._there, self._in_vain = there, 0
        if admitted.way in ("code", "again"):
            self._proof = ByPass(admitted.secret)
            # A pass is known to one process, which shows one certificate: others who are found are told nothing.
            self._shown = shown_by(transport)


@dataclass(frozen=True, slots=True)
class _Dial:
    """Opens another connection to where somebody was reached: a `Dial` that is told when he goes on with us."""

    there: Address
    waiter: Waiter
    timeout: float
    greeted: Callable[[], None]

    def __call__(self) -> Transport:
        return drive(transports.connect(self.there, self.waiter, self.waiter.now() + self.timeout))


async def _shake(transport: tls.TlsTransport, deadline: float) -> None:
    try:
        await transport.handshake(deadline)
    except RemoteProtocolError as error:  # whoever that is, it is not the one
        raise Refused(str(error), hint=error.hint) from error


async def _dialed(place: Place, waiter: Waiter, deadline: float) -> Transport:
    over_tcp = [address for address in place if isinstance(address, TcpAddress)]
    if over_tcp:
        return await tcp.connect_any(over_tcp, waiter, deadline)
    return await transports.connect(place[0], waiter, deadline)


def aim(
    text: str,
    *,
    where: str | None,
    code: Callable[[], str],
    remember: bool,
    search: bool,
    interfaces: Sequence[str],
    on_event: OnEvent,
) -> Secured:
    """Whom `text` means: an address, a code, a link or a known machine's name.

    Args:
        where: the address of whoever shows a code or has a name, where it is not to be looked for.
        code: asks for it, or for a link, where `text` is an address.
        search: whether to ask the network where it is.
        interfaces: where to ask; none: everywhere.

    Raises:
        LocalProtocolError: it is none of them, or there is no such machine; or nobody may be asked where it is.
        BrokenError: no address of the link can be dialed from here.
    """
    meant = target(text)
    secured = partial(Secured, remember=remember, on_event=on_event)
    if where is not None and not isinstance(meant, (SpokenCode, KnownName)):
        raise LocalProtocolError("two addresses", hint="An address beside it is for a code or a name: CODE --to ADDR.")
    there = None if where is None else _at(for_files(parse_address(where)))
    match meant:
        case SpokenCode(text=said):
            by_code = Code.parse(said)
            if where is None and not search:
                raise LocalProtocolError(
                    "nobody may be asked who has this code",
                    hint="Name its link or address: `receive CODE --to ADDR`; `send --to ADDR`, which asks for it.",
                )
            places = there or partial(_announced, by_code.label, interfaces)
            elsewhere = None if there else partial(_anybody, interfaces)
            return secured(places, ByCode(by_code), elsewhere=elsewhere, fixed=there is not None)
        case KnownName(name=name):
            machine = KnownMachines().existing(name)
            places = there or partial(_whereabouts, machine, search, interfaces)
            elsewhere = partial(_anybody, interfaces) if search and there is None else None
            by_key = ByKey(Identity.mine(), machine.public)
            return secured(places, by_key, elsewhere=elsewhere, fixed=there is not None, name=machine.name)
        case Link():
            found = dialable(meant.addresses)
            if not found:
                raise BrokenError(
                    "every address in the link holds on one network link alone, and no interface here leads to any",
                    hint="Are both machines in the same network? Else ask for a link with another address.",
                )
            places = _at(*found)
            elsewhere = partial(_at_or_anywhere, found, interfaces) if search else None
            proof = _proof(meant, code)
            return secured(places, proof, elsewhere=elsewhere, certificate=meant.fingerprint, fixed=True)
    place, answer = _at(for_files(meant)), code()
    if is_link(answer):  # which is a way to have it in no list of processes
        link = Link.parse(answer)
        return secured(place, _proof(link, code), certificate=link.fingerprint, fixed=True)
    return secured(place, ByCode(Code.parse(answer)), fixed=True)


def _proof(link: Link, code: Callable[[], str]) -> Proof:
    if link.token is not None:
        return ByToken(Token(link.token))
    return ByCode(Code.parse(link.code if link.code is not None else code()))


def _at(*addresses: Address) -> Callable[[], Iterable[Place]]:
    return lambda: [addresses]


def _announced(label: int | None, interfaces: Sequence[str]) -> Iterator[Place]:
    """Who says that it has a code of this label. Raises BrokenError: nobody can be heard here."""
    trouble: list[str] = []
    with closing(find(label, _LOOK, list(interfaces) or None, on_trouble=trouble.append)) as found:
        for announcer in islice(found, _GUESSES):
            yield announcer.addresses
    if trouble:
        raise BrokenError(
            trouble[0], hint="Connect it, or give the other side's address (--to host:port), or its link."
        )


def _whereabouts(machine: Machine, search: bool, interfaces: Sequence[str]) -> Iterator[Place]:
    """Where a machine was before, then everybody who announces anything: the wrong ones learn nothing."""
    yield from ([parse_address(address)] for address in machine.addresses)
    if search:
        yield from _anybody(interfaces, _LOOK)


def _at_or_anywhere(addresses: Place, interfaces: Sequence[str]) -> Iterator[Place]:
    """Where a link says, then everybody who announces anything: the link says which certificate it is."""
    yield addresses
    yield from _anybody(interfaces)


def _anybody(interfaces: Sequence[str], seconds: float = _LOOK_AGAIN) -> Iterator[Place]:
    """Everybody who announces anything: after a cut a listener does so by another label."""
    with closing(find(None, seconds, list(interfaces) or None)) as found:
        for announcer in found:
            yield announcer.addresses
