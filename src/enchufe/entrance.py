"""The entrance of a listener: who may come in, by which code, and how the network finds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Final

from enchufe import events
from enchufe.access import Admitted, Code, Gate, LiveCode, listener_certificate, listening_context
from enchufe.access.certificate import lasting
from enchufe.access.identity import Identity
from enchufe.access.interfaces import ALONE
from enchufe.access.known import ChangedKey, KnownMachines
from enchufe.access.links import Link, elsewhere, own_addresses
from enchufe.access.refusals import TokenRefused
from enchufe.access.tokens import Tokens, UsedUp
from enchufe.acquaintance import acquaint, check_acquaintance, introduction
from enchufe.dataclass import dataclass
from enchufe.errors import DeadlineExceeded, EnchufeError, LocalProtocolError, Refused, StoreError
from enchufe.events import OnEvent
from enchufe.session.base import Options
from enchufe.session.strangers import Strangers
from enchufe.transfer.machine import VersionError, told_to_peer
from enchufe.transfer.messages import frame
from enchufe.transports import Address, TcpAddress, parse_address
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import drive

_GUESTS: Final = 64  # that were let in and may not have said HELLO yet
_FAREWELL: Final = 3.0  # seconds that whoever is turned away gets to hear why
# Bytes of a token that are taken before they cross: at first, then as many as were taken so far, and at the most.
_AHEAD: Final = 4 << 20
_FAR_AHEAD: Final = 64 << 20
_ENTERING: Final = 10.0  # seconds from a guess to HELLO at the most: docs/access.md, Limits
# What is told of who said the code, and never HELLO.
_GONE: Final = (
    "whoever said the code went away before the transfer began",
    "The other side says why. For another attempt there is a new code.",
)
_FOLLOWING: Final = 5.0  # seconds between two looks whether this machine has come to other addresses
_CHOSEN_ALONE: Final = "the network interfaces that were chosen lead nowhere but to this machine"


def _now() -> float:
    """Seconds, those that this machine was asleep included: nobody waits longer for the end of a code."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Entrance:
    """What stands between a door and a transfer: nobody comes in who is not meant to.

    Whoever says the code does, and whoever proves to be a machine that is known here.

    Args:
        announce: whether the network hears where we are, and the label of the code.
        interfaces: where it hears that; none: everywhere.
        remember: whether to be introduced to whoever comes by code, and to pin its key.
        tokens: whether tokens let in too; then the certificate is the lasting one, which their links name.
        scope: what a token must be for; one for `list` lets in to look at what others may `read`.
        on_event: is told of codes, and of who comes.

    Attributes:
        context: for TLS.

    Raises:
        StoreError: what is known of machines or tokens cannot be read.
    """

    def __init__(
        self, *, announce: bool, interfaces: Sequence[str], remember: bool, tokens: bool, scope: str, on_event: OnEvent
    ) -> None:
        self._announces = announce
        self._interfaces = list(interfaces) or None
        self._remember = remember
        self._on_event = on_event
        self._certificate = lasting() if tokens else listener_certificate()
        self.context = listening_context(self._certificate)
        machines = KnownMachines()
        # A machine that nobody knows has shown nobody its key.
        self._lasting = tokens or bool(machines.all())
        self.gate = Gate(
            self._certificate,
            knows=machines.name_of,
            identity=Identity.mine() if machines.all() else None,
            tokens=_Scoped(scope, self._tell_refused) if tokens else None,
            introduction=introduction() if remember else None,
            lost=self._tell_lost_guess,
        )
        self._lock = threading.Lock()
        self._code: LiveCode | None = None
        self._told_dead = False
        self._failure: Exception | None = None  # of a guest's thread, which ends the command
        self._knocking = 0  # who may be at a guess
        self._listening: Sequence[str] = ()
        self._dead_since: float | None = None  # as far as was seen
        self._addresses: tuple[TcpAddress, ...] = ()
        self._followed = time.monotonic()
        self._announcement = ExitStack()
        self._announced = False
        self._closed = False
        self._strangers = Strangers()  # who speak other versions
        self._guests: list[Admitted] = []  # that are not inside yet
        self._inside: object = None  # the party that was last said to be
        self._met: dict[object, Admitted] = {}  # by party, who said a code, and has not said HELLO

    def _tell(self, event: events.Event) -> None:
        """Tell it, in whatever thread; where that cannot be done nobody hears of anything, so we do not go on."""
        try:
            self._on_event(event)
        except Exception as error:
            self._failure = error
            raise

    async def admit(self, transport: TlsTransport, deadline: float) -> Admitted:
        """Let in who proves it; from any thread. Raises as `Gate.admit` and `check_acquaintance`."""
        with self._lock:
            self._knocking += 1
        try:
            admitted = await self.gate.admit(transport, deadline)
            await self._check(admitted, deadline)
            with self._lock:
                self._guests = [admitted, *self._guests[: _GUESTS - 1]]
        except StoreError as error:  # ours, and nobody else is told of it
            if error is not self._failure:
                self._tell(events.Failed.of(error))
            raise
        except VersionError as error:
            self._tell_stranger(transport.peer, error)
            raise
        finally:
            with self._lock:
                self._knocking -= 1
        return admitted

    async def _check(self, admitted: Admitted, deadline: float) -> None:
        """See who was let in; whoever is not to be is not in any more, and hears so where it expects HELLO."""
        try:
            check_acquaintance(admitted, remember=self._remember)
        except EnchufeError as error:
            if isinstance(error, (ChangedKey, StoreError)):
                self._failure = error
            await self._turn_away(admitted, error, deadline)
            raise
        if admitted.way == "code":
            self._met[admitted.party] = admitted

    async def _turn_away(self, admitted: Admitted, error: EnchufeError, deadline: float) -> None:
        self.gate.forget(admitted.secret)
        told = error.told if isinstance(error, ChangedKey) else error
        with suppress(EnchufeError):
            await admitted.transport.send(frame(told_to_peer(told)), deadline)

    def suit(self, options: Options, admitted: Admitted, session: bytes) -> Options | None:
        """The options for whoever was let in, has said HELLO, and is inside now; None: he was turned away after all.

        Args:
            session: what he has come for.

        Raises:
            EnchufeError: as `acquaint`.
        """
        self._announcement.close()  # until this one is gone, there is nothing for others here
        self._announced = False
        with self._lock:
            self._guests = [guest for guest in self._guests if guest is not admitted]
        try:
            # Whoever was cut before HELLO has come again by now, by what says nothing of him.
            met = self._met.pop(admitted.party, admitted)
            self._tell_who(met)
            acquaint(met, None, remember=self._remember, on_event=self._tell)
            if self._remember and met.way == "code" and met.introduced is not None:
                self._lasting, self.gate.identity = True, Identity.mine()  # that one may come by its key from now on
            grant = admitted.grant
            if isinstance(grant, _Granted):
                grant.begin(session)
        except EnchufeError as error:
            drive(self._turn_away(admitted, error, admitted.transport.waiter.now() + _FAREWELL))
            if not isinstance(error, UsedUp):
                raise
            self._tell(events.Failed.of(error))
            return None
        return replace(
            options,
            name=admitted.name,
            party=admitted.party,
            allowance=grant if isinstance(grant, _Granted) else None,
            only_looks=isinstance(grant, _Looking),
        )

    def _tell_who(self, admitted: Admitted) -> None:
        """Tell whose is all that is told from now on; not after a cut, unless another was here meanwhile."""
        if admitted.way != "again":
            way: str = admitted.way
        elif admitted.party == self._inside:
            return
        else:
            way = "token" if admitted.grant is not None else "code" if admitted.name is None else "key"
        self._inside = admitted.party
        self._tell(events.Paired(way, admitted.name))

    def open(self, addresses: Sequence[str]) -> None:
        """Show a code for a listener at these addresses, where the last one has had its use, and have it announced."""
        if self._code is not None and not self._code.burnt:
            if not self._announced:  # somebody was inside who needed no code
                self._announce(self._code.code)
            return
        self._listening, self._dead_since = addresses, None
        try:
            self._addresses = _dialable(addresses, self._interfaces)
        except LocalProtocolError:
            if self._code is None:
                raise
            self._addresses = ()  # an interface that was chosen has gone, and may come back
        code = Code.new()
        self._code = self.gate.code = LiveCode(code, _now)
        self._announce(code)
        self._tell_code(code)

    def _tell_code(self, code: Code) -> None:
        link = str(Link(self._addresses, self._certificate.sha256, str(code))) if self._addresses else ""
        self._tell(events.Code(str(code), link))

    def _follow(self, code: LiveCode) -> None:
        """Where this machine has come to other addresses, have the network hear of them, and show the link anew."""
        now = time.monotonic()
        if now < self._followed + _FOLLOWING:
            return
        self._followed = now
        try:
            addresses = _dialable(self._listening, self._interfaces)
        except LocalProtocolError:  # as in `open`
            return
        if set(addresses) == set(self._addresses) or all(_is_here_only(address.host) for address in addresses):
            return
        self._addresses = addresses
        self._announce(code.code)
        if code.alive:
            self._tell_code(code.code)

    def _announce(self, code: Code) -> None:
        self._announcement.close()
        self._announced = True
        if not self._announces:
            return
        if all(_is_here_only(address.host) for address in self._addresses):
            if any(_is_everywhere(address) for address in map(parse_address, self._listening)):
                self._tell_trouble(ALONE if self._interfaces is None else _CHOSEN_ALONE)
            return
        from enchufe.access.discovery import announce  # noqa: PLC0415 (slow to import, and not everybody needs it)

        try:
            self._announcement.enter_context(
                announce(self._addresses[0].port, code.label, self._interfaces, on_trouble=self._tell_trouble)
            )
        except LocalProtocolError:  # an interface that was chosen has gone since
            self._addresses = ()

    def _tell_lost_guess(self, code: LiveCode) -> None:
        if not self._closed:  # else it was us who cut it
            self._tell(events.WrongCode(code.guesses))

    def _tell_refused(self, sentence: str) -> None:
        self._tell(events.Failed.of(TokenRefused(sentence, hint=UsedUp.hint)))

    def _tell_stranger(self, peer: str, error: VersionError) -> None:
        if self._strangers.is_new(peer):
            self._tell(events.Failed.of(error))

    def _tell_trouble(self, sentence: str) -> None:
        self._tell(events.Unannounced(sentence))

    def check(self) -> None:
        """Go on waiting, as long as there is somebody to wait for; by a new code, where the last one brought nobody.

        To be called now and then, which follows this machine to other addresses.

        Raises:
            Exception: what `on_event` has raised where it was told of a guest.
            Refused: somebody has guessed wrong three times.
            ChangedKey: somebody has the name of a machine that is known, and not its key.
            DeadlineExceeded: the code is too old, and nobody else could come.
        """
        if self._failure is not None:
            raise self._failure
        code = self._code
        if code is None:
            return
        if not code.burnt:
            self._follow(code)
        if code.alive:
            return
        now = time.monotonic()
        if self._dead_since is None:
            self._dead_since = now
        # Who knocks may be anybody, one after the other, and for ever; but none of them had this code alive.
        if self._somebody_comes() and now - self._dead_since < _ENTERING:
            return
        if code.burnt:
            self._tell(events.Failed("broken", *_GONE))
            self.open(self._listening)
            return
        if self._lasting:
            if not self._told_dead:
                self._told_dead = True
                self._tell(events.CodeGone())
            return
        if code.guesses == 0:
            raise Refused(
                "three wrong codes were said: this one lets nobody in any more",
                hint="Run it again for a new code. If it was not you who mistyped, somebody there tries to guess.",
            )
        raise DeadlineExceeded("nobody came in the ten minutes that a code lives", hint="Run it again for a new one.")

    def forget(self, secret: bytes | None) -> None:
        """Whoever shares this secret with us is not to come again."""
        if secret is not None:
            self.gate.forget(secret)

    def _somebody_comes(self) -> bool:
        """Whether one is at a guess, or was let in and is about to say HELLO."""
        with self._lock:
            self._guests = [guest for guest in self._guests if guest.transport.fileno() >= 0]
            return bool(self._knocking or self._guests)

    def close(self) -> None:
        """Nobody else is to come."""
        self._closed = True
        self._announcement.close()


class _Granted:
    """What a token allows of one transfer: an `Allowance`.

    What is to cross is taken from the token before it does, and some more with it, since that is written down each
    time. So no more crosses than there was, and what cannot be written down is known before anything has crossed.
    """

    def __init__(self, name: str, public: bytes, tokens: Tokens) -> None:
        self.name = name
        self._public = public
        self._tokens = tokens
        self._lock = threading.Lock()
        self._session = bytes(16)
        self._expected = 0
        self._taken = 0
        self._crossed = 0

    def begin(self, session: bytes) -> None:
        """It is of this transfer.

        Raises:
            UsedUp: there is nothing left for it.
            StoreError: what is left cannot be read.
        """
        self._session = session
        if self._tokens.check(self._public, session) is None:
            raise UsedUp("the token has nothing left for this transfer")

    def expect(self, total: int) -> None:
        """As `Allowance.expect`."""
        with self._lock:
            self._expected = total
            if total <= self._taken:
                return
            grant = self._tokens.check(self._public)
            left = 0 if grant is None else grant.left
            if left is not None and left < total - self._taken:
                most = left + self._taken
                raise UsedUp(f"that is more than the token lets through: {total} bytes, and {most} are left")

    def spend(self, size: int) -> None:
        """As `Allowance.spend`."""
        with self._lock:
            crossed = self._crossed + size
            lacking = max(crossed - self._taken, 0)
            if lacking or (self._expected > 0 and not self._taken):
                ahead = min(max(self._taken, _AHEAD), _FAR_AHEAD)
                due = self._expected - self._taken
                most = min(due, ahead) if due > 0 else ahead
                self._taken += self._tokens.take(self._public, self._session, lacking, max(lacking, most))
            self._crossed = crossed

    def settle(self, *, finished: bool) -> None:
        """As `Allowance.settle`."""
        with self._lock:
            unused = self._taken - self._crossed
            self._tokens.settle(self._public, self._session, unused, finished=finished)
            self._taken = self._crossed


@dataclass(frozen=True, slots=True)
class _Looking:
    """What a token allows that is for looking at what is offered."""

    name: str


class _Scoped:
    """The tokens that are for one thing, or for looking at that.

    Args:
        refused: is told why one that was given out here lets its bearer in no more, who hears nothing of that.
    """

    def __init__(self, scope: str, refused: Callable[[str], None]) -> None:
        self._tokens = Tokens()
        self._scope = scope
        self._refused = refused

    def check(self, public: bytes) -> _Granted | _Looking | None:
        """What a token allows, by whose secret half somebody has proved to bear it; None: nothing here."""
        grant = self._tokens.check(public)
        if grant is None:
            record = self._tokens.bearing(public)
            if record is not None:
                self._refused(f"somebody came with the token {record.name}, which is {record.state(time.time())}")
            return None
        if self._scope in grant.scope:
            return _Granted(grant.name, public, self._tokens)
        if self._scope == "read" and "list" in grant.scope:
            return _Looking(grant.name)
        self._refused(f"somebody came with the token {grant.name}, which is not for {self._scope}")
        return None


def _is_here_only(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _is_everywhere(address: Address) -> bool:
    return isinstance(address, TcpAddress) and address.host in ("::", "0.0.0.0")  # noqa: S104 (to know, not to bind)


def _dialable(addresses: Sequence[str], interfaces: Sequence[str] | None) -> tuple[TcpAddress, ...]:
    """Where others can dial what listens at `addresses`."""
    listening = [address for address in map(parse_address, addresses) if isinstance(address, TcpAddress)]
    if any(map(_is_everywhere, listening)):
        return own_addresses(listening[0].port, interfaces)
    return tuple(map(elsewhere, listening))
