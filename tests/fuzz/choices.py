"""A fuzzer's bytes as choices: every byte string is one, so that no input is wasted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Reads choices from the front of `data`; where that is used up, everything is the first choice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        if self._at == len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def flag(self) -> bool:
        return self.byte() % 2 == 1

    def one(self, of: Sequence[T]) -> T:
        return of[self.byte() % len(of)]

    def some(self, most: int) -> bytes:
        """Up to `most` bytes."""
        count = self.byte() % (most + 1)
        start, self._at = self._at, min(self._at + count, len(self._data))
        return self._data[start : self._at]

    def left(self) -> bool:
        return self._at < len(self._data)

    def rest(self) -> bytes:
        """All that is left."""
        start, self._at = self._at, len(self._data)
        return self._data[start:]
