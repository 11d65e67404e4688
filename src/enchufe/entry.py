"""Entry: one file, directory or symlink on its way; the vocabulary that the protocol and the stores share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import IntEnum
from typing import Final, NamedTuple

from enchufe.dataclass import dataclass

NO_PARENT: Final = 0xFFFF_FFFF
NO_LINK: Final = 0xFFFF_FFFF
UNKNOWN_SIZE: Final = 0xFFFF_FFFF_FFFF_FFFF
MAX_DEPTH: Final = 256  # directories above an entry, inside its root
BLOCK_SIZE: Final = 1 << 20  # bytes: a file is sent, verified and kept in blocks; the last may be shorter
DIGEST_SIZE: Final = 32  # bytes of a BLAKE3 digest
ANCHOR_SIZE: Final = 32  # bytes that a piece of another version is found by: its first
PIECE_DIGEST_SIZE: Final = 16
LISTED: Final = 1 << 17  # entries in a listing


class Kind(IntEnum):
    """What an entry is; the numbers are those on the wire."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


class Listing(NamedTuple):
    """What is directly in a directory, but for its directories; equal for two that hold the same.

    Attributes:
        files, links: how many files and symlinks.
        size: bytes in these files.
        digest: over one record for each, as docs/protocol.md says under Folders.
    """

    files: int
    links: int
    size: int
    digest: bytes

    @property
    def entries(self) -> int:
        """How many it lists."""
        return self.files + self.links


@dataclass(slots=True)
class Entry:
    """One thing offered, numbered in the order it is offered, a directory before what is in it.

    Attributes:
        id: its number, from 0.
        parent: the id of the directory it is in; NO_PARENT for a root, which the user named.
        name: one component, never a path; any bytes but `/` and NUL.
        kind: what it is.
        size: bytes of a file, UNKNOWN_SIZE where nobody knows yet (a pipe); 0 for the other kinds.
        mode: permission bits, 07777 at the most.
        mtime_ns: modification time, nanoseconds since 1970 UTC.
        target: where a symlink points.
        sparse: whether zeros in a file are to stay holes.
        linked: the id of a file offered before that is this same one (a hard link), or NO_LINK.
        attributes: extended attributes, name and value.
        shared: whether it may have other names that are offered later (hard links).
        listing: of a directory whose files and symlinks are not offered before that was answered; else None.
        packed: its bytes in an offer, which its digest covers too; from when it was offered on.
    """

    id: int
    parent: int
    name: bytes
    kind: Kind
    size: int = 0
    mode: int = 0o644
    mtime_ns: int = 0
    target: bytes = b""
    sparse: bool = False
    linked: int = NO_LINK
    attributes: tuple[tuple[bytes, bytes], ...] = ()
    shared: bool = False
    listing: Listing | None = None
    packed: bytes = field(default=b"", repr=False, compare=False)


def path_of(folder: int, offered: Mapping[int, tuple[int, bytes]]) -> tuple[bytes, ...]:
    """The names of a folder from its root on, by the parent and the name of each that was offered."""
    names = []
    while (found := offered.get(folder)) is not None:
        folder, name = found
        names.append(name)
    return tuple(reversed(names))


class Answer(IntEnum):
    """What a receiver says to an entry; the numbers are those on the wire."""

    ALL = 1
    SKIP = 2
    REST = 3
    DELTA = 4
    LINK = 5
    SAME = 6
    UNSAFE_LINK = 16
    IN_THE_WAY = 17
    CANNOT_STORE = 18
    PARENT = 19
    UNWANTED = 20
    TOO_BIG = 21

    @property
    def refusal(self) -> str:
        """Why an entry was refused, for a person; empty where it was not."""
        return _REFUSALS.get(self, "")


_REFUSALS: Final = {
    Answer.UNSAFE_LINK: "a link that leads out of the tree",
    Answer.IN_THE_WAY: "something of another kind has that name there",
    Answer.CANNOT_STORE: "the file system there cannot hold that name",
    Answer.PARENT: "its folder was not taken",
    Answer.UNWANTED: "the other side does not want it",
    Answer.TOO_BIG: "it is bigger than the other side takes",
}


class Reason(IntEnum):
    """Why a sender leaves an entry out after it was offered; the numbers are those on the wire."""

    CHANGED = 1
    UNREADABLE = 2
    VANISHED = 3
    AGAIN = 4

    @property
    def told(self) -> str:
        """The reason for a person."""
        return _REASONS[self]


_REASONS: Final = {
    Reason.CHANGED: "it changed while it was read",
    Reason.UNREADABLE: "it could not be read",
    Reason.VANISHED: "it vanished",
    Reason.AGAIN: "it changed while it was read, and is sent again",
}
