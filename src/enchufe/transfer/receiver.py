"""The receiver's machine: what was offered, what is on its way, what has become of everything.

Where streams work in threads, every call comes under one lock, which is the caller's.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from enchufe.buffer import Buffer
from enchufe.entry import (
    BLOCK_SIZE,
    DIGEST_SIZE,
    MAX_DEPTH,
    NO_LINK,
    NO_PARENT,
    UNKNOWN_SIZE,
    Answer,
    Entry,
    Kind,
    Listing,
    Reason,
)
from enchufe.errors import LocalProtocolError, Refused, RemoteProtocolError, VerificationError
from enchufe.ids import Ids
from enchufe.transfer.data import Batch, Block, Hole, Patch, Same, travels_in_batch
from enchufe.transfer.digests import ZERO_BLOCK, FileDigest, Outcome, TreeDigest
from enchufe.transfer.machine import Machine
from enchufe.transfer.message import FILE_BLOCKS, RUN_BLOCKS, Message, Role
from enchufe.transfer.messages import (
    FOLDERS,
    HAVE_DIGESTS,
    STREAMS,
    WINDOW,
    Again,
    FileEnd,
    Finish,
    Have,
    Hello,
    LeftOut,
    Lost,
    OfferEnd,
    Progress,
    Receipt,
    Want,
)
from enchufe.transfer.offers import Offer
from enchufe.transfer.patches import MAX_PIECES
from enchufe.transfer.states import State

MAX_ENTRIES: Final = 10_000_000
MAX_SHARED: Final = 100_000
MAX_BLOCKS: Final = 2 * FILE_BLOCKS  # of all files on their way

# When to say how far we are: docs/protocol.md, PROGRESS.
_PROGRESS_BYTES: Final = 16 << 20
_PROGRESS_ENTRIES: Final = 1024
_PROGRESS_SECONDS: Final = 0.1
_PROGRESS_URGENT: Final = 0.005  # the same where the sender may offer little more before it hears of it
_LITTLE: Final = 16  # which is less than this part of the window

# Looking an enum's member up costs as much as the rest of an entry's line in the books.
_ALL, _SKIP, _REST, _DELTA, _LINK = Answer.ALL, Answer.SKIP, Answer.REST, Answer.DELTA, Answer.LINK
_SAME, _FILE, _DIRECTORY = Answer.SAME, Kind.FILE, Kind.DIRECTORY
_ARRIVED, _SKIPPED = Outcome.ARRIVED, Outcome.SKIPPED


class TreeMismatch(VerificationError):
    """What arrived is not what was sent, though every block of it was: nothing of it is to be used again."""


_CLOSED: Final = 1 << 15  # beside the depth of a listed folder, which nothing but folders may be offered in

# Of all files that come in a batch, to which nothing is ever added: one each would cost more than the rest of it.
_NONE: Final = FileDigest()


class Arriving:
    """A wanted file that is not settled yet.

    Attributes:
        entry: the file.
        digests: of the blocks that have come, or were here.
        stored: bytes of it that are written.
        own: digests of the full blocks of the version that is here, as far as they were said.
        end: how it ends, once that was told.
        busy: how many are at work on it, after whom it may be complete.
        pieces: of that version, that were told.
        in_batch: whether it comes whole among others, and without an end of its own.
        left_out: its sender left it out.
        whole: whether it is among those that are to be completed.
    """

    __slots__ = (
        "answer",
        "busy",
        "digests",
        "end",
        "entry",
        "in_batch",
        "left_out",
        "own",
        "pieces",
        "stored",
        "whole",
    )

    def __init__(self, entry: Entry, answer: Answer) -> None:
        self.entry = entry
        self.answer = answer
        self.in_batch = answer is _ALL and travels_in_batch(entry)
        self.digests = _NONE if self.in_batch else FileDigest()
        self.stored = 0
        self.own: bytes | bytearray = bytearray() if answer is _DELTA else b""
        self.pieces = 0
        self.end: FileEnd | None = None
        self.busy = 0
        self.left_out = False
        self.whole = False

    def size_of(self, block: int) -> int:
        """Bytes in a block; only where the size is known."""
        return min(BLOCK_SIZE, self.entry.size - block * BLOCK_SIZE)


class Receiver(Machine):
    """Keeps the books of a transfer for the side that wants the files.

    Whoever runs it answers every offered entry (`answer`), says what it has of those answered `rest` or `delta`,
    claims, verifies and writes what comes as data (`claim_block` and its siblings, then `took`), and completes and
    settles what is `whole`.

    Args:
        max_entries: how many entries one transfer may have.

    Attributes:
        offered, offered_bytes: how many entries were offered so far, and bytes in them.
        unsized: files among them of which nobody knows how many bytes.
        same_entries, same_bytes: what is in folders that were found to be the same, and is never offered.
        unwanted_bytes: of what was offered, in what was skipped, refused or left out.
        grown: bytes by which files that were offered again are bigger than before, by id.
        stored_bytes: payload bytes verified and written, or here before.
        held_bytes: of these files, what was here from an attempt before.
        received_bytes: payload bytes that came this time.
        files: how many files have arrived whole.
        skipped: how many files were skipped.
        total: the offer's end, once it came.
        left_out: the file that the sender left out last.
        whole: files that are all there and told to be, to be completed and settled.
        dropped: files that were left out, to be removed.
        dropping: how many more will be, once nobody is at work on them; their names are taken until then.
    """

    role = Role.RECEIVER

    def __init__(self, *, max_entries: int = MAX_ENTRIES) -> None:
        super().__init__()
        self.offered = 0
        self.offered_bytes = 0
        self.unsized = 0
        self.same_entries = 0
        self.same_bytes = 0
        self.unwanted_bytes = 0
        self.grown: dict[int, int] = {}
        self.stored_bytes = 0
        self.held_bytes = 0
        self.received_bytes = 0
        self.files = 0
        self.skipped = 0
        self.total: OfferEnd | None = None
        self.left_out: Entry | None = None
        self.whole: deque[Arriving] = deque()
        self.dropped: deque[Entry] = deque()
        self.dropping = 0
        self._max_entries = max_entries
        self._window = WINDOW
        self._depths = array("H")  # by id, up to the last directory: of what is in it, 0 where it is none
        self._unanswered: dict[int, Entry] = {}
        self._arriving: dict[int, Arriving] = {}
        self._left_out = Ids()
        self._to_come_again: dict[tuple[int, bytes], int] = {}
        self._shared = Ids()
        self._booked = 0  # blocks whose digests are kept
        self._pieces = 0  # that the sender was told of, of files that are not settled
        self._linked_to: dict[int, tuple[Entry, int, bytes]] = {}
        self._waiting_links: dict[int, list[Arriving]] = {}
        self._tree = TreeDigest()
        self._settled = 0
        self._taken = [0] * STREAMS
        self._streams = 1
        self._finish: bytes | None = None
        self._told = (0, 0)
        self._told_at = 0.0

    # Data, on any stream: claim it, verify and write it, then say that it was taken.

    def claim_block(self, block: Block) -> Arriving | None:
        """Whose block that is; None where its file was left out. Until `stored` that file is busy.

        Raises:
            RemoteProtocolError: it is not wanted, or not where it belongs.
        """
        arriving = self._find(block.id)
        if arriving is None:
            return None
        number, odd = divmod(block.offset, BLOCK_SIZE)
        size = len(block.payload)
        if arriving.entry.size == UNKNOWN_SIZE:
            # A pipe's blocks come in order, on the stream on which it ends: none can begin behind one that is not full.
            right = block.offset == arriving.stored and arriving.end is None and number < FILE_BLOCKS
        else:
            right = size == arriving.size_of(number)  # none is empty, so none fits behind the end
        return self._claimed(arriving, block, not odd and right)

    def claim_patch(self, patch: Patch) -> Arriving | None:
        """As `claim_block`."""
        arriving = self._find(patch.id)
        if arriving is None:
            return None
        number, odd = divmod(patch.offset, BLOCK_SIZE)
        right = patch.size == arriving.size_of(number)  # none is empty, as with blocks
        return self._claimed(arriving, patch, not odd and right and arriving.pieces > 0)

    def _claimed(self, arriving: Arriving, message: Block | Patch, right: bool) -> Arriving:
        if not right or not self._book(arriving, message.offset // BLOCK_SIZE, message.digest):
            told = message.type.name.lower()
            raise RemoteProtocolError(f"a {told} of entry {message.id} is not where it belongs")
        self.received_bytes += len(message.payload)
        arriving.busy += 1
        return arriving

    def claim_run(self, run: Same | Hole) -> tuple[Arriving, bytes] | None:
        """Whose blocks those are, and their digests; None where the file was left out. Raises as `claim_block`."""
        arriving = self._find(run.id)
        if arriving is None:
            return None
        stop = run.first + run.count
        entry = arriving.entry
        right = 0 < run.count <= RUN_BLOCKS and entry.size != UNKNOWN_SIZE and stop * BLOCK_SIZE <= entry.size
        digests = b""
        if right and isinstance(run, Same):  # of a claim that cannot be nothing is copied, which may be much
            digests = bytes(arriving.own[run.first * DIGEST_SIZE : stop * DIGEST_SIZE])
        elif right and entry.sparse:
            digests = ZERO_BLOCK * run.count
        if not right or len(digests) != run.count * DIGEST_SIZE or not self._book(arriving, run.first, digests):
            raise RemoteProtocolError(f"blocks of entry {run.id} are not where they belong")
        arriving.busy += 1
        return arriving, digests

    def claim_batch(self, batch: Batch) -> list[tuple[Arriving, bytes, Buffer]]:
        """Whose contents those are, without those of files that were left out. Raises as `claim_block`."""
        claimed = []
        for number, digest, payload in batch.files:
            arriving = self._arriving.get(number) or self._find(number)
            if arriving is None:
                continue
            size = len(payload)
            if arriving.entry.size != size or arriving.busy or not arriving.in_batch:
                raise RemoteProtocolError(f"entry {number} does not belong in that batch")
            arriving.busy += 1
            self.received_bytes += size
            claimed.append((arriving, digest, payload))
        return claimed

    def took(self, stream: int) -> None:
        """A frame of data of this stream is verified and written, or was of no use."""
        self._taken[stream] += 1
        self._streams = max(self._streams, stream + 1)

    def settle_small(self, claimed: Iterable[tuple[Arriving, int, bytes]]) -> None:
        """What was claimed of a batch is written: whole files, their sizes and digests."""
        for arriving, size, digest in claimed:
            entry = arriving.entry
            del self._arriving[entry.id]
            self.stored_bytes += size
            self._tree.add(entry, _ARRIVED, size, digest)
            self._settled += 1
            self.files += 1
            if entry.shared:
                self._settle_shared(entry, size, digest)

    def misplaced(self, message: Message) -> RemoteProtocolError:
        """What to raise for something that is no data, on a stream for nothing else."""
        return RemoteProtocolError(f"the peer sent {message.type.name} on a stream for data")

    def stored(self, arriving: Arriving, size: int) -> None:
        """What was claimed of a file in blocks is written: so many bytes."""
        if not arriving.left_out:
            arriving.stored += size
            self.stored_bytes += size
        self.release(arriving)

    def damaged(self, arriving: Arriving, blocks: Sequence[int]) -> list[Again]:
        """Blocks that were here are not what we said they are: what to say of it. They no longer count."""
        again: list[Again] = []
        if arriving.left_out:
            return again
        for block in blocks:
            arriving.digests.remove(block)
            size = arriving.size_of(block)
            arriving.stored -= size
            self.stored_bytes -= size
            if again and again[-1].first + again[-1].count == block:
                again[-1].count += 1
            else:
                again.append(Again(arriving.entry.id, block, 1))
        return again

    def hold(self, arriving: Arriving) -> None:
        """Somebody reads again what was here of it: it is not complete before `release`."""
        arriving.busy += 1

    def release(self, arriving: Arriving) -> None:
        """Whoever was at work on it is done."""
        arriving.busy -= 1
        if not arriving.left_out:
            self._look(arriving)
        elif not arriving.busy:
            self.dropping -= 1
            self.dropped.append(arriving.entry)

    def settle(self, arriving: Arriving, size: int, root: bytes) -> None:
        """A file has arrived: verified, written, closed."""
        entry = arriving.entry
        del self._arriving[entry.id]
        if arriving.answer is _LINK:
            self.stored_bytes += size
        self._booked -= arriving.digests.span
        self._pieces -= arriving.pieces
        self._settle(entry, _ARRIVED, size, root)
        self.files += 1
        if entry.shared:
            self._settle_shared(entry, size, root)

    def _settle_shared(self, entry: Entry, size: int, root: bytes) -> None:
        self._linked_to[entry.id] = (entry, size, root)
        for link in self._waiting_links.pop(entry.id, ()):
            self._look(link)

    def lost(self, stream: int) -> Lost:
        """What to say where a stream other than 0 has ended."""
        return Lost(stream, self._taken[stream])

    # What is said on stream 0.

    def answer(self, answers: Iterable[tuple[Entry, Answer]]) -> Want:
        """The message that answers entries, as few runs as there are; entries in the order of their ids."""
        runs: list[tuple[int, int, Answer]] = []
        first, after, same = 0, 0, None
        for entry, answer in answers:
            if answer is not same or entry.id != after:
                if same is not None:
                    runs.append((first, after - first, same))
                first = after = entry.id
                same = answer
            after += 1
        if same is not None:
            runs.append((first, after - first, same))
        return Want(runs)

    def arriving(self, number: int) -> Arriving | None:
        """A wanted file that is not settled yet."""
        return self._arriving.get(number)

    def link_target(self, link: Arriving) -> Entry:
        """The file that a whole link is the same as."""
        return self._linked_to[link.entry.linked][0]

    def tell_pieces(self, number: int, count: int) -> int:
        """Of how many more pieces of the version of a file that is here the sender is told: up to `count`."""
        arriving = self._arriving.get(number)
        if arriving is None:  # left out since
            return 0
        count = min(count, MAX_PIECES - self._pieces)
        arriving.pieces += count
        self._pieces += count
        return count

    @property
    def untold(self) -> bool:
        """Whether there is progress that the peer was not told."""
        return (self.stored_bytes, self._settled) != self._told

    @property
    def late_at(self) -> float:
        """When `untold` progress is late: soon, where the window is full of what does not come, or nearly so.

        The files that fit beside that would go by so many in a tenth of a second else.
        """
        room = self._window - (self.offered - self._told[1])
        return self._told_at + (_PROGRESS_URGENT if room <= self._window // _LITTLE else _PROGRESS_SECONDS)

    @property
    def _much_untold(self) -> bool:
        stored, settled = self._told
        return abs(self.stored_bytes - stored) >= _PROGRESS_BYTES or self._settled - settled >= _PROGRESS_ENTRIES

    @property
    def pressing(self) -> bool:
        """Whether there may be something to do on stream 0 that is not to wait until progress is late."""
        return bool(self.whole or self.dropped) or self._finish is not None or self._much_untold

    def progress(self, now: float) -> Progress | None:
        """What to say of how far we are, when it is time to."""
        late = self.untold and now >= self.late_at
        if not late and not self._much_untold:
            return None
        self._told, self._told_at = (self.stored_bytes, self._settled), now
        return Progress(self.stored_bytes, self._settled, self._taken[: self._streams])

    @property
    def taken(self) -> int:
        """How many frames of data were taken, on all streams."""
        return sum(self._taken)

    @property
    def lacks_data(self) -> bool:
        """Whether the sender may wait for what has not come: all was said, fills the window, or is all it remembers."""
        return bool(self._arriving)

    @property
    def finished(self) -> bool:
        """Everything has arrived, and is what was sent: time to commit.

        Raises:
            TreeMismatch: it is not.
        """
        # Nothing is offered after the FINISH, and everything was answered before.
        if self._finish is None or self._arriving or self.dropping or self.dropped:
            return False
        if self._finish != self._tree.digest():
            raise TreeMismatch("what arrived is not what was sent: the tree's digests differ")
        return True

    def receipt(self) -> Receipt:
        """The receipt, once everything is on disk."""
        return Receipt(self.files, self.stored_bytes, self._tree.digest())

    def _sent(self, message: Message) -> None:
        match message:
            case Hello(window=window):
                self._window = window
            case Want(runs):
                for first, count, answer in runs:
                    for number in range(first, first + count):
                        self._answer(number, answer)
            case Have(number, first, _, digests):
                arriving = self._arriving.get(number)
                if arriving is None:  # left out since
                    return
                if arriving.answer is Answer.DELTA:
                    arriving.own += digests
                    return
                count = len(digests) // DIGEST_SIZE
                if not self._book(arriving, first, digests):
                    raise LocalProtocolError(f"blocks of entry {number} are here twice")
                size = sum(arriving.size_of(block) for block in range(first, first + count))
                arriving.stored += size
                self.stored_bytes += size
                self.held_bytes += size

    def _answer(self, number: int, answer: Answer) -> None:
        entry = self._unanswered.pop(number, None)
        if entry is None:
            raise LocalProtocolError(f"entry {number} has no answer coming")
        if entry.listing is not None:
            if answer is _SAME:
                self._have_same(entry, entry.listing)
                return
            self._depths[number] &= ~_CLOSED
        if answer is _ALL or answer is _REST or answer is _DELTA or answer is _LINK:
            if entry.kind is not _FILE:
                self._settle(entry, _ARRIVED)
                return
            self._arriving[number] = Arriving(entry, answer)
        elif answer is _SKIP:
            self.skipped += entry.kind is _FILE
            self._settle(entry, _SKIPPED)
        elif answer is _SAME:
            raise LocalProtocolError(f"entry {number} cannot be the same: it was not listed")
        else:
            self._settle(entry, Outcome.REFUSED)

    def _have_same(self, entry: Entry, listing: Listing) -> None:
        self.same_entries += listing.entries
        self.same_bytes += listing.size
        self.skipped += listing.files
        self._settle(entry, Outcome.SAME)

    def _settle(self, entry: Entry, outcome: Outcome, size: int = 0, root: bytes = b"") -> None:
        self._tree.add(entry, outcome, size, root)
        self._settled += 1
        if outcome is not _ARRIVED and entry.size != UNKNOWN_SIZE:
            self.unwanted_bytes += entry.size

    def _got(self, message: Message) -> None:
        match message:
            case Offer(entries):
                self._offer(entries)
            case OfferEnd(entries, size, _):
                if (entries, size) != (self.offered + self.same_entries, self.offered_bytes + self.same_bytes):
                    raise RemoteProtocolError("the peer's offer does not add up")
                if any(entry.listing is not None for entry in self._unanswered.values()):
                    raise RemoteProtocolError("the peer ended its offer before all listed folders were answered")
                self.total = message
            case FileEnd():
                self._file_end(message)
            case LeftOut():
                self._leave_out(message)
            case Finish(digest) if self.state is not State.DONE:
                # Batches may still be on their way on other streams.
                endless = any(arriving.end is None and not arriving.in_batch for arriving in self._arriving.values())
                if self._unanswered or self._to_come_again or endless:
                    raise RemoteProtocolError("the peer finished before everything was sent")
                self._finish = digest

    def _offer(self, entries: Iterable[Entry]) -> None:
        depths = self._depths
        for entry in entries:
            if entry.id != self.offered:
                raise RemoteProtocolError(f"the peer offered entry {entry.id} in place of {self.offered}")
            if self.offered - self._settled >= self._window:
                raise RemoteProtocolError(f"the peer offered more than {self._window} entries at once")
            if self.offered + self.same_entries >= self._max_entries:
                raise self._too_many()
            depth = closed = 0
            if entry.parent != NO_PARENT:
                told = depths[entry.parent] if entry.parent < len(depths) else 0
                if not told:
                    raise RemoteProtocolError(f"entry {entry.id} is in a directory that was not offered")
                depth, closed = told & ~_CLOSED, told & _CLOSED
            if depth > MAX_DEPTH:
                raise RemoteProtocolError(f"entry {entry.id} is more than {MAX_DEPTH} directories deep")
            before = self._to_come_again.pop((entry.parent, entry.name), None) if self._to_come_again else None
            if before is None and self.total is not None:
                raise RemoteProtocolError(f"the peer offered entry {entry.id} after the end of its offer")
            if before is not None:
                if entry.kind is not Kind.FILE or (entry.size == UNKNOWN_SIZE != before):
                    raise RemoteProtocolError(f"entry {entry.id} is another thing than what was to come again")
                self.grown[entry.id] = max(0, entry.size - before)
            if entry.linked != NO_LINK and entry.linked not in self._shared:
                raise RemoteProtocolError(f"entry {entry.id} is a link to one that was not offered for that")
            if entry.shared:
                if len(self._shared) >= MAX_SHARED:
                    raise Refused(f"more than {MAX_SHARED} files with several names", hint="Send it in parts.")
                self._shared.add(entry.id)
            if entry.kind is _DIRECTORY:
                depths.extend(bytes(entry.id - len(depths)))
                depths.append(depth + 1)
                if entry.listing is not None:
                    self._list(entry, entry.listing)
            elif closed:
                raise RemoteProtocolError(f"entry {entry.id} is in a folder that was listed, and not asked for")
            if entry.size != UNKNOWN_SIZE:
                self.offered_bytes += entry.size
            else:
                self.unsized += 1
            self._unanswered[entry.id] = entry
            self.offered += 1

    def _list(self, entry: Entry, listing: Listing) -> None:
        if not self.agreed(FOLDERS):
            raise RemoteProtocolError(f"entry {entry.id} is listed, and must not be")
        if self.offered + self.same_entries + listing.entries >= self._max_entries:
            raise self._too_many()
        self._depths[entry.id] |= _CLOSED

    def _too_many(self) -> Refused:
        return Refused(f"more than {self._max_entries} entries", hint="Send it in parts.")

    def _find(self, number: int) -> Arriving | None:
        arriving = self._arriving.get(number)
        if arriving is None and number not in self._left_out:  # which may still come on other streams
            raise RemoteProtocolError(f"the peer sent something of entry {number}, which is not on its way")
        return arriving

    def _book(self, arriving: Arriving, first: int, digests: bytes) -> bool:
        """Take note of blocks of a file; False where they do not come in blocks, or one was there."""
        if arriving.in_batch or arriving.answer is Answer.LINK:
            return False
        grown = max(0, first + len(digests) // DIGEST_SIZE - arriving.digests.span)
        if self._booked + grown > MAX_BLOCKS:
            raise Refused(f"more than {MAX_BLOCKS} blocks of files that are not complete", hint="Send it in parts.")
        self._booked += grown
        return arriving.digests.add(first, digests)

    def _leave_out(self, message: LeftOut) -> None:
        arriving = self._arriving.pop(message.id, None)
        # A batch says of each file that it was sent: it is being stored, and nothing takes it back.
        if arriving is None or arriving.end is not None or (arriving.in_batch and arriving.busy):
            raise RemoteProtocolError(f"the peer left out entry {message.id}, which is not on its way")
        self._left_out.add(message.id)
        self._booked -= arriving.digests.span
        self._pieces -= arriving.pieces
        entry = arriving.entry
        if message.id in self._waiting_links:
            raise RemoteProtocolError(f"the peer left out entry {message.id}, and ended a link to it")
        self.stored_bytes -= arriving.stored
        arriving.left_out = True
        if arriving.busy:
            self.dropping += 1
        else:
            self.dropped.append(entry)
        if message.reason is Reason.AGAIN:
            self._to_come_again[entry.parent, entry.name] = entry.size
        self.left_out = entry
        self._settle(entry, Outcome.LEFT_OUT)

    def _file_end(self, end: FileEnd) -> None:
        arriving = self._arriving.get(end.id)
        if (
            arriving is None
            or arriving.end is not None
            or arriving.in_batch
            or arriving.entry.size not in (end.size, UNKNOWN_SIZE)
        ):
            raise RemoteProtocolError(f"entry {end.id} does not end like that")
        arriving.end = end
        self._look(arriving)

    def _look(self, arriving: Arriving) -> None:
        end = arriving.end
        if end is None or arriving.busy or arriving.whole:
            return
        if arriving.answer is Answer.LINK:
            linked = arriving.entry.linked
            target = self._linked_to.get(linked)
            if target is None:
                if linked not in self._arriving:
                    raise RemoteProtocolError(f"entry {end.id} is a link to one that does not come")
                self._waiting_links.setdefault(linked, []).append(arriving)
                return
            if target[1:] != (end.size, end.root):
                raise TreeMismatch(f"entry {end.id} is not the same as entry {arriving.entry.linked}")
        elif arriving.stored != end.size:
            if arriving.stored > end.size or arriving.entry.size == UNKNOWN_SIZE:
                raise RemoteProtocolError(f"entry {end.id} ended at {end.size} bytes, {arriving.stored} have come")
            return
        elif arriving.digests.root() != end.root:
            raise TreeMismatch(f"entry {end.id} is not what was sent: its digests differ")
        arriving.whole = True
        self.whole.append(arriving)


def haves(number: int, runs: Iterable[tuple[int, bytes]]) -> Iterable[Have]:
    """The messages that say which blocks of an entry are here: each run is the first one's number and their digests."""
    waiting: Have | None = None
    step = HAVE_DIGESTS * DIGEST_SIZE
    for first, digests in runs:
        for start in range(0, len(digests), step):
            if waiting is not None:
                yield waiting
            waiting = Have(number, first + start // DIGEST_SIZE, False, digests[start : start + step])
    if waiting is None:
        waiting = Have(number, 0, False, b"")
    waiting.last = True
    yield waiting
