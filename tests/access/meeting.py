"""Two sides that meet over a real TLS connection on this machine, each in a thread of its own."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enchufe.access import (
    Admitted,
    ByCode,
    ByKey,
    ByPass,
    ByToken,
    Certificate,
    Code,
    Gate,
    Introduction,
    LiveCode,
    Proof,
    dialing_context,
    knock,
    listener_certificate,
    listening_context,
)
from enchufe.buffer import Buffer
from enchufe.errors import BrokenError, EnchufeError
from enchufe.testing import ManualClock
from enchufe.transports import Listener, parse_address, tls
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import BlockingWaiter, drive
from tests.beside import Beside

WAITER: Final = BlockingWaiter()
PATIENCE: Final = 60.0  # seconds after which something hangs
CERTIFICATE: Final = listener_certificate()

Outcome = Admitted | EnchufeError


def soon() -> float:
    return WAITER.now() + PATIENCE


class Key:
    """An Ed25519 key in memory."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


Wrap = Callable[[TlsTransport], TlsTransport]
"""Puts something between one side and its connection."""


def as_it_is(transport: TlsTransport) -> TlsTransport:
    return transport


class Place:
    """A listener with its certificate; `with` closes it."""

    def __init__(self, certificate: Certificate, context: ssl.SSLContext | None = None) -> None:
        self._listener = Listener(parse_address("127.0.0.1:0"), tls=context or listening_context(certificate))
        self.address = parse_address(self._listener.addresses[0])

    def __enter__(self) -> Place:
        self._listener.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._listener.__exit__(*raised)

    def accept(self) -> TlsTransport:
        transport = cast(TlsTransport, drive(self._listener.accept(WAITER)))
        try:
            drive(transport.handshake(soon()))
        except BaseException:
            transport.close()
            raise
        return transport

    def dial(self, context: ssl.SSLContext | None = None) -> TlsTransport:
        return drive(tls.connect(self.address, WAITER, soon(), context=context or dialing_context()))


def admit(gate: Gate, place: Place, wrap: Wrap = as_it_is, timeout: float = PATIENCE) -> Outcome:
    """Accept one, and close what was not admitted."""
    transport = place.accept()
    try:
        return drive(gate.admit(wrap(transport), WAITER.now() + timeout))
    except EnchufeError as error:
        transport.close()
        return error


def dial(
    place: Place,
    proof: Proof,
    wrap: Wrap = as_it_is,
    *,
    introduction: Introduction | None = None,
    certificate: bytes | None = None,
    context: ssl.SSLContext | None = None,
    timeout: float = PATIENCE,
) -> Outcome:
    """Dial, knock, and close what was not admitted."""
    transport = place.dial(context)
    deadline = WAITER.now() + timeout
    try:
        return drive(knock(wrap(transport), proof, deadline, introduction=introduction, certificate=certificate))
    except EnchufeError as error:
        transport.close()
        return error


def close(*outcomes: Outcome) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Admitted):
            with suppress(EnchufeError):
                outcome.transport.close()


Bend = Callable[[int, bytes], tuple[bytes, bool]]
"""What becomes of what one side says, which begins at an offset; and whether it goes on after that."""


class Bent:
    """A side's TLS connection, inside which somebody changes what it says.

    Attributes:
        said: what it said, before it was changed.
    """

    def __init__(self, transport: TlsTransport, bend: Bend | None = None) -> None:
        self._transport = transport
        self._bend = bend
        self.said = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def send(self, pieces: Sequence[Buffer], deadline: float | None = None) -> None:
        data, offset = b"".join(pieces), len(self.said)
        self.said += data
        bent, goes_on = self._bend(offset, data) if self._bend else (data, True)
        await self._transport.send([bent], deadline)
        if not goes_on:
            await self._transport.end(deadline)
            raise BrokenError("cut by the test")


def bent(bend: Bend | None = None) -> tuple[Wrap, list[Bent]]:
    """What puts a Bent around a side's connection, and where it will be found."""
    made: list[Bent] = []

    def wrap(transport: TlsTransport) -> TlsTransport:
        made.append(Bent(transport, bend))
        return cast(TlsTransport, made[-1])

    return wrap, made


def starts(said: bytes) -> list[int]:
    """Where each frame begins, and where the last ends."""
    found = [0]
    while found[-1] < len(said):
        found.append(found[-1] + 5 + int.from_bytes(said[found[-1] + 1 : found[-1] + 5], "big"))
    assert found[-1] == len(said)
    return found


@dataclass
class Token:
    """What `Grant` asks for."""

    name: str


class Tokens:
    """Those that are good."""

    def __init__(self) -> None:
        self.good: dict[bytes, Token] = {}

    def check(self, public: bytes) -> Token | None:
        return self.good.get(public)


class House:
    """A listener with all it can let somebody in by, and a dialer who has all of it.

    Attributes:
        introductions: whether both sides introduce themselves.
    """

    ways: Final = ("code", "key", "token", "again")

    def __init__(self, *, introductions: bool = True) -> None:
        self.clock = ManualClock()
        self.certificate = CERTIFICATE
        self.key, self.guest, self.token = Key(), Key(), Key()
        self.tokens = Tokens()
        self.tokens.good[self.token.public] = Token("scanner")
        self.known = {self.guest.public: "laptop"}
        self.code = Code.new("spanish")
        self.introduction = Introduction(self.guest, "ñandú") if introductions else None
        self.gate = Gate(
            self.certificate,
            code=LiveCode(self.code, self.clock),
            knows=self.known.get,
            identity=self.key,
            tokens=self.tokens,
            introduction=Introduction(self.key, "house") if introductions else None,
        )

    def renew_code(self) -> None:
        """The same once more."""
        self.gate.code = LiveCode(self.code, self.clock)

    def proof(self, place: Place, way: str) -> Proof:
        """What gets in by `way`; to come again, the dialer is let in for a first time now."""
        if way == "code":
            return ByCode(self.code)
        if way == "key":
            return ByKey(self.guest, self.key.public)
        if way == "token":
            return ByToken(self.token)
        near, far = self.meet(place, ByKey(self.guest, self.key.public))
        assert isinstance(near, Admitted)
        close(near, far)
        return ByPass(near.secret)

    def meet(
        self,
        place: Place,
        proof: Proof,
        *,
        dialer: Wrap = as_it_is,
        listener: Wrap = as_it_is,
        certificate: bytes | None = None,
        timeout: float = PATIENCE,
    ) -> tuple[Outcome, Outcome]:
        """What becomes of the dialer, and of the listener."""
        if certificate is None and isinstance(proof, ByToken):
            certificate = self.certificate.sha256
        admitting = Beside(lambda: admit(self.gate, place, listener, timeout))
        near = dial(place, proof, dialer, introduction=self.introduction, certificate=certificate, timeout=timeout)
        return near, admitting.result()
