"""The three digests: of a block, of a file, of the whole tree (docs/protocol.md, BLOCK, FILE_END and FINISH)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from blake3 import blake3

from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE, Entry
from enchufe.transfer.offers import pack_entry

_RECORD: Final = struct.Struct(">IB")
_CONTENT: Final = struct.Struct(">Q32s")
_TOGETHER: Final = 4096  # digests that are put in a root at once: what they are of is 4 GiB
_CHECK: Final = 8  # bytes of a digest
_NO_CONTENT: Final = _CONTENT.pack(0, bytes(DIGEST_SIZE))


def block_digest(data: Buffer) -> bytes:
    """BLAKE3 of a block or of a whole small file."""
    return blake3(data).digest()


ZERO_BLOCK: Final = block_digest(bytes(BLOCK_SIZE))
"""Of a full block of nothing but zeros."""


class FileDigest:
    """Collects the digests of a file's blocks, in any order, up to its root.

    Those of a big file go into the root as soon as no block before them is missing; of these nine bytes each are kept.
    Of the biggest file that there may be, 16 TiB, that makes 150 MB.
    """

    __slots__ = ("_checks", "_digests", "_hash", "_have")

    def __init__(self) -> None:
        self._hash: blake3 | None = None
        self._checks = bytearray()  # of those that are in it
        self._digests = bytearray()  # of the blocks after them
        self._have = bytearray()  # one byte per block: a set of a million small ints would be forty times that

    def add(self, first: int, digests: bytes) -> bool:
        """The blocks from number `first` on have these digests.

        False, and nothing is added, where one is there, or is another than it was before it was removed.
        """
        stop = first + len(digests) // DIGEST_SIZE
        grown = stop - len(self._have)
        if grown > 0:
            self._have.extend(bytes(grown))
            self._digests.extend(bytes(grown * DIGEST_SIZE))
        if any(self._have[first:stop]):
            return False
        within = self._in_root
        if first < within:
            before = min(stop, within) - first
            if self._checks[first * _CHECK : (first + before) * _CHECK] != _checks(digests[: before * DIGEST_SIZE]):
                return False
            digests = digests[before * DIGEST_SIZE :]
        self._have[first:stop] = b"\1" * (stop - first)
        start = max(first - within, 0) * DIGEST_SIZE
        self._digests[start : start + len(digests)] = digests
        if len(self._digests) >= _TOGETHER * DIGEST_SIZE:
            self._put_in_root(within)
        return True

    @property
    def _in_root(self) -> int:
        return len(self._checks) // _CHECK

    def _put_in_root(self, within: int) -> None:
        """Put in the root what may be, if it is much."""
        count = self.missing(within) - within
        if count < _TOGETHER:
            return
        if self._hash is None:
            self._hash = blake3()
        digests = self._digests[: count * DIGEST_SIZE]
        self._hash.update(digests)
        self._checks += _checks(digests)
        del self._digests[: count * DIGEST_SIZE]

    def remove(self, block: int) -> None:
        """The block, which was there, is not any more."""
        self._have[block] = 0

    def __contains__(self, block: int) -> bool:
        return block < len(self._have) and bool(self._have[block])

    def is_same(self, block: int, digest: bytes) -> bool:
        """Whether a block is there, and has this digest as far as is known yet: one in 2^64 others passes for it.

        Whoever computes the root finds that too.
        """
        if block not in self:
            return False
        within = self._in_root
        if block < within:
            return self._checks[block * _CHECK : (block + 1) * _CHECK] == digest[:_CHECK]
        start = (block - within) * DIGEST_SIZE
        return self._digests[start : start + DIGEST_SIZE] == digest

    @property
    def span(self) -> int:
        """Blocks that it keeps memory for: up to the last that was added."""
        return len(self._have)

    def missing(self, block: int) -> int:
        """The first block from `block` on that is not there."""
        found = self._have.find(0, block)
        return max(block, len(self._have)) if found < 0 else found

    def root(self) -> bytes:
        """The file's root digest; only once no block is missing."""
        if self._hash is not None:
            whole = self._hash.copy()
            whole.update(self._digests)
            return whole.digest()
        if len(self._digests) == DIGEST_SIZE:
            return bytes(self._digests)
        return blake3(self._digests).digest()


def _checks(digests: Buffer) -> bytes:
    """What is kept of each: the first bytes."""
    return b"".join([digests[at : at + _CHECK] for at in range(0, len(digests), DIGEST_SIZE)])


class Outcome(IntEnum):
    """What became of an entry."""

    ARRIVED = 1
    SKIPPED = 2
    REFUSED = 3
    LEFT_OUT = 4
    SAME = 5


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
        record = _RECORD.pack(entry.id, outcome) + (entry.packed or pack_entry(entry)) + content
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

    def digest(self) -> bytes:
        """The digest over all that was added; only once there is no gap."""
        self._flush()
        return self._hash.digest()

    def _flush(self) -> None:
        self._hash.update(b"".join(self._pending))
        self._pending.clear()
