"""One transfer: connections, a machine and a store put together."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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

# Each is imported when it is asked for: who sends need not wait for what receives.
_HOMES: Final = {
    "Door": "door",
    "Greeted": "base",
    "HELLO_TIMEOUT": "base",
    "Options": "base",
    "ReceivingSession": "receiving",
    "SendingSession": "sending",
    "Session": "base",
    "hello_of": "base",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
