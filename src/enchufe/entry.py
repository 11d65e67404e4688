"""Entry: one file, directory or symlink on its way; the vocabulary that the protocol and the stores share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

NO_PARENT: Final = 0xFFFF_FFFF
UNKNOWN_SIZE: Final = 0xFFFF_FFFF_FFFF_FFFF
MAX_DEPTH: Final = 256  # directories above an entry, inside its root


class Kind(IntEnum):
    """What an entry is; the numbers are those on the wire."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


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
    """

    id: int
    parent: int
    name: bytes
    kind: Kind
    size: int = 0
    mode: int = 0o644
    mtime_ns: int = 0
    target: bytes = b""


class Answer(IntEnum):
    """What a receiver says to an entry; the numbers are those on the wire."""

    ALL = 1
    SKIP = 2
    UNSAFE_LINK = 16
    IN_THE_WAY = 17
    CANNOT_STORE = 18
    PARENT = 19
    UNWANTED = 20

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
}


class Reason(IntEnum):
    """Why a sender leaves an entry out after it was offered; the numbers are those on the wire."""

    CHANGED = 1
    UNREADABLE = 2
    VANISHED = 3

    @property
    def told(self) -> str:
        """The reason for a person."""
        return {1: "it changed while it was read", 2: "it could not be read", 3: "it vanished"}[self]
