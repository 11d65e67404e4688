"""What is said before a transfer, inside TLS, and how it becomes frames, as docs/access.md tells it.

What a body must hold to make sense at all is checked here; what it proves is for `dialing.py` and `gate.py`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import ClassVar, Final, Self

from enchufe.dataclass import dataclass
from enchufe.errors import RemoteProtocolError
from enchufe.transfer.message import exactly, malformed

VERSION: Final = 1
MAGIC: Final = b"enchufe"
LIMIT: Final = 1024  # bytes of a body
NAME_SIZE: Final = 64  # bytes of a machine's name, in UTF-8

_HEADER: Final = struct.Struct(">BI")
HEADER_SIZE: Final = _HEADER.size


def whom_to_update(theirs: int) -> str:
    """What to do where the other side speaks that version, and not this one."""
    return f"Update enchufe on {'this' if theirs > VERSION else 'the other'} machine."


class Type(IntEnum):
    """The first byte of a frame."""

    KNOCK = 65
    NONCE = 66
    CODE = 67
    CONFIRM = 68
    WHOM = 69
    PROOF = 70
    TOKEN = 71
    AGAIN = 72
    DENIED = 73
    WELCOME = 74


class Reason(IntEnum):
    """Why a listener lets somebody not in."""

    CODE = 1
    GONE = 2
    ANOTHER = 3
    UNKNOWN = 4
    TOKEN = 5


class Message:
    """A message whose body is its fields, in their order, in one fixed form."""

    type: ClassVar[Type]
    form: ClassVar[struct.Struct]
    __match_args__: ClassVar[tuple[str, ...]]

    def pack(self) -> bytes:
        """The body."""
        return self.form.pack(*[getattr(self, field) for field in self.__match_args__])

    @classmethod
    def unpack(cls, body: bytes) -> Self:
        """Read a body.

        Raises:
            RemoteProtocolError: it is no such message.
        """
        return cls(*exactly(cls.form, cls.type, body))


@dataclass(frozen=True, slots=True)
class Knock(Message):
    """Somebody is here, who speaks these versions."""

    type = Type.KNOCK
    form = struct.Struct(">7sBB32s")

    magic: bytes
    lowest: int
    highest: int
    nonce: bytes

    @classmethod
    def unpack(cls, body: bytes) -> Self:
        """As `Message.unpack`."""
        knock = super(Knock, cls).unpack(body)  # noqa: UP008 (a class with slots is made anew)
        if knock.magic != MAGIC or not 0 < knock.lowest <= knock.highest:
            raise malformed(cls.type)
        return knock


@dataclass(frozen=True, slots=True)
class Nonce(Message):
    """This version it is."""

    type = Type.NONCE
    form = struct.Struct(">B32s")

    version: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Code(Message):
    """A message of SPAKE2."""

    type = Type.CODE
    form = struct.Struct(">33s")

    spake: bytes


@dataclass(frozen=True, slots=True)
class Confirm(Message):
    """I have the same key as you."""

    type = Type.CONFIRM
    form = struct.Struct(">32s")

    mac: bytes


@dataclass(frozen=True, slots=True)
class Whom(Message):
    """Are you this machine?"""

    type = Type.WHOM
    form = struct.Struct(">16s")

    mac: bytes


@dataclass(frozen=True, slots=True)
class Proof(Message):
    """I am the machine with this key."""

    type = Type.PROOF
    form = struct.Struct(">32s64s")

    public: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Token(Message):
    """I hold this token."""

    type = Type.TOKEN
    form = struct.Struct(">32s64s")

    public: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Again(Message):
    """I was here before."""

    type = Type.AGAIN
    form = struct.Struct(">16s32s")

    pass_: bytes
    mac: bytes


@dataclass(frozen=True, slots=True)
class Denied(Message):
    """You do not get in, and why: a Reason, or a number of a later version."""

    type = Type.DENIED
    form = struct.Struct(">B")

    reason: int


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """We are through, and, where a name is given, this is who I am."""

    type = Type.WELCOME

    public: bytes = b""
    signature: bytes = b""
    name: str = ""

    def pack(self) -> bytes:
        """As `Message.pack`."""
        if not self.public:
            return b"\0"
        return b"\1" + self.public + self.signature + self.name.encode()

    @classmethod
    def unpack(cls, body: bytes) -> Self:
        """As `Message.unpack`."""
        if body == b"\0":
            return cls()
        name = body[97:]
        if body[:1] != b"\1" or not 0 < len(name) <= NAME_SIZE:
            raise malformed(cls.type)
        try:
            return cls(body[1:33], body[33:97], name.decode())
        except UnicodeDecodeError as error:
            raise malformed(cls.type) from error


_MESSAGES: Final[dict[int, type[Message]]] = {
    message.type: message for message in (Knock, Nonce, Code, Confirm, Whom, Proof, Token, Again, Denied, Welcome)
}


def frame(message: Message) -> bytes:
    """The whole frame of `message`."""
    body = message.pack()
    return _HEADER.pack(message.type, len(body)) + body


def announced(header: bytes) -> tuple[type[Message], int]:
    """What the header of a frame announces: which message, and the size of its body.

    Raises:
        RemoteProtocolError: no such message, or it is too long.
    """
    number, size = _HEADER.unpack(header)
    message = _MESSAGES.get(number)
    if message is None:
        raise RemoteProtocolError(f"the peer sent a message of unknown type {number} before it was let in")
    if size > LIMIT:
        raise RemoteProtocolError(f"the peer sent {message.type.name} with {size} bytes; {LIMIT} are the limit")
    return message, size
