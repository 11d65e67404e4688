"""Delivery: one transfer's way into a directory: staged, made durable, and then visible at once, or never."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import Final

from enchufe.buffer import Buffer
from enchufe.entry import NO_PARENT, Answer, Entry, Kind
from enchufe.errors import ClosedError, LocalProtocolError, RemoteProtocolError, StoreError
from enchufe.printable import printable
from enchufe.store.commit import Commit
from enchufe.store.durable import Written
from enchufe.store.faults import store_error
from enchufe.store.folders import Folders
from enchufe.store.metadata import dress
from enchufe.store.names import NameRules
from enchufe.store.plan import AREA, TOP, IfExists, Links, Plan, Standing
from enchufe.store.staging import Staging

OPEN_FILES: Final = 16

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AGAIN: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC

# What a file system says to a name, or to a symlink, that it cannot hold.
_CANNOT_HOLD: Final = frozenset(
    {errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}
)

_ALL, _DIRECTORY, _SYMLINK, _STAGED = Answer.ALL, Kind.DIRECTORY, Kind.SYMLINK, Standing.STAGED


class Delivery:
    """What arrives in one transfer. Use it from one thread at a time; `LocalStore.begin()` makes it.

    Nothing of it is visible before `commit()`, and nothing is left of it after `abandon()`. After either, every other
    call raises ClosedError. After any error of the disk only `abandon()` is left.

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
        self._folders = Folders()
        self._folders.pin(TOP, folder)
        self._folders.pin(AREA, staging.descriptor)
        self._plan = Plan(self._folders, rules, if_exists=if_exists, links=links)
        self._written = Written(staging.descriptor)
        self._begun: set[int] = set()
        self._files: dict[int, int] = {}  # descriptors of files begun, those written last at the end
        self._ending = threading.Lock()  # so that to abandon waits for a commit in another thread
        self._failed = False
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
        if entry.kind is _DIRECTORY and self._plan.folders[entry.id].standing is not _STAGED:
            return _ALL
        directory, name = self._plan.place(entry)
        try:
            if entry.kind is _DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=directory)
                self._written.count_directory()
            else:
                _make_symlink(entry, name, directory)
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
                dress(descriptor, entry.mode, entry.mtime_ns)
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
            dress(descriptor, entry.mode, entry.mtime_ns)
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
            ClosedError: something failed before; what is missing then must not pass for delivered.
            LocalProtocolError: a file was begun and neither completed nor dropped.
        """
        with self._ending:
            self._check_open()
            if self._failed:
                raise ClosedError("this delivery has failed", hint="Abandon it and receive everything again.")
            if self._begun:
                raise LocalProtocolError(f"{len(self._begun)} files are not complete")
            self._failed = True  # unless it succeeds: what an fsync could not write the next one would say is well
            Commit(self._plan, self._folders, self._written, self._path, self.landed).run()
            self._end()

    def abandon(self) -> None:
        """Remove all that was received and not committed. What cannot be removed now, the next delivery will remove."""
        with self._ending:
            if not self._over:
                self._end()

    def _end(self) -> None:
        self._over = True
        self._written.close()
        self._folders.close()
        while self._files:
            with contextlib.suppress(OSError):  # they are removed
                os.close(self._files.popitem()[1])
        self._staging.remove()
        os.close(self._top)

    def _check_open(self) -> None:
        if self._over:
            raise _closed()

    def _descriptor(self, entry: Entry) -> int:
        """The descriptor of a file that comes in pieces; it is made at the first use and opened again if it must be."""
        descriptor = self._files.pop(entry.id, None)
        if descriptor is None:
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.pop(next(iter(self._files))))
            directory, name = self._plan.place(entry)
            if entry.id in self._begun:
                descriptor = os.open(name, _AGAIN, dir_fd=directory)
            else:
                try:
                    descriptor = os.open(name, _NEW, 0o600, dir_fd=directory)
                except FileExistsError as error:
                    raise self._twice(entry) from error
                self._begun.add(entry.id)
        self._files[entry.id] = descriptor
        return descriptor

    def _shown(self, entry: Entry) -> str:
        return printable(b"/".join(self.path(entry)))

    def _error(self, error: OSError, doing: str, entry: Entry) -> StoreError:
        self._failed = True  # something is missing: never commit
        return store_error(error, doing, b"/".join((self._path, *self.path(entry))))

    def _twice(self, entry: Entry) -> RemoteProtocolError:
        self._failed = True
        return RemoteProtocolError(f"'{self._shown(entry)}' was offered twice")


def _closed() -> ClosedError:
    return ClosedError("this delivery is over")


def _make_symlink(entry: Entry, name: bytes, directory: int) -> None:
    os.symlink(entry.target, name, dir_fd=directory)
    try:
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_HOLD:  # a file system whose symlinks have no times
            raise


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written
