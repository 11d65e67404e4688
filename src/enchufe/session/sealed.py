"""Sealed streams: what crosses a stream other than 0, encrypted under keys that stream 0 agreed on (docs/access.md)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from enchufe.access.binding import derived
from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.errors import BrokenError
from enchufe.link import head
from enchufe.session.carrier import READ_SIZE
from enchufe.transports import Transport, advance

STREAM: Final = 64  # types of a frame
SEALED: Final = 75
ID_SIZE: Final = 16
KEY_SIZE: Final = 32
SALT_SIZE: Final = 32
TAG_SIZE: Final = 16

# What a record may hold, and the limit of its body: docs/access.md, "Sealed streams".
_LIMIT: Final = (1 << 20) + (64 << 10) + (1 << 10)
_MOST: Final = _LIMIT - TAG_SIZE
_JOINED: Final = 8192  # bytes; a shorter piece is sooner copied than encrypted by itself (tuning)

_HEADER: Final = struct.Struct(">BI")
_STREAM: Final = struct.Struct(f">BI{ID_SIZE}sH{SALT_SIZE}s")
_NUMBER: Final = struct.Struct(">H")
STREAM_SIZE: Final = _STREAM.size


def stream_id(secret: bytes) -> bytes:
    """What tells the streams of one transfer from those of others, in the clear."""
    return derived(secret, "stream id", ID_SIZE)


def dialers_key(secret: bytes, stream: int, salt: bytes) -> bytes:
    """What the dialer of a stream seals with; `salt` is its own."""
    return _key(secret, salt, b"enchufe dialer" + _NUMBER.pack(stream))


def listeners_key(secret: bytes, stream: int, salts: bytes) -> bytes:
    """What the listener of a stream seals with; `salts` are the dialer's and its own."""
    return _key(secret, salts, b"enchufe listener" + _NUMBER.pack(stream))


def _key(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_SIZE, salt, info).derive(derived(secret, "stream key", KEY_SIZE))


class Sealer:
    """Seals one direction of one stream.

    Args:
        key: of this direction and no other.
    """

    def __init__(self, key: bytes) -> None:
        self._key = AES(key)
        self._count = 0
        self._memory = memoryview(b"")

    def seal(self, pieces: Sequence[Buffer]) -> Iterator[memoryview]:
        """The records that hold `pieces`, one after the other; each is good until the next is asked for."""
        rest = list(pieces)
        while (size := sum(map(len, rest))) > _MOST:
            yield self._record(head(rest, _MOST), _MOST)
            rest = advance(rest, _MOST)
        if size:
            yield self._record(rest, size)

    def _record(self, pieces: Sequence[Buffer], size: int) -> memoryview:
        whole = _HEADER.size + size + TAG_SIZE
        if len(self._memory) < whole:
            self._memory = memoryview(bytearray(whole))
        record = self._memory[:whole]
        _HEADER.pack_into(record, 0, SEALED, size + TAG_SIZE)
        encryptor = Cipher(self._key, GCM(_nonce(self._count))).encryptor()
        self._count += 1
        encryptor.authenticate_additional_data(record[: _HEADER.size])
        end = _HEADER.size
        for piece in _gathered(pieces):
            end += encryptor.update_into(piece, record[end:])
        encryptor.finalize()
        record[end:] = encryptor.tag
        return record


class Opener:
    """Opens what a Sealer with the same key has sealed, in its order.

    Args:
        key: of this direction and no other.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._count = 0

    def open(self, arrived: ReceiveBuffer, into: ReceiveBuffer) -> int:
        """Open the next record of what has arrived, or tell how many bytes it lacks; 0 where it was opened.

        Raises:
            BrokenError: that is not what was sealed, or not the next. Nothing is opened any more.
        """
        if len(arrived) < _HEADER.size:
            return _HEADER.size - len(arrived)
        header = arrived.peek(_HEADER.size)
        kind, size = _HEADER.unpack(header)
        if kind != SEALED or not TAG_SIZE <= size <= _LIMIT:
            raise _damaged()
        whole = _HEADER.size + size
        if len(arrived) < whole:
            return int(whole - len(arrived))
        plain = size - TAG_SIZE
        space = into.space(max(plain, 1))[:plain]
        try:
            self._cipher.decrypt_into(_nonce(self._count), arrived.view(_HEADER.size, whole), header, space)
        except InvalidTag:
            raise _damaged() from None
        self._count += 1
        arrived.skip(whole)
        into.received(plain)
        return 0


class Sealed:
    """A carrier of sealed records, once both sides have said STREAM.

    Attributes:
        number: of the stream.
        secret: what its keys come from.
    """

    def __init__(self, transport: Transport, secret: bytes, number: int) -> None:
        self.transport = transport
        self.number = number
        self.secret = secret
        self._arrived = ReceiveBuffer(_HEADER.size + _LIMIT)
        self._salt = os.urandom(SALT_SIZE)
        self._sealer: Sealer
        self._opener: Opener | None = None

    @classmethod
    async def dial(cls, transport: Transport, secret: bytes, number: int, deadline: float) -> Sealed:
        """Begin on a connection that we dialed. Raises as `Transport.send`."""
        sealed = cls(transport, secret, number)
        sealed._sealer = Sealer(dialers_key(secret, number, sealed._salt))
        await sealed._say_stream(deadline)
        return sealed

    @classmethod
    async def answer(cls, transport: Transport, secret: bytes, said: Said, deadline: float) -> Sealed:
        """Begin on a connection whose dialer has said STREAM. Raises as `Transport.send`."""
        sealed = cls(transport, secret, said.number)
        sealed._opener = Opener(dialers_key(secret, said.number, said.salt))
        sealed._sealer = Sealer(listeners_key(secret, said.number, said.salt + sealed._salt))
        await sealed._say_stream(deadline)
        return sealed

    async def _say_stream(self, deadline: float) -> None:
        said = _STREAM.pack(STREAM, STREAM_SIZE - _HEADER.size, stream_id(self.secret), self.number, self._salt)
        await self.transport.send([said], deadline)

    async def receive(self, buffer: ReceiveBuffer, lacking: int, deadline: float) -> bool:  # noqa: ARG002 (a record comes whole)
        """As `Carrier.receive`."""
        lacks = self._open(buffer)
        if lacks:
            space = self._arrived.space(lacks)[: max(lacks, READ_SIZE)]
            count = await self.transport.receive_into(space, deadline)
            if not count:
                return False
            self._arrived.received(count)
            self._open(buffer)
        return True

    def _open(self, buffer: ReceiveBuffer) -> int:
        if self._opener is None:
            if (lacks := STREAM_SIZE - len(self._arrived)) > 0:
                return lacks
            self._hear_answer()
        assert self._opener is not None
        return self._opener.open(self._arrived, buffer)

    def _hear_answer(self) -> None:
        said = Said.unpack(self._arrived.take(STREAM_SIZE))
        if said is None or (said.id, said.number) != (stream_id(self.secret), self.number):
            raise _damaged()
        self._opener = Opener(listeners_key(self.secret, self.number, self._salt + said.salt))

    async def send(self, pieces: Sequence[Buffer], deadline: float) -> None:
        """As `Carrier.send`."""
        if self._opener is None:
            self._take_answer()
        for record in self._sealer.seal(pieces):
            await self.transport.send([record], deadline)

    def _take_answer(self) -> None:
        """Take the other side's STREAM if it is there: to close over it would reset the connection, and lose data."""
        lacks = STREAM_SIZE - len(self._arrived)
        if lacks > 0 and (count := self.transport.try_receive_into(self._arrived.space(lacks)[:lacks])):
            self._arrived.received(count)


@dataclass(frozen=True, slots=True)
class Said:
    """A STREAM.

    Attributes:
        id: of the transfer.
        number: of the stream.
        salt: of whoever said it.
    """

    id: bytes
    number: int
    salt: bytes

    @classmethod
    def unpack(cls, data: bytes) -> Said | None:
        """Read it, header and all; None where that is something else."""
        kind, size, *fields = _STREAM.unpack(data)
        return cls(*fields) if (kind, size) == (STREAM, STREAM_SIZE - _HEADER.size) else None

    @classmethod
    async def hear(cls, transport: Transport, deadline: float) -> Said | None:
        """Receive it from whoever dialed us. Raises as `Transport.receive`, and BrokenError at an early end."""
        data = b""
        while len(data) < STREAM_SIZE:
            piece = await transport.receive(STREAM_SIZE - len(data), deadline)
            if not piece:
                raise BrokenError("the other side went away")
            data += piece
        return cls.unpack(data)


def _nonce(count: int) -> bytes:
    return count.to_bytes(12, "big")


def _gathered(pieces: Sequence[Buffer]) -> Iterator[Buffer]:
    """The same bytes: small pieces joined, large ones not copied."""
    small: list[Buffer] = []
    for piece in pieces:
        if len(piece) < _JOINED:
            small.append(piece)
            continue
        if small:
            yield b"".join(small)
            small = []
        yield piece
    if small:
        yield b"".join(small)


def _damaged() -> BrokenError:
    return BrokenError("what came on a sealed stream is not what the other side sent")
