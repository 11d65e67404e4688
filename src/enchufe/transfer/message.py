"""What every message of the transfer protocol has: a type, a limit, `pack` and `unpack`; and their numbers."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, ClassVar, Final, Self
from zlib import crc32

from enchufe.buffer import Buffer
from enchufe.errors import RemoteProtocolError, VerificationError

# What the specification fixes (docs/protocol.md, "Limits").
BATCH_FILES: Final = 1024
CONTROL_SIZE: Final = 64 << 10
FILE_SIZE: Final = 2**63 - 1
FILE_BLOCKS: Final = 2**23  # of a file that is taken: 8 TiB
RUN_BLOCKS: Final = 2**16  # in one SAME or HOLE

CHECK: Final = struct.Struct(">I")


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
    HAVE = 14
    SAME = 15
    HOLE = 16
    LOST = 17
    AGAIN = 18
    PACKED = 19
    INDEX = 20
    PATCH = 21


class Role(IntEnum):
    """Which way the files go."""

    SENDER = 1
    RECEIVER = 2


class Message:
    """What all messages have: a type, a limit of their body, `pack` and `unpack`.

    Attributes:
        has_check: its frame ends with a check of its body, of which `pack`, `unpack` and `limit` know nothing.
    """

    type: ClassVar[Type]
    limit: ClassVar[int]
    has_check: ClassVar[bool] = True

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


class FixedMessage(Message):
    """A message whose body is its fields, in their order, in one fixed form."""

    form: ClassVar[struct.Struct]
    __match_args__: ClassVar[tuple[str, ...]]

    def pack(self) -> list[Buffer]:
        return [self.form.pack(*[getattr(self, field) for field in self.__match_args__])]

    @classmethod
    def unpack(cls, body: memoryview) -> Self:
        return cls(*exactly(cls.form, cls.type, body))


def check(kind: Type, fields: Buffer) -> bytes:
    """What stands behind fields, so that one that was changed on its way is found: docs/protocol.md, "check"."""
    return CHECK.pack(crc32(fields, crc32(bytes((kind,)))))


def past_check(kind: Type, body: memoryview, stop: int) -> int:
    """Where what comes after the fields and their check begins; the fields end at `stop`.

    Raises:
        RemoteProtocolError: the body is shorter. VerificationError: it is another check.
    """
    start = stop + CHECK.size
    if stop < 0 or start > len(body):
        raise malformed(kind)
    if body[stop:start] != check(kind, body[:stop]):
        what = f"{'an' if kind.name[0] in 'AEIO' else 'a'} {kind.name}"
        raise VerificationError(f"{what} was damaged on the way", hint="Try again: what arrived whole is kept.")
    return start


def exactly(form: struct.Struct, kind: IntEnum, body: Buffer) -> tuple[Any, ...]:
    """The fields of a body of just this form."""
    if len(body) != form.size:
        raise malformed(kind)
    return form.unpack(body)


def malformed(kind: IntEnum) -> RemoteProtocolError:
    """What to raise for a body that is no such message."""
    return RemoteProtocolError(f"the peer sent a malformed {kind.name}")
