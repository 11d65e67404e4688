"""Packing: compress what shrinks, where the link is slower than compressing."""

from __future__ import annotations

import threading
from typing import Final, TypeVar

from enchufe.transfer.data import Batch, Block, Packed, Patch

D = TypeVar("D", bound=Block | Batch | Patch)

SLOW: Final = 100e6  # bytes per second: zstd's first level makes five times that of a thread
LEVEL: Final = 1
_SAMPLE: Final = 16 << 10  # bytes of a block that are tried first
_WORTH: Final = 0.9  # of its size; what shrinks less is not worth opening
_WINDOW: Final = 1.0  # seconds over which the link's speed is taken


class Packer:
    """Decides for each message of data, and compresses it; any thread may.

    Args:
        always: whatever the link's speed.
        slow: whether the link is taken for slow until it is known better.
        now: the time.
    """

    def __init__(self, *, always: bool, slow: bool, now: float) -> None:
        self._always = always
        self._slow = slow
        self._since = now
        self._sent = 0
        self._local = threading.local()

    def note(self, size: int, now: float) -> None:
        """So many bytes went, until now."""
        self._sent += size
        seconds = now - self._since
        if seconds >= _WINDOW:
            self._slow = self._sent / seconds < SLOW
            self._since, self._sent = now, 0

    def packed(self, message: D) -> D | Packed:
        """The message, or a shorter one in its place."""
        if not (self._always or self._slow):
            return message
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            import zstandard  # noqa: PLC0415 (slow to import, and few use it)

            compressor = self._local.compressor = zstandard.ZstdCompressor(level=LEVEL)
        body = b"".join(message.pack())
        if len(body) > 2 * _SAMPLE:
            middle = len(body) // 2
            sample = memoryview(body)[middle : middle + _SAMPLE]
            if len(compressor.compress(sample)) > _WORTH * _SAMPLE:
                return message
        data = compressor.compress(body)
        if len(data) > _WORTH * len(body):
            return message
        return Packed(message.type, len(body), data)
