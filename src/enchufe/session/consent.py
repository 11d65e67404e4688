"""Consent: what is offered is shown to somebody, who says whether we take it, before any of its content comes."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Final

from blake3 import blake3

from enchufe.dataclass import dataclass
from enchufe.entry import NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import Refused
from enchufe.waiting import Doorbell, start

_SHOWN: Final = struct.Struct(">BIQHH")  # kind, parent, size, length of the name and of the link target
_TIDYING: Final = 1.0  # seconds that whoever asks has to clear away a question that is of no use any more


class Declined(Refused):
    """Whoever was asked whether to take what is offered said no."""

    @property
    def kind(self) -> str:
        """As of any refusal."""
        return "refused"


@dataclass(frozen=True, slots=True)
class Item:
    """One file, folder or link of an offer. Its names are the other side's: show them by `printable()`.

    Attributes:
        path: its names, from the root's on.
        size: bytes of a file, None where nobody knows yet; 0 for the other kinds.
        target: where a link points.
        refusal: why it will not be taken whatever the answer; empty where it will.
    """

    path: tuple[bytes, ...]
    kind: Kind
    size: int | None
    target: bytes
    refusal: str


@dataclass(slots=True)
class Root:
    """One thing that the other side named, with all that is in it.

    Attributes:
        unsized: of its files, those of which nobody knows how many bytes.
    """

    name: bytes
    kind: Kind
    files: int = 0
    folders: int = 0
    links: int = 0
    bytes: int = 0
    unsized: int = 0
    refused: int = 0


class Offering:
    """All that a sender offers, to be shown: iterating gives every `Item`, a folder before what is in it.

    It is readable to poll() and select() from when its sender goes away before the answer, which then matters no more.

    Attributes:
        peer: the sender's address.
        name: who the sender has proved to be, where it has.
        party: equal for two connections of the same sender, where anything is known of that.
        session, epoch: what its transfer is about, and which attempt at it this is.
        total: of all there is in it.
    """

    def __init__(
        self,
        answers: Iterable[tuple[Entry, Answer]],
        *,
        peer: str,
        name: str | None,
        party: object = None,
        session: bytes,
        epoch: int,
    ) -> None:
        self.peer = peer
        self.name = name
        self.party = party
        self.session = session
        self.epoch = epoch
        self.total = Root(b"", Kind.DIRECTORY)
        self._entries: list[Entry] = []  # by id: before the answer none is offered twice
        self._answers: list[Answer] = []
        for entry, answer in answers:
            self._entries.append(entry)
            self._answers.append(answer)
            _count(self.total, entry, answer)
        self._withdrawn = Doorbell()
        self._closing = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Item]:
        for entry, answer in zip(self._entries, self._answers, strict=True):
            size = None if entry.size == UNKNOWN_SIZE else entry.size
            yield Item(self._path(entry), entry.kind, size, entry.target, answer.refusal)

    @cached_property
    def roots(self) -> list[Root]:
        """What the other side named, in its order, and how much there is in each."""
        roots: list[Root] = []
        of: list[Root] = []  # by entry
        for entry, answer in zip(self._entries, self._answers, strict=True):
            if entry.parent == NO_PARENT:
                roots.append(Root(entry.name, entry.kind))
                of.append(roots[-1])
            else:
                of.append(of[entry.parent])
            _count(of[-1], entry, answer)
        return roots

    @cached_property
    def digest(self) -> bytes:
        """Of all that was shown: kinds, sizes, names and link targets."""
        digest = blake3()
        for entry in self._entries:
            digest.update(_SHOWN.pack(entry.kind, entry.parent, entry.size, len(entry.name), len(entry.target)))
            digest.update(entry.name + entry.target)
        return digest.digest()

    def fileno(self) -> int:
        """What to wait for besides the answer; -1 when the question is over."""
        return self._withdrawn.fileno()

    def withdraw(self) -> None:
        """The answer matters no more. From any thread."""
        with self._closing:
            self._withdrawn.ring()

    def close(self) -> None:
        """Nobody waits for it any more."""
        with self._closing:
            self._withdrawn.close()

    def _path(self, entry: Entry) -> tuple[bytes, ...]:
        names = [entry.name]
        while entry.parent != NO_PARENT:
            entry = self._entries[entry.parent]
            names.append(entry.name)
        return tuple(reversed(names))


def _count(root: Root, entry: Entry, answer: Answer) -> None:
    root.files += entry.kind is Kind.FILE
    root.folders += entry.kind is Kind.DIRECTORY
    root.links += entry.kind is Kind.SYMLINK
    root.refused += bool(answer.refusal)
    if entry.size == UNKNOWN_SIZE:
        root.unsized += 1
    else:
        root.bytes += entry.size


Ask = Callable[[Offering], bool]
"""Says whether to take what is offered; it may take as long as it likes."""


def remembering(ask: Ask) -> Ask:
    """`ask`, not asked again for an offer to which it has just said yes, and which comes again after a cut.

    docs/protocol.md, Consent, says which that is.
    """
    agreed: tuple[bytes, str | None, object, bytes] | None = None
    epoch = 0

    def asked(offering: Offering) -> bool:
        nonlocal agreed, epoch
        this = (offering.session, offering.name, offering.party, offering.digest)
        if this == agreed and offering.epoch >= epoch:
            return True
        if not ask(offering):
            return False
        agreed, epoch = this, offering.epoch
        return True

    return asked


class Question:
    """Asks in a thread, beside the transfer's own.

    Args:
        answered: called when `answer` is there.
        fail: called with what asking raised.

    Attributes:
        answer: None while there is none.
    """

    def __init__(
        self, ask: Ask, offering: Offering, answered: Callable[[], None], fail: Callable[[BaseException], None]
    ) -> None:
        self.answer: bool | None = None
        self._ask = ask
        self._offering = offering
        self._answered = answered
        self._fail = fail
        self._thread = threading.Thread(target=self._run, name="enchufe question", daemon=True)
        start(self._thread)

    def withdraw(self) -> None:
        """It is over. Whoever asks learns of it, and is waited for, but not for long."""
        if self._thread.is_alive():
            self._offering.withdraw()
            self._thread.join(_TIDYING)

    def _run(self) -> None:
        try:
            self.answer = bool(self._ask(self._offering))
        except BaseException as error:  # noqa: BLE001 (raised where the session is waited for)
            self._fail(error)
        else:
            self._answered()
        finally:
            self._offering.close()
