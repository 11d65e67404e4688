"""Put away: what is read again in the end, in order, in little memory however much it is."""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

_AT_ONCE: Final = 1000  # of those that are packed together


class PutAway:
    """Tuples of numbers, bytes and text, all of one length."""

    def __init__(self) -> None:
        self._latest: list[tuple[Any, ...]] = []
        self._packed: list[bytes] = []

    def append(self, row: tuple[Any, ...]) -> None:
        """One more."""
        self._latest.append(row)
        if len(self._latest) == _AT_ONCE:  # by columns, which have more in common than rows
            self._packed.append(zlib.compress(marshal.dumps(tuple(zip(*self._latest, strict=True))), 1))
            self._latest.clear()

    def __len__(self) -> int:
        return len(self._packed) * _AT_ONCE + len(self._latest)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """All of them, with what comes meanwhile."""
        packed = given = 0
        while True:
            if packed < len(self._packed):
                columns = marshal.loads(zlib.decompress(self._packed[packed]))  # noqa: S302 (our own memory)
                yield from islice(zip(*columns, strict=True), given, None)
                packed, given = packed + 1, 0
            elif given < len(self._latest):
                yield self._latest[given]
                given += 1
            else:
                return
