"""A port that no other test gets, and where nobody listens until whoever asked for it does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Bound for as long as this lasts, so that the kernel gives it to nobody who takes any; a listener may share it.

    A port that was closed before it is used may be another process's by then, or connect to itself.
    """
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((host, 0))
        yield kept.getsockname()[1]
