"""One transfer: connections, a machine and a store put together."""

from enchufe.session.base import HELLO_TIMEOUT, Greeted, Options, Session, hello_of
from enchufe.session.door import Door
from enchufe.session.receiving import ReceivingSession
from enchufe.session.sending import SendingSession

__all__ = [
    "HELLO_TIMEOUT",
    "Door",
    "Greeted",
    "Options",
    "ReceivingSession",
    "SendingSession",
    "Session",
    "hello_of",
]
