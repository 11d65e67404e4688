"""The certificate of a listener, which proves nothing by itself: what crosses inside TLS proves it.

So it has no name, no authority and no end, and a dialer asks for none of them; ECDSA P-256, since browsers take that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import ssl
import stat
from collections.abc import Iterator
from dataclasses import field
from datetime import UTC, datetime
from typing import Final

from enchufe.dataclass import dataclass
from enchufe.errors import StoreError

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


def lasting() -> Certificate:
    """That of this user's listeners that take tokens, which every link with a token names; made at the first use.

    Raises:
        StoreError: as `kept`.
    """
    from enchufe.access.state import Folder  # noqa: PLC0415 (few listeners need it)

    folder = Folder()
    with folder.locked():
        return kept(f"{folder.path}/{LASTING}")


def kept(path: str) -> Certificate:
    """The lasting certificate of a listener that takes tokens; the first time it is made. Its folder must be there.

    Raises:
        StoreError: it cannot be read or written, is no such thing, or others may read it.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            return _load(path)
        # Under another name first: whoever comes at the same time finds all of it or nothing.
        made = f"{path}.{secrets.token_hex(8)}"
        try:
            with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(listener_certificate().pem)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # somebody else was faster: then it is that one
                os.link(made, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
        return _load(path)
    except OSError as error:
        raise StoreError(
            f"the certificate in {path!r} cannot be kept: {error.strerror}", hint="Check the folder and who owns it."
        ) from error


def _load(path: str) -> Certificate:
    from cryptography import x509  # noqa: PLC0415 (slow to import, and a dialer needs none of it)
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 (slow to import, and a dialer needs none of it)

    # Opening a pipe does not wait.
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise StoreError(f"{path!r} is no plain file", hint="Move away what is there.")
        if mode & 0o077:
            raise StoreError(
                f"others may read the key in {path!r}",
                hint="Remove the file: a new certificate is made, for new links.",
            )
        pem = file.read()
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{path!r} holds no certificate and key", hint="Remove the file: a new certificate is made, for new links."
        ) from error
    if key.public_key() != certificate.public_key():
        raise StoreError(
            f"the key in {path!r} is another certificate's",
            hint="Remove the file: a new certificate is made, for new links.",
        )
    return Certificate(pem, certificate.public_bytes(serialization.Encoding.DER))


def listening_context(certificate: Certificate) -> ssl.SSLContext:
    """TLS for a listener that shows this certificate."""
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
    with tempfile.NamedTemporaryFile(prefix="enchufe-") as file:
        file.write(_locked(certificate.pem, password.encode()))
        file.flush()
        context.load_cert_chain(file.name, password=password)
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
    if not hasattr(os, "memfd_create"):
        yield None
        return
    with open(os.memfd_create("enchufe"), "wb") as file:
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
