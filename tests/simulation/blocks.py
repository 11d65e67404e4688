"""Blocks of a kilobyte: then a cut at a random byte is likely to fall between two things, not into a block.

And pieces of an eighth of that, of which is told as between two machines.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from enchufe import entry
from enchufe.session import receiving
from enchufe.transfer import data
from enchufe.transfer.digests import ZERO_BLOCK, block_digest
from enchufe.transfer.message import Message
from enchufe.transfer.patches import PIECE_SIZE
from enchufe.transports import tcp

SMALL = 1024
PIECE = 128


@contextmanager
def small_blocks() -> Iterator[int]:
    """Have enchufe's blocks be small during the block: every number that is made of their size."""
    big = entry.BLOCK_SIZE
    messages: tuple[type[Message], ...] = (data.Block, data.Batch, data.Patch, data.Packed)
    limits = [message.limit for message in messages]

    def everywhere(size: int, pieces: int, zeros: bytes) -> None:
        for place, module in list(sys.modules.items()):
            if place.startswith("enchufe"):
                for name, value in (("BLOCK_SIZE", size), ("PIECE_SIZE", pieces), ("ZERO_BLOCK", zeros)):
                    if hasattr(module, name):
                        setattr(module, name, value)

    is_one_machine = tcp.is_one_machine
    tcp.is_one_machine = lambda transport: False
    much, receiving.MUCH = receiving.MUCH, 3 * SMALL
    everywhere(SMALL, PIECE, block_digest(bytes(SMALL)))
    for message, limit in zip(messages, limits, strict=True):
        message.limit = limit - big + SMALL
    try:
        yield SMALL
    finally:
        tcp.is_one_machine = is_one_machine
        receiving.MUCH = much
        everywhere(big, PIECE_SIZE, ZERO_BLOCK)
        for message, limit in zip(messages, limits, strict=True):
            message.limit = limit
