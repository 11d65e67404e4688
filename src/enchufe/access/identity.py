"""This machine's key: by what others that pinned it know it again."""

from __future__ import annotations

import os
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enchufe.access import words
from enchufe.access.state import Folder, damaged, packed, unpacked

FILE: Final = "identity.key"
SPOKEN: Final = 12  # words of a fingerprint: 132 bits, beyond anybody's search for another key with the same
_SEED: Final = 32  # bytes: RFC 8032 section 5.1.5


class KeyPair:
    """An Ed25519 key, made of 32 secret bytes.

    Attributes:
        public: 32 bytes, for everybody.
    """

    def __init__(self, seed: bytes) -> None:
        if len(seed) != _SEED:
            raise ValueError(f"{len(seed)} bytes are no seed of a key")
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    @classmethod
    def new(cls) -> Self:
        """One that nobody has had."""
        return cls(os.urandom(_SEED))

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`, 64 bytes."""
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.public.hex()}>"


class Identity(KeyPair):
    """A machine's own key."""

    @classmethod
    def mine(cls, folder: Folder | None = None) -> Identity:
        """This machine's, or rather this user's on it; made at its first use.

        Raises:
            StoreError: it cannot be read or written, is not private, or is damaged.
        """
        folder = folder or Folder()
        content = unpacked(folder.kept(FILE, lambda: cls.new()._packed()), path := f"{folder.path}/{FILE}")
        try:
            identity = cls(bytes.fromhex(content["seed"]))
            right = identity.public.hex() == content["public"]
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, "it holds no key") from error
        if not right:
            raise damaged(path, "its two halves do not belong together")
        return identity

    def _packed(self) -> bytes:
        return packed({"public": self.public.hex(), "seed": self._seed.hex()})


def fingerprint(public: bytes) -> str:
    """What tells a public key from any other, as 12 words: those of its SHA-256."""
    return words.spoken(public, SPOKEN)
