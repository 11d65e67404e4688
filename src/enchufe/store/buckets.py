"""Buckets: rows that are found by a digest, in little memory however many they are."""

from __future__ import annotations

from collections.abc import Iterator


class Buckets:
    """Rows of one length, each of which begins with its key: some of the bytes of a digest, two at least.

    A million take an eighth more than what is in them, where a dict takes 130 bytes for each besides.

    Args:
        key: bytes in a key.
        value: bytes in what comes with it.
    """

    def __init__(self, key: int, value: int = 0) -> None:
        self._key = key
        self._size = key + value
        self._buckets: dict[int, bytearray] = {}  # rows, by what they begin with

    def __contains__(self, key: bytes) -> bool:
        bucket = self._bucket(key)
        return bucket is not None and self._place(bucket, key, 0) >= 0

    def add(self, key: bytes, value: bytes = b"") -> None:
        """One more row, after all that there are with this key."""
        number = _number(key)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = bytearray()
        bucket += key + value

    def discard(self, key: bytes) -> None:
        """Remove the first row with this key, if there is one."""
        bucket = self._bucket(key)
        place = -1 if bucket is None else self._place(bucket, key, 0)
        if bucket is not None and place >= 0:
            del bucket[place : place + self._size]

    def values(self, key: bytes) -> Iterator[bytes]:
        """What came with this key, in the order it was added."""
        bucket = self._bucket(key)
        place = -1 if bucket is None else self._place(bucket, key, 0)
        while bucket is not None and place >= 0:
            yield bytes(bucket[place + self._key : place + self._size])
            place = self._place(bucket, key, place + self._size)

    def _bucket(self, key: bytes) -> bytearray | None:
        return self._buckets.get(_number(key))

    def _place(self, bucket: bytearray, key: bytes, start: int) -> int:
        """Where the first row from `start` on with this key begins; -1 where there is none."""
        place = bucket.find(key, start)
        while place > 0 and place % self._size:  # within a row, or the end of one and the beginning of the next
            place = bucket.find(key, place + 1)
        return place


def _number(key: bytes) -> int:
    """One of 4096, as the digests are anything."""
    return key[0] << 4 | key[1] & 15
