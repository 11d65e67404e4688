"""Pace: a rate that all streams of a transfer keep to together."""

from __future__ import annotations

import threading
from typing import Final

# Bytes per second that a limit is at the least: each of 64 streams gets 15 of them, and on each a frame has to come on
# by 13, or the other side gives it up (docs/protocol.md, Limits).
LEAST_LIMIT: Final = 1000.0

_MOMENT: Final = 0.05  # seconds' worth of bytes that may go at once
_PATIENCE: Final = 0.5  # seconds after which whoever has not asked again has left


class Pace:
    """A bucket that fills at `rate`; the streams draw from it by turns, each from a thread of its own.

    By turns, since a stream that got nothing for long would pass for dead.

    Args:
        rate: bytes per second.
        now: the time.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._least = max(rate * _MOMENT, 1.0)
        self._budget = 0.0
        self._filled = now
        self._waiting: dict[int, float] = {}  # who was refused, in that order, and when it asked last
        self._lock = threading.Lock()

    def grant(self, stream: int, now: float) -> tuple[int, float | None]:
        """How many bytes may go on a stream now; where it is 0, when to ask again."""
        with self._lock:
            # An allowance that was not used is lost, but for a moment's worth.
            self._budget = min(self._budget + max(now - self._filled, 0.0) * self._rate, 2 * self._least)
            self._filled = now
            self._waiting[stream] = now
            while now - self._waiting[first := next(iter(self._waiting))] > _PATIENCE:
                del self._waiting[first]
            if self._budget < self._least:
                return 0, now + (self._least - self._budget) / self._rate
            if first != stream:
                return 0, now + _MOMENT / 10
            del self._waiting[stream]
            return int(self._budget), None

    def spend(self, count: int) -> None:
        """So many bytes went; more than were granted delay what comes next."""
        with self._lock:
            self._budget -= count
