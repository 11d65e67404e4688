"""A code proved without being told: SPAKE2 with key confirmation, the dialer's first. No socket, no clock.

Both sides say their message; the dialer confirms, and only to one who knows the code does the listener confirm.
"""

from __future__ import annotations

from typing import Final

from spake2 import SPAKE2_A, SPAKE2_B, SPAKEError  # type: ignore[import-untyped]
from spake2.ed25519_basic import NotOnCurve  # type: ignore[import-untyped]

from enchufe.access.binding import SECRET_SIZE, Binding, derived, is_sound
from enchufe.access.codes import Code
from enchufe.access.refusals import AnotherMachine, WrongCode
from enchufe.errors import RemoteProtocolError

_DIALER: Final = b"dialer"
_LISTENER: Final = b"listener"


class _Pairing:
    """What both sides do.

    Attributes:
        message: what this side says first.
    """

    message: bytes

    def __init__(self, side: type, code: Code, binding: Binding) -> None:
        self._binding = binding
        self._spake = side(code.password, idA=_DIALER + binding.value, idB=_LISTENER + binding.value)
        self.message = self._spake.start()

    def _hear(self, message: bytes) -> None:
        try:
            if not is_sound(message[1:]):  # the library takes longer ones, and one point in several forms
                raise ValueError("not the one form of a point")
            key = self._spake.finish(message)
        except (SPAKEError, NotOnCurve, ValueError) as error:
            raise RemoteProtocolError("the peer sent a malformed CODE: that is no message of SPAKE2") from error
        keys = derived(key, "code", 3 * SECRET_SIZE, salt=self._binding.value)
        self._dialers, self._listeners, self._secret = (
            keys[start : start + SECRET_SIZE] for start in range(0, len(keys), SECRET_SIZE)
        )


class DialerPairing(_Pairing):
    """The side that dials: `message`, `hear`, `finish`."""

    def __init__(self, code: Code, binding: Binding) -> None:
        super().__init__(SPAKE2_A, code, binding)

    def hear(self, message: bytes) -> bytes:
        """The listener's message: what to confirm with.

        Raises:
            RemoteProtocolError: it is none.
        """
        self._hear(message)
        return self._binding.mac(self._dialers, _DIALER)

    def finish(self, mac: bytes) -> bytes:
        """The listener's confirmation: the secret.

        Raises:
            AnotherMachine: the listener does not know the code.
        """
        if not self._binding.is_mac(self._listeners, _LISTENER, mac):
            raise AnotherMachine(
                "whoever answered does not know the code", hint="Somebody may stand between: try again, elsewhere."
            )
        return self._secret


class ListenerPairing(_Pairing):
    """The side that listens: `message`, `hear`, `finish`."""

    def __init__(self, code: Code, binding: Binding) -> None:
        super().__init__(SPAKE2_B, code, binding)

    def hear(self, message: bytes) -> None:
        """The dialer's message.

        Raises:
            RemoteProtocolError: it is none.
        """
        self._hear(message)

    def finish(self, mac: bytes) -> tuple[bytes, bytes]:
        """The dialer's confirmation: what to confirm with, and the secret.

        Raises:
            WrongCode: the dialer does not know the code.
        """
        if not self._binding.is_mac(self._dialers, _DIALER, mac):
            raise WrongCode("a dialer's code was wrong")
        return self._binding.mac(self._listeners, _LISTENER), self._secret
