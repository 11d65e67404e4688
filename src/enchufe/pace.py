"""Pace: a rate that all streams of a transfer keep to together."""

from __future__ import annotations

import threading
from typing import Final

_MOMENT: Final = 0.05  # seconds' worth of bytes that may go at once


class Pace:
    """A bucket that fills at `rate`; any thread may draw from it.

    Args:
        rate: bytes per second.
        now: the time.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._least = max(rate * _MOMENT, 1.0)
        self._budget = 0.0
        self._filled = now
        self._lock = threading.Lock()

    def grant(self, now: float) -> tuple[int, float | None]:
        """How many bytes may go now; where it is 0, when to ask again."""
        with self._lock:
            # An allowance that was not used is lost, but for a moment's worth.
            self._budget = min(self._budget + max(now - self._filled, 0.0) * self._rate, 2 * self._least)
            self._filled = now
            if self._budget < self._least:
                return 0, now + (self._least - self._budget) / self._rate
            return int(self._budget), None

    def spend(self, count: int) -> None:
        """So many bytes went; more than were granted delay what comes next."""
        with self._lock:
            self._budget -= count
