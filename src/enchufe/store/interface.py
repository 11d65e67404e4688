"""What a session asks of a store, whatever it is made of: both ends of a transfer, as protocols to type with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from enchufe.buffer import Buffer
from enchufe.dataclass import dataclass
from enchufe.entry import Answer, Entry
from enchufe.store.hands import Hands
from enchufe.store.reading import Content

Own = tuple[bytes, bytes]
"""Of the version of a file that is here: the digests of its next full blocks, and the records of its next pieces."""


class SendingFile(Protocol):
    """A file that is being read, by several threads at once; `SourceFile` tells more."""

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on; fewer bytes only at the end."""

    def holes(self, start: int, stop: int) -> int:
        """How many bytes from `start` on, before `stop`, are known to be zeros without reading them."""

    def unchanged(self) -> bool:
        """Whether it still is what was offered."""

    def close(self) -> None:
        """Close it."""


class Sending(Protocol):
    """What a sender reads; `Source` tells more."""

    @property
    def left_out(self) -> Collection[tuple[tuple[bytes, ...], str]]:
        """Path and reason, both for a person, of what the walk could not offer."""

    def walk(self) -> Iterator[Entry]:
        """Every entry, numbered from 0, a directory before what is in it."""

    def again(self, entry: Entry) -> Entry | None:
        """The entry as it is now, under a new id, where one that changed can be sent again; else None."""

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The entry's names from its root on, for people."""

    def open(self, entry: Entry) -> SendingFile:
        """Open a file that was offered; LeftOut if it cannot be sent as offered."""

    def read_whole(self, entry: Entry) -> bytes:
        """All of a small file; LeftOut if it cannot be sent as offered."""

    def close(self) -> None:
        """Let go of everything."""


@runtime_checkable
class Lister(Sending, Protocol):
    """What a sender reads where it can list whole folders; `Source` tells more.

    Attributes:
        lists: whether it does; whoever walks says so, and may say otherwise at any time.
    """

    lists: bool

    def inside(self, folder: Entry) -> Iterator[Entry]:
        """What is in a folder that was listed, but for its folders, as it is now."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Small files that were read together.

    Attributes:
        files: the content and the digest of each, good until `release()`, or why it is left out.
        release: somebody else may have the memory; to be called once.
    """

    files: Sequence[Content]
    release: Callable[[], None]


@runtime_checkable
class ReadsTogether(Sending, Protocol):
    """What a sender reads where many small files may be read beside all else; `Source` tells more."""

    @property
    def hands(self) -> Hands | None:
        """Who does it, from when it pays on; None: nobody."""

    def read_together(self, entries: Sequence[Entry], done: Callable[[Contents], None]) -> bool:
        """Have small files read, no more than a block in all; `done` is called as soon as that is collected.

        False where nothing was begun: each is to be read by itself then.
        """


class Receiving(Protocol):
    """Where a receiver writes; `Delivery` tells more.

    `write`, `write_whole`, `same`, `read_own` and `recheck` may be called from several threads at once, for different
    blocks; all the rest from one thread at a time, and not while `commit`, `suspend` or `abandon` runs.
    """

    landed: dict[int, bytes]
    restarted: list[tuple[bytes, ...]]
    bare: list[tuple[tuple[bytes, ...], list[bytes]]]

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The entry's names from its root on, for people."""

    def admit(self, entry: Entry) -> Answer:
        """Decide about an entry; directories and symlinks are made at once. Only a listed directory may be SAME."""

    def kept(self, entry: Entry) -> Iterable[tuple[int, bytes]]:
        """After REST: the blocks of this very file that are here, in runs: the first one's number, their digests.

        Of a big file they are read as they are asked for.
        """

    def own(self, entry: Entry, pieces: int = 0) -> Iterator[Own]:
        """After DELTA: what the version that is here is made of, in order, some at a time.

        Reading it takes long; ends early where it cannot be read.

        Args:
            pieces: bytes in each piece that is to be told of (`transfer.patches`); 0: blocks alone.
        """

    def read_own(self, entry: Entry, wanted: Sequence[tuple[int, memoryview]]) -> bool:
        """Fill each view from an offset of the version that is here; False where that has not so much any more."""

    def write_whole(self, entry: Entry, data: Buffer, digest: bytes) -> None:
        """Store a file that is in memory and of this digest."""

    def write(self, entry: Entry, offset: int, data: Buffer, digest: bytes) -> None:
        """Write a block of a file, which is of this digest."""

    def same(self, entry: Entry, first: int, digests: Sequence[bytes]) -> list[int]:
        """Take blocks from the version that is here; returns the numbers of those that are not so any more."""

    def link(self, entry: Entry, to: Entry) -> None:
        """Make a file a hard link to another, which is complete."""

    def complete(self, entry: Entry, size: int) -> None:
        """Finish a file that came in pieces: what was not written of it is zeros, what was here has been read again."""

    def recheck(self, entry: Entry, stopped: Callable[[], bool]) -> list[int]:
        """Read again what `kept` told of an entry, unless `stopped`; returns the numbers of blocks that are not so."""

    def drop(self, entry: Entry) -> None:
        """Forget a file that its sender left out."""

    def commit(self, *, remember: bool = False) -> None:
        """Have everything on disk, then visible; it may be remembered as arrived for whoever offers it again."""

    def heard(self) -> None:
        """After the commit: nobody will offer it again for not having heard."""

    def suspend(self) -> None:
        """End, and keep what the next attempt can use."""

    def abandon(self) -> None:
        """Remove what was not committed."""


Rechecked = Callable[[Sequence[Entry], Sequence[Entry]], None]
"""Called with files that are all there as `kept` told of them, and with others: for these `recheck` is to be called."""


@runtime_checkable
class WritesTogether(Receiving, Protocol):
    """Where a receiver writes where many small files may be written beside all else; `Delivery` tells more."""

    @property
    def hands(self) -> Hands | None:
        """Who does it, from when it pays on; None: nobody."""

    def write_together(self, files: Sequence[tuple[Entry, Buffer, bytes]], done: Callable[[], None]) -> bool:
        """Have small files stored, no more than a block in all, each if it is of its digest.

        Whoever calls has the contents back when this returns. `done` is called as soon as it is collected that all are
        stored; to collect raises what went wrong.

        False where nothing was begun: each is to be written by itself then.
        """

    def recheck_together(self, entries: Sequence[Entry], done: Rechecked) -> Sequence[Entry]:
        """Have what `kept` told of small files read again; `done` is called as soon as that is collected, for some.

        Returns:
            Those for which nothing was begun: `recheck` is to be called for each.
        """
