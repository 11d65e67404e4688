"""How a conversation is secured, as the options of `connect` and `listen` say; and who speaks TLS where it is not."""

from __future__ import annotations

import ssl
from typing import Final

from enchufe.buffer import ReceiveBuffer
from enchufe.cli import exits
from enchufe.cli.dump import Mixed
from enchufe.dataclass import dataclass
from enchufe.errors import EnchufeError, LocalProtocolError, RemoteProtocolError
from enchufe.framing.base import Decoder
from enchufe.transports import certificates

_SELF_SIGNED: Final = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=NAME"
    " -addext subjectAltName=DNS:NAME -out cert.pem -keyout key.pem"
)

# How TLS begins, RFC 8446 sections 4, 5.1 and 6: a record's type, version and length; then a handshake message's type
# and length, or an alert's level. Older versions begin alike.
_HELLO: Final = b"\x16\x03"
_ALERT: Final = b"\x15\x03"
_CLIENT_HELLO: Final = 1
_LEVELS: Final = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Believing:
    """How `connect` is secured: whom it believes."""

    tls: bool = False
    ca: str | None = None
    server_name: str | None = None
    fingerprint: str | None = None

    def context(self) -> ssl.SSLContext | None:
        """Whose certificate is right; None: no TLS.

        Raises:
            LocalProtocolError: the options contradict each other, or a file cannot be used.
        """
        if not self.tls:
            _check_needless(self.ca, self.server_name, self.fingerprint, told="--ca, --server-name and --fingerprint")
            return None
        if self.ca is not None and self.fingerprint is not None:
            raise LocalProtocolError(
                "--ca and --fingerprint exclude each other", hint="A fingerprint needs no authority: leave out --ca."
            )
        return certificates.client_context(self.ca, fingerprint=self.fingerprint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proving:
    """How `listen` is secured: what it shows."""

    tls: bool = False
    cert: str | None = None
    key: str | None = None

    def files(self) -> tuple[str, str] | None:
        """Of the certificate and its key; None: no TLS.

        Raises:
            LocalProtocolError: one of them is not named.
        """
        if not self.tls:
            _check_needless(self.cert, self.key, told="--cert and --key")
            return None
        if self.cert is None or self.key is None:
            raise LocalProtocolError(
                "--tls needs a certificate and its key: --cert FILE --key FILE", hint=f"To make them: {_SELF_SIGNED}"
            )
        return self.cert, self.key

    def counterpart(self) -> str:
        """What the command for the other side ends with. Raises as `files`, and where a file holds no certificate."""
        files = self.files()
        return f" --tls --fingerprint {certificates.fingerprint(files[0])}" if files is not None else ""


def _check_needless(*options: str | None, told: str) -> None:
    if any(option is not None for option in options):
        raise LocalProtocolError(f"{told} mean nothing without --tls", hint="Add --tls.")


def exit_code(error: EnchufeError) -> int:
    """The exit code for an error: 3 too where the other side is not who it claimed to be."""
    return exits.REFUSED if isinstance(error, certificates.CertificateError) else exits.exit_code(error)


class Unsecured(Mixed):
    """Framings that say so where the other side speaks TLS."""

    def decoder(self) -> Decoder:
        """As the incoming framing has it, after a look at the first bytes."""
        return UnsecuredDecoder(super().decoder())


class UnsecuredDecoder(Decoder):
    """The decoder of `Unsecured`."""

    def __init__(self, inner: Decoder) -> None:
        super().__init__()
        self._inner = inner
        self._looked = False

    def decode(self, buffer: ReceiveBuffer, at_end: bool = False, most: int | None = None) -> list[bytes]:
        """Take whole messages, unless the first bytes are those of TLS: see `Decoder.decode`."""
        if not self._looked:
            if begins_tls(bytes(buffer.view()[:9])):
                raise RemoteProtocolError("the other side speaks TLS", hint="Use --tls on both sides, or on neither.")
            self._looked = len(buffer) >= 9
        try:
            found = self._inner.decode(buffer, at_end, most)
        finally:
            self.skipping, self.lacking = self._inner.skipping, self._inner.lacking
        self._looked = self._looked or bool(found)
        return found


def begins_tls(data: bytes) -> bool:
    """Whether the first 9 bytes of a stream, or 7 where there are no more, are a greeting of TLS or its refusal."""
    size = int.from_bytes(data[3:5], "big")
    if data[:2] == _HELLO and len(data) >= 9:
        return data[5] == _CLIENT_HELLO and int.from_bytes(data[6:9], "big") == size - 4
    return data[:2] == _ALERT and len(data) >= 7 and size == 2 and data[5] in _LEVELS
