"""Two sides that meet over a real TLS connection on this machine, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enchufe.access import Admitted, Certificate, Gate, Introduction, Proof, dialing_context, knock, listening_context
from enchufe.errors import EnchufeError
from enchufe.transports import Listener, parse_address, tls
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import BlockingWaiter, drive

WAITER: Final = BlockingWaiter()
PATIENCE: Final = 20.0  # seconds after which something hangs

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


class Beside:
    """A function that runs in a thread; `result()` waits for what it returned, or raises what it raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._returned: Any = None
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._returned = self._function()
        except BaseException as error:  # noqa: BLE001 (raised again by result)
            self._raised = error

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it hangs"
        if self._raised is not None:
            raise self._raised
        return self._returned


Wrap = Callable[[TlsTransport], TlsTransport]
"""Puts something between one side and its connection."""


def as_it_is(transport: TlsTransport) -> TlsTransport:
    return transport


class Place:
    """A listener with its certificate; `with` closes it."""

    def __init__(self, certificate: Certificate) -> None:
        self.context = listening_context(certificate)
        self._listener = Listener(parse_address("127.0.0.1:0"), tls=self.context)
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

    def dial(self) -> TlsTransport:
        return drive(tls.connect(self.address, WAITER, soon(), context=dialing_context()))


def admit(gate: Gate, place: Place, wrap: Wrap = as_it_is) -> Outcome:
    """Accept one, and close what was not admitted."""
    transport = place.accept()
    try:
        return drive(gate.admit(wrap(transport), soon()))
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
) -> Outcome:
    """Dial, knock, and close what was not admitted."""
    transport = place.dial()
    try:
        return drive(knock(wrap(transport), proof, soon(), introduction=introduction, certificate=certificate))
    except EnchufeError as error:
        transport.close()
        return error


def close(*outcomes: Outcome) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Admitted):
            with suppress(EnchufeError):
                outcome.transport.close()
