"""The messages of the transfer protocol and their bytes, as docs/protocol.md tells them.

Each message packs itself into pieces to be gathered and unpacks from its body; a payload is never copied here. What
a body must hold to make sense at all is checked here, what it means at this moment is for the machines.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from typing import Any, ClassVar, Final, Self

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.entry import Answer, Entry, Kind, Reason
from enchufe.errors import RemoteProtocolError

# What the specification fixes (docs/protocol.md, "Limits").
VERSION: Final = 1
MAGIC: Final = b"enchufe"
BLOCK_SIZE: Final = 1 << 20
DIGEST_SIZE: Final = 32
BATCH_FILES: Final = 1024
CONTROL_SIZE: Final = 64 << 10
TARGET_SIZE: Final = 4095
FILE_SIZE: Final = 2**63 - 1

_FRAME: Final = struct.Struct(">BI")
_HELLO: Final = struct.Struct(">7sBBBI16sIHI")
_FIRST: Final = struct.Struct(">I")
_ENTRY: Final = struct.Struct(">BBIHQqHH")
_OFFER_END: Final = struct.Struct(">IQI")
_WANT: Final = struct.Struct(">IIB")
_BLOCK: Final = struct.Struct(">IQ32s")
_COUNT: Final = struct.Struct(">H")
_BATCHED: Final = struct.Struct(">II32s")
_FILE_END: Final = struct.Struct(">IQ32s")
_LEFT_OUT: Final = struct.Struct(">IB")
_PROGRESS: Final = struct.Struct(">QI")
_RECEIPT: Final = struct.Struct(">IQ32s")

ENTRY_OVERHEAD: Final = _ENTRY.size


class Type(IntEnum):
    """The first byte of a frame."""

    HELLO = 1
    OFFER = 2
    OFFER_END = 3
    WANT = 4
    BLOCK = 5
    BATCH = 6
    FILE_END = 7
    LEFT_OUT = 8
    PROGRESS = 9
    FINISH = 10
    RECEIPT = 11
    PING = 12
    ERROR = 13


class Role(IntEnum):
    """Which way the files go."""

    SENDER = 1
    RECEIVER = 2


class Code(IntEnum):
    """Why one side ends the transfer."""

    PROTOCOL = 1
    VERSION = 2
    NO_SPACE = 3
    STORE = 4
    REFUSED = 5
    BUSY = 6
    VERIFICATION = 7
    INTERRUPTED = 8
    INTERNAL = 9


class Message:
    """What all messages have: a type, a limit of their body, `pack` and `unpack`."""

    type: ClassVar[Type]
    limit: ClassVar[int]

    def pack(self) -> list[Buffer]:
        """The body, in pieces to be gathered."""
        raise NotImplementedError

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        """Read a body; payloads are views of it.

        Raises:
            RemoteProtocolError: it is no such message.
        """
        raise NotImplementedError


class _Fixed(Message):
    """A message whose body is its fields, in their order, in one fixed form."""

    form: ClassVar[struct.Struct]
    __match_args__: ClassVar[tuple[str, ...]]

    def pack(self) -> list[Buffer]:
        return [self.form.pack(*[getattr(self, field) for field in self.__match_args__])]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        return cls(*_exactly(cls.form, cls.type, body))


@dataclass(slots=True)
class Hello(Message):
    """Who I am and what I speak; the first thing either side says."""

    type = Type.HELLO
    limit = 4096

    role: Role
    session: bytes = bytes(16)
    epoch: int = 0
    stream: int = 0
    window: int = 0
    features: int = 0
    lowest: int = VERSION
    highest: int = VERSION

    def pack(self) -> list[Buffer]:
        return [
            _HELLO.pack(
                MAGIC,
                self.lowest,
                self.highest,
                self.role,
                self.features,
                self.session,
                self.epoch,
                self.stream,
                self.window,
            )
        ]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) < _HELLO.size:
            raise _malformed(cls.type)
        magic, lowest, highest, role, features, session, epoch, stream, window = _HELLO.unpack_from(body)
        if magic != MAGIC or not 0 < lowest <= highest or role not in (Role.SENDER, Role.RECEIVER):
            raise _malformed(cls.type)
        return cls(Role(role), session, epoch, stream, window, features, lowest, highest)


@dataclass(slots=True)
class Offer(Message):
    """Entries, numbered from the first one's id on."""

    type = Type.OFFER
    limit = CONTROL_SIZE

    entries: Sequence[Entry]

    def pack(self) -> list[Buffer]:
        return [_FIRST.pack(self.entries[0].id), *map(pack_entry, self.entries)]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) <= _FIRST.size:
            raise _malformed(cls.type)
        (number,) = _FIRST.unpack_from(body)
        entries = []
        position = _FIRST.size
        while position < len(body):
            entry, position = _unpack_entry(body, position, number)
            entries.append(entry)
            number += 1
        return cls(entries)


def pack_entry(entry: Entry) -> bytes:
    """An entry as an offer carries it."""
    fixed = _ENTRY.pack(
        entry.kind,
        0,
        entry.parent,
        entry.mode,
        entry.size,
        entry.mtime_ns,
        len(entry.name),
        len(entry.target),
    )
    return fixed + entry.name + entry.target


def _unpack_entry(body: memoryview, position: int, number: int) -> tuple[Entry, int]:
    start = position + _ENTRY.size
    if start > len(body):
        raise _malformed(Type.OFFER)
    kind, flags, parent, mode, size, mtime_ns, name_size, target_size = _ENTRY.unpack_from(body, position)
    middle = start + name_size
    end = middle + target_size
    if (
        end > len(body)
        or flags
        or kind not in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)
        or mode > 0o7777
        or (target_size > 0) != (kind == Kind.SYMLINK)
        or target_size > TARGET_SIZE
        or (size != 0 and kind != Kind.FILE)
        or FILE_SIZE < size < 2**64 - 1
    ):
        raise _malformed(Type.OFFER)
    name, target = bytes(body[start:middle]), bytes(body[middle:end])
    return Entry(number, parent, name, Kind(kind), size, mode, mtime_ns, target), end


@dataclass(slots=True)
class OfferEnd(_Fixed):
    """That was the last entry."""

    type = Type.OFFER_END
    form = _OFFER_END
    limit = form.size

    entries: int
    size: int
    left_out: int


@dataclass(slots=True)
class Want(Message):
    """Answers to entries, in runs: first id, count, answer."""

    type = Type.WANT
    limit = CONTROL_SIZE

    runs: Sequence[tuple[int, int, Answer]]

    def pack(self) -> list[Buffer]:
        return [b"".join(_WANT.pack(*run) for run in self.runs)]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if not body or len(body) % _WANT.size:
            raise _malformed(cls.type)
        try:
            return cls([(first, count, Answer(answer)) for first, count, answer in _WANT.iter_unpack(body)])
        except ValueError as error:
            raise _malformed(cls.type) from error


@dataclass(slots=True)
class Block(Message):
    """A piece of a file; the payload is a view, good until more is received."""

    type = Type.BLOCK
    limit = _BLOCK.size + BLOCK_SIZE

    id: int
    offset: int
    digest: bytes
    payload: Buffer

    def pack(self) -> list[Buffer]:
        return [_BLOCK.pack(self.id, self.offset, self.digest), self.payload]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) <= _BLOCK.size:
            raise _malformed(cls.type)
        number, offset, digest = _BLOCK.unpack_from(body)
        return cls(number, offset, digest, body[_BLOCK.size :])


@dataclass(slots=True)
class Batch(Message):
    """Small files whole: id, digest, payload; payloads are views, good until more is received."""

    type = Type.BATCH
    limit = CONTROL_SIZE + BLOCK_SIZE

    files: Sequence[tuple[int, bytes, Buffer]]

    def pack(self) -> list[Buffer]:
        table = [_BATCHED.pack(number, len(payload), digest) for number, digest, payload in self.files]
        return [b"".join((_COUNT.pack(len(table)), *table, *(payload for _, _, payload in self.files)))]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) < _COUNT.size:
            raise _malformed(cls.type)
        (count,) = _COUNT.unpack_from(body)
        start = _COUNT.size + count * _BATCHED.size
        if not 0 < count <= BATCH_FILES or start > len(body):
            raise _malformed(cls.type)
        table = list(_BATCHED.iter_unpack(body[_COUNT.size : start]))
        ends = list(accumulate((size for _, size, _ in table), initial=start))
        if ends[-1] != len(body):
            raise _malformed(cls.type)
        return cls(
            [
                (number, digest, body[begin:end])
                for (number, _, digest), begin, end in zip(table, ends, ends[1:], strict=False)
            ]
        )


@dataclass(slots=True)
class FileEnd(_Fixed):
    """A file that travelled in blocks is whole."""

    type = Type.FILE_END
    form = _FILE_END
    limit = form.size

    id: int
    size: int
    root: bytes


@dataclass(slots=True)
class LeftOut(Message):
    """A wanted file will not come after all."""

    type = Type.LEFT_OUT
    limit = _LEFT_OUT.size

    id: int
    reason: Reason

    def pack(self) -> list[Buffer]:
        return [_LEFT_OUT.pack(self.id, self.reason)]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        number, reason = _exactly(_LEFT_OUT, cls.type, body)
        try:
            return cls(number, Reason(reason))
        except ValueError as error:
            raise _malformed(cls.type) from error


@dataclass(slots=True)
class Progress(_Fixed):
    """Verified and written so far, not durable yet."""

    type = Type.PROGRESS
    form = _PROGRESS
    limit = form.size

    size: int
    settled: int


@dataclass(slots=True)
class Finish(Message):
    """Everything is sent."""

    type = Type.FINISH
    limit = DIGEST_SIZE

    digest: bytes

    def pack(self) -> list[Buffer]:
        return [self.digest]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) != DIGEST_SIZE:
            raise _malformed(cls.type)
        return cls(bytes(body))


@dataclass(slots=True)
class Receipt(_Fixed):
    """It is on disk."""

    type = Type.RECEIPT
    form = _RECEIPT
    limit = form.size

    files: int
    size: int
    digest: bytes


@dataclass(slots=True)
class Ping(Message):
    """I am alive."""

    type = Type.PING
    limit = 0

    def pack(self) -> list[Buffer]:
        return []

    @classmethod
    def unpack(cls, body: memoryview) -> Self:  # noqa: ARG003 (the limit has seen to it)
        return cls()


@dataclass(slots=True)
class Error(Message):
    """I end the transfer, and why."""

    type = Type.ERROR
    limit = 1024

    code: Code
    message: str

    def pack(self) -> list[Buffer]:
        text = self.message.encode("utf-8", "replace")[: self.limit - 1]
        return [bytes([self.code]) + text]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if not body:
            raise _malformed(cls.type)
        try:
            code = Code(body[0])
        except ValueError:
            code = Code.INTERNAL  # of a later version: it is an error all the same
        return cls(code, bytes(body[1:]).decode("utf-8", "replace"))


_MESSAGES: Final[dict[int, type[Message]]] = {
    message.type: message
    for message in (
        Hello,
        Offer,
        OfferEnd,
        Want,
        Block,
        Batch,
        FileEnd,
        LeftOut,
        Progress,
        Finish,
        Receipt,
        Ping,
        Error,
    )
}


def frame(message: Message) -> list[Buffer]:
    """The whole frame of `message`, in pieces to be gathered."""
    pieces = message.pack()
    header = _FRAME.pack(message.type, sum(map(len, pieces)))
    if len(pieces) > 1 or (pieces and len(pieces[0]) > 4096):
        return [header, *pieces]
    return [b"".join((header, *pieces))]


def next_message(buffer: ReceiveBuffer) -> Message | int:
    """Take the next message out of `buffer`, or tell how many bytes it lacks.

    The views in a message are of `buffer`'s memory: they are good until more is received into it.

    Raises:
        RemoteProtocolError: what stands there is no message. Nothing is taken then.
    """
    if len(buffer) < _FRAME.size:
        return _FRAME.size - len(buffer)
    number, size = _FRAME.unpack_from(buffer.view(0, _FRAME.size))
    message = _MESSAGES.get(number)
    if message is None:
        raise RemoteProtocolError(f"the peer sent a message of unknown type {number}")
    if size > message.limit:
        raise RemoteProtocolError(f"the peer sent {message.type.name} with {size} bytes; {message.limit} are the limit")
    lacking: int = _FRAME.size + size - len(buffer)
    if lacking > 0:
        return lacking
    unpacked: Message = message.unpack(buffer.view(_FRAME.size, _FRAME.size + size))
    buffer.skip(_FRAME.size + size)
    return unpacked


def _exactly(form: struct.Struct, kind: Type, body: memoryview) -> tuple[Any, ...]:
    if len(body) != form.size:
        raise _malformed(kind)
    return form.unpack(body)


def _malformed(kind: Type) -> RemoteProtocolError:
    return RemoteProtocolError(f"the peer sent a malformed {kind.name}")
