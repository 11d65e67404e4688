"""A listener with an entrance, and those who come to it."""

from __future__ import annotations

from enchufe import events
from enchufe.access import Admitted, ByCode, ByPass, ByToken, Code, Introduction, dialing_context, knock
from enchufe.access.links import Link
from enchufe.entrance import Entrance
from enchufe.errors import EnchufeError
from enchufe.transports import Listener, parse_address, tls
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import drive
from tests.access.meeting import WAITER, Key, soon
from tests.beside import Beside

HERE = "127.0.0.1:0"


class Place:
    """A listener with an entrance, which one dialer after the other comes to.

    Attributes:
        told: its events.
    """

    def __init__(self, *, remember: bool = False, tokens: bool = False, scope: str = "drop") -> None:
        self.told: list[events.Event] = []
        self.ways: list[str] = []  # how each who was let in proved it
        self.entrance = Entrance(
            announce=False, interfaces=(), remember=remember, tokens=tokens, scope=scope, on_event=self.told.append
        )
        self._listener = Listener(parse_address(HERE), tls=self.entrance.context)
        self.address = self._listener.addresses[0]
        self.entrance.open([self.address])
        self._transports: list[TlsTransport] = []

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        self._listener.__exit__(None, None, None)
        self.entrance.close()

    def move(self) -> None:
        """Listen at another address from now on, and at the one before no more."""
        before, self._listener = self._listener, Listener(parse_address(HERE), tls=self.entrance.context)
        before.__exit__(None, None, None)
        self.address = self._listener.addresses[0]

    @property
    def codes(self) -> list[events.Code]:
        return [event for event in self.told if isinstance(event, events.Code)]

    @property
    def code(self) -> Code:
        return Code.parse(self.codes[-1].code)

    def accept(self) -> TlsTransport:
        transport = drive(self._listener.accept(WAITER))
        assert isinstance(transport, TlsTransport)
        self._transports.append(transport)
        drive(transport.handshake(soon()))
        return transport

    def admit(self) -> Admitted | EnchufeError:
        transport = self.accept()
        try:
            admitted = drive(self.entrance.admit(transport, soon()))
        except EnchufeError as error:
            transport.close()
            return error
        self.ways.append(admitted.way)
        return admitted

    def meet(self, proof: ByCode | ByPass | ByToken, key: Key | None = None) -> tuple[Admitted | EnchufeError, ...]:
        """What becomes of a dialer, and of the listener."""
        admitting = Beside(self.admit)
        introduction = None if key is None else Introduction(key, "laptop")
        transport = drive(tls.connect(parse_address(self.address), WAITER, soon(), context=dialing_context()))
        self._transports.append(transport)
        certificate = Link.parse(self.codes[0].link).fingerprint
        near: Admitted | EnchufeError
        try:
            near = drive(knock(transport, proof, soon(), introduction=introduction, certificate=certificate))
        except EnchufeError as error:
            near = error
        return near, admitting.result()

    def wrong(self) -> ByCode:
        words = ("abacus",) * 3
        return ByCode(Code(self.code.label, words))
