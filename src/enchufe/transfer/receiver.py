"""The receiver's machine: what was offered, what is on its way, what has become of everything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from enchufe.entry import MAX_DEPTH, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import LocalProtocolError, Refused, RemoteProtocolError, VerificationError
from enchufe.transfer.digests import FileDigest, Outcome, TreeDigest
from enchufe.transfer.machine import Machine
from enchufe.transfer.messages import (
    BLOCK_SIZE,
    FILE_SIZE,
    Batch,
    Block,
    FileEnd,
    Finish,
    LeftOut,
    Message,
    Offer,
    OfferEnd,
    Progress,
    Receipt,
    Role,
    Want,
)

WINDOW: Final = 16_384
MAX_ENTRIES: Final = 10_000_000

# When to say how far we are: docs/protocol.md, PROGRESS.
_PROGRESS_BYTES: Final = 16 << 20
_PROGRESS_ENTRIES: Final = 1024
PROGRESS_SECONDS: Final = 0.1


@dataclass(slots=True)
class _Arriving:
    """A wanted file that is not settled yet."""

    entry: Entry
    digest: FileDigest = field(default_factory=FileDigest)
    size: int = 0
    short: bool = False


class Receiver(Machine):
    """Keeps the books of a transfer for the side that wants the files.

    Whoever runs it answers every offered entry (`answer`), verifies and writes every block and batch and then says
    so (`stored`), and settles every wanted entry (`settle`).

    Args:
        max_entries: how many entries one transfer may have.

    Attributes:
        offered, offered_bytes: how many entries were offered so far, and bytes in them.
        stored_bytes: payload bytes verified and written.
        files: how many files have arrived whole.
        skipped: how many files were skipped.
        total: the offer's end, once it came.
        left_out: what the sender left out after it had offered it.
    """

    role = Role.RECEIVER

    def __init__(self, *, max_entries: int = MAX_ENTRIES) -> None:
        super().__init__()
        self.offered = 0
        self.stored_bytes = 0
        self.files = 0
        self.skipped = 0
        self.total: OfferEnd | None = None
        self.left_out: list[tuple[Entry, LeftOut]] = []
        self._max_entries = max_entries
        self.offered_bytes = 0
        self._depths: dict[int, int] = {NO_PARENT: 0}
        self._unanswered: dict[int, Entry] = {}
        self._arriving: dict[int, _Arriving] = {}
        self._tree = TreeDigest()
        self._settled = 0
        self._told = Progress(0, 0)
        self._told_at = 0.0

    def entry(self, number: int) -> Entry:
        """The entry of a block, batch or end that `next_event` has handed out."""
        return self._arriving[number].entry

    def answer(self, answers: Iterable[tuple[Entry, Answer]]) -> Want:
        """The message that answers entries, as few runs as there are; entries in the order of their ids."""
        runs: list[tuple[int, int, Answer]] = []
        for entry, answer in answers:
            if runs and runs[-1][0] + runs[-1][1] == entry.id and runs[-1][2] is answer:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1, answer)
            else:
                runs.append((entry.id, 1, answer))
        return Want(runs)

    def stored(self, number: int, offset: int, digest: bytes, size: int) -> None:
        """A block of an entry is verified and written."""
        arriving = self._arriving[number]
        arriving.digest.add(offset, digest)
        arriving.size += size
        self.stored_bytes += size

    def settle(self, number: int, size: int, root: bytes) -> None:
        """A file has arrived: verified, written, closed."""
        self._settle(self._arriving.pop(number).entry, Outcome.ARRIVED, size, root)
        self.files += 1

    @property
    def untold(self) -> bool:
        """Whether there is progress that the peer was not told."""
        return (self.stored_bytes, self._settled) != (self._told.size, self._told.settled)

    def progress(self, now: float) -> Progress | None:
        """What to say of how far we are, when it is time to."""
        new_bytes = self.stored_bytes - self._told.size
        new_entries = self._settled - self._told.settled
        late = self.untold and now - self._told_at >= PROGRESS_SECONDS
        if not late and new_bytes < _PROGRESS_BYTES and new_entries < _PROGRESS_ENTRIES:
            return None
        self._told, self._told_at = Progress(self.stored_bytes, self._settled), now
        return self._told

    def receipt(self) -> Receipt:
        """The receipt, once everything is on disk."""
        return Receipt(self.files, self.stored_bytes, self._tree.digest())

    def _sent(self, message: Message) -> None:
        if isinstance(message, Want):
            for first, count, answer in message.runs:
                for number in range(first, first + count):
                    self._answer(number, answer)

    def _answer(self, number: int, answer: Answer) -> None:
        entry = self._unanswered.pop(number, None)
        if entry is None:
            raise LocalProtocolError(f"entry {number} has no answer coming")
        if answer is Answer.ALL and entry.kind is Kind.FILE:
            self._arriving[number] = _Arriving(entry)
        elif answer is Answer.ALL:
            self._settle(entry, Outcome.ARRIVED)
        elif answer is Answer.SKIP:
            self.skipped += entry.kind is Kind.FILE
            self._settle(entry, Outcome.SKIPPED)
        else:
            self._settle(entry, Outcome.REFUSED)

    def _settle(self, entry: Entry, outcome: Outcome, size: int = 0, root: bytes = b"") -> None:
        self._tree.add(entry, outcome, size, root)
        self._settled += 1

    def _got(self, message: Message) -> None:
        match message:
            case Offer(entries):
                self._offer(entries)
            case OfferEnd(entries, size, _):
                if (entries, size) != (self.offered, self.offered_bytes):
                    raise RemoteProtocolError("the peer's offer does not add up")
                self.total = message
            case Block():
                self._block(message)
            case Batch(files):
                seen = set()
                for number, _, payload in files:
                    arriving = self._expected(number)
                    if (
                        number in seen
                        or arriving.size
                        or arriving.entry.size != len(payload)
                        or len(payload) >= BLOCK_SIZE
                    ):
                        raise RemoteProtocolError(f"entry {number} does not belong in that batch")
                    seen.add(number)
            case FileEnd():
                self._file_end(message)
            case LeftOut(number):
                arriving = self._expected(number)
                del self._arriving[number]
                self.left_out.append((arriving.entry, message))
                self._settle(arriving.entry, Outcome.LEFT_OUT)
            case Finish(digest):
                if self._unanswered or self._arriving:
                    raise RemoteProtocolError("the peer finished before everything was sent")
                if digest != self._tree.digest():
                    raise VerificationError("what arrived is not what was sent: the tree's digests differ")

    def _offer(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.id != self.offered:
                raise RemoteProtocolError(f"the peer offered entry {entry.id} in place of {self.offered}")
            if self.offered - self._settled >= WINDOW:
                raise RemoteProtocolError(f"the peer offered more than {WINDOW} entries at once")
            if self.offered >= self._max_entries:
                raise Refused(f"more than {self._max_entries} entries", hint="Send it in parts.")
            depth = self._depths.get(entry.parent)
            if depth is None:
                raise RemoteProtocolError(f"entry {entry.id} is in a directory that was not offered")
            if depth >= MAX_DEPTH:
                raise RemoteProtocolError(f"entry {entry.id} is more than {MAX_DEPTH} directories deep")
            if entry.kind is Kind.DIRECTORY:
                self._depths[entry.id] = depth + 1
            if entry.size != UNKNOWN_SIZE:
                self.offered_bytes += entry.size
            self._unanswered[entry.id] = entry
            self.offered += 1

    def _expected(self, number: int) -> _Arriving:
        arriving = self._arriving.get(number)
        if arriving is None:
            raise RemoteProtocolError(f"the peer sent something of entry {number}, which is not on its way")
        return arriving

    def _block(self, block: Block) -> None:
        arriving = self._expected(block.id)
        end = block.offset + len(block.payload)
        known = arriving.entry.size != UNKNOWN_SIZE
        limit = arriving.entry.size if known else FILE_SIZE
        full = len(block.payload) == BLOCK_SIZE
        # Blocks of one stream come in order, so each goes where the file ends so far.
        if block.offset != arriving.size or arriving.short or end > limit or not (full or not known or end == limit):
            raise RemoteProtocolError(f"a block of entry {block.id} is not where it belongs")
        arriving.short = not full

    def _file_end(self, end: FileEnd) -> None:
        arriving = self._expected(end.id)
        if end.size != arriving.size or arriving.entry.size not in (end.size, UNKNOWN_SIZE):
            raise RemoteProtocolError(f"entry {end.id} ended at {end.size} bytes, {arriving.size} have come")
        if arriving.digest.root() != end.root:
            raise VerificationError(f"entry {end.id} is not what was sent: its digests differ")
