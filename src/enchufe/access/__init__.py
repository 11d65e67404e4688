"""Who gets in: codes, keys, tokens and passes, proved inside TLS before a transfer begins (docs/access.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enchufe.lazy import lazily

if TYPE_CHECKING:
    from enchufe.access.admitted import Admitted, Grant, Identity, Introduced, Introduction, Tokens
    from enchufe.access.binding import derived
    from enchufe.access.certificate import Certificate, dialing_context, listener_certificate, listening_context
    from enchufe.access.codes import Code, LiveCode
    from enchufe.access.dialing import ByCode, ByKey, ByPass, ByToken, Proof, knock, shown_by
    from enchufe.access.gate import Gate
    from enchufe.access.refusals import AnotherMachine, CodeGone, Denial, TokenRefused, UnknownMachine, WrongCode

__all__ = [
    "Admitted",
    "AnotherMachine",
    "ByCode",
    "ByKey",
    "ByPass",
    "ByToken",
    "Certificate",
    "Code",
    "CodeGone",
    "Denial",
    "Gate",
    "Grant",
    "Identity",
    "Introduced",
    "Introduction",
    "LiveCode",
    "Proof",
    "TokenRefused",
    "Tokens",
    "UnknownMachine",
    "WrongCode",
    "derived",
    "dialing_context",
    "knock",
    "listener_certificate",
    "listening_context",
    "shown_by",
]

# Each is imported when it is asked for: a plain transfer needs no cryptography.
__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("Admitted", "Grant", "Identity", "Introduced", "Introduction", "Tokens"), "admitted"),
        "derived": "binding",
        **dict.fromkeys(("Certificate", "dialing_context", "listener_certificate", "listening_context"), "certificate"),
        **dict.fromkeys(("Code", "LiveCode"), "codes"),
        **dict.fromkeys(("ByCode", "ByKey", "ByPass", "ByToken", "Proof", "knock", "shown_by"), "dialing"),
        "Gate": "gate",
        **dict.fromkeys(
            ("AnotherMachine", "CodeGone", "Denial", "TokenRefused", "UnknownMachine", "WrongCode"), "refusals"
        ),
    },
)
