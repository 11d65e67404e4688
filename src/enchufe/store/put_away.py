"""Put away: what is read again in the end, in order, in little memory however much it is."""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Iterator
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
        for packed in self._packed:
            yield from zip(*marshal.loads(zlib.decompress(packed)), strict=True)  # noqa: S302 (our own memory)
        yield from self._latest
