"""Grafts: what a commit renames into the destination, and the names it finds free there."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Final

from blake3 import blake3

from enchufe.dataclass import dataclass
from enchufe.entry import Entry, Kind
from enchufe.store import linux
from enchufe.store.hand import packed
from enchufe.store.names import NAME_MAX
from enchufe.store.put_away import PutAway

_GRAFT: Final = 1
_REPLACES: Final = 2
_DIRECTORY: Final = 4

_LAST_NUMBER: Final = 100_000
_SUFFIX_MAX: Final = 16  # bytes: what is longer after a dot is no suffix
_COMPRESSED: Final = frozenset({b".gz", b".bz2", b".xz", b".zst", b".lz", b".lzma", b".lz4", b".br", b".Z"})


@dataclass(slots=True)
class Graft:
    """An entry whose parent is a directory of the destination: staged with all below it, then renamed into place.

    Attributes:
        id: of the entry.
        parent: id of the live directory that it goes into.
        name: what it wants to be called there.
        kind: what it is.
        replaces: whether it takes the place of a file or symlink there.
        private: its name in the staging area, which its path alone makes, so that the next delivery finds it.
    """

    id: int
    parent: int
    name: bytes
    kind: Kind
    replaces: bool
    private: bytes

    def put(self, area: int, parent: int) -> bytes:
        """Rename it from the staging area into `parent` (descriptors); return the name it got.

        Nothing is ever lost: what it was to replace may have become a directory meanwhile, or its name may be taken
        by now. Then it gets the next free name.

        Raises:
            OSError: it could not be renamed.
        """
        if self.replaces:
            try:
                os.rename(self.private, self.name, src_dir_fd=area, dst_dir_fd=parent)
            except (IsADirectoryError, FileExistsError):
                pass
            else:
                return self.name
        for name in free_names(self.name, directory=self.kind is Kind.DIRECTORY):
            try:
                linux.rename_noreplace(area, self.private, parent, name)
            except FileExistsError:
                continue
            return name
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


class Grafts:
    """Those of a delivery, in the order they were added, in little memory however many they are.

    A private name is made when it is asked for: a million of them would take 100 MB.

    Args:
        path: gives the packed path of a folder.

    Attributes:
        directories: how many of them are directories.
    """

    def __init__(self, path: Callable[[int], bytes]) -> None:
        self._path = path
        self.directories = 0
        self._count = 0
        self._how = bytearray()  # by id
        self._added = PutAway()  # id, parent, name of each

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id_: int) -> bool:
        return id_ < len(self._how) and bool(self._how[id_])

    def __iter__(self) -> Iterator[Graft]:
        for id_, parent, name in self._rows():
            how = self._how[id_]
            kind = Kind.DIRECTORY if how & _DIRECTORY else Kind.FILE
            yield Graft(id_, parent, name, kind, bool(how & _REPLACES), self.private(parent, name))

    def add(self, entry: Entry, parent: int, *, replaces: bool) -> None:
        """One more, into the live directory `parent`."""
        id_ = entry.id
        if len(self._how) <= id_:
            self._how.extend(bytes(id_ + 1024 - len(self._how)))
        directory = entry.kind is Kind.DIRECTORY
        self._how[id_] = _GRAFT | (_REPLACES if replaces else 0) | (_DIRECTORY if directory else 0)
        self._count += 1
        self.directories += directory
        self._added.append((id_, parent, entry.name))

    def discard(self, id_: int) -> None:
        """It is none after all, if it was one."""
        if id_ in self:
            self.directories -= bool(self._how[id_] & _DIRECTORY)
            self._how[id_] = 0
            self._count -= 1

    def replaces(self, id_: int) -> bool:
        """Whether an entry is one, and takes the place of a file or symlink."""
        return id_ in self and bool(self._how[id_] & _REPLACES)

    def private(self, parent: int, name: bytes) -> bytes:
        """The name in the staging area of what goes into `parent` as `name`."""
        return blake3(packed(self._path(parent), name)).digest(length=16).hex().encode()

    def parents(self) -> set[int]:
        """The directories they go into."""
        return {parent for _, parent, _ in self._rows()}

    def _rows(self) -> Iterator[tuple[int, int, bytes]]:
        return ((id_, parent, name) for id_, parent, name in self._added if self._how[id_])


def free_names(name: bytes, *, directory: bool) -> Iterator[bytes]:
    """`name`, then `name` with numbers: `photo (1).jpg`, `backup (1).tar.gz`, `folder.d (1)`, none over 255 bytes."""
    yield name
    stem, suffix = (name, b"") if directory else _split(name)
    for number in itertools.takewhile(_LAST_NUMBER.__gt__, itertools.count(1)):
        end = b" (%d)%s" % (number, suffix)
        yield _cut(stem, NAME_MAX - len(end)) + end


def _split(name: bytes) -> tuple[bytes, bytes]:
    stem, suffix = os.path.splitext(name)
    if suffix in _COMPRESSED:
        inner, archive = os.path.splitext(stem)
        if archive == b".tar":
            stem, suffix = inner, archive + suffix
    if len(suffix) > _SUFFIX_MAX or suffix == b".":
        return name, b""
    return stem, suffix


def _cut(stem: bytes, size: int) -> bytes:
    """`stem` in at most `size` bytes, not cut inside a UTF-8 character, which has at most four."""
    if len(stem) <= size:
        return stem
    for end in range(size, size - 4, -1):
        if stem[end] & 0xC0 != 0x80:
            return stem[:end]
    return stem[:size]
