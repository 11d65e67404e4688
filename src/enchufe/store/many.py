"""Many: the names in a folder, in order, in little memory however many they are."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Final

from enchufe.entry import LISTED
from enchufe.store.listing import in_order

_AT_ONCE: Final = 1000  # names that are compressed together: those of each run that are read are in memory


class Names:
    """Gathers names as they are found: append to `found`, and say `settle()` now and then.

    Args:
        keeps: which of them count; None: all.

    Attributes:
        found: the latest, in no order.
    """

    def __init__(self, keeps: Callable[[str], bool] | None = None) -> None:
        self.found: list[str] = []
        self._keeps = keeps
        self._runs: list[list[bytes]] = []
        self._count = 0

    def settle(self) -> None:
        """Put the latest away, where they are more than a listing may have."""
        if len(self.found) <= LISTED:
            return
        names = self._in_order()
        if names:
            self._count += len(names)
            # A name is never empty, and has no NUL in it. A million of a disk's take some 100 MB, and so a twentieth.
            self._runs.append(
                [zlib.compress(b"\0".join(names[at : at + _AT_ONCE]), 1) for at in range(0, len(names), _AT_ONCE)]
            )

    def all(self) -> Collection[bytes]:
        """All of them, in order: a list, unless they are many."""
        names = self._in_order()
        return _Many(self._runs, names, self._count + len(names)) if self._runs else names

    def _in_order(self) -> list[bytes]:
        found, keeps = self.found, self._keeps
        names = in_order(found if keeps is None else filter(keeps, found))
        found.clear()
        return names


class _Many(Collection[bytes]):
    """Names in runs, each in order."""

    def __init__(self, runs: list[list[bytes]], rest: list[bytes], count: int) -> None:
        self._runs = runs
        self._rest = rest
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        return heapq.merge(*map(_read, self._runs), self._rest)

    def __contains__(self, name: object) -> bool:
        return any(name == one for one in self)


def _read(run: list[bytes]) -> Iterator[bytes]:
    for packed in run:
        yield from zlib.decompress(packed).split(b"\0")
