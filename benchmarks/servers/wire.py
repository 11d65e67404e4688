"""What the servers share: their words, their listening socket, and what goes before a message."""

from __future__ import annotations

import resource
import socket
import struct
import sys
from typing import Final

LENGTH: Final = struct.Struct(">I")
BACKLOG: Final = 4096
HERE: Final = "127.0.0.1:0"


def words() -> tuple[bool, list[str]]:
    """Whether to echo, and what else was said. Also allows as many descriptors as there may be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    job, *how = sys.argv[1:]
    return {"echo": True, "count": False}[job], how


def listen() -> socket.socket:
    """A listening socket, announced."""
    host, _, port = HERE.rpartition(":")
    listening = socket.create_server((host, int(port)), backlog=BACKLOG)
    announce(f"{host}:{listening.getsockname()[1]}")
    return listening


def announce(*addresses: str) -> None:
    """Say where we are."""
    print(",".join(addresses), flush=True)


def framed(message: bytes) -> bytes:
    """A message as it is on the wire."""
    return LENGTH.pack(len(message)) + message


def total(count: int) -> bytes:
    """The message that answers a counted connection."""
    return count.to_bytes(8, "big")
