"""Folders that several threads use: a lock to find one, and none to go on with the one a thread used last."""

from __future__ import annotations

import os
import threading

from enchufe.store.folders import Folders


class _Held:
    """What a thread has open."""

    __slots__ = ("descriptor", "id")

    def __init__(self) -> None:
        self.id: int | None = None
        self.descriptor = -1

    def close(self) -> None:
        """Close it; more than once does no harm."""
        descriptor = self.descriptor
        self.id, self.descriptor = None, -1
        if descriptor >= 0:
            os.close(descriptor)


class SharedFolders(Folders):
    """Folders by id for several threads: each holds the one it used last open for itself until it uses another.

    Most files are in the folder of the file before. A lock held while each is opened was measured to cost two threads
    a third of their speed on a busy machine.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._of_threads: list[_Held] = []

    def descriptor(self, id_: int) -> int:
        """A descriptor of the directory, good until the next call of this by the same thread, or of `close()`.

        A pinned one is good as long as its owner says.

        Raises:
            OSError: it is not there any more, is not a directory any more, or cannot be read.
            KeyError: it was never added.
        """
        try:
            held: _Held = self._local.held
        except AttributeError:
            held = self._local.held = _Held()
            with self._lock:
                self._of_threads.append(held)
        if held.id == id_:
            return held.descriptor
        pinned = self._pinned.get(id_)
        if pinned is not None:
            return pinned
        held.close()
        held.descriptor = self.dup(id_)
        held.id = id_
        return held.descriptor

    def dup(self, id_: int) -> int:
        """A descriptor of the directory, the caller's to close; raises as `descriptor()` does."""
        with self._lock:
            return os.dup(super().descriptor(id_))

    def forget(self, id_: int) -> None:
        """The directory that was added last will not be offered after all; no thread was told of it."""
        with self._lock:
            super().forget(id_)

    def close(self) -> None:
        """Close all that is open here; nobody uses it meanwhile."""
        with self._lock:
            super().close()
            for held in self._of_threads:
                held.close()
