"""Where files come from and where they go: the only part that touches a user's disk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from enchufe.store.delivery import Delivery
    from enchufe.store.interface import Receiving, Sending, SendingFile
    from enchufe.store.local import LocalStore
    from enchufe.store.pipe import PipeDelivery, PipeSource
    from enchufe.store.plan import IfExists, Links
    from enchufe.store.reading import LeftOut, SourceFile
    from enchufe.store.source import Source
    from enchufe.store.text import TextSource

__all__ = [
    "Delivery",
    "IfExists",
    "LeftOut",
    "Links",
    "LocalStore",
    "PipeDelivery",
    "PipeSource",
    "Receiving",
    "Sending",
    "SendingFile",
    "Source",
    "SourceFile",
    "TextSource",
]

# Each is imported when it is asked for: who sends need not wait for what receives.
_HOMES: Final = {
    "Delivery": "delivery",
    "IfExists": "plan",
    "LeftOut": "reading",
    "Links": "plan",
    "LocalStore": "local",
    "PipeDelivery": "pipe",
    "PipeSource": "pipe",
    "Receiving": "interface",
    "Sending": "interface",
    "SendingFile": "interface",
    "Source": "source",
    "SourceFile": "reading",
    "TextSource": "text",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
