"""What a session asks of a store, whatever it is made of: both ends of a transfer, as protocols to type with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from enchufe.buffer import Buffer
from enchufe.entry import Answer, Entry


class SendingFile(Protocol):
    """A file that is being read; `SourceFile` tells more."""

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on; fewer bytes only at the end."""

    def unchanged(self) -> bool:
        """Whether it still is what was offered."""

    def close(self) -> None:
        """Close it."""


class Sending(Protocol):
    """What a sender reads; `Source` tells more."""

    left_out: list[tuple[tuple[bytes, ...], str]]

    def walk(self) -> Iterator[Entry]:
        """Every entry, numbered from 0, a directory before what is in it."""

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The entry's names from its root on, for people."""

    def open(self, entry: Entry) -> SendingFile:
        """Open a file that was offered; LeftOut if it cannot be sent as offered."""

    def read_whole(self, entry: Entry) -> bytes:
        """All of a small file; LeftOut if it cannot be sent as offered."""

    def close(self) -> None:
        """Let go of everything."""


class Receiving(Protocol):
    """Where a receiver writes; `Delivery` tells more."""

    landed: dict[int, bytes]

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The entry's names from its root on, for people."""

    def admit(self, entry: Entry) -> Answer:
        """Decide about an entry; directories and symlinks are made at once."""

    def write_whole(self, entry: Entry, data: Buffer) -> None:
        """Store a file that is in memory."""

    def write(self, entry: Entry, offset: int, data: Buffer) -> None:
        """Write a piece of a file."""

    def complete(self, entry: Entry, size: int) -> None:
        """Finish a file that came in pieces."""

    def drop(self, entry: Entry) -> None:
        """Forget a file that its sender left out."""

    def commit(self) -> None:
        """Have everything on disk, then visible."""

    def abandon(self) -> None:
        """Remove what was not committed."""
