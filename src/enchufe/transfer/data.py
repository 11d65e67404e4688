"""The messages that carry content, on any stream: BLOCK, BATCH, SAME, HOLE, PATCH, and PACKED around some of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, Self

from enchufe.buffer import Buffer
from enchufe.dataclass import dataclass
from enchufe.entry import BLOCK_SIZE, UNKNOWN_SIZE, Entry
from enchufe.transfer.message import (
    BATCH_FILES,
    CHECK,
    CONTROL_SIZE,
    FILE_SIZE,
    Message,
    Type,
    check,
    malformed,
    past_check,
)
from enchufe.transfer.patches import MAX_PARTS, Part

_BLOCK: Final = struct.Struct(">IQ32s")
_COUNT: Final = struct.Struct(">H")
_BATCHED: Final = struct.Struct(">II32s")
_RUN: Final = struct.Struct(">III")
_PATCH: Final = struct.Struct(">IQ32sH")
_PART: Final = struct.Struct(">IQ")
_ALONG: Final = 2**64 - 1  # in place of where from
_PACKED: Final = struct.Struct(">BI")


@dataclass(slots=True)
class Block(Message):
    """A piece of a file; the payload is a view, good until more is received."""

    type = Type.BLOCK
    limit = _BLOCK.size + CHECK.size + BLOCK_SIZE
    has_check = False

    id: int
    offset: int
    digest: bytes
    payload: Buffer

    def pack(self) -> list[Buffer]:
        fields = _BLOCK.pack(self.id, self.offset, self.digest)
        return [fields + check(self.type, fields), self.payload]

    @classmethod
    def unpack(cls, body: memoryview) -> Block:
        if len(body) <= _BLOCK.size + CHECK.size:
            raise malformed(cls.type)
        start = past_check(cls.type, body, _BLOCK.size)
        number, offset, digest = _BLOCK.unpack_from(body)
        return cls(number, offset, digest, body[start:])


@dataclass(slots=True)
class Batch(Message):
    """Small files whole: id, digest, payload; payloads are views, good until more is received."""

    type = Type.BATCH
    limit = CONTROL_SIZE + BLOCK_SIZE
    has_check = False

    files: Sequence[tuple[int, bytes, Buffer]]

    def pack(self) -> list[Buffer]:
        table = [_BATCHED.pack(number, len(payload), digest) for number, digest, payload in self.files]
        # Gathered: a piece of memory for all of them would be a new one, which costs more than what is done in it.
        fields = b"".join((_COUNT.pack(len(table)), *table))
        return [fields + check(self.type, fields), *[payload for _, _, payload in self.files]]

    @classmethod
    def unpack(cls, body: memoryview) -> Batch:
        if len(body) < _COUNT.size:
            raise malformed(cls.type)
        (count,) = _COUNT.unpack_from(body)
        if not 0 < count <= BATCH_FILES:
            raise malformed(cls.type)
        stop = _COUNT.size + count * _BATCHED.size
        start = past_check(cls.type, body, stop)
        table = list(_BATCHED.iter_unpack(body[_COUNT.size : stop]))
        ends = list(accumulate((size for _, size, _ in table), initial=start))
        if ends[-1] != len(body):
            raise malformed(cls.type)
        return cls(
            [
                (number, digest, body[begin:end])
                for (number, _, digest), begin, end in zip(table, ends, ends[1:], strict=False)
            ]
        )


@dataclass(slots=True)
class _Run(Message):
    limit = _RUN.size + CHECK.size
    has_check = False

    id: int
    first: int
    count: int

    def pack(self) -> list[Buffer]:
        fields = _RUN.pack(self.id, self.first, self.count)
        return [fields + check(self.type, fields)]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        past_check(cls.type, body, _RUN.size)  # finds a shorter one; a longer one is over the limit
        return cls(*_RUN.unpack_from(body))


class Same(_Run):
    """These blocks are those that the receiver has in its own version."""

    __slots__ = ()
    type = Type.SAME


class Hole(_Run):
    """These blocks, full ones, are nothing but zeros."""

    __slots__ = ()
    type = Type.HOLE


@dataclass(slots=True)
class Patch(Message):
    """A piece of a file, by what of it the receiver has in its own version, and what it has not.

    Attributes:
        parts: bytes of each, in order, and where it stands in the receiver's version; None: it comes along.
        payload: what comes along; a view, good until more is received.
    """

    type = Type.PATCH
    limit = _PATCH.size + MAX_PARTS * _PART.size + CHECK.size + BLOCK_SIZE
    has_check = False

    id: int
    offset: int
    digest: bytes
    parts: Sequence[Part]
    payload: Buffer

    @property
    def size(self) -> int:
        """Bytes in the block."""
        return sum(size for size, _ in self.parts)

    def pack(self) -> list[Buffer]:
        table = [_PART.pack(size, _ALONG if where is None else where) for size, where in self.parts]
        fields = b"".join((_PATCH.pack(self.id, self.offset, self.digest, len(table)), *table))
        return [fields + check(self.type, fields), self.payload]

    @classmethod
    def unpack(cls, body: memoryview) -> Patch:
        if len(body) < _PATCH.size:
            raise malformed(cls.type)
        number, offset, digest, count = _PATCH.unpack_from(body)
        if not 0 < count <= MAX_PARTS:
            raise malformed(cls.type)
        stop = _PATCH.size + count * _PART.size
        start = past_check(cls.type, body, stop)
        parts = [
            (size, None if where == _ALONG else where) for size, where in _PART.iter_unpack(body[_PATCH.size : stop])
        ]
        along = [size for size, where in parts if where is None]
        if len(along) == count or sum(along) != len(body) - start:
            raise malformed(cls.type)
        if not all(size and (where or 0) + size <= FILE_SIZE for size, where in parts):
            raise malformed(cls.type)
        message = cls(number, offset, digest, parts, body[start:])
        if message.size > BLOCK_SIZE:
            raise malformed(cls.type)
        return message


@dataclass(slots=True)
class Packed(Message):
    """A block, batch or patch, compressed."""

    type = Type.PACKED
    limit = Batch.limit
    has_check = False

    kind: Type
    size: int
    data: Buffer

    def pack(self) -> list[Buffer]:
        return [_PACKED.pack(self.kind, self.size), self.data]

    @classmethod
    def unpack(cls, body: memoryview) -> Packed:
        if len(body) <= _PACKED.size:
            raise malformed(cls.type)
        kind, size = _PACKED.unpack_from(body)
        inner = _INNER.get(kind)
        if inner is None or size > inner.limit:
            raise malformed(cls.type)
        return cls(Type(kind), size, body[_PACKED.size :])

    def opened(self) -> Block | Batch | Patch:
        """The message inside.

        Raises:
            RemoteProtocolError: it is none.
        """
        import zstandard  # noqa: PLC0415 (slow to import, and few use it)

        try:
            # What the frame says of itself is what gets allocated, whatever the maximum.
            if not self.size or zstandard.frame_content_size(self.data) not in (-1, self.size):
                raise malformed(Type.PACKED)
            body = zstandard.ZstdDecompressor().decompress(self.data, max_output_size=self.size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise malformed(Type.PACKED) from error
        if len(body) != self.size:
            raise malformed(Type.PACKED)
        return _INNER[self.kind].unpack(memoryview(body))


_INNER: Final[dict[int, type[Block] | type[Batch] | type[Patch]]] = {
    Type.BLOCK: Block,
    Type.BATCH: Batch,
    Type.PATCH: Patch,
}


def travels_in_batch(entry: Entry) -> bool:
    """Whether a file that is wanted in whole goes among others; the rest goes in blocks."""
    return entry.size != UNKNOWN_SIZE and entry.size < BLOCK_SIZE


Data = Block | Batch | Same | Hole | Patch
"""What is left of a data message when it is unpacked."""
