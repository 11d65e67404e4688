"""What a transfer or a server tells while it runs: a stream of events, which somebody else draws or prints."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any, ClassVar, Final, Self, dataclass_transform

from enchufe.errors import EnchufeError

VERSION: Final = 1

Path = tuple[bytes, ...]
"""The components of an entry's path, from the name of the root on."""

Digest = bytes
"""BLAKE3, 32 bytes; in JSON in hexadecimal digits."""


@dataclass_transform(frozen_default=True)
class Event:
    """What all events have: a name, and values that stay as they are.

    They are made of their annotations as frozen dataclasses are, and type checkers take them for that. But to make one
    dataclass takes most of a millisecond, and every command begins with all of these.

    Raises:
        TypeError: a value is missing, or is one too many.
    """

    event: ClassVar[str]
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = [name for name, kind in inspect.get_annotations(cls).items() if "ClassVar" not in str(kind)]
        cls.__match_args__ = tuple(dict.fromkeys((*cls.__match_args__, *own)))  # type: ignore[misc]

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.__match_args__
        given = dict(zip(names, values, strict=False))
        wrong = sorted((named.keys() & given.keys()) | (named.keys() - set(names)))
        given.update(named)
        missing = [name for name in names if name not in given and not hasattr(type(self), name)]
        if len(values) > len(names) or wrong or missing:
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}; wrong: {[*wrong, *missing]}")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"cannot set {name}: what was told stays as it is")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name}: what was told stays as it is")

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        values = (f"{name}={value!r}" for name, value in zip(self.__match_args__, self._values, strict=True))
        return f"{type(self).__name__}({', '.join(values)})"

    @property
    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON can say it; a path's bytes that are no UTF-8 become lone surrogates, as in os.fsdecode."""
        told = {name: _plain(value) for name, value in zip(self.__match_args__, self._values, strict=True)}
        return {"v": VERSION, "event": self.event, **{name: value for name, value in told.items() if value is not None}}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return os.fsdecode(b"/".join(value))
    return value


class Listening(Event):
    """Ready for the other side to connect; once for each address."""

    event = "listening"
    address: str


class Code(Event):
    """Who says this on the other side is let in; once. A new one follows where a cut has used it up.

    Attributes:
        code: to be said aloud: `label-word-word-word`.
        link: the same with addresses and the certificate, where no network finds them; to be sent by a safe way.
    """

    event = "code"
    code: str
    link: str


class WrongCode(Event):
    """Somebody said a wrong one, by mistake or to guess; `left` guesses may still be made."""

    event = "wrong_code"
    left: int


class CodeGone(Event):
    """The code lets nobody in any more: too old, or guessed wrong too often. Known machines and tokens still do."""

    event = "code_gone"


class Unannounced(Event):
    """The network does not hear that we are here: whoever is to come needs the address or the link."""

    event = "unannounced"
    message: str


class Paired(Event):
    """The other side has proved who it is.

    Attributes:
        way: "code", "key" (of a known machine) or "token".
        name: of that machine or token.
    """

    event = "paired"
    way: str
    name: str | None = None


class Remembered(Event):
    """The other side's key is pinned under this name; None: it does not want to be remembered."""

    event = "remembered"
    name: str | None


class Connected(Event):
    """The other side is there."""

    event = "connected"
    peer: str


class Message(Event):
    """One message crossed, or, where there is no framing, the bytes that came together.

    Attributes:
        direction: "sent" or "received".
        data: its content, encoded as `encoding` says: "utf-8" is the text itself, "base64" what is no such text.
        bytes: of the message, framing not counted.
    """

    event = "message"
    peer: str
    direction: str
    data: str
    encoding: str
    bytes: int


class Ended(Event):
    """The other side has said all it had to say."""

    event = "ended"
    peer: str


class Accepted(Event):
    """A server let somebody in.

    Attributes:
        connections: that are open now, with this one; where there are workers, in that one.
    """

    event = "accepted"
    peer: str
    connections: int


class Rejected(Event):
    """A server closed a connection as soon as it came: a limit, by its name, forbade it."""

    event = "rejected"
    peer: str
    limit: str


class Finished(Event):
    """A connection to a server has ended.

    Attributes:
        seconds: it lasted.
        received, sent: messages.
        bytes_received, bytes_sent: of them, framing and all.
        error: what ended it, if it was no clean end.
    """

    event = "finished"
    peer: str
    seconds: float
    received: int
    sent: int
    bytes_received: int
    bytes_sent: int
    error: str | None = None


class Offered(Event):
    """The whole offer is known: how many entries of any kind, how many bytes in their files.

    Attributes:
        unsized: files, as standard input, of which nobody knows how many bytes, which are not counted; None: none.
    """

    event = "offer"
    entries: int
    bytes: int
    unsized: int | None = None


class Entry(Event):
    """One thing that is offered, where somebody only looks.

    Attributes:
        kind: "file", "folder" or "link".
        bytes: of a file; None where nobody knows yet, and of the other kinds.
        target: where a link points; bytes that are no UTF-8 are lone surrogates.
    """

    event = "entry"
    path: Path
    kind: str
    bytes: int | None = None
    target: str | None = None


class Looked(Event):
    """Whoever came has looked at what is offered, and took nothing; we go on waiting."""

    event = "looked"


class Progress(Event):
    """How far it is.

    Attributes:
        bytes: verified and written on the receiving side; not durable before the receipt.
        total: bytes offered so far, all of them once `offer` was told, but for what is skipped, refused or left out.
        files: files that are whole.
        rate: bytes per second, over the last seconds.
    """

    event = "progress"
    bytes: int
    total: int
    files: int
    rate: float


class File(Event):
    """What became of one file, directory or link.

    Attributes:
        action: "sent", "received", "skipped", "refused", "left out"; "started over" where what was kept of it is of
            another version.
        digest: a file's root digest where it travelled.
        reason: why it was refused or left out, or starts over.
    """

    event = "file"
    path: Path
    bytes: int
    action: str
    digest: Digest | None = None
    reason: str | None = None


class Landed(Event):
    """A root is in place on this side, under this name."""

    event = "landed"
    path: Path


class Receipt(Event):
    """It is on the other side's disk; nothing comes after this.

    Attributes:
        files: files that travelled.
        bytes: bytes in them.
        sent_bytes: payload bytes that crossed this time; the sender counts them as they were compressed.
        skipped: files that were there already.
        left_out: entries that did not arrive: refused there, or unreadable or changing here.
        seconds: from the connection to the receipt.
        digest: the digest of the whole tree: every entry's name, metadata and content.
    """

    event = "receipt"
    files: int
    bytes: int
    sent_bytes: int
    skipped: int
    left_out: int
    seconds: float
    digest: Digest


class Retrying(Event):
    """It was cut, and will be tried again.

    Attributes:
        message: what happened.
        seconds: until the next attempt.
    """

    event = "retrying"
    message: str
    seconds: float


class Failed(Event):
    """It did not work; of what kind, and what to do."""

    event = "error"
    kind: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: EnchufeError) -> Self:
        """The event for an error."""
        return cls(error.kind, str(error), error.hint)


OnEvent = Callable[[Event], object]
