"""Part files: they come block by block, in any order and from several threads, or are here in part from before."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE, UNKNOWN_SIZE, Entry
from enchufe.errors import LocalProtocolError, Refused, StoreError
from enchufe.printable import printable
from enchufe.store import delta, linux
from enchufe.store.descriptor_cache import DescriptorCache, OpenFile
from enchufe.store.durable import Written
from enchufe.store.hand import NEW
from enchufe.store.journal import Journal
from enchufe.store.leftovers import Found, Leftovers, blank_rest
from enchufe.store.metadata import dress_file
from enchufe.store.plan import Plan
from enchufe.store.records import Kept
from enchufe.store.sparse import write_sparse
from enchufe.store.wanted import Wanted, needed
from enchufe.store.writing import AGAIN, open_own, write_all

# The disk is told to begin after so many bytes of a file: then the fsync in the end finds little left to do. Whoever
# tells it may have to wait for its queue: telling it every 8 MiB made one big file on ext4 a quarter slower than this.
WRITE_BEHIND: Final = 64 << 20

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class PartFiles:
    """The part files of one delivery.

    Raises OSError where the disk says no; the delivery knows what that is to its owner.

    Args:
        lock: the delivery's, of the plan and of what is wanted.
        plan: knows where they are staged.
        wanted: what is dropped goes nowhere, and what is too much is refused.
        written: gets those that are complete.
        journal: is told of every block.
        leftovers: what may be taken over.
        bare: gets those that are complete and lack attributes, as `Delivery.bare` has them.
        disk: whether there is a disk to be told to begin writing.

    Attributes:
        here: by id, the blocks that were here from before of files that are not complete.
    """

    def __init__(
        self,
        lock: threading.Lock,
        plan: Plan,
        wanted: Wanted,
        written: Written,
        journal: Journal,
        leftovers: Leftovers,
        bare: list[tuple[tuple[bytes, ...], list[bytes]]],
        *,
        disk: bool,
    ) -> None:
        self.here: dict[int, Kept] = {}
        self._lock = lock
        self._plan = plan
        self._wanted = wanted
        self._written = written
        self._journal = journal
        self._leftovers = leftovers
        self._bare = bare
        self._has_disk = disk
        self._begun: dict[int, int] = {}  # bytes written so far
        self._unchecked: set[int] = set()
        self._found: dict[int, Found] = {}  # small files that are still where an attempt before has left them
        self._dressed: set[int] = set()  # and those that were read again and moved since, and lack nothing
        self._files = DescriptorCache()

    @property
    def unfinished(self) -> int:
        """How many were begun and neither completed nor dropped."""
        return len(self._begun)

    def needed(self, entry: Entry) -> int:
        """Bytes of the disk that are needed for what of a file is not here from before."""
        return needed(entry, len(self.here.get(entry.id, ())) * BLOCK_SIZE)

    def take_over(self, entry: Entry) -> bool:
        """Whether some of a file is here from before. The caller holds the lock.

        It is in its place then, or will be as soon as it is read again: a small one is moved by who does that.
        """
        file = self._plan.identity(entry)
        small = entry.size < BLOCK_SIZE and not (entry.sparse or entry.attributes)
        if small and (found := self._leftovers.find(entry, file, self._plan)) is not None:
            self._found[entry.id] = found
            kept = found.kept
        else:
            kept = self._leftovers.take(entry, file, self._plan, self._journal)
            if not kept:
                return False
        self.here[entry.id] = kept
        self._unchecked.add(entry.id)
        self._begun[entry.id] = 0
        if entry.sparse:
            directory, name = self._plan.place(entry)
            descriptor = open_own(name, directory, AGAIN)
            try:
                blank_rest(descriptor, kept)
            finally:
                os.close(descriptor)
        return True

    def write(self, entry: Entry, offset: int, data: Buffer, digest: bytes) -> None:
        """Write a piece of a file, of this digest.

        Raises:
            FileExistsError: it is the first of a file, and there is one of its name.
            Refused: it is of unknown size, and with it there is more than the store takes.
        """
        size = len(data)
        file = self._taken(entry, size)
        if file is None:
            return
        try:
            if entry.sparse:
                write_sparse(file.descriptor, data, offset)
            else:
                write_all(file.descriptor, memoryview(data), offset)
            if self._has_disk:
                file.dirty += size
                if file.dirty >= WRITE_BEHIND:
                    file.dirty = 0
                    linux.begin_writing(file.descriptor)
        finally:
            with self._lock:
                self._files.give_back(file)
        self._note(entry, offset, size, digest)

    def found(self, entry: Entry) -> Found | None:
        """Where a small file is that was not moved yet; None of any other. The caller holds the lock."""
        return self._found.get(entry.id)

    def took(self, entries: Sequence[Entry]) -> None:
        """Small files were read again, have mode and time, and are in their place. The caller holds the lock."""
        for entry in entries:
            self._leftovers.took(self._found.pop(entry.id))
            self._unchecked.discard(entry.id)
            self._dressed.add(entry.id)

    def complete(self, entry: Entry, size: int) -> None:
        """Finish a file: it has `size` bytes, and gets what it has besides them.

        Raises:
            StoreError: it has another size on disk.
            LocalProtocolError: it was dropped, or was here in part and not read again.
        """
        if entry.id in self._unchecked:
            raise LocalProtocolError(f"'{self._shown(entry)}' was here before, and not read again")
        if entry.id in self._dressed:
            self._dressed.discard(entry.id)
            del self._begun[entry.id], self.here[entry.id]
            return
        file = self._taken(entry, 0)
        if file is None:
            raise LocalProtocolError(f"'{self._shown(entry)}' was dropped")
        descriptor = file.descriptor
        try:
            on_disk = os.fstat(descriptor).st_size
            if on_disk < size and entry.sparse:
                os.ftruncate(descriptor, size)
            elif on_disk != size:
                raise StoreError(
                    f"'{self._shown(entry)}' has {on_disk:,} bytes on disk, not {size:,}",
                    hint="Something else wrote to it, or the disk is failing: send it again.",
                )
            if refused := dress_file(descriptor, entry):
                self._bare.append((self._plan.names(entry), refused))
        except BaseException:
            with self._lock:
                self._files.give_back(file)
            raise
        with self._lock:
            descriptor = self._files.release(entry.id, file)
            self._begun.pop(entry.id, None)
            self.here.pop(entry.id, None)
        self._written.keep(descriptor, entry.mode)

    def recheck(self, entry: Entry, stopped: Callable[[], bool]) -> list[int]:
        """Read again what was here of a file, unless `stopped`; returns the numbers of blocks that are not so.

        Damaged blocks of a sparse file are made zeros.
        """
        with self._lock:
            if self._found.pop(entry.id, None) is not None and not self._moved(entry):
                return [0]
        bad: list[int] = []
        try:
            descriptor = self._reading(entry)
        except OSError:
            descriptor = -1
        buffer = memoryview(bytearray(min(BLOCK_SIZE, entry.size)))
        try:
            for first, digests in self.here.get(entry.id, ()):
                for index in range(len(digests) // DIGEST_SIZE):
                    if stopped():
                        return bad
                    offset = (first + index) * BLOCK_SIZE
                    size = min(BLOCK_SIZE, entry.size - offset)
                    digest = digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]
                    try:
                        block = delta.read_block(descriptor, buffer[:size], offset)
                    except OSError:  # EBADF where it could not be opened
                        block = buffer[:0]
                    if descriptor < 0 or not delta.is_block(block, size, digest):
                        bad.append(first + index)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if bad and entry.sparse:
            self._blank(entry, bad)
        self._unchecked.discard(entry.id)
        return bad

    def _moved(self, entry: Entry) -> bool:
        """Move a small file that was found to its place; False where it is not there, and comes like any other."""
        file = self._plan.identity(entry)
        if self._leftovers.take(entry, file, self._plan, self._journal):
            return True
        del self.here[entry.id], self._begun[entry.id]
        self._unchecked.discard(entry.id)
        return False

    def drop(self, entry: Entry) -> None:
        """Remove what came of a file, and take back what was counted for it. The caller holds the lock."""
        self._files.close(entry.id)
        if entry.id in self._begun:
            directory, name = self._plan.place(entry)
            os.unlink(name, dir_fd=directory)
        self._wanted.drop(entry, self.needed(entry), self._begun.pop(entry.id, 0))
        self._unchecked.discard(entry.id)
        self._dressed.discard(entry.id)
        self.here.pop(entry.id, None)

    def close(self) -> None:
        """Close what is open."""
        self._files.close_all()

    def _taken(self, entry: Entry, more: int) -> OpenFile | None:
        """A file, to be given back, to which so many bytes come; made at the first use, None where it was dropped."""
        with self._lock:
            if entry.id in self._wanted.dropped:
                return None
            if not self._wanted.came(entry, more):
                raise Refused(f"'{self._shown(entry)}' is bigger than {self._wanted.max_size:,} bytes")
            file = self._files.take(entry.id) or self._open(entry)
            if entry.id in self._begun:
                self._begun[entry.id] += more
            return file

    def _open(self, entry: Entry) -> OpenFile:
        self._files.make_room()
        directory, name = self._plan.place(entry)
        if entry.id in self._begun or entry.id in self.here:
            return self._files.add(entry.id, open_own(name, directory, AGAIN))
        descriptor = os.open(name, NEW, 0o600, dir_fd=directory)
        self._begun[entry.id] = 0
        return self._files.add(entry.id, descriptor)

    def _note(self, entry: Entry, offset: int, size: int, digest: bytes) -> None:
        """Remember a block, if it is one and the file can be known again."""
        if entry.size == UNKNOWN_SIZE or offset % BLOCK_SIZE or size != min(BLOCK_SIZE, entry.size - offset):
            return
        self._journal.add(self._plan.identity(entry), offset // BLOCK_SIZE, size, digest)
        self._journal.flush()

    def _reading(self, entry: Entry) -> int:
        with self._lock:
            directory, name = self._plan.place(entry)
            return open_own(name, directory, _READ)

    def _blank(self, entry: Entry, blocks: Sequence[int]) -> None:
        """Make zeros of damaged blocks, since runs of zeros in them will not be written."""
        file = self._taken(entry, 0)
        if file is None:
            return
        try:
            for block in blocks:
                offset = block * BLOCK_SIZE
                linux.blank(file.descriptor, offset, min(BLOCK_SIZE, entry.size - offset))
        finally:
            with self._lock:
                self._files.give_back(file)

    def _shown(self, entry: Entry) -> str:
        return printable(b"/".join(self._plan.names(entry)))
