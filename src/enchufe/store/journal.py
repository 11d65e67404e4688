"""Journal: which blocks of which files were verified and written (docs/protocol.md, "What is kept").

It need not be synced to be right: whoever believes it reads the blocks again before the commit. It is synced where much
is taken over from another area, whose journal loses sight of that: a power cut would cost all, not the last seconds.
Nobody waits for that: what is missing is to be asked for at once, and a disk may take seconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
from array import array
from collections.abc import Iterable, Iterator
from typing import Final
from zlib import crc32

from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE
from enchufe.errors import BusyError
from enchufe.store.hand import BODY, CRC, record
from enchufe.waiting import start

NAME: Final = b"journal"
ROOT: Final = b"root"  # beside it: the name of the first root, for people
RECORD_SIZE: Final = 64
AT_RISK: Final = 256 << 20  # bytes that may be taken over before it is synced
MAX_RECORDS: Final = 1 << 24  # 16 TiB of blocks, whose index takes some 64 MiB; what comes after is not read

_TOGETHER: Final = 1024  # records, 64 KiB
_CHUNK: Final = 1 << 20
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


Runs = tuple[tuple[int, bytes], ...]
"""Blocks of a file: number of the first, digests of it and of those after it."""


class Journal:
    """Takes records, from several threads at once, and writes them when what they tell of makes up a block.

    So what a death costs is a block.

    Args:
        area: descriptor of the directory that it is made in, with the first record.

    Attributes:
        root: the name of the first root, for people.

    Raises (every method):
        OSError: it could not be written.
    """

    def __init__(self, area: int) -> None:
        self.root = b""
        self._area = area
        self._descriptor = -1
        self._lock = threading.Lock()
        self._pending: list[bytes] = []
        self._weight = 0
        self._written = 0
        self._at_risk = 0
        self._syncing: threading.Thread | None = None  # also one that has failed

    def add(self, file: bytes, block: int, size: int, digest: bytes) -> None:
        """Block number `block` of the file of this identity has `size` bytes, and is written."""
        # Without the lock: small files come by the ten thousand a second. A sum that two threads make wrong is no harm.
        self._pending.append(record(file, block, size, digest))
        self._weight += size
        if self._weight >= BLOCK_SIZE or len(self._pending) >= _TOGETHER:
            self.flush()

    def reserve(self, count: int, *, at_risk: int = 0) -> tuple[int, int]:
        """Room for so many records that somebody else writes: a descriptor, good until `close`, and where to.

        Args:
            count: how many.
            at_risk: bytes that they tell of and that move here then, as `add_runs` says.
        """
        with self._lock:
            self._open()
            start = self._written
            self._written += count * RECORD_SIZE
            self._risk(at_risk)
            return self._descriptor, start

    def add_runs(self, file: bytes, size: int, runs: Runs) -> None:
        """These blocks of the file of this identity, which has `size` bytes, are in another area, and move here now.

        It flushes, and has it synced where much is at risk.
        """
        more = 0
        for first, digests in runs:
            for at in range(0, len(digests), DIGEST_SIZE):
                block = first + at // DIGEST_SIZE
                length = min(BLOCK_SIZE, size - block * BLOCK_SIZE)
                self._pending.append(record(file, block, length, digests[at : at + DIGEST_SIZE]))
                more += length
                if len(self._pending) >= _TOGETHER:
                    self.flush()
        self.flush()
        with self._lock:
            self._risk(more)

    def _risk(self, more: int) -> None:
        """So many bytes more move here; the caller holds the lock."""
        self._at_risk += more
        if self._at_risk >= AT_RISK and self._syncing is None:
            self._syncing = threading.Thread(target=self._sync, name="enchufe journal", daemon=True)
            with contextlib.suppress(BusyError):  # there is no thread left: then a power cut costs more
                start(self._syncing)

    def _sync(self) -> None:
        """Sync it as long as much is at risk; never again after an error, by which no more than records are lost."""
        while True:
            with self._lock:
                if self._at_risk < AT_RISK:
                    self._syncing = None
                    return
                self._at_risk = 0
            try:
                os.fsync(self._descriptor)
            except OSError:
                return

    def flush(self) -> None:
        """Write what was collected."""
        with self._lock:
            self._flush()

    @property
    def empty(self) -> bool:
        """Whether nothing was written."""
        return not self._written

    def close(self) -> None:
        """Close it; what was not flushed is lost."""
        if (syncing := self._syncing) is not None and syncing.ident is not None:
            syncing.join()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _flush(self) -> None:
        count = len(self._pending)
        if not count:
            return
        self._open()
        data = memoryview(b"".join(self._pending[:count]))
        done = 0
        while done < len(data):
            done += os.pwrite(self._descriptor, data[done:], self._written + done)
        # Only now: after an error the next record goes over what was written of this one.
        self._written += done
        del self._pending[:count]
        self._weight = 0

    def _open(self) -> None:
        """Make it, unless that is done."""
        if self._descriptor >= 0:
            return
        descriptor = os.open(ROOT, _NEW, 0o600, dir_fd=self._area)
        try:
            os.write(descriptor, self.root)
        finally:
            os.close(descriptor)
        self._descriptor = os.open(NAME, _NEW, 0o600, dir_fd=self._area)


class Records:
    """What a journal says; records that are damaged or torn are not there.

    It keeps where each record is, not the record, so that a journal of 100,000 files costs some 20 MB.

    Args:
        descriptor: of the journal, which becomes this object's to close; None: there is none.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = -1 if descriptor is None else descriptor
        self._where: dict[bytes, int | array[int]] = {}
        if descriptor is None:
            return
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, file: bytes) -> bool:
        return file in self._where

    def runs(self, file: bytes, size: int, there: int) -> Runs:
        """The blocks of the file of this identity, which has `size` bytes, and `there` of them on the disk.

        Raises:
            OSError: the journal cannot be read any more.
        """
        where = self._where.get(file, ())
        blocks = array("I")
        digests = bytearray()
        for found, block, length, digest, _ in self._bodies((where,) if isinstance(where, int) else where):
            start = block * BLOCK_SIZE
            right = length == min(BLOCK_SIZE, size - start) and (length or not size)
            if right and found == file and start + length <= there:
                blocks.append(block)
                digests += digest
        return tuple(_runs(blocks, digests))

    def close(self) -> None:
        """Close the journal."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _read(self) -> None:
        where = self._where
        number = 0
        while number < MAX_RECORDS:
            chunk = os.pread(self._descriptor, _CHUNK, number * RECORD_SIZE)
            if len(chunk) < RECORD_SIZE:
                return
            for at in range(0, len(chunk) - RECORD_SIZE + 1, RECORD_SIZE):
                if _is_good(chunk, at):
                    file = chunk[at : at + 16]
                    before = where.get(file)
                    if before is None:
                        where[file] = number
                    elif isinstance(before, int):
                        where[file] = array("I", (before, number))
                    else:
                        before.append(number)
                number += 1

    def _bodies(self, numbers: Iterable[int]) -> Iterator[tuple[bytes, int, int, bytes, int]]:
        chunk, first = b"", 0
        for number in numbers:
            at = (number - first) * RECORD_SIZE
            if not 0 <= at <= len(chunk) - RECORD_SIZE:
                # The one record of a small file is read alone, those of a big one many at a time.
                size = _CHUNK if chunk else RECORD_SIZE
                chunk, first, at = os.pread(self._descriptor, size, number * RECORD_SIZE), number, 0
                if len(chunk) < RECORD_SIZE:
                    return
            yield BODY.unpack_from(chunk, at)


def _runs(blocks: array[int], digests: bytearray) -> Iterator[tuple[int, bytes]]:
    """Blocks in any order, as runs; of those that are told twice the later is right."""
    order = sorted(range(len(blocks)), key=blocks.__getitem__)
    run = bytearray()
    first = 0
    for at in order:
        block = blocks[at]
        after = first + len(run) // DIGEST_SIZE
        if run and block == after - 1:
            del run[-DIGEST_SIZE:]
        elif block != after:
            if run:
                yield first, bytes(run)
                run.clear()
            first = block
        run += digests[at * DIGEST_SIZE : (at + 1) * DIGEST_SIZE]
    if run:
        yield first, bytes(run)


def _is_good(data: bytes, start: int) -> bool:
    end = start + BODY.size
    return len(data) >= start + RECORD_SIZE and CRC.unpack_from(data, end)[0] == crc32(data[start:end])
