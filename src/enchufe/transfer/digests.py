"""The three digests: of a block, of a file, of the whole tree (docs/protocol.md, BLOCK, FILE_END and FINISH)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from blake3 import blake3

from enchufe.buffer import Buffer
from enchufe.entry import Entry
from enchufe.transfer.messages import BLOCK_SIZE, DIGEST_SIZE, pack_entry

_RECORD: Final = struct.Struct(">IB")
_CONTENT: Final = struct.Struct(">Q32s")
_NO_CONTENT: Final = _CONTENT.pack(0, bytes(DIGEST_SIZE))


def block_digest(data: Buffer) -> bytes:
    """BLAKE3 of a block or of a whole small file."""
    return blake3(data).digest()


class FileDigest:
    """Collects the digests of a file's blocks, in any order, up to its root."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._have = bytearray()  # one byte per block: a set of a million small ints would be forty times that
        self._missing = 0

    def add(self, offset: int, digest: bytes) -> bool:
        """The block at `offset` has `digest`; False where a block at that offset was added before."""
        block = offset // BLOCK_SIZE
        if block >= len(self._have):
            grown = block + 1 - len(self._have)
            self._have.extend(bytes(grown))
            self._digests.extend(bytes(grown * DIGEST_SIZE))
            self._missing += grown
        if self._have[block]:
            return False
        self._have[block] = 1
        self._missing -= 1
        self._digests[block * DIGEST_SIZE : (block + 1) * DIGEST_SIZE] = digest
        return True

    @property
    def blocks(self) -> int:
        """How many blocks were added from the start without a gap, or 0 while there are gaps."""
        return 0 if self._missing else len(self._have)

    def root(self) -> bytes:
        """The file's root digest; only once no block is missing."""
        if len(self._digests) == DIGEST_SIZE:
            return bytes(self._digests)
        return blake3(self._digests).digest()


class Outcome(IntEnum):
    """What became of an entry."""

    ARRIVED = 1
    SKIPPED = 2
    REFUSED = 3
    LEFT_OUT = 4


class TreeDigest:
    """Runs over the entries in the order of their ids, whatever the order they are settled in."""

    def __init__(self) -> None:
        self._hash = blake3()
        self._next = 0
        self._early: dict[int, bytes] = {}
        self._pending: list[bytes] = []

    def add(self, entry: Entry, outcome: Outcome, size: int = 0, root: bytes = b"") -> None:
        """Say what became of `entry`; `size` and `root` are those of a file that arrived."""
        content = _CONTENT.pack(size, root) if root else _NO_CONTENT
        record = _RECORD.pack(entry.id, outcome) + pack_entry(entry) + content
        if entry.id != self._next:
            self._early[entry.id] = record
            return
        # Hashed many at a time: for records this small the call costs more than the hashing.
        self._pending.append(record)
        self._next += 1
        while self._early and (early := self._early.pop(self._next, None)) is not None:
            self._pending.append(early)
            self._next += 1
        if len(self._pending) >= 256:
            self._flush()

    @property
    def entries(self) -> int:
        """How many entries it covers so far, without a gap."""
        return self._next

    def digest(self) -> bytes:
        """The digest over all that was added; only once there is no gap."""
        self._flush()
        return self._hash.digest()

    def _flush(self) -> None:
        self._hash.update(b"".join(self._pending))
        self._pending.clear()
