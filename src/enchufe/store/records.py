"""Records: what a journal says that somebody else has left (docs/protocol.md, "What is kept")."""

from __future__ import annotations

import errno
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final
from zlib import crc32

from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE
from enchufe.store.buckets import Buckets
from enchufe.store.hand import BODY, CRC
from enchufe.store.journal import RECORD_SIZE, Journal

MAX_RECORDS: Final = 1 << 24  # 16 TiB of blocks; what comes after is not read

_KEY: Final = 8  # bytes of an identity by which it is found: whoever reads the record sees the rest
_RECORD: Final = struct.Struct(BODY.format + "I")
_ROW: Final = struct.Struct("=II")  # number of the first of some records in a row, and how many they are
_FEW: Final = 4096  # blocks of one file whose digests are kept in memory
_AT_ONCE: Final = 2048  # digests that are told together where they are more
_CHUNK: Final = 1 << 14  # records, 1 MiB
_PIECE: Final = 1 << 10  # records, 64 KiB, that are read at once where one here and one there are wanted
_PIECES: Final = 16  # of these that are remembered: the records of several streams are beside each other


class Unreadable(OSError):
    """A journal cannot be read any more."""


Run = tuple[int, bytes]
"""Number of a block of a file; its digest and those of the blocks after it."""


class Kept:
    """Blocks of a file that a journal knows, as runs in order: some thousand digests in each at the most.

    It has those of a big file read again each time, from the journal, which is to be open still.

    Args:
        count: how many blocks they are.
        runs: gives them.
    """

    __slots__ = ("_count", "_runs")

    def __init__(self, count: int = 0, runs: Callable[[], Iterator[Run]] = lambda: iter(())) -> None:
        self._count = count
        self._runs = runs

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Run]:
        return self._runs()


class Records:
    """The records of a journal; those that are damaged or torn are not there.

    It keeps where they are, not what they are: 16 bytes for all of one file that are in a row. So a journal of a
    million small files costs some 20 MB.

    Args:
        descriptor: of the journal, which becomes this object's to close; None: there is none.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = -1 if descriptor is None else descriptor
        self._where = Buckets(_KEY, _ROW.size)
        self._files = 0
        if descriptor is None:
            return
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Of how many files there are any."""
        return self._files

    def __contains__(self, file: bytes) -> bool:
        return file[:_KEY] in self._where

    def kept(self, file: bytes, size: int, there: int) -> Kept:
        """The blocks of the file of this identity, which has `size` bytes, and `there` of them on the disk.

        Raises:
            OSError: the journal cannot be read any more; whoever goes through the blocks of a big file finds it
                Unreadable then.
        """
        rows = self._rows(file)
        if sum(count for _, count in rows) > _FEW:
            return self._many(file, size, there, rows)
        digests: dict[int, bytes] = {}
        for _, block, digest in self._right(file, size, there, rows):
            digests[block] = digest  # of those that are told twice the later is right
        runs = tuple(_joined(sorted(digests.items())))
        return Kept(len(digests), partial(iter, runs))

    def copy(self, file: bytes, journal: Journal, kept: Kept) -> None:
        """Have another journal told what this one knows of a file that moves there.

        What is wrong of it is as wrong there: whoever believes it looks first.

        Raises:
            Unreadable: this one cannot be read any more.
            OSError: the other cannot be written.
        """
        at_risk = len(kept) * BLOCK_SIZE
        for first, count in self._rows(file):
            for number in range(first, first + count, _CHUNK):
                data = self._read_at(number, min(_CHUNK, first + count - number))
                journal.add_copy(data[: len(data) // RECORD_SIZE * RECORD_SIZE], at_risk=at_risk)
                at_risk = 0

    def close(self) -> None:
        """Close the journal."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _read(self) -> None:
        number = first = 0
        latest = b""
        while number < MAX_RECORDS:
            chunk = os.pread(self._descriptor, _CHUNK * RECORD_SIZE, number * RECORD_SIZE)
            if len(chunk) < RECORD_SIZE:
                break
            for at in range(0, len(chunk) - RECORD_SIZE + 1, RECORD_SIZE):
                file = chunk[at : at + 16] if _is_good(chunk, at) else b""
                if file != latest:
                    self._note(latest, first, number - first)
                    latest, first = file, number
                number += 1
        self._note(latest, first, number - first)

    def _note(self, file: bytes, first: int, count: int) -> None:
        """Records in a row are of this file; of none where they are no good."""
        if file and count:
            self._files += file not in self
            self._where.add(file[:_KEY], _ROW.pack(first, count))

    def _rows(self, file: bytes) -> list[tuple[int, int]]:
        return [_ROW.unpack(row) for row in self._where.values(file[:_KEY])]

    def _right(
        self, file: bytes, size: int, there: int, rows: Iterable[tuple[int, int]]
    ) -> Iterator[tuple[int, int, bytes]]:
        """Number, block and digest of each record in some rows that is of this file, and may be true."""
        for first, count in rows:
            stop = first + count
            for number in range(first, stop, _CHUNK):
                chunk = os.pread(self._descriptor, min(_CHUNK, stop - number) * RECORD_SIZE, number * RECORD_SIZE)
                whole = memoryview(chunk)[: len(chunk) // RECORD_SIZE * RECORD_SIZE]
                for at, (found, block, length, digest, _, _) in enumerate(_RECORD.iter_unpack(whole), number):
                    start = block * BLOCK_SIZE
                    right = length == min(BLOCK_SIZE, size - start) and (length or not size)
                    if right and found == file and start + length <= there:
                        yield at, block, digest

    def _many(self, file: bytes, size: int, there: int, rows: Iterable[tuple[int, int]]) -> Kept:
        """Where the record of each block is takes an eighth of what its digest would."""
        where = array("I", bytes(4 * -(-there // BLOCK_SIZE)))  # by block: one more than the number; 0: none
        count = 0
        for number, block, _ in self._right(file, size, there, rows):
            count += not where[block]
            where[block] = number + 1
        return Kept(count, partial(self._told, where))

    def _told(self, where: array[int]) -> Iterator[Run]:
        pieces: dict[int, bytes] = {}

        def digest(number: int) -> bytes:
            place, at = divmod(number, _PIECE)
            piece = pieces.pop(place, None)
            if piece is None:
                piece = self._read_at(place * _PIECE, _PIECE)
                if len(pieces) >= _PIECES:
                    del pieces[next(iter(pieces))]
            pieces[place] = piece
            if len(piece) < (at + 1) * RECORD_SIZE:
                raise Unreadable(errno.EIO, "it is shorter than it was")
            return bytes(BODY.unpack_from(piece, at * RECORD_SIZE)[3])

        return _joined((block, digest(number - 1)) for block, number in enumerate(where) if number)

    def _read_at(self, number: int, count: int) -> bytes:
        try:
            return os.pread(self._descriptor, count * RECORD_SIZE, number * RECORD_SIZE)
        except OSError as error:
            raise Unreadable(error.errno, os.strerror(error.errno or 0)) from error


def _joined(blocks: Iterable[tuple[int, bytes]]) -> Iterator[Run]:
    """Blocks with their digests, in order, as runs."""
    run = bytearray()
    first = 0
    for block, digest in blocks:
        count = len(run) // DIGEST_SIZE
        if run and (block != first + count or count == _AT_ONCE):
            yield first, bytes(run)
            run.clear()
        if not run:
            first = block
        run += digest
    if run:
        yield first, bytes(run)


def _is_good(data: bytes, start: int) -> bool:
    end = start + BODY.size
    return len(data) >= start + RECORD_SIZE and CRC.unpack_from(data, end)[0] == crc32(data[start:end])
