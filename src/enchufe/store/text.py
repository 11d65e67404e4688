"""Text: a few words that are sent as a file."""

from __future__ import annotations

import time
from collections.abc import Iterator

from enchufe.entry import NO_PARENT, Entry, Kind
from enchufe.errors import LocalProtocolError
from enchufe.store.faults import check_name


class TextSource:
    """A `Source` of one file that holds `text` in UTF-8, modified now.

    Args:
        text: what stands for bytes of the command line that are no UTF-8 becomes these again.
        name: what the file is called at the destination.

    Raises:
        LocalProtocolError: that cannot be a name, or half a character is in the text.
    """

    def __init__(self, text: str, name: str | bytes) -> None:
        self.left_out: list[tuple[tuple[bytes, ...], str]] = []
        try:
            self._data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise LocalProtocolError("the text holds half a character (a lone surrogate)") from error
        self._entry = Entry(0, NO_PARENT, check_name(name), Kind.FILE, len(self._data), 0o644, time.time_ns())

    def walk(self) -> Iterator[Entry]:
        """The one entry."""
        yield self._entry

    def again(self, entry: Entry) -> Entry | None:  # noqa: ARG002 (a Source takes it)
        """It never changes."""
        return None

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The name, for people."""
        return (entry.name,)

    def open(self, entry: Entry) -> TextSource:  # noqa: ARG002 (a Source takes it)
        """The text itself."""
        return self

    def read_whole(self, entry: Entry) -> bytes:  # noqa: ARG002 (a Source takes it)
        """All of it."""
        return self._data

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on; fewer bytes only at the end."""
        part = self._data[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def holes(self, start: int, stop: int) -> int:  # noqa: ARG002 (a SourceFile takes them)
        """It has none."""
        return 0

    def unchanged(self) -> bool:
        """It always is."""
        return True

    def close(self) -> None:
        """Nothing to do."""
