"""What a cut transfer has left, read from the journals themselves."""

from __future__ import annotations

import struct
from pathlib import Path
from zlib import crc32

RECORD = struct.Struct(">16sII32sII")  # docs/protocol.md, "What is kept of a cut transfer"


def kept_bytes(inbox: Path) -> int:
    """Bytes that the journals in a destination vouch for; each block once."""
    blocks: dict[tuple[bytes, int], int] = {}
    for journal in inbox.glob(".enchufe/*/journal"):
        data = journal.read_bytes()
        for start in range(0, len(data) - RECORD.size + 1, RECORD.size):
            record = data[start : start + RECORD.size]
            file, number, size, _, _, crc = RECORD.unpack(record)
            if crc == crc32(record[:-4]):
                blocks[file, number] = size
    return sum(blocks.values())
