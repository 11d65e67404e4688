"""Files that several streams read at once: one closes when it is done with, and nobody reads it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from enchufe.entry import Entry
from enchufe.store import SendingFile


class _Opened:
    __slots__ = ("done_with", "file", "readers")

    def __init__(self, file: SendingFile) -> None:
        self.file = file
        self.readers = 0
        self.done_with = False


class SharedFiles:
    """Files by the id of their entry, for any number of threads.

    A descriptor that is closed while somebody reads it fails there, or is another file by then.

    Args:
        open_file: opens one.
    """

    def __init__(self, open_file: Callable[[Entry], SendingFile]) -> None:
        self._open_file = open_file
        self._files: dict[int, _Opened] = {}
        self._lock = threading.Lock()
        self._over = False

    @contextmanager
    def reading(self, entry: Entry) -> Iterator[SendingFile]:
        """The file, opened if it is not; it stays open at least until the `with` ends.

        Raises:
            LeftOut: it cannot be sent as offered.
        """
        with self._lock:
            opened = self._files.get(entry.id)
            if opened is None:
                opened = _Opened(self._open_file(entry))
                opened.done_with = self._over
                if not self._over:
                    self._files[entry.id] = opened
            opened.readers += 1
        try:
            yield opened.file
        finally:
            with self._lock:
                opened.readers -= 1
                self._close_unread(opened)

    def unchanged(self, entry: Entry) -> bool:
        """Whether a file still is what was offered, as far as its being open tells."""
        with self._lock:
            opened = self._files.get(entry.id)
            return opened is None or opened.file.unchanged()

    def close(self, entry: Entry) -> None:
        """A file is done with, until somebody wants it again."""
        with self._lock:
            self._done_with(entry.id)

    def close_all(self) -> None:
        """All are done with, and whatever is opened from now on is so as soon as it is read."""
        with self._lock:
            self._over = True
            for number in list(self._files):
                self._done_with(number)

    def _done_with(self, number: int) -> None:
        opened = self._files.pop(number, None)
        if opened is not None:
            opened.done_with = True
            self._close_unread(opened)

    def _close_unread(self, opened: _Opened) -> None:
        if opened.done_with and not opened.readers:
            opened.file.close()
