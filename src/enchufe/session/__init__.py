"""One transfer: connections, a machine and a store put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enchufe.lazy import lazily

if TYPE_CHECKING:
    from enchufe.session.base import HELLO_TIMEOUT, Greeted, Options, Session, hello_of
    from enchufe.session.consent import Declined, Offering
    from enchufe.session.door import Door
    from enchufe.session.receiving import ReceivingSession
    from enchufe.session.sending import SendingSession

__all__ = [
    "HELLO_TIMEOUT",
    "Declined",
    "Door",
    "Greeted",
    "Offering",
    "Options",
    "ReceivingSession",
    "SendingSession",
    "Session",
    "hello_of",
]

# Each is imported when it is asked for: who sends need not wait for what receives.
__getattr__ = lazily(
    __name__,
    {
        "Declined": "consent",
        "Door": "door",
        "Greeted": "base",
        "HELLO_TIMEOUT": "base",
        "Offering": "consent",
        "Options": "base",
        "ReceivingSession": "receiving",
        "SendingSession": "sending",
        "Session": "base",
        "hello_of": "base",
    },
)
