"""The sender's machine: what may be offered, what is wanted, what is still to be sent."""

from __future__ import annotations

from collections import deque
from typing import Final

from enchufe.entry import UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import LocalProtocolError, RemoteProtocolError, VerificationError
from enchufe.transfer.digests import FileDigest, Outcome, TreeDigest
from enchufe.transfer.machine import Machine
from enchufe.transfer.messages import (
    BLOCK_SIZE,
    Batch,
    Block,
    FileEnd,
    Finish,
    Hello,
    LeftOut,
    Message,
    Offer,
    Progress,
    Receipt,
    Role,
    Want,
)
from enchufe.transfer.states import State

MAX_WINDOW: Final = 65_536  # entries kept open at the most, however many the receiver would allow


class Sender(Machine):
    """Keeps the books of a transfer for the side that has the files.

    Attributes:
        wanted: the files to send, in the order they were wanted; a file leaves it when its end, its batch or
            its leaving out is sent.
        offered: how many entries were offered.
        sent_bytes: payload bytes that were sent.
        stored_bytes: payload bytes that the receiver has verified and written.
        files: how many files were sent whole.
        skipped: how many files the receiver kept its own of.
        refused: what the receiver refused, and why.
    """

    role = Role.SENDER

    def __init__(self) -> None:
        super().__init__()
        self.wanted: deque[Entry] = deque()
        self.offered = 0
        self.sent_bytes = 0
        self.stored_bytes = 0
        self.files = 0
        self.skipped = 0
        self.refused: list[tuple[Entry, Answer]] = []
        self._unanswered: dict[int, Entry] = {}
        self._wanted_in_blocks = FileDigest()
        self._settled_there = 0
        self._tree = TreeDigest()

    @property
    def room(self) -> int:
        """How many more entries the receiver's window lets us offer now."""
        window = min(self.peer.window, MAX_WINDOW) if self.peer else 0
        return window - (self.offered - self._settled_there)

    @property
    def all_sent(self) -> bool:
        """Everything is offered, answered and sent: time for FINISH."""
        return self.state is State.SENDING and not self._unanswered and not self.wanted

    def finish(self) -> Finish:
        """The message that ends the sending, once `all_sent`."""
        return Finish(self._tree.digest())

    def file_end(self, size: int) -> FileEnd:
        """The message that ends the file being sent in blocks, of `size` bytes."""
        return FileEnd(self.wanted[0].id, size, self._wanted_in_blocks.root())

    def _sent(self, message: Message) -> None:
        match message:
            case Offer(entries):
                if len(entries) > self.room:
                    raise LocalProtocolError(f"{len(entries)} entries do not fit a window of {self.room}")
                for entry in entries:
                    if entry.id != self.offered:
                        raise LocalProtocolError(f"entry {entry.id} offered in place of {self.offered}")
                    self._unanswered[entry.id] = entry
                    self.offered += 1
            case Block(number, offset, digest, payload):
                self._check_turn(number)
                if not self._wanted_in_blocks.add(offset, digest):
                    raise LocalProtocolError(f"block {offset} of entry {number} is sent twice")
                self.sent_bytes += len(payload)
            case FileEnd(number, size, root):
                self._check_turn(number)
                if self._wanted_in_blocks.blocks != -(-size // BLOCK_SIZE):
                    raise LocalProtocolError(f"not all blocks of entry {number} were sent")
                self._settle(Outcome.ARRIVED, size, root)
            case Batch(files):
                for number, digest, payload in files:
                    self._check_turn(number)
                    self._settle(Outcome.ARRIVED, len(payload), digest)
                    self.sent_bytes += len(payload)
            case LeftOut(number):
                self._check_turn(number)
                self._settle(Outcome.LEFT_OUT)
            case Finish():
                if not self.all_sent:
                    raise LocalProtocolError("not everything is sent")

    def _check_turn(self, number: int) -> None:
        if not self.wanted or self.wanted[0].id != number:
            raise LocalProtocolError(f"it is not entry {number}'s turn")

    def _settle(self, outcome: Outcome, size: int = 0, root: bytes = b"") -> None:
        self._tree.add(self.wanted.popleft(), outcome, size, root)
        self._wanted_in_blocks = FileDigest()
        self.files += outcome is Outcome.ARRIVED

    def _got(self, message: Message) -> None:
        match message:
            case Hello(window=window):
                if not window:
                    raise RemoteProtocolError("the peer's window is 0")
            case Want(runs):
                for first, count, answer in runs:
                    self._answer(first, count, answer)
            case Progress(stored, settled):
                if not (
                    self.stored_bytes <= stored <= self.sent_bytes and self._settled_there <= settled <= self.offered
                ):
                    raise RemoteProtocolError("the peer has more than it was sent, or less than it had")
                self.stored_bytes, self._settled_there = stored, settled
            case Receipt(files, _, digest):
                if files != self.files or digest != self._tree.digest():
                    raise VerificationError("the receipt is for something else than what was sent")

    def _answer(self, first: int, count: int, answer: Answer) -> None:
        if not 0 < count <= len(self._unanswered):
            raise RemoteProtocolError("the peer answered what was not offered")
        for number in range(first, first + count):
            entry = self._unanswered.pop(number, None)
            if entry is None:
                raise RemoteProtocolError(f"the peer answered entry {number} twice or before it was offered")
            if answer is Answer.ALL and entry.kind is Kind.FILE:
                self.wanted.append(entry)
            elif answer is Answer.ALL:
                self._tree.add(entry, Outcome.ARRIVED)
            elif answer is Answer.SKIP:
                self.skipped += entry.kind is Kind.FILE
                self._tree.add(entry, Outcome.SKIPPED)
            else:
                self.refused.append((entry, answer))
                self._tree.add(entry, Outcome.REFUSED)


def travels_in_batch(entry: Entry) -> bool:
    """Whether a file goes whole among others; the rest goes in blocks."""
    return entry.size != UNKNOWN_SIZE and entry.size < BLOCK_SIZE
