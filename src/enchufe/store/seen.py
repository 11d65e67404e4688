"""Seen: which names were offered in which folders, in little memory however many they are."""

from __future__ import annotations

import struct
from typing import Final

from blake3 import blake3

from enchufe.store.buckets import Buckets

_SIZE: Final = 10  # bytes of a digest that are kept: of ten million two are the same once in 10^10 deliveries
_FOLDER: Final = struct.Struct(">i")


class Seen:
    """A set of names by the folders they are in: a million take some 15 MB, where a set of them takes 120."""

    def __init__(self) -> None:
        self._digests = Buckets(_SIZE)

    def add(self, folder: int, name: bytes) -> bool:
        """One more; False where it was there."""
        digest = _digest(folder, name)
        if digest in self._digests:
            return False
        self._digests.add(digest)
        return True

    def __contains__(self, name: tuple[int, bytes]) -> bool:
        return _digest(*name) in self._digests

    def discard(self, folder: int, name: bytes) -> None:
        """It is not there any more, if it was."""
        self._digests.discard(_digest(folder, name))


def _digest(folder: int, name: bytes) -> bytes:
    return blake3(_FOLDER.pack(folder) + name).digest(_SIZE)
