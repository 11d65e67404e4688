"""What is said on stream 0, and how any message becomes a frame, as docs/protocol.md tells it.

Each message packs itself into pieces to be gathered and unpacks from its body; a payload is never copied here. What
a body must hold to make sense at all is checked here, what it means at this moment is for the machines.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Self

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.dataclass import dataclass
from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE, Answer, Reason
from enchufe.errors import RemoteProtocolError
from enchufe.transfer.data import Batch, Block, Hole, Packed, Patch, Same
from enchufe.transfer.message import (
    CHECK,
    CONTROL_SIZE,
    FixedMessage,
    Message,
    Role,
    Type,
    check,
    exactly,
    malformed,
    past_check,
)
from enchufe.transfer.offers import Offer
from enchufe.transfer.patches import PIECE_SIZE, RECORD_SIZE

VERSION: Final = 1
MAGIC: Final = b"enchufe"
STREAMS: Final = 64
WINDOW: Final = 16_384  # entries that may be offered and not settled
LIST_WINDOW: Final = 262_144  # the same where somebody is shown all of them first
LIST_SIZE: Final = 64 << 20  # bytes that these may take in offers
ZSTD: Final = 1  # of the features: PACKED
FOLDERS: Final = 2  # of the features: directories that are listed, and answered SAME
PATCHES: Final = 4  # of the features: INDEX and PATCH
CONCLUDED: Final = 8  # of the features: an attempt before came to its end, and only the receipt is missing
HEARD: Final = 16  # of the features: FINISH again says that the receipt was heard

_FRAME: Final = struct.Struct(">BI")
_HELLO: Final = struct.Struct(">7sBBBI16sQHHI16s")
_OFFER_END: Final = struct.Struct(">IQI")
_WANT: Final = struct.Struct(">IIB")
_HAVE: Final = struct.Struct(">IIB")
_INDEX: Final = struct.Struct(">II")
_FILE_END: Final = struct.Struct(">IQ32s")
_LEFT_OUT: Final = struct.Struct(">IB")
_PROGRESS: Final = struct.Struct(">QI")
_FRAMES: Final = struct.Struct(">Q")
_LOST: Final = struct.Struct(">HQ")
_AGAIN: Final = struct.Struct(">III")
_RECEIPT: Final = struct.Struct(">IQ32s")

HAVE_DIGESTS: Final = (CONTROL_SIZE - _HAVE.size) // DIGEST_SIZE  # in one message at the most
INDEX_PIECES: Final = (CONTROL_SIZE - _INDEX.size) // RECORD_SIZE  # the same


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
    TAKEN_OVER = 10
    LOOKED = 11


@dataclass(slots=True)
class Hello(Message):
    """Who I am and what I speak; the first thing either side says."""

    type = Type.HELLO
    limit = 4096
    has_check = False

    role: Role
    session: bytes = bytes(16)
    epoch: int = 0
    stream: int = 0
    streams: int = 1
    window: int = 0
    features: int = 0
    origin: bytes = bytes(16)
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
                self.streams,
                self.window,
                self.origin,
            )
        ]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) < _HELLO.size:
            raise malformed(cls.type)
        magic, lowest, highest, role, features, session, epoch, stream, streams, window, origin = _HELLO.unpack_from(
            body
        )
        if (
            magic != MAGIC
            or not 0 < lowest <= highest
            or role not in (Role.SENDER, Role.RECEIVER)
            or not 0 < streams <= STREAMS
            or stream >= STREAMS
        ):
            raise malformed(cls.type)
        return cls(Role(role), session, epoch, stream, streams, window, features, origin, lowest, highest)


@dataclass(slots=True)
class OfferEnd(FixedMessage):
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
            raise malformed(cls.type)
        # At once: an iterator left in a traceback holds the buffer, and Python 3.11's collector crashes on that.
        runs = list(_WANT.iter_unpack(body))
        try:
            return cls([(first, count, Answer(answer)) for first, count, answer in runs])
        except ValueError as error:
            raise malformed(cls.type) from error


@dataclass(slots=True)
class Have(Message):
    """Digests of blocks that the receiver has: of this very file, or of another version."""

    type = Type.HAVE
    limit = CONTROL_SIZE

    id: int
    first: int
    last: bool
    digests: bytes

    def pack(self) -> list[Buffer]:
        return [_HAVE.pack(self.id, self.first, self.last) + self.digests]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) < _HAVE.size or (len(body) - _HAVE.size) % DIGEST_SIZE:
            raise malformed(cls.type)
        number, first, last = _HAVE.unpack_from(body)
        if last > 1:
            raise malformed(cls.type)
        return cls(number, first, bool(last), bytes(body[_HAVE.size :]))


@dataclass(slots=True)
class Index(Message):
    """The next pieces of the receiver's own version: how each begins, and its digest."""

    type = Type.INDEX
    limit = CONTROL_SIZE

    id: int
    size: int
    records: bytes

    def pack(self) -> list[Buffer]:
        return [_INDEX.pack(self.id, self.size) + self.records]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) <= _INDEX.size or (len(body) - _INDEX.size) % RECORD_SIZE:
            raise malformed(cls.type)
        number, size = _INDEX.unpack_from(body)
        if not PIECE_SIZE <= size <= BLOCK_SIZE or size & (size - 1):
            raise malformed(cls.type)
        return cls(number, size, bytes(body[_INDEX.size :]))


@dataclass(slots=True)
class FileEnd(FixedMessage):
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
        number, reason = exactly(_LEFT_OUT, cls.type, body)
        try:
            return cls(number, Reason(reason))
        except ValueError as error:
            raise malformed(cls.type) from error


@dataclass(slots=True)
class Progress(Message):
    """Verified and written so far, not durable yet; and how many frames of data were taken from each stream."""

    type = Type.PROGRESS
    limit = _PROGRESS.size + STREAMS * _FRAMES.size

    size: int
    settled: int
    taken: Sequence[int] = ()

    def pack(self) -> list[Buffer]:
        return [_PROGRESS.pack(self.size, self.settled) + b"".join(map(_FRAMES.pack, self.taken))]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if len(body) < _PROGRESS.size or (len(body) - _PROGRESS.size) % _FRAMES.size:
            raise malformed(cls.type)
        size, settled = _PROGRESS.unpack_from(body)
        return cls(size, settled, [taken for (taken,) in _FRAMES.iter_unpack(body[_PROGRESS.size :])])


@dataclass(slots=True)
class Lost(FixedMessage):
    """A stream has ended; so many frames of data were taken from it."""

    type = Type.LOST
    form = _LOST
    limit = form.size

    stream: int
    taken: int


@dataclass(slots=True)
class Again(FixedMessage):
    """Blocks that were here are damaged."""

    type = Type.AGAIN
    form = _AGAIN
    limit = form.size

    id: int
    first: int
    count: int


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
            raise malformed(cls.type)
        return cls(bytes(body))


@dataclass(slots=True)
class Receipt(FixedMessage):
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
    has_check = False

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
    has_check = False

    code: Code
    message: str

    def pack(self) -> list[Buffer]:
        text = self.message.encode("utf-8", "replace")[: self.limit - 1]
        return [bytes([self.code]) + text]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        if not body:
            raise malformed(cls.type)
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
        Have,
        Index,
        Same,
        Hole,
        Patch,
        Lost,
        Again,
        Packed,
    )
}


def frame(message: Message) -> list[Buffer]:
    """The whole frame of `message`, in pieces to be gathered."""
    pieces = message.pack()
    if message.has_check:
        body = b"".join(pieces)
        pieces = [body + check(message.type, body)]
    header = _FRAME.pack(message.type, sum(map(len, pieces)))
    if len(pieces) > 1 or (pieces and len(pieces[0]) > 4096):
        return [header, *pieces]
    return [b"".join((header, *pieces))]


def next_message(buffer: ReceiveBuffer) -> Message | int:
    """Take the next message out of `buffer`, or tell how many bytes it lacks.

    The views in a message are of `buffer`'s memory: they are good until more is received into it.

    Raises:
        RemoteProtocolError: what stands there is no message; VerificationError: it was damaged. Nothing is taken then.
    """
    if len(buffer) < _FRAME.size:
        return _FRAME.size - len(buffer)
    number, size = _FRAME.unpack_from(buffer.view(0, _FRAME.size))
    message = _MESSAGES.get(number)
    if message is None:
        raise RemoteProtocolError(f"the peer sent a message of unknown type {number}")
    limit = message.limit + (CHECK.size if message.has_check else 0)
    if size > limit:
        raise RemoteProtocolError(f"the peer sent {message.type.name} with {size} bytes; {limit} are the limit")
    lacking: int = _FRAME.size + size - len(buffer)
    if lacking > 0:
        return lacking
    body = buffer.view(_FRAME.size, _FRAME.size + size)
    if message.has_check:
        stop = size - CHECK.size
        past_check(message.type, body, stop)
        body = body[:stop]
    unpacked: Message = message.unpack(body)
    buffer.skip(_FRAME.size + size)
    return unpacked
