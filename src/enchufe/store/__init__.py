"""Where files come from and where they go: the only part that touches a user's disk."""

from enchufe.store.delivery import Delivery
from enchufe.store.interface import Receiving, Sending, SendingFile
from enchufe.store.local import LocalStore
from enchufe.store.partials import Partial, clean, partials
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
    "Partial",
    "PipeDelivery",
    "PipeSource",
    "Receiving",
    "Sending",
    "SendingFile",
    "Source",
    "SourceFile",
    "TextSource",
    "clean",
    "partials",
]
