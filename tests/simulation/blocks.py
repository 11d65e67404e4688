"""Blocks of a kilobyte: then a cut at a random byte is likely to fall between two things, not into a block."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from enchufe import entry
from enchufe.transfer import data
from enchufe.transfer.digests import ZERO_BLOCK, block_digest
from enchufe.transfer.message import Message

SMALL = 1024


@contextmanager
def small_blocks() -> Iterator[int]:
    """Have enchufe's blocks be small during the block: every number that is made of their size."""
    big = entry.BLOCK_SIZE
    messages: tuple[type[Message], ...] = (data.Block, data.Batch, data.Packed)
    limits = [message.limit for message in messages]

    def everywhere(size: int, zeros: bytes) -> None:
        for place, module in list(sys.modules.items()):
            if place.startswith("enchufe"):
                for name, value in (("BLOCK_SIZE", size), ("ZERO_BLOCK", zeros)):
                    if hasattr(module, name):
                        setattr(module, name, value)

    everywhere(SMALL, block_digest(bytes(SMALL)))
    for message, limit in zip(messages, limits, strict=True):
        message.limit = limit - big + SMALL
    try:
        yield SMALL
    finally:
        everywhere(big, ZERO_BLOCK)
        for message, limit in zip(messages, limits, strict=True):
            message.limit = limit
