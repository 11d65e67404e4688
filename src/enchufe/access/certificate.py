"""The certificate of a listener, which proves nothing by itself: what crosses inside TLS proves it.

So it has no name, no authority and no end, and a dialer asks for none of them; ECDSA P-256, since browsers take that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from enchufe.dataclass import dataclass
from enchufe.errors import StoreError
from enchufe.printable import printable

if TYPE_CHECKING:
    from enchufe.access.state import Folder

ALPN: Final = "enchufe/1"
LASTING: Final = "listener.pem"  # in the state folder

# No clock matters. The end is RFC 5280's for "none", section 4.1.2.5.
_BEGIN: Final = datetime(2000, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key.

    Attributes:
        pem: both, as a file has them: for nobody else.
        der: the certificate.
    """

    pem: bytes = field(repr=False)
    der: bytes = field(repr=False)

    @property
    def sha256(self) -> bytes:
        """Its fingerprint: 32 bytes."""
        return hashlib.sha256(self.der).digest()


def listener_certificate() -> Certificate:
    """A fresh one, for one run of a listener."""
    from cryptography import x509  # noqa: PLC0415 (slow to import, and a dialer needs none of it)
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 (slow to import, and a dialer needs none of it)
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 (slow to import, and a dialer needs none of it)
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 (slow to import, and a dialer needs none of it)

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "enchufe")])
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .sign(key, SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(
        private + certificate.public_bytes(serialization.Encoding.PEM),
        certificate.public_bytes(serialization.Encoding.DER),
    )


def lasting(folder: Folder | None = None) -> Certificate:
    """That of this user's listeners that take tokens, which every link with a token names; made at the first use.

    Raises:
        StoreError: it cannot be read or written, is not private, or is damaged.
    """
    from enchufe.access.state import Folder  # noqa: PLC0415 (few listeners need it)

    folder = folder or Folder()
    return _read(folder.kept(LASTING, lambda: listener_certificate().pem), f"{folder.path}/{LASTING}")


def _read(pem: bytes, path: str) -> Certificate:
    """What a file holds. Its signature is its own, and so tells of any damage, which would be another certificate."""
    from cryptography import x509  # noqa: PLC0415 (slow to import, and a dialer needs none of it)
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415 (as above)
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 (slow to import, and a dialer needs none of it)

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = serialization.load_pem_private_key(pem, None)
        certificate.verify_directly_issued_by(certificate)
        if key.public_key() != certificate.public_key():
            raise ValueError("the key is another certificate's")
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise StoreError(
            f"{printable(path)} is damaged: it holds no certificate and its key",
            hint="Restore it from a backup; or remove it: a new certificate is made, for new links.",
        ) from error
    return Certificate(pem, certificate.public_bytes(serialization.Encoding.DER))


def listening_context(certificate: Certificate) -> ssl.SSLContext:
    """TLS for a listener that shows this certificate.

    Raises:
        StoreError: there is neither memory nor a folder for the file that OpenSSL wants to read it from.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    # As for messages (transports/certificates.py): a dialer that never reads would reset by closing over a ticket.
    context.num_tickets = 0
    # OpenSSL's reader of keys wants a file. One in memory, where there is such a thing; else one that nobody can read,
    # encrypted for the moment that it is there.
    with _in_memory(certificate.pem) as path:
        if path is not None:
            context.load_cert_chain(path)
            return context
    import tempfile  # noqa: PLC0415 (hardly ever)

    password = secrets.token_bytes(32).hex()
    try:
        with tempfile.NamedTemporaryFile(prefix="enchufe-") as file:
            file.write(_locked(certificate.pem, password.encode()))
            file.flush()
            context.load_cert_chain(file.name, password=password)
    except ssl.SSLError:
        raise
    except OSError as error:
        raise StoreError(
            f"there is no place for a temporary file, which TLS takes its key from: {error.strerror}",
            hint="Mount /proc and allow memfd_create; or set TMPDIR to a folder that we may write to.",
        ) from error
    return context


def dialing_context() -> ssl.SSLContext:
    """TLS for a dialer, which takes any certificate: whose it is, what follows must prove."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _context(side: int) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    return context


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str | None]:
    """The path of a file in memory with `data`; None where there is no such thing."""
    try:
        descriptor = os.memfd_create("enchufe") if hasattr(os, "memfd_create") else None
    except OSError:  # a sandbox that forbids it
        descriptor = None
    if descriptor is None:
        yield None
        return
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        path = f"/proc/self/fd/{file.fileno()}"
        yield path if os.path.exists(path) else None


def _locked(pem: bytes, password: bytes) -> bytes:
    from cryptography import x509  # noqa: PLC0415 (slow to import, and a dialer needs none of it)
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 (slow to import, and a dialer needs none of it)

    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    ) + x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.PEM)
