"""Sealed streams: what crosses a stream other than 0, encrypted under keys that stream 0 agreed on (docs/access.md)."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from enchufe.access.binding import derived
from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.dataclass import dataclass
from enchufe.errors import BrokenError
from enchufe.link import head, late_after
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

_LEAST_RATE: Final = 68.0  # bytes per second by which a record must come on: as of frames, for pings that are sealed

_HEADER: Final = struct.Struct(">BI")
_STREAM: Final = struct.Struct(f">BI{ID_SIZE}sH{SALT_SIZE}s")
_NUMBER: Final = struct.Struct(">H")
STREAM_SIZE: Final = _STREAM.size


def stream_id(secret: bytes) -> bytes:
    """What tells the streams of one transfer from those of others, in the clear."""
    return derived(secret, "stream id", ID_SIZE)


def dialers_key(secret: bytes, stream: int, salt: bytes) -> bytes:
    """What the dialer of a stream seals with; `salt` is its own."""
    return _key(secret, salt, b"dialer" + _NUMBER.pack(stream))


def listeners_key(secret: bytes, stream: int, salts: bytes) -> bytes:
    """What the listener of a stream seals with; `salts` are the dialer's and its own."""
    return _key(secret, salts, b"listener" + _NUMBER.pack(stream))


def _key(secret: bytes, salt: bytes, what: bytes) -> bytes:
    return derived(derived(secret, "stream key", KEY_SIZE), what, KEY_SIZE, salt=salt)


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
    """Opens what a Sealer with the same key has sealed, in its order, in the very memory that it was received into.

    Args:
        key: of this direction and no other.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._count = 0
        self._header = memoryview(bytearray(_HEADER.size))
        self._rest: memoryview | None = None  # of the record whose header is there
        self._filled = 0

    def space(self, into: ReceiveBuffer) -> memoryview:
        """Where to receive what comes next, of which `received` is to be told; `into` is not to be touched before it
        holds what was opened.

        Raises:
            BrokenError: what came is no record. Nothing is opened any more.
        """
        if self._rest is None and self._filled == _HEADER.size:
            kind, size = _HEADER.unpack(self._header)
            if kind != SEALED or not TAG_SIZE <= size <= _LIMIT:
                raise _damaged()
            # The next header may come along, behind it: a call less for each record.
            self._rest = into.space(size + _HEADER.size)[: size + _HEADER.size]
            self._filled = 0
        return (self._header if self._rest is None else self._rest)[self._filled :]

    def received(self, count: int, into: ReceiveBuffer) -> bool:
        """So many bytes came into `space`: open the record, where it is whole now; whether it is.

        Raises:
            BrokenError: that is not what was sealed, or not the next. Nothing is opened any more.
        """
        self._filled += count
        rest = self._rest
        if rest is None or (behind := self._filled - (len(rest) - _HEADER.size)) < 0:
            return False
        sealed, plain = rest[: -_HEADER.size], rest[: -_HEADER.size - TAG_SIZE]
        try:
            self._cipher.decrypt_into(_nonce(self._count), sealed, self._header, plain)
        except InvalidTag:
            raise _damaged() from None
        self._count += 1
        self._header[:behind] = rest[len(sealed) : self._filled]
        self._rest, self._filled = None, behind
        into.received(len(plain))
        return True


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
        self._answer = memoryview(bytearray(STREAM_SIZE))
        self._answered = 0
        self._salt = os.urandom(SALT_SIZE)
        self._sealer: Sealer
        self._opener: Opener | None = None
        self._due = math.inf  # when a record that has begun is late

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
        """As `Carrier.receive`. While it returns without a byte, `buffer` must be left alone."""
        if self._opener is None:
            count = await self.transport.receive_into(self._answer[self._answered :], deadline)
            self._answer_came(count)
        else:
            due = min(deadline, self._due)
            count = await self.transport.receive_into(self._opener.space(buffer), due)
            whole = self._opener.received(count, buffer)
            self._due = late_after(due, count, _LEAST_RATE, whole=whole)
        return count > 0

    def _answer_came(self, count: int) -> None:
        self._answered += count
        if self._answered < STREAM_SIZE:
            return
        said = Said.unpack(bytes(self._answer))
        if said is None or (said.id, said.number) != (stream_id(self.secret), self.number):
            raise _damaged()
        self._opener = Opener(listeners_key(self.secret, self.number, self._salt + said.salt))

    async def send(self, pieces: Sequence[Buffer], deadline: float) -> None:
        """As `Carrier.send`."""
        if self._opener is None:
            # Take the other side's STREAM if it is there: to close over it would reset the connection, and lose data.
            self._answer_came(self.transport.try_receive_into(self._answer[self._answered :]) or 0)
        for record in self._sealer.seal(pieces):
            await self.transport.send([record], deadline)


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
        data = await transport.receive_exactly(STREAM_SIZE, deadline)
        if len(data) < STREAM_SIZE:
            raise BrokenError("the other side went away")
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
