"""The gate, of the side that listens: whoever knocks proves who he is before he learns anything."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import field, replace
from typing import Final

from enchufe.access import messages as m
from enchufe.access.admitted import Admitted, Grant, Identity, Introduction, Tokens, Way
from enchufe.access.binding import Binding, derived
from enchufe.access.certificate import Certificate
from enchufe.access.codes import LiveCode
from enchufe.access.exchange import Exchange
from enchufe.access.pairing import ListenerPairing
from enchufe.access.refusals import AnotherMachine, CodeGone, Denial, TokenRefused, UnknownMachine, WrongCode
from enchufe.dataclass import dataclass
from enchufe.errors import EnchufeError
from enchufe.transfer.machine import VersionError
from enchufe.transports.tls import TlsTransport

PASSES: Final = 16  # connections that may come again; older ones prove themselves anew


def _nobody(_public: bytes) -> None:
    """No machine is known."""


def _unheeded(_code: LiveCode) -> None:
    """Nobody asks about guesses."""


@dataclass(frozen=True, slots=True)
class _Guest:
    """Who has convinced us, and by what."""

    by: Way
    secret: bytes = field(repr=False)
    public: bytes = b""  # the key that he proved, where he did
    name: str | None = None
    grant: Grant | None = None
    way: Way | None = None  # "again", if he was here before by what `by` says
    first: object = field(default_factory=object, repr=False)  # the same for all connections of one transfer


class Gate:
    """Lets in whoever proves a code, a key, a token, or that he was here before. Any number of threads may `admit`.

    Args:
        certificate: what the listener's TLS shows.
        code: what lets in one guest; it may be set anew.
        knows: by public key, what a machine is called here; None: it is not known.
        identity: this machine's key, for those that know it; it may be set anew.
        tokens: those that were given out.
        introduction: how this machine introduces itself to those it lets in, if it is to.
        lost: is told of a code with a guess less, by which nobody came in, whatever became of it.
    """

    def __init__(
        self,
        certificate: Certificate,
        *,
        code: LiveCode | None = None,
        knows: Callable[[bytes], str | None] = _nobody,
        identity: Identity | None = None,
        tokens: Tokens | None = None,
        introduction: Introduction | None = None,
        lost: Callable[[LiveCode], None] = _unheeded,
    ) -> None:
        self.code = code
        self._certificate = certificate.sha256
        self._knows = knows
        self.identity = identity
        self._tokens = tokens
        self._introduction = introduction
        self._lost = lost
        self._passes: OrderedDict[bytes, _Guest] = OrderedDict()
        self._lock = threading.Lock()

    async def admit(self, transport: TlsTransport, deadline: float) -> Admitted:
        """Let in whoever dialed. What he says after that is still to be received.

        Args:
            transport: over `listening_context`, after its handshake; the caller closes it, whatever happens.
            deadline: for all of it, on the clock of the transport's waiter.

        Raises:
            WrongCode, CodeGone, AnotherMachine, UnknownMachine, TokenRefused: he has been denied, and told so.
            RemoteProtocolError: he broke the protocol, and was told nothing; VersionError: he speaks another version.
            BrokenError: the connection was cut or ended.
            DeadlineExceeded: he was not done in time.
            EnchufeError: what `knows` and `tokens` raise; he was told nothing.
        """
        talk = Exchange(transport, deadline, "listener")
        try:
            return await self._admit(talk)
        except Denial as denial:
            await talk.deny(denial.reason)
            raise

    def forget(self, secret: bytes) -> None:
        """The transfer of the connection with this secret is over: nobody comes again for it."""
        with self._lock:
            guest = self._passes.get(derived(secret, "pass", 16))
            if guest is not None:
                self._keep_none_of(guest)

    async def _admit(self, talk: Exchange) -> Admitted:
        knock = await talk.hear(m.Knock)
        nonce = m.Nonce(m.VERSION, secrets.token_bytes(32))
        await talk.say(nonce)
        if not knock.lowest <= m.VERSION <= knock.highest:
            spoken = f"{knock.lowest} to {knock.highest}"
            raise VersionError(
                f"{talk.transport.peer} speaks versions {spoken} of access, this is {m.VERSION}",
                hint=m.whom_to_update(knock.lowest),
            )
        binding = Binding.of(self._certificate, knock, nonce)
        answer: list[m.Message] = []
        match await talk.hear(m.Code, m.Whom, m.Token, m.Again):
            case m.Code(spake):
                guest, mac = await self._by_code(talk, binding, spake)
                answer.append(m.Confirm(mac))
            case m.Whom(mac):
                guest = await self._by_key(talk, binding, mac)
            case m.Token(public, signature):
                guest = self._by_token(talk, binding, public, signature)
            case m.Again(pass_, mac):
                guest, mac = self._again(talk, binding, pass_, mac)
                answer.append(m.Confirm(mac))
        # Before he hears that he is in: if he is cut now, he comes again.
        self._remember(guest)
        await talk.say(*answer, talk.welcome(binding, self._introduction))
        welcome = await talk.hear(m.Welcome)
        introduced = talk.introduced(binding, welcome, guest.public if guest.by == "key" else None)
        self._remember(guest, only=True)
        party = guest.public or guest.first
        way = guest.way or guest.by
        return Admitted(talk.transport, guest.secret, way, guest.name, introduced, guest.grant, party)

    async def _by_code(self, talk: Exchange, binding: Binding, spake: bytes) -> tuple[_Guest, bytes]:
        code = self.code
        if code is None or not code.guess():
            raise CodeGone(f"somebody at {talk.transport.peer} tried a code where none lives")
        try:
            mac, secret = await self._guessed(talk, binding, code, spake)
        except EnchufeError:
            self._lost(code)
            raise
        if not code.burn():
            raise CodeGone(f"somebody at {talk.transport.peer} had the code, but too late")
        return _Guest("code", secret), mac

    async def _guessed(self, talk: Exchange, binding: Binding, code: LiveCode, spake: bytes) -> tuple[bytes, bytes]:
        """A guess that was debited is right: what to confirm with, and the secret."""
        pairing = ListenerPairing(code.code, binding)
        await talk.say(m.Code(pairing.message))  # before what takes longest, which both do at once
        pairing.hear(spake)
        confirm = await talk.hear(m.Confirm)
        try:
            return pairing.finish(confirm.mac)
        except WrongCode:
            raise WrongCode(
                f"somebody at {talk.transport.peer} had a wrong code", hint=f"{code.guesses} guesses are left."
            ) from None

    async def _by_key(self, talk: Exchange, binding: Binding, mac: bytes) -> _Guest:
        ours = self.identity
        if ours is None or not binding.is_whom(ours.public, mac):
            raise AnotherMachine(f"somebody at {talk.transport.peer} wanted another machine")
        await talk.say(m.Proof(ours.public, ours.sign(binding.signed(b"enchufe listener"))))
        theirs = await talk.hear(m.Proof)
        proved = binding.is_signature(theirs.public, b"enchufe dialer" + ours.public, theirs.signature)
        name = self._knows(theirs.public) if proved else None
        if name is None:
            raise UnknownMachine(f"an unknown machine at {talk.transport.peer} wanted to come in")
        return _Guest("key", binding.secret(), theirs.public, name)

    def _by_token(self, talk: Exchange, binding: Binding, public: bytes, signature: bytes) -> _Guest:
        proved = binding.is_signature(public, b"enchufe token", signature)
        grant = self._tokens.check(public) if proved and self._tokens is not None else None
        if grant is None:
            raise TokenRefused(f"somebody at {talk.transport.peer} had a token that is not good here")
        return _Guest("token", binding.secret(), public, grant.name, grant)

    def _again(self, talk: Exchange, binding: Binding, pass_: bytes, mac: bytes) -> tuple[_Guest, bytes]:
        with self._lock:
            before = self._passes.get(pass_)
        key = b"" if before is None else derived(before.secret, "pass key", 32)
        if before is None or not binding.is_mac(key, b"dialer", mac):
            raise UnknownMachine(f"somebody at {talk.transport.peer} wanted to go on with what is not known here")
        with self._lock:
            if pass_ in self._passes:
                self._passes.move_to_end(pass_)
        name, grant = before.name, before.grant
        # A pass opens no more than what it stands for.
        if before.by == "key":
            name = self._knows(before.public)
            if name is None:
                raise UnknownMachine(f"a machine at {talk.transport.peer} that is known no longer wanted to come in")
        elif before.by == "token":
            grant = None if self._tokens is None else self._tokens.check(before.public)
            if grant is None:
                raise TokenRefused(f"somebody at {talk.transport.peer} had a token that is good no longer")
        guest = replace(before, secret=binding.secret(), name=name, grant=grant, way="again")
        return guest, binding.mac(key, b"listener")

    def _remember(self, guest: _Guest, *, only: bool = False) -> None:
        """Let `guest` come again; with `only`, by no pass of an earlier connection of his."""
        with self._lock:
            if only:
                self._keep_none_of(guest)
            self._passes[derived(guest.secret, "pass", 16)] = guest
            while len(self._passes) > PASSES:
                self._passes.popitem(last=False)

    def _keep_none_of(self, guest: _Guest) -> None:
        for pass_ in [pass_ for pass_, one in self._passes.items() if one.first is guest.first]:
            del self._passes[pass_]
