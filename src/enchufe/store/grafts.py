"""Grafts: what a commit renames into the destination, and the names it finds free there."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from typing import Final

from enchufe.dataclass import dataclass
from enchufe.entry import Kind
from enchufe.store import linux
from enchufe.store.names import NAME_MAX

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
