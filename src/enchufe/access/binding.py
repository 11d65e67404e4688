"""What ties every proof to one connection, and every key to one secret, as docs/access.md tells it."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from enchufe.access.messages import Knock, Nonce
from enchufe.dataclass import dataclass

SECRET_SIZE: Final = 32

# A point of Ed25519 on the wire is y and the sign of x: RFC 8032, section 5.1. Points of order 1, 2, 4 and 8 have these
# y; as a key, each is nobody's: anybody signs with it.
_FIELD: Final = 2**255 - 19
_EIGHTH: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL: Final = frozenset((0, 1, _FIELD - 1, _EIGHTH, _FIELD - _EIGHTH))


def is_sound(point: bytes) -> bool:
    """Whether 32 bytes could be a point of Ed25519 with a secret behind it: of large order, in its only form."""
    y = int.from_bytes(point, "little") & (1 << 255) - 1
    return len(point) == 32 and y < _FIELD and y not in _SMALL


def derived(secret: bytes, what: str | bytes, size: int, *, salt: bytes = b"") -> bytes:
    """A key of its own for one purpose: HKDF-SHA256 with the info "enchufe " and `what`.

    Args:
        secret: what the key is made of; nobody else knows it.
        what: what the key is for; no two purposes share one.
        size: bytes.
        salt: what sets this key apart from others for the same; it need not be secret.
    """
    info = b"enchufe " + (what.encode() if isinstance(what, str) else what)
    return HKDF(SHA256(), size, salt or None, info).derive(secret)


@dataclass(frozen=True, slots=True)
class Binding:
    """One TLS connection, by what both ends of it know and nobody between them can have at both.

    Attributes:
        value: 32 bytes; the two ends have the same where nobody stands between.
    """

    value: bytes
    _nonces: bytes = field(repr=False)

    @classmethod
    def of(cls, certificate: bytes, knock: Knock, nonce: Nonce) -> Self:
        """Of the connection whose listener showed the certificate with this SHA-256."""
        said = hashlib.sha256(b"enchufe access 1" + certificate + knock.pack() + nonce.pack())
        return cls(said.digest(), knock.nonce + nonce.nonce)

    def secret(self) -> bytes:
        """What only the two ends know, once it is proved that there is no third. Both nonces crossed inside TLS."""
        return derived(self._nonces, "secret", SECRET_SIZE, salt=self.value)

    def mac(self, key: bytes, what: bytes) -> bytes:
        """What only those make who have `key`: 32 bytes."""
        return hmac.digest(key, what + self.value, "sha256")

    def is_mac(self, key: bytes, what: bytes, mac: bytes) -> bool:
        """Whether `mac` is that of `what`, in a time that does not depend on how wrong it is."""
        return hmac.compare_digest(self.mac(key, what), mac)

    def whom(self, public: bytes) -> bytes:
        """What asks for the machine with this key, and tells nobody else which: 16 bytes."""
        return self.mac(public, b"whom")[:16]

    def is_whom(self, public: bytes, mac: bytes) -> bool:
        """Whether `mac` asks for the machine with this key."""
        return hmac.compare_digest(self.whom(public), mac)

    def signed(self, what: bytes) -> bytes:
        """What is to be signed by whoever says `what` on this connection."""
        return what + self.value

    def is_signature(self, public: bytes, what: bytes, signature: bytes) -> bool:
        """Whether the holder of the Ed25519 key `public` says `what` on this connection."""
        if not is_sound(public):
            return False
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, self.signed(what))
        except (InvalidSignature, ValueError):  # the latter where a library looks at the point itself
            return False
        return True
