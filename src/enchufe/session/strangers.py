"""Strangers: those who come to a listener in vain, and are told of once, or nobody there would know why."""

from __future__ import annotations

import threading
from typing import Final

_MOST: Final = 16  # hosts: anybody can come, and nobody is to fill a terminal


class Strangers:
    """The hosts that were told of. Several threads may ask."""

    def __init__(self) -> None:
        self._hosts: set[str] = set()
        self._lock = threading.Lock()

    def is_new(self, peer: str) -> bool:
        """Whether whoever is at this address, with its port, is to be told of: his host never was before."""
        host = peer.rpartition(":")[0]
        with self._lock:
            if host in self._hosts or len(self._hosts) >= _MOST:
                return False
            self._hosts.add(host)
            return True
