"""Durable: what was written is on disk before anything of it shows, at the least price.

A few files are synced one by one, by the descriptors they were written through. Many are synced by one `syncfs()`,
which costs what the disk costs and not a journal commit per file; where there is none, each file is opened
again and synced. An fsync that failed is never tried again: the kernel has dropped what it could not write, and
the second one says that all is well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable
from typing import Final

from enchufe.store import linux
from enchufe.store.folders import scan

ONE_BY_ONE: Final = 32  # as many files and directories are synced each; beyond, syncfs() is cheaper

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Written:
    """The files of a delivery that are complete, and how they get to the disk. Several threads may tell it.

    Args:
        file_system: a descriptor in the file system, opened before the first write to it.

    Attributes:
        doubtful: whether a sync has failed: then what reads well may not be on disk.
    """

    def __init__(self, file_system: int) -> None:
        self.doubtful = False
        self._file_system = file_system
        self._kept: list[int] = []
        self._few = True
        self._lock = threading.Lock()
        self._directories = 0
        self.syncfs = linux.has_syncfs()

    def keep(self, descriptor: int, mode: int) -> None:
        """Take over the descriptor of a file that is complete and has its mode, `mode`.

        Raises:
            OSError: it could not be written after all.
        """
        if self._few:
            with self._lock:
                if self._few:
                    self._kept.append(descriptor)
                    self._recount()
                    return
        try:
            if not self.syncfs and not mode & stat.S_IRUSR:
                self.surely(os.fsync, descriptor)  # it could not be opened again
        finally:
            os.close(descriptor)

    def count_directory(self) -> None:
        """Tell that one more directory will have to be synced."""
        with self._lock:
            self._directories += 1
            self._recount()

    def expect_many(self) -> bool:
        """There will be too many to sync each, and nobody keeps them: whether `sync()` takes care of all at once."""
        with self._lock:
            if self._few and self.syncfs:
                self._few = False
                self.close()
        return self.all_at_once

    def _recount(self) -> None:
        if self._few and len(self._kept) + self._directories > ONE_BY_ONE:
            self._few = False
            if not self.syncfs:
                self._sync_kept()
            self.close()

    @property
    def all_at_once(self) -> bool:
        """Whether `sync()` takes care of directories too, and is therefore to be called after they are finished."""
        return self.syncfs and not self._few

    def sync(self, directories: Iterable[int]) -> None:
        """Have the data of all files on disk.

        Args:
            directories: yields a descriptor of every directory that holds any of them.

        Raises:
            OSError: something could not be written; never try again.
        """
        if self._few:
            self._sync_kept()
        elif self.syncfs:
            self.surely(linux.syncfs, self._file_system)
        else:
            for directory in directories:
                self._sync_files(directory)

    def surely(self, sync: Callable[[int], None], descriptor: int) -> None:
        """Sync what a descriptor is of; where that fails, all is in doubt.

        Raises:
            OSError: it could not be written; never try again.
        """
        try:
            sync(descriptor)
        except OSError:
            self.doubtful = True
            raise

    def _sync_kept(self) -> None:
        for descriptor in self._kept:
            self.surely(os.fsync, descriptor)

    def _sync_files(self, directory: int) -> None:
        with scan(directory) as listing:
            names = [os.fsencode(entry.name) for entry in listing if entry.is_file(follow_symlinks=False)]
        for name in names:
            try:
                descriptor = os.open(name, _READ, dir_fd=directory)
            except PermissionError:
                continue  # not readable by its mode: synced when it was written
            try:
                self.surely(os.fsync, descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Close what is kept."""
        while self._kept:
            with contextlib.suppress(OSError):  # what it might say was said by fsync, or the delivery failed
                os.close(self._kept.pop())


def sync_directory(descriptor: int) -> None:
    """Have the names in a directory on disk, as far as its file system knows how: some network file systems do not.

    Raises:
        OSError: they could not be written.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
