"""Source: the files and folders that a user named, walked once, and read as they were offered or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from enchufe.entry import MAX_DEPTH, NO_PARENT, Entry, Kind, Reason
from enchufe.errors import LocalProtocolError, StoreError
from enchufe.printable import printable
from enchufe.store.faults import OUT_OF_MEANS, check_path, store_error
from enchufe.store.folders import Folders

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# O_NONBLOCK: a FIFO that took a file's place must not hold us up. O_NOCTTY: nor a terminal become ours.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_REASONS: Final = {
    errno.ENOENT: Reason.VANISHED,
    errno.ENOTDIR: Reason.VANISHED,
    errno.ESTALE: Reason.VANISHED,
    errno.ELOOP: Reason.CHANGED,  # a symlink by now
    errno.EISDIR: Reason.CHANGED,
    errno.ENXIO: Reason.CHANGED,  # a socket
    errno.ENODEV: Reason.CHANGED,
    errno.EAGAIN: Reason.CHANGED,  # a FIFO that somebody writes to
}
_TOLD: Final = {
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}
# os.fsencode() for many at once.
_ENCODING, _ENCODING_ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

_FILE, _DIRECTORY, _SYMLINK = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK


class LeftOut(StoreError):
    """An entry that was offered cannot be sent; all the others can.

    Attributes:
        reason: why, as the protocol says it.
    """

    def __init__(self, reason: Reason, path: tuple[bytes, ...]) -> None:
        super().__init__(f"'{printable(b'/'.join(path))}' is left out: {reason.told}")
        self.reason = reason


class Source:
    """What a sender reads. Entries are numbered by one `walk()`, and opened by what it yielded.

    Each path becomes a root with the base name of the path: a slash at its end makes no difference, `.` and `..` stand
    for the folder they lead to. A root that is a symlink is followed, since the user named it, and keeps its name; the
    symlinks in a folder stay symlinks.

    Args:
        paths: files and folders; all of them must be there.

    Attributes:
        left_out: path and reason, both for a person, of what the walk could not offer.

    Raises:
        StoreError: one is not there, or is neither a file nor a folder.
        LocalProtocolError: two would have one name, or one has none (`/`), or is no path.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.left_out: list[tuple[tuple[bytes, ...], str]] = []
        self._roots: dict[bytes, bytes] = {}  # name -> where it really is
        self._files: dict[int, bytes] = {}  # id of a root that is a file -> where it really is
        self._folders = Folders()
        self._count = 0
        for path in paths:
            self._name_root(os.fsencode(path))

    def _name_root(self, path: bytes) -> None:
        check_path(path)
        try:
            where = os.path.realpath(path, strict=True)
            mode = os.stat(where).st_mode
        except OSError as error:
            raise store_error(error, "send", path) from error
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            told = _TOLD.get(stat.S_IFMT(mode), "not a file")
            raise StoreError(
                f"cannot send {printable(path)}: {told}", hint="Send what it yields through standard input: -"
            )
        name = os.path.basename(path.rstrip(b"/"))
        if name in (b"", b".", b".."):
            name = os.path.basename(where)
        if not name:
            raise LocalProtocolError(
                "the root of the file system has no name to send it under", hint="Name what is in it."
            )
        if name in self._roots:
            raise LocalProtocolError(
                f"two things to send are called '{printable(name)}'", hint="Rename one, or send one after the other."
            )
        self._roots[name] = where

    def walk(self) -> Iterator[Entry]:
        """Every entry, numbered from 0: a folder, then its files and symlinks by name, then its folders by name.

        It looks at the disk as it goes, and holds the names along one path down the tree, never the tree. What cannot
        be offered goes to `left_out`. Walk once only.

        Raises:
            StoreError: no descriptors or memory left.
        """
        for name, where in self._roots.items():
            try:
                info = os.stat(where, follow_symlinks=False)
            except OSError as error:
                self._leave_out((name,), error)
                continue
            if stat.S_ISDIR(info.st_mode):
                self._folders.add_top(self._count, name, where)
                yield from self._walk_tree(name, info)  # one level deep, whatever the depth of the tree
            elif stat.S_ISREG(info.st_mode):
                self._files[self._count] = where
                yield Entry(
                    self._take_id(), NO_PARENT, name, _FILE, info.st_size, stat.S_IMODE(info.st_mode), info.st_mtime_ns
                )
            else:
                self.left_out.append(((name,), Reason.CHANGED.told))

    def _walk_tree(self, root_name: bytes, info: os.stat_result) -> Iterator[Entry]:
        """A root that is a folder, added already, and all below it."""
        names = self._listed(NO_PARENT, root_name)
        if names is None:
            return
        root = Entry(self._take_id(), NO_PARENT, root_name, _DIRECTORY, 0, info.st_mode & 0o7777, info.st_mtime_ns)
        yield root
        stack = [(root.id, names)]  # the folders that we are in, each with its names yet to come
        while stack:
            parent, names = stack[-1]
            for name in names:
                try:
                    info = os.stat(name, dir_fd=self._folders.descriptor(parent), follow_symlinks=False)
                    mode = info.st_mode
                    kind = mode & 0o170000
                    if kind == stat.S_IFREG:
                        entry = Entry(self._count, parent, name, _FILE, info.st_size, mode & 0o7777, info.st_mtime_ns)
                    elif kind == stat.S_IFDIR:
                        inside = self._entered(parent, name, len(stack))
                        if inside is None:
                            continue
                        stack.append((self._count, inside))
                        entry = Entry(self._count, parent, name, _DIRECTORY, 0, mode & 0o7777, info.st_mtime_ns)
                    elif kind == stat.S_IFLNK:
                        target = os.readlink(name, dir_fd=self._folders.descriptor(parent))
                        entry = Entry(self._count, parent, name, _SYMLINK, 0, mode & 0o7777, info.st_mtime_ns, target)
                    else:
                        self.left_out.append(((*self._folders.path(parent), name), _TOLD[kind]))
                        continue
                except OSError as error:
                    self._leave_out((*self._folders.path(parent), name), error)
                    continue
                self._count += 1
                yield entry
                if entry.kind is _DIRECTORY:
                    break
            else:
                stack.pop()

    def _take_id(self) -> int:
        self._count += 1
        return self._count - 1

    def _entered(self, parent: int, name: bytes, depth: int) -> Iterator[bytes] | None:
        """What is in a folder that will be the next entry, `depth` folders deep; None where that cannot be known."""
        if depth >= MAX_DEPTH:
            self.left_out.append(((*self._folders.path(parent), name), f"more than {MAX_DEPTH} folders deep"))
            return None
        self._folders.add(self._count, parent, name)
        return self._listed(parent, name)

    def _listed(self, parent: int, name: bytes) -> Iterator[bytes] | None:
        """Names in the folder that was just added: what is no folder first, both in order."""
        leaves: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(self._folders.descriptor(self._count)) as listing:
                for found in listing:
                    (folders if found.is_dir(follow_symlinks=False) else leaves).append(found.name)
        except OSError as error:
            self._folders.forget(self._count)
            self._leave_out((*self._folders.path(parent), name), error)
            return None
        return itertools.chain(_sorted(leaves), _sorted(folders))

    def _leave_out(self, path: tuple[bytes, ...], error: OSError) -> None:
        reason = self._reason(error, path)
        told = f"{reason.told} ({os.strerror(error.errno or 0)})" if reason is Reason.UNREADABLE else reason.told
        self.left_out.append((path, told))

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The entry's names from its root on, for people."""
        if entry.parent == NO_PARENT:
            return (entry.name,)
        return (*self._folders.path(entry.parent), entry.name)

    def open(self, entry: Entry) -> SourceFile:
        """Open a file that was offered, if it still is what was offered. It is the caller's to close.

        Raises:
            LeftOut: it is gone, cannot be read, or is another by now.
            StoreError: no descriptors or memory left.
        """
        path = self.path(entry)
        try:
            file = SourceFile(self._opened(entry), entry, path)
        except OSError as error:
            raise self._left_out(error, entry) from error
        if not file.unchanged():
            file.close()
            raise LeftOut(Reason.CHANGED, path)
        return file

    def read_whole(self, entry: Entry) -> bytes:
        """All of a file that was offered, of the offered size; for files that fit in memory easily.

        Raises:
            LeftOut: it is gone, cannot be read, or is another by now.
            StoreError: no descriptors or memory left.
        """
        size = entry.size
        try:
            descriptor = self._opened(entry)
            try:
                # One byte is asked of an empty file: those in /proc say that they are empty, and are not.
                data = os.read(descriptor, size or 1)
                while 0 < len(data) < size and (more := os.read(descriptor, size - len(data))):
                    data += more
                # After reading, which also tells that it was right before.
                info = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._left_out(error, entry) from error
        if len(data) != size or not _is(entry, info):
            raise LeftOut(Reason.CHANGED, self.path(entry))
        return data

    def close(self) -> None:
        """Close the folders that are open; files are closed by who opened them."""
        self._folders.close()

    def _opened(self, entry: Entry) -> int:
        if entry.parent == NO_PARENT:
            return os.open(self._files[entry.id], _READ)
        return os.open(entry.name, _READ, dir_fd=self._folders.descriptor(entry.parent))

    def _left_out(self, error: OSError, entry: Entry) -> LeftOut:
        path = self.path(entry)
        return LeftOut(self._reason(error, path), path)

    @staticmethod
    def _reason(error: OSError, path: tuple[bytes, ...]) -> Reason:
        if error.errno in OUT_OF_MEANS:
            raise store_error(error, "read", b"/".join(path)) from error
        return _REASONS.get(error.errno or 0, Reason.UNREADABLE)


class SourceFile:
    """A file that was offered, open for reading.

    Args:
        descriptor: becomes this object's to close.
        entry: what was offered.
        path: its names, for messages.
    """

    __slots__ = ("_descriptor", "_entry", "_path")

    def __init__(self, descriptor: int, entry: Entry, path: tuple[bytes, ...]) -> None:
        self._descriptor = descriptor
        self._entry = entry
        self._path = path

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on; returns how many bytes there were, fewer only at the end of the file.

        Raises:
            LeftOut: it could not be read.
        """
        filled = 0
        try:
            while filled < len(view):
                count = os.preadv(self._descriptor, [view[filled:]], offset + filled)
                if count == 0:
                    break
                filled += count
        except OSError as error:
            raise LeftOut(Reason.UNREADABLE, self._path) from error
        return filled

    def unchanged(self) -> bool:
        """Whether it still is what was offered, by size and modification time."""
        return _is(self._entry, os.fstat(self._descriptor))

    def close(self) -> None:
        """Close it; more than once does no harm."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _is(entry: Entry, info: os.stat_result) -> bool:
    return info.st_size == entry.size and info.st_mtime_ns == entry.mtime_ns and info.st_mode & 0o170000 == stat.S_IFREG


def _sorted(names: list[str]) -> list[bytes]:
    return sorted([name.encode(_ENCODING, _ENCODING_ERRORS) for name in names])
