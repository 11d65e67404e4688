"""Rows: bytes by number, in little memory however many they are."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator


class Rows:
    """Rows of bytes by ascending numbers: twelve bytes are kept beside each. One may be added while others look."""

    def __init__(self) -> None:
        self._numbers = array("I")
        self._ends = array("Q", [0])
        self._bytes = bytearray()

    def add(self, number: int, row: bytes) -> None:
        """One more, of a greater number than all that are there.

        Raises:
            ValueError: it is not greater.
        """
        if self._numbers and number <= self._numbers[-1]:
            raise ValueError(f"{number} comes after {self._numbers[-1]}")
        self._bytes += row
        self._ends.append(len(self._bytes))
        self._numbers.append(number)  # last: now it is found

    def get(self, number: int) -> bytes | None:
        """The row of a number; None where there is none."""
        place = bisect_left(self._numbers, number)
        if place == len(self._numbers) or self._numbers[place] != number:
            return None
        return bytes(self._bytes[self._ends[place] : self._ends[place + 1]])

    def change(self, number: int, row: bytes) -> None:
        """Put another row of the same length in place of the one that is there.

        Raises:
            KeyError: there is none.
        """
        place = bisect_left(self._numbers, number)
        if place == len(self._numbers) or self._numbers[place] != number:
            raise KeyError(number)
        self._bytes[self._ends[place] : self._ends[place + 1]] = row

    def pop(self) -> None:
        """Forget the last."""
        self._numbers.pop()
        self._ends.pop()
        del self._bytes[self._ends[-1] :]

    def __reversed__(self) -> Iterator[tuple[int, bytes]]:
        for place in reversed(range(len(self._numbers))):
            yield self._numbers[place], bytes(self._bytes[self._ends[place] : self._ends[place + 1]])
