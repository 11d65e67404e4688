"""A dialer that is written from docs/access.md alone, and a listener that lets it in by every way."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from spake2 import SPAKE2_A  # type: ignore[import-untyped]

from enchufe.access import Admitted
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import drive
from tests.access.meeting import CERTIFICATE, House, Place, admit, close, soon
from tests.beside import Beside


def hkdf(secret: bytes, what: bytes, size: int, salt: bytes = b"") -> bytes:
    """RFC 5869 with SHA-256, and the info that the document says."""
    key, made, block = hmac.digest(salt or bytes(32), secret, "sha256"), b"", b""
    while len(made) < size:
        block = hmac.digest(key, block + b"enchufe " + what + bytes([len(made) // 32 + 1]), "sha256")
        made += block
    return made[:size]


class Dialer:
    """What it says and hears on one connection, once both have the binding."""

    def __init__(self, transport: TlsTransport) -> None:
        self._transport = transport
        ours = bytes(range(32))
        knock = b"enchufe" + b"\1\1" + ours
        self.say(65, knock)
        nonce = self.hear(66)
        shown = hashlib.sha256(transport.peer_certificate() or b"").digest()
        self.binding = hashlib.sha256(b"enchufe access 1" + shown + knock + nonce).digest()
        self.secret = hkdf(ours + nonce[1:], b"secret", 32, self.binding)

    def say(self, kind: int, body: bytes) -> None:
        drive(self._transport.send([bytes([kind]), len(body).to_bytes(4, "big"), body], soon()))

    def hear(self, kind: int) -> bytes:
        header = drive(self._transport.receive_exactly(5, soon()))
        assert header[0] == kind
        return drive(self._transport.receive_exactly(int.from_bytes(header[1:], "big"), soon()))

    def mac(self, key: bytes, what: bytes) -> bytes:
        return hmac.digest(key, what + self.binding, "sha256")

    def verify(self, public: bytes, signature: bytes, what: bytes) -> None:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, what + self.binding)


def prove(dialer: Dialer, house: House, way: str, before: bytes) -> None:
    """All that is said and heard between NONCE and WELCOME."""
    match way:
        case "code":
            spake = SPAKE2_A(str(house.code).encode(), idA=b"dialer" + dialer.binding, idB=b"listener" + dialer.binding)
            dialer.say(67, spake.start())
            keys = hkdf(spake.finish(dialer.hear(67)), b"code", 96, dialer.binding)
            dialer.say(68, dialer.mac(keys[:32], b"dialer"))
            assert dialer.hear(68) == dialer.mac(keys[32:64], b"listener")
            dialer.secret = keys[64:]
        case "key":
            dialer.say(69, dialer.mac(house.key.public, b"whom")[:16])
            proof = dialer.hear(70)
            assert proof[:32] == house.key.public
            dialer.verify(house.key.public, proof[32:], b"enchufe listener")
            signed = house.guest.sign(b"enchufe dialer" + house.key.public + dialer.binding)
            dialer.say(70, house.guest.public + signed)
        case "token":
            dialer.say(71, house.token.public + house.token.sign(b"enchufe token" + dialer.binding))
        case "again":
            key = hkdf(before, b"pass key", 32)
            dialer.say(72, hkdf(before, b"pass", 16) + dialer.mac(key, b"dialer"))
            assert dialer.hear(68) == dialer.mac(key, b"listener")


@pytest.mark.parametrize("way", House.ways)
def test_the_listener_is_as_documented(way: str) -> None:
    house, before = House(), b""
    with Place(CERTIFICATE) as place:
        for now in ("key", "again") if way == "again" else (way,):
            admitting = Beside(lambda: admit(house.gate, place))
            with place.dial() as transport:
                dialer = Dialer(transport)
                prove(dialer, house, now, before)
                welcome = dialer.hear(74)
                assert welcome[:1] + welcome[97:] == b"\1house"
                dialer.verify(house.key.public, welcome[33:97], b"enchufe name of listener is house")
                name = "ñandú".encode()
                signed = house.guest.sign(b"enchufe name of dialer is " + name + dialer.binding)
                dialer.say(74, b"\1" + house.guest.public + signed + name)
                far = admitting.result()
            assert isinstance(far, Admitted), far
            assert far.secret == dialer.secret
            assert far.introduced is not None
            assert (far.introduced.public, far.introduced.name) == (house.guest.public, "ñandú")
            close(far)
            before = dialer.secret
