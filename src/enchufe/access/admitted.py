"""Admitted: whoever was let in, by what, and as whom; and what either side brings for it: keys, tokens, a name."""

from __future__ import annotations

from dataclasses import field
from typing import Literal, Protocol

from enchufe.dataclass import dataclass
from enchufe.transports.tls import TlsTransport

Way = Literal["code", "key", "token", "again"]


class Identity(Protocol):
    """An Ed25519 key that stays where it is: a machine's, or a token's."""

    @property
    def public(self) -> bytes:
        """The public half: 32 bytes."""

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`: 64 bytes."""


class Grant(Protocol):
    """What a token allows; `access` only hands it on."""

    @property
    def name(self) -> str:
        """What the token is called by whoever gave it out."""


class Tokens(Protocol):
    """The tokens that were given out. For any thread."""

    def check(self, public: bytes) -> Grant | None:
        """What the token with this public key allows now; None: nothing, or there is none."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """How this machine introduces itself to whom it trusts.

    Attributes:
        identity: its key.
        name: what it calls itself: 1 to 64 bytes in UTF-8.
    """

    identity: Identity
    name: str


@dataclass(frozen=True, slots=True)
class Introduced:
    """How the other machine has introduced itself: it holds the key, and chose the name, which nobody has checked.

    Attributes:
        public: its Ed25519 key.
        name: for `printable()` before anybody sees it.
    """

    public: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A connection whose two ends know each other.

    Attributes:
        transport: what follows goes over it.
        secret: 32 bytes that nobody but the two ends know.
        way: by what.
        name: of the machine or token, as it is called here; None: by code, or we have dialed.
        introduced: who the other side says it is, where it says so.
        grant: what the token allows.
        party: equal for two connections of the same one: of one key, of one token, or come again by a pass. None: we
            have dialed.
    """

    transport: TlsTransport
    secret: bytes = field(repr=False)
    way: Way
    name: str | None = None
    introduced: Introduced | None = None
    grant: Grant | None = None
    party: object = field(default=None, repr=False)
