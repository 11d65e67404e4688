"""Descriptors of files that are written in pieces: several threads use one at once, and few of them stay open."""

from __future__ import annotations

import contextlib
import os
from typing import Final

LIMIT: Final = 16


class OpenFile:
    """A file that is being written.

    Attributes:
        descriptor: of it.
        users: how many are writing to it now.
        dirty: bytes written since the disk was last told to begin with them.
    """

    __slots__ = ("descriptor", "dirty", "kept", "users")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.users = 0
        self.dirty = 0
        self.kept = True


class DescriptorCache:
    """Files by the id of their entry. Those used last stay open, at most `limit` beside those in use.

    Whoever uses it holds one lock for each call, but not while it writes.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._files: dict[int, OpenFile] = {}  # those used last at the end

    def take(self, id_: int) -> OpenFile | None:
        """The file, if it is open; to be given back."""
        file = self._files.pop(id_, None)
        if file is not None:
            self._files[id_] = file
            file.users += 1
        return file

    def make_room(self) -> None:
        """Close one that is not in use, where as many are open as may be; before another is opened."""
        if len(self._files) >= self._limit:
            idle = next((id_ for id_, file in self._files.items() if not file.users), None)
            if idle is not None:
                os.close(self._files.pop(idle).descriptor)

    def add(self, id_: int, descriptor: int) -> OpenFile:
        """A file was opened; it is taken, and to be given back."""
        file = self._files[id_] = OpenFile(descriptor)
        file.users = 1
        return file

    def give_back(self, file: OpenFile) -> None:
        """It is not used any more."""
        file.users -= 1
        if not file.users and not file.kept:
            os.close(file.descriptor)

    def release(self, id_: int, file: OpenFile) -> int:
        """Forget a file that the caller has taken: it has the descriptor that this returns, to close."""
        if self._files.get(id_) is file:
            del self._files[id_]
        file.kept = False
        descriptor = file.descriptor if file.users == 1 else os.dup(file.descriptor)
        file.users -= 1
        return descriptor

    def close(self, id_: int) -> None:
        """Close a file if it is open, as soon as nobody uses it."""
        file = self._files.pop(id_, None)
        if file is not None:
            file.kept = False
            if not file.users:
                os.close(file.descriptor)

    def close_all(self) -> None:
        """Close what is open."""
        while self._files:
            with contextlib.suppress(OSError):  # the files are removed, or what they hold is read again
                os.close(self._files.popitem()[1].descriptor)
