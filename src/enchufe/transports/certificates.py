"""Who shows which certificate to whom, and what is wrong with it, in words."""

from __future__ import annotations

import hashlib
import os
import ssl
from typing import Final

from enchufe.errors import EnchufeError, LocalProtocolError, Refused, RemoteProtocolError


class CertificateError(RemoteProtocolError):
    """The peer is not who it claims to be, or cannot prove it."""


_UNTRUSTED: Final = (
    "the certificate of {peer} is not from an authority that is trusted here",
    "If it is your own, name its authority's certificate (cafile, --ca).",
)
_ANOTHER: Final = (
    "the certificate of {peer} is not for {name!r}",
    "Use the name that it is for, if that is who you want.",
)
# X509_V_ERR_* of openssl/x509_vfy.h: what is wrong with the certificate, and what to do.
_WRONG: Final = {
    9: ("the certificate of {peer} is not valid yet", "Check the clocks of both machines."),
    10: (
        "the certificate of {peer} has expired",
        "The other side must renew it; if it is new, check this machine's clock.",
    ),
    18: _UNTRUSTED,
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    50: (
        "the certificate of {peer} is another one: its SHA-256 is {message}",
        "Ask the other side for its certificate's fingerprint by a way that you trust.",
    ),
    62: _ANOTHER,
    64: _ANOTHER,
}
_APPLICATION: Final = 50  # X509_V_ERR_APPLICATION_VERIFICATION: OpenSSL leaves it to whoever verifies by himself
# OpenSSL's reasons for a peer that is too old, and alerts (RFC 8446 section 6.2) about what we showed it.
_OLD: Final = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_SSL_VERSION", "VERSION_TOO_LOW"}
_ABOUT_OURS: Final = {"unknown ca", "bad certificate", "certificate expired", "certificate unknown"}


def client_context(cafile: str | None = None, *, fingerprint: str | None = None) -> ssl.SSLContext:
    """What a dialer needs: TLS 1.3, and a server whose certificate and name are right.

    Args:
        cafile: the certificates (PEM) of the authorities to trust; None: those this system trusts.
        fingerprint: instead of all that, the one certificate to accept, whatever its name and dates: SHA-256 in
            hexadecimal digits, with or without colons.

    Raises:
        LocalProtocolError: there is no such file, or no certificate in it; that is no fingerprint.
    """
    if fingerprint is not None:
        pinning = _PinningContext(ssl.PROTOCOL_TLS_CLIENT)
        pinning.check_hostname, pinning.verify_mode = False, ssl.CERT_NONE
        pinning.minimum_version = ssl.TLSVersion.TLSv1_3
        pinning.wanted = _sha256(fingerprint)
        return pinning
    try:
        context = ssl.create_default_context(cafile=cafile)
    except ssl.SSLError as error:
        raise LocalProtocolError(
            f"{cafile!r} holds no certificates", hint="Name a file of certificates in PEM form."
        ) from error
    except OSError as error:
        raise _unreadable(cafile, error) from error
    except (TypeError, ValueError) as error:
        raise LocalProtocolError(f"{cafile!r} is no path", hint="Name a file of certificates in PEM form.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class _PinningObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        assert isinstance(self.context, _PinningContext)
        shown = hashlib.sha256(self.getpeercert(binary_form=True) or b"").digest()
        if shown != self.context.wanted:
            error = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, "another certificate")
            error.verify_code, error.verify_message = _APPLICATION, shown.hex()
            raise error


class _PinningContext(ssl.SSLContext):
    """Accepts one certificate, by its fingerprint."""

    sslobject_class = _PinningObject
    wanted: bytes


def _sha256(fingerprint: str) -> bytes:
    try:
        digest = bytes.fromhex(fingerprint.replace(":", ""))
    except (ValueError, TypeError, AttributeError):  # no digits, or no text
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise LocalProtocolError(
            f"{fingerprint!r} is no fingerprint of SHA-256",
            hint="It is 64 hexadecimal digits: openssl x509 -in CERT -noout -fingerprint -sha256.",
        )
    return digest


def fingerprint(certfile: str) -> str:
    """The SHA-256 of the first certificate (PEM) in a file, in hexadecimal digits.

    Raises:
        LocalProtocolError: there is no such file, or no certificate in it.
    """
    try:
        with open(certfile, encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError as error:
        raise _unreadable(certfile, error) from error
    first = text[max(text.find(ssl.PEM_HEADER), 0) :].partition(ssl.PEM_FOOTER)
    try:
        der = ssl.PEM_cert_to_DER_cert("".join(first[:2]))
    except ValueError as error:
        raise LocalProtocolError(
            f"{certfile!r} holds no certificate", hint="Name a file with a certificate in PEM form."
        ) from error
    return hashlib.sha256(der).hexdigest()


def server_context(certfile: str, keyfile: str) -> ssl.SSLContext:
    """What a listener needs: TLS 1.3 with this certificate (PEM, its chain behind it) and its private key.

    Raises:
        LocalProtocolError: a file is missing, is no such thing, or the key is another certificate's or locked.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A client that never reads would reset the connection by closing over an unread ticket.
    context.num_tickets = 0

    def ask() -> str:
        raise LocalProtocolError(
            f"the key in {keyfile!r} is locked by a passphrase", hint="Unlock it: openssl pkey -in KEY -out UNLOCKED."
        )

    for name in (certfile, keyfile):
        try:
            with open(name, "rb"):
                pass
        except OSError as error:
            raise _unreadable(name, error) from error
    try:
        context.load_cert_chain(certfile, keyfile, ask)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise LocalProtocolError(
                f"the key in {keyfile!r} is not that of the certificate in {certfile!r}",
                hint="Name the key that the certificate was made with.",
            ) from error
        raise LocalProtocolError(
            f"{certfile!r} and {keyfile!r} are no certificate and key ({error.reason or error})",
            hint="Both must be in PEM form.",
        ) from error
    return context


def explained(error: ssl.SSLError, peer: str, name: str | None) -> EnchufeError:
    """An error of OpenSSL's as one of ours, by whose fault it is.

    Args:
        error: what OpenSSL raised.
        peer: the other side's address.
        name: whose certificate it was to show.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        unknown = ("the certificate of {peer} is not valid: {message}", "")
        told, hint = _WRONG.get(error.verify_code, unknown)
        return CertificateError(told.format(peer=peer, name=name, message=error.verify_message), hint=hint)
    reason = error.reason or ""
    if reason in _OLD:
        return RemoteProtocolError(
            f"{peer} speaks only a TLS older than 1.3", hint="The other side needs newer software."
        )
    if "_ALERT_" in reason:
        said = reason.partition("_ALERT_")[2].replace("_", " ").lower()
        if said in _ABOUT_OURS:
            return Refused(
                f"{peer} does not accept our certificate: {said}",
                hint="Give it the certificate of our authority, or renew ours.",
            )
        return Refused(f"{peer} refuses to go on: {said}", hint="Its log may say more.")
    return RemoteProtocolError(f"what {peer} sent is not proper TLS ({reason or error})")


def _unreadable(name: str | None, error: OSError) -> LocalProtocolError:
    return LocalProtocolError(f"cannot read {name!r}: {error.strerror}", hint="Check the path, and who may read it.")


ClientTls = ssl.SSLContext | bool
"""For who dials: a context, or True for the usual one (TLS 1.3, the system's authorities)."""

ServerTls = ssl.SSLContext | tuple[str, str]
"""For who listens: a context, or the files of the certificate (with its chain) and of its key."""


def for_client(tls: ClientTls | None) -> ssl.SSLContext | None:
    """The context that `tls` means; None: no TLS.

    Raises:
        LocalProtocolError: it means none.
    """
    if isinstance(tls, ssl.SSLContext):
        return tls
    if tls not in (None, True, False):
        raise LocalProtocolError(f"tls is True or a context, not {tls!r}")
    return client_context() if tls else None


def for_server(tls: ServerTls | None) -> ssl.SSLContext | None:
    """The context that `tls` means; None: no TLS. Raises as `server_context`."""
    if tls is None or isinstance(tls, ssl.SSLContext):
        return tls
    # Of numbers open() would take, and close, the descriptors.
    if not isinstance(tls, tuple) or len(tls) != 2 or not all(isinstance(name, str | os.PathLike) for name in tls):
        raise LocalProtocolError(f"tls is the files of a certificate and of its key, or a context, not {tls!r}")
    return server_context(*tls)
