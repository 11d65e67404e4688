"""How many connections at once, how each of them waits, and how they stop."""

from __future__ import annotations

from typing import Protocol


class Engine(Protocol):
    """A way to serve connections."""

    def stop(self) -> None:
        """Ask `run` to drain and return; any thread or signal handler may."""

    def run(self) -> None:
        """Serve until `stop`, then drain: no new connections, and what runs gets `drain` seconds to finish."""
