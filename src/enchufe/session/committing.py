"""Committing: what has come is put on the disk by a thread of its own, whatever becomes of the connection meanwhile.

It may take minutes, and for as long nothing but pings cross: just when a link that is idle dies. So whoever was cut off
meanwhile comes again, and waits for the receipt with the next attempt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from enchufe.errors import BusyError
from enchufe.link import Outcome
from enchufe.waiting import start

T = TypeVar("T")


class Committing(Generic[T]):
    """Something that goes on until it is done.

    Args:
        work: does it.

    Attributes:
        ring: called, from its thread, as soon as it is done.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self.ring: Callable[[], None] = _nobody
        self._settled = threading.Event()  # to join a thread and be interrupted makes Python take it for ended
        self._outcome = Outcome(work)
        # Whoever ends meanwhile waits for it; who insists on ending at once may, and has been killed as well as any.
        thread = threading.Thread(target=self._run, name="enchufe commit", daemon=True)
        try:
            start(thread)
        except BusyError:  # better without the heartbeat than not at all
            self._run()

    def _run(self) -> None:
        self._outcome.settle()
        self._settled.set()
        self.ring()

    @property
    def settled(self) -> bool:
        """Whether it is done."""
        return self._settled.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for it no longer than this; whether it is done."""
        return self._settled.wait(seconds)

    def result(self) -> T:
        """Wait for it, and return what it returned, or raise what it raised."""
        self._settled.wait()
        return self._outcome.get()


def _nobody() -> None:
    """Nobody waits."""
