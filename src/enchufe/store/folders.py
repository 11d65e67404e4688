"""Folders: a descriptor for any directory of a tree, by number, with few of them open."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator
from typing import Final

from enchufe.entry import NO_PARENT
from enchufe.store.rows import Rows

OPEN_LIMIT: Final = 32

# Never through a symlink: whoever swaps a directory for one meets ELOOP or ENOTDIR.
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_PARENT: Final = struct.Struct(">q")  # NO_PARENT, and what is pinned under a number below zero

_NOTHING: Final = b"nothing"  # what no staging area has


def is_apart(area: int, directory: int) -> bool:
    """Whether nothing can be renamed from a staging area into a directory: another file system is between them.

    Where the same one is mounted once more only that says so.
    """
    try:
        os.rename(_NOTHING, _NOTHING, src_dir_fd=area, dst_dir_fd=directory)
    except OSError as error:
        return error.errno == errno.EXDEV
    return False


def scan(directory: int) -> contextlib.AbstractContextManager[Iterator[os.DirEntry[str]]]:
    """`os.scandir` of what is in an open directory by now, wherever others have read on to through its descriptor.

    btrfs tells only of what was there when it was opened or last rewound.
    """
    os.lseek(directory, 0, os.SEEK_SET)
    return os.scandir(directory)


class Folders:
    """Directories by id, each opened by one component relative to its parent's descriptor.

    Those used last stay open, at most `limit`; any other is opened again from its nearest open ancestor. Every method
    may raise OSError, which whoever knows what the directory was wanted for translates.
    """

    def __init__(self, limit: int = OPEN_LIMIT) -> None:
        self._limit = max(limit, 2)  # a child is opened while its parent is held
        self._offered = Rows()
        self._places = Rows()
        self._pinned: dict[int, int] = {}
        self._open: dict[int, int] = {}  # in order of use, the last used last
        self._latest = (0, -1)
        self._tops: dict[int, bytes] = {}

    def mirror(self, limit: int) -> Folders:
        """The same directories below another one: whoever wants it pins what they are below."""
        mirror = Folders(limit)
        mirror._offered, mirror._places, mirror._tops = self._offered, self._places, self._tops
        return mirror

    def pin(self, id_: int, descriptor: int) -> None:
        """Let `id_` stand for a directory that somebody else opened and will close."""
        self._pinned[id_] = descriptor

    def add(self, id_: int, parent: int, name: bytes, *, place: tuple[int, bytes] | None = None) -> None:
        """Directory `id_` is offered as `name` in `parent`; on disk it is there too, or at `place` (parent, name).

        Each has a greater id than those before.
        """
        self._offered.add(id_, _PARENT.pack(parent) + name)
        if place is not None and place != (parent, name):
            self._places.add(id_, _PARENT.pack(place[0]) + place[1])

    def add_top(self, id_: int, name: bytes, path: bytes) -> None:
        """Directory `id_` is a root that the user named: `path` is opened whole, as only what users name may be."""
        self._offered.add(id_, _PARENT.pack(NO_PARENT) + name)
        self._tops[id_] = path

    def forget(self, id_: int) -> None:
        """The directory that was added last will not be offered after all; its id may be another's."""
        self._offered.pop()
        self._tops.pop(id_, None)
        self._latest = (0, -1)
        descriptor = self._open.pop(id_, None)
        if descriptor is not None:
            os.close(descriptor)

    def descriptor(self, id_: int) -> int:
        """A descriptor of the directory, good until the next call of this or `close()`.

        Raises:
            OSError: it is not there any more, is not a directory any more, or cannot be read.
            KeyError: it was never added.
        """
        latest, descriptor = self._latest
        if descriptor >= 0 and latest == id_:
            return descriptor
        missing = []
        at = id_
        while (descriptor := self._held(at)) < 0:
            if (top := self._tops.get(at)) is not None:
                missing.append((at, top))
                break
            above, name = self._place(at)
            missing.append((at, name))
            at = above
        for wanted, name in reversed(missing):
            descriptor = self._opened(wanted, name, descriptor)
        self._latest = (id_, descriptor)
        return descriptor

    def dup(self, id_: int) -> int:
        """A descriptor of the directory, the caller's to close; raises as `descriptor()` does."""
        return os.dup(self.descriptor(id_))

    def path(self, id_: int) -> tuple[bytes, ...]:
        """The directory's names as they were offered, from its root on."""
        names = []
        while (row := self._offered.get(id_)) is not None:
            id_, name = _split(row)
            names.append(name)
        return tuple(reversed(names))

    def close(self) -> None:
        """Close all that is open here, and hand out no more; the pinned are their owners'."""
        self._latest = (0, -1)
        self._pinned.clear()
        while self._open:
            with contextlib.suppress(OSError):  # nothing was written through it
                os.close(self._open.popitem()[1])

    def _held(self, id_: int) -> int:
        pinned = self._pinned.get(id_)
        if pinned is not None:
            return pinned
        descriptor = self._open.pop(id_, -1)
        if descriptor >= 0:
            self._open[id_] = descriptor
        return descriptor

    def _place(self, id_: int) -> tuple[int, bytes]:
        row = self._places.get(id_) or self._offered.get(id_)
        if row is None:
            raise KeyError(id_)
        return _split(row)

    def _opened(self, id_: int, name: bytes, parent: int) -> int:
        """Open a directory by its name in `parent`, or one that the user named by its path: no parent was open."""
        if len(self._open) >= self._limit:
            oldest = next(iter(self._open))  # never the parent, which was used just now
            self._latest = (0, -1)
            os.close(self._open.pop(oldest))
        descriptor = os.open(name, DIRECTORY, dir_fd=None if parent < 0 else parent)
        self._open[id_] = descriptor
        return descriptor


def _split(row: bytes) -> tuple[int, bytes]:
    """The parent and the name of a row."""
    return _PARENT.unpack_from(row)[0], row[_PARENT.size :]
