"""Committing: what has come is put on the disk by a thread of its own, whatever becomes of the connection meanwhile.

It may take minutes, and for as long nothing but pings cross: just when a link that is idle dies. So whoever was cut off
meanwhile comes again, and waits for the receipt with the next attempt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from enchufe.errors import BusyError
from enchufe.waiting import start

T = TypeVar("T")


class Committing(Generic[T]):
    """Something that goes on until it is done.

    Args:
        work: does it.

    Attributes:
        ring: called, from its thread, as soon as it is done.
        settled: whether it is.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self.ring: Callable[[], None] = lambda: None
        self.settled = False
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        # Not a daemon: whoever ends meanwhile waits for it, as all of it is to be there or nothing.
        self._thread = threading.Thread(target=self._run, name="enchufe commit")
        try:
            start(self._thread)
        except BusyError:  # better without the heartbeat than not at all
            self._run()

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            self._error = error
        self.settled = True
        self.ring()

    def wait(self, seconds: float) -> bool:
        """Wait for it no longer than this; whether it is done."""
        if not self.settled:
            self._thread.join(seconds)
        return self.settled

    def result(self) -> T:
        """Wait for it, and return what it returned, or raise what it raised."""
        if not self.settled:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]
