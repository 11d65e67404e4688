"""The messages that carry content, on any stream: BLOCK, BATCH, SAME, HOLE, and PACKED around the first two."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Self
from zlib import crc32

from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, UNKNOWN_SIZE, Entry
from enchufe.errors import VerificationError
from enchufe.transfer.message import BATCH_FILES, CONTROL_SIZE, Message, Type, malformed

_BLOCK: Final = struct.Struct(">IQ32s")
_COUNT: Final = struct.Struct(">H")
_BATCHED: Final = struct.Struct(">II32s")
_RUN: Final = struct.Struct(">III")
_CHECK: Final = struct.Struct(">I")
_PACKED: Final = struct.Struct(">BI")


def _check(kind: Type, fields: Buffer) -> bytes:
    """What ends the fields of a message of data: a digest proves what the content is, and this where it belongs."""
    return _CHECK.pack(crc32(fields, crc32(bytes((kind,)))))


def _damaged(kind: Type) -> VerificationError:
    return VerificationError(f"a {kind.name} was damaged on the way", hint="Try again: what arrived whole is kept.")


@dataclass(slots=True)
class Block(Message):
    """A piece of a file; the payload is a view, good until more is received."""

    type = Type.BLOCK
    limit = _BLOCK.size + _CHECK.size + BLOCK_SIZE

    id: int
    offset: int
    digest: bytes
    payload: Buffer

    def pack(self) -> list[Buffer]:
        fields = _BLOCK.pack(self.id, self.offset, self.digest)
        return [fields + _check(self.type, fields), self.payload]

    @classmethod
    def unpack(cls, body: memoryview) -> Block:
        start = _BLOCK.size + _CHECK.size
        if len(body) <= start:
            raise malformed(cls.type)
        if body[_BLOCK.size : start] != _check(cls.type, body[: _BLOCK.size]):
            raise _damaged(cls.type)
        number, offset, digest = _BLOCK.unpack_from(body)
        return cls(number, offset, digest, body[start:])


@dataclass(slots=True)
class Batch(Message):
    """Small files whole: id, digest, payload; payloads are views, good until more is received."""

    type = Type.BATCH
    limit = CONTROL_SIZE + BLOCK_SIZE

    files: Sequence[tuple[int, bytes, Buffer]]

    def pack(self) -> list[Buffer]:
        table = [_BATCHED.pack(number, len(payload), digest) for number, digest, payload in self.files]
        # Gathered: a piece of memory for all of them would be a new one, which costs more than what is done in it.
        fields = b"".join((_COUNT.pack(len(table)), *table))
        return [fields + _check(self.type, fields), *[payload for _, _, payload in self.files]]

    @classmethod
    def unpack(cls, body: memoryview) -> Batch:
        if len(body) < _COUNT.size:
            raise malformed(cls.type)
        (count,) = _COUNT.unpack_from(body)
        stop = _COUNT.size + count * _BATCHED.size
        start = stop + _CHECK.size
        if not 0 < count <= BATCH_FILES or start > len(body):
            raise malformed(cls.type)
        if body[stop:start] != _check(cls.type, body[:stop]):
            raise _damaged(cls.type)
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
    limit = _RUN.size + _CHECK.size

    id: int
    first: int
    count: int

    def pack(self) -> list[Buffer]:
        fields = _RUN.pack(self.id, self.first, self.count)
        return [fields + _check(self.type, fields)]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) != cls.limit:
            raise malformed(cls.type)
        if body[_RUN.size :] != _check(cls.type, body[: _RUN.size]):
            raise _damaged(cls.type)
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
class Packed(Message):
    """A block or batch, compressed."""

    type = Type.PACKED
    limit = Batch.limit

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

    def opened(self) -> Block | Batch:
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


_INNER: Final[dict[int, type[Block] | type[Batch]]] = {Type.BLOCK: Block, Type.BATCH: Batch}


def travels_in_batch(entry: Entry) -> bool:
    """Whether a file that is wanted in whole goes among others; the rest goes in blocks."""
    return entry.size != UNKNOWN_SIZE and entry.size < BLOCK_SIZE


Data = Block | Batch | Same | Hole
"""What is left of a data message when it is unpacked."""
