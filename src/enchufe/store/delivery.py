"""Delivery: one transfer's way into a directory: staged, made durable, and then visible at once, or never."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from typing import Final

from enchufe.buffer import Buffer
from enchufe.entry import NO_PARENT, Answer, Entry, Kind
from enchufe.errors import ClosedError, LocalProtocolError, RemoteProtocolError, StoreError
from enchufe.printable import printable
from enchufe.store import linux
from enchufe.store.durable import ONE_BY_ONE, Written
from enchufe.store.faults import store_error
from enchufe.store.folders import DIRECTORY, Folders
from enchufe.store.grafts import Graft
from enchufe.store.names import NameRules
from enchufe.store.plan import AREA, TOP, Folder, IfExists, Links, Plan, Standing
from enchufe.store.staging import Staging

OPEN_FILES: Final = 16

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AGAIN: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC

# What a file system says to a name, or to a symlink, that it cannot hold.
_CANNOT_HOLD: Final = frozenset({errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP})

_ALL, _DIRECTORY, _SYMLINK = Answer.ALL, Kind.DIRECTORY, Kind.SYMLINK


class Delivery:
    """What arrives in one transfer. Use it from one thread at a time; `LocalStore.begin()` makes it.

    Nothing of it is visible before `commit()`, and nothing is left of it after `abandon()`. After either, every other
    call raises ClosedError.

    Args:
        folder: descriptor of the destination, which the delivery closes in the end.
        path: the destination, for messages.
        staging: its own area.
        rules: what names the destination cannot hold.
        if_exists, links: as `LocalStore` says.

    Attributes:
        landed: id of a root -> the name it got at the destination; full after the commit.
    """

    def __init__(
        self, folder: int, path: bytes, staging: Staging, rules: NameRules, *, if_exists: IfExists, links: Links
    ) -> None:
        self.landed: dict[int, bytes] = {}
        self._path = path
        self._top = folder
        self._staging = staging
        self._area = staging.descriptor
        self._folders = Folders()
        self._folders.pin(TOP, folder)
        self._folders.pin(AREA, self._area)
        self._plan = Plan(self._folders, rules, if_exists=if_exists, links=links)
        self._dresses_live = if_exists in ("overwrite", "update")
        self._written = Written(self._area)
        self._begun: set[int] = set()
        self._files: dict[int, int] = {}  # descriptors of files begun, those written last at the end
        self._ending = threading.Lock()  # so that to abandon waits for a commit in another thread
        self._over = False

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The entry's names from its root on, as offered; for people only, and only while its folders are known."""
        if entry.parent == NO_PARENT:
            return (entry.name,)
        return (*self._folders.path(entry.parent), entry.name)

    def admit(self, entry: Entry) -> Answer:
        """Decide about an entry; a directory or symlink that is wanted is made at once, in staging.

        Raises:
            RemoteProtocolError: its name is unsafe or was offered already, or it is in no folder that was offered.
            Refused: it exists already and the store was told to fail then.
            StoreError: the disk said no.
        """
        if self._over:
            raise _closed()
        try:
            answer = self._plan.answer(entry)
            if answer is _ALL and (entry.kind is _DIRECTORY or entry.kind is _SYMLINK):
                return self._make(entry)
        except OSError as error:
            raise self._error(error, "look at", entry) from error
        return answer

    def _make(self, entry: Entry) -> Answer:
        if entry.kind is _DIRECTORY and self._plan.folders[entry.id].standing is not Standing.STAGED:
            return _ALL
        directory, name = self._plan.place(entry)
        try:
            if entry.kind is _DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=directory)
                self._written.count_directory()
            else:
                os.symlink(entry.target, name, dir_fd=directory)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)
        except FileExistsError as error:
            raise self._twice(entry) from error
        except OSError as error:
            if error.errno not in _CANNOT_HOLD:
                raise self._error(error, "make", entry) from error
            self._plan.refuse(entry)
            return Answer.CANNOT_STORE
        return _ALL

    def write_whole(self, entry: Entry, data: Buffer) -> None:
        """Store a wanted file that is in memory, complete with mode and time.

        Raises:
            RemoteProtocolError: its name was offered already.
            StoreError: the disk said no.
        """
        if self._over:
            raise _closed()
        try:
            directory, name = self._plan.place(entry)
            descriptor = os.open(name, _NEW, 0o600, dir_fd=directory)
            try:
                written = os.write(descriptor, data)
                if written != len(data):
                    _write_all(descriptor, memoryview(data)[written:], written)
                _dress(descriptor, entry.mode & 0o777, entry.mtime_ns)
            except BaseException:
                os.close(descriptor)
                raise
            self._written.keep(descriptor, entry.mode)
        except FileExistsError as error:
            raise self._twice(entry) from error
        except OSError as error:
            raise self._error(error, "write", entry) from error

    def write(self, entry: Entry, offset: int, data: Buffer) -> None:
        """Write a piece of a wanted file; any order will do, and `complete()` ends it.

        Raises:
            RemoteProtocolError: its name was offered already.
            StoreError: the disk said no.
        """
        self._check_open()
        try:
            _write_all(self._descriptor(entry), memoryview(data), offset)
        except OSError as error:
            raise self._error(error, "write", entry) from error

    def complete(self, entry: Entry, size: int) -> None:
        """Finish a file that came in pieces: it has `size` bytes now, and gets its mode and time.

        Raises:
            StoreError: it has another size on disk, or the disk said no.
        """
        self._check_open()
        try:
            descriptor = self._descriptor(entry)
            on_disk = os.fstat(descriptor).st_size
            if on_disk != size:
                raise StoreError(
                    f"'{self._shown(entry)}' has {on_disk:,} bytes on disk, not {size:,}",
                    hint="Something else wrote to it, or the disk is failing: send it again.",
                )
            _dress(descriptor, entry.mode & 0o777, entry.mtime_ns)
            del self._files[entry.id]
            self._begun.discard(entry.id)
            self._written.keep(descriptor, entry.mode)
        except OSError as error:
            raise self._error(error, "write", entry) from error

    def drop(self, entry: Entry) -> None:
        """Forget a file that its sender left out, with what was received of it.

        Raises:
            StoreError: the disk said no.
        """
        self._check_open()
        try:
            descriptor = self._files.pop(entry.id, None)
            if descriptor is not None:
                os.close(descriptor)
            if entry.id in self._begun:
                directory, name = self._plan.place(entry)
                os.unlink(name, dir_fd=directory)
                self._begun.discard(entry.id)
        except OSError as error:
            raise self._error(error, "remove", entry) from error
        self._plan.refuse(entry)

    def commit(self) -> None:
        """Have everything on disk, then make it visible, then have that on disk too. It may take long.

        What fails before the first rename leaves nothing visible; of what fails later the error says what is in place.
        Either way `abandon()` removes the rest.

        Raises:
            StoreError: the disk said no, or something else changed the destination meanwhile.
            LocalProtocolError: a file was begun and neither completed nor dropped.
        """
        with self._ending:
            self._check_open()
            if self._begun:
                raise LocalProtocolError(f"{len(self._begun)} files are not complete")
            try:
                self._make_durable()
            except OSError as error:
                raise store_error(error, "get everything on disk in", self._path) from error
            directories = self._put_in_place()
            try:
                self._finish_live(directories)
            except OSError as error:
                raise _partly(store_error(error, "get the folders on disk in", self._path), self._landed_names()) from error
            self._end()

    def abandon(self) -> None:
        """Remove all that was received and not committed. What cannot be removed now, the next delivery will remove."""
        with self._ending:
            if not self._over:
                self._end()

    def _make_durable(self) -> None:
        """All files, and all directories that stay where they are, with mode, time and content."""
        at_once = self._written.all_at_once
        if not at_once:
            self._written.sync(self._staged_descriptors())
        for folder in self._plan.staged():
            descriptor = self._folders.descriptor(folder.id)
            if folder.id not in self._plan.grafts:
                _dress_directory(descriptor, folder)
            if not at_once:
                os.fsync(descriptor)
        if at_once:
            self._written.sync(())

    def _staged_descriptors(self) -> Iterator[int]:
        yield self._area
        for folder in self._plan.staged():
            yield self._folders.descriptor(folder.id)

    def _put_in_place(self) -> int:
        """Rename every graft; return how many are directories."""
        directories = 0
        for graft in self._plan.grafts.values():
            try:
                name = self._put(graft)
            except OSError as error:
                path = b"/".join((self._path, *self._folders.path(graft.parent), graft.name))
                raise _partly(store_error(error, "put in place", path), self._placed) from error
            directories += graft.kind is _DIRECTORY
            self._placed.append(name)
            if graft.parent == TOP:
                self.landed[graft.id] = name
        return directories
