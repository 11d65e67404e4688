"""Where files come from and where they go: the only part that touches a user's disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enchufe.lazy import lazily

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
__getattr__ = lazily(
    __name__,
    {
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
    },
)
