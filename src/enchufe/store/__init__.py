"""Where files come from and where they go: the only part that touches a user's disk."""

from enchufe.store.delivery import Delivery
from enchufe.store.interface import Receiving, Sending, SendingFile
from enchufe.store.local import LocalStore
from enchufe.store.pipe import PipeDelivery, PipeSource
from enchufe.store.plan import IfExists, Links
from enchufe.store.source import LeftOut, Source, SourceFile

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
]
