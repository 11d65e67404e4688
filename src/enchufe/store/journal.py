"""Journal: which blocks of which files were verified and written (docs/protocol.md, "What is kept").

It need not be synced to be right: whoever believes it reads the blocks again before the commit. It is synced where much
is taken over from another area, whose journal loses sight of that: a power cut would cost all, not the last seconds.
Nobody waits for that: what is missing is to be asked for at once, and a disk may take seconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

from enchufe.entry import BLOCK_SIZE
from enchufe.errors import BusyError
from enchufe.store.hand import record
from enchufe.store.writing import write_all
from enchufe.waiting import start

NAME: Final = b"journal"
ROOT: Final = b"root"  # beside it: the name of the first root, for people
RECORD_SIZE: Final = 64
AT_RISK: Final = 256 << 20  # bytes that may be taken over before it is synced

_TOGETHER: Final = 1024  # records, 64 KiB
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


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
            at_risk: bytes that they tell of and that move here then, as `add_copy` says.
        """
        with self._lock:
            self._open()
            start = self._written
            self._written += count * RECORD_SIZE
            self._risk(at_risk)
            return self._descriptor, start

    def add_copy(self, records: bytes, *, at_risk: int) -> None:
        """Records as another journal has them, which tell of so many bytes of a file that moves here now.

        Where much is at risk it is synced.
        """
        descriptor, where = self.reserve(len(records) // RECORD_SIZE)
        write_all(descriptor, memoryview(records), where)
        with self._lock:  # now that they are there to be synced
            self._risk(at_risk)

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
