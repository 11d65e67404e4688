"""Seen: which names were offered in which folders, in little memory however many they are."""

from __future__ import annotations

import struct
from typing import Final

from blake3 import blake3

_SIZE: Final = 10  # bytes of a digest that are kept: of ten million two are the same once in 10^10 deliveries
_FOLDER: Final = struct.Struct(">i")


class Seen:
    """A set of names by the folders they are in: a million take some 15 MB, where a set of them takes 120."""

    def __init__(self) -> None:
        self._buckets: dict[int, bytearray] = {}  # digests in a row, by what they begin with

    def add(self, folder: int, name: bytes) -> bool:
        """One more; False where it was there."""
        digest, bucket = self._found(folder, name)
        if _place(bucket, digest) >= 0:
            return False
        bucket += digest
        return True

    def __contains__(self, name: tuple[int, bytes]) -> bool:
        digest, bucket = self._found(*name)
        return _place(bucket, digest) >= 0

    def discard(self, folder: int, name: bytes) -> None:
        """It is not there any more, if it was."""
        digest, bucket = self._found(folder, name)
        place = _place(bucket, digest)
        if place >= 0:
            del bucket[place : place + _SIZE]

    def _found(self, folder: int, name: bytes) -> tuple[bytes, bytearray]:
        digest = blake3(_FOLDER.pack(folder) + name).digest(_SIZE)
        key = digest[0] << 4 | digest[1] & 15
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = bytearray()
        return digest, bucket


def _place(bucket: bytearray, digest: bytes) -> int:
    place = bucket.find(digest)
    while place > 0 and place % _SIZE:  # the end of one and the beginning of the next
        place = bucket.find(digest, place + 1)
    return place
