"""enchufe sends files and messages over stream sockets. This file only re-exports; each name says where it lives.

Names are imported when they are first used, so that a command line starts at once.
"""

from __future__ import annotations

from enchufe.lazy import lazily

TYPE_CHECKING = False  # as in `lazy`
if TYPE_CHECKING:
    from enchufe import aio, events, framing
    from enchufe.blocking import BlockingConnection, Server, connect, serve
    from enchufe.connection import Connection
    from enchufe.errors import (
        BrokenError,
        BusyError,
        ClosedError,
        DeadlineExceeded,
        EnchufeError,
        LocalProtocolError,
        NoSpaceError,
        Refused,
        RemoteProtocolError,
        StoreError,
        VerificationError,
    )
    from enchufe.files import list_files, receive_files, send_files

__version__ = "0.1.0"

__all__ = [
    "BlockingConnection",
    "BrokenError",
    "BusyError",
    "ClosedError",
    "Connection",
    "DeadlineExceeded",
    "EnchufeError",
    "LocalProtocolError",
    "NoSpaceError",
    "Refused",
    "RemoteProtocolError",
    "Server",
    "StoreError",
    "VerificationError",
    "aio",
    "connect",
    "events",
    "framing",
    "list_files",
    "receive_files",
    "send_files",
    "serve",
]

__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(__all__, "errors"),
        "BlockingConnection": "blocking",
        "Connection": "connection",
        "Server": "blocking",
        "connect": "blocking",
        "list_files": "files",
        "receive_files": "files",
        "send_files": "files",
        "serve": "blocking",
    },
    modules=("aio", "events", "framing"),
)
