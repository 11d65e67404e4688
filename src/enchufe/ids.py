"""Ids: a set of the numbers that entries have, in little memory however many they are."""

from __future__ import annotations


class Ids:
    """A set of ids, a bit for each up to the greatest: a million take 125 kB, where a set of them takes 60 MB.

    To add one takes memory up to it: they are of entries that are there, not of what somebody says.

    Args:
        first: the least that there may be.
    """

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self._bits = bytearray()
        self._count = 0

    def __contains__(self, id_: int) -> bool:
        place, bit = divmod(id_ - self._first, 8)
        return 0 <= place < len(self._bits) and bool(self._bits[place] >> bit & 1)

    def __len__(self) -> int:
        return self._count

    def add(self, id_: int) -> None:
        """One more, unless it is there.

        Raises:
            ValueError: it is less than the first.
        """
        place, bit = divmod(id_ - self._first, 8)
        if place < 0:
            raise ValueError(f"{id_} comes before {self._first}")
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 128 - len(self._bits)))
        if not self._bits[place] >> bit & 1:
            self._bits[place] |= 1 << bit
            self._count += 1
