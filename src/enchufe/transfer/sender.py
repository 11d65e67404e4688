"""The sender's machine: what may be offered, what is wanted, which stream says what, what is still to be said.

Where streams work in threads, every call comes under one lock, which is the caller's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import field
from typing import Final

from enchufe.buffer import Buffer
from enchufe.dataclass import dataclass
from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE, UNKNOWN_SIZE, Answer, Entry, Kind, Listing, Reason
from enchufe.errors import BrokenError, LocalProtocolError, Refused, RemoteProtocolError, VerificationError
from enchufe.ids import Ids
from enchufe.transfer.data import Batch, Block, Hole, Packed, Patch, Same, travels_in_batch
from enchufe.transfer.digests import Outcome, TreeDigest
from enchufe.transfer.going import Going, changed_since
from enchufe.transfer.machine import Machine
from enchufe.transfer.message import BATCH_FILES, FILE_BLOCKS, Message, Role, Type
from enchufe.transfer.messages import (
    FOLDERS,
    LIST_WINDOW,
    PATCHES,
    STREAMS,
    Again,
    FileEnd,
    Finish,
    Have,
    Hello,
    Index,
    LeftOut,
    Lost,
    OfferEnd,
    Progress,
    Receipt,
    Want,
    frame,
)
from enchufe.transfer.offers import Offer
from enchufe.transfer.patches import MAX_PIECES, RECORD_SIZE, Pieces
from enchufe.transfer.states import DATA, State, Way, step

MAX_WINDOW: Final = LIST_WINDOW  # entries kept open at the most, however many the receiver would allow

# What is remembered of files that the receiver had some of, in blocks: it may find any of them damaged until all that
# was offered is settled, since it says how many are settled, and not which.
_REMEMBERED: Final = 1 << 20  # some 40 MiB
_REMEMBERED_FILE: Final = 32  # a file, as so many blocks

# Looking an enum's member up costs as much as the rest of an entry's line in the books.
_ALL, _SKIP, _REST, _DELTA, _LINK = Answer.ALL, Answer.SKIP, Answer.REST, Answer.DELTA, Answer.LINK
_SAME, _FILE, _ARRIVED, _SKIPPED = Answer.SAME, Kind.FILE, Outcome.ARRIVED, Outcome.SKIPPED

Small = tuple[Entry, bytes | None]
"""A small file to be sent, and the digest it had if it was sent before."""

Work = tuple[Going, int, int] | list[Small]
"""What a stream takes to read and say: blocks of a file, first and count, or small files."""


@dataclass(slots=True)
class _Stream:
    """What was said on one stream and the receiver has not taken yet."""

    taken: int = 0
    lost: bool = False
    frames: deque[tuple[Going, int, int] | list[Small]] = field(default_factory=deque)

    def prune(self, taken: int) -> None:
        """The receiver has taken so many frames in all."""
        if not self.taken <= taken <= self.taken + len(self.frames):
            raise RemoteProtocolError("the peer took more than it was sent, or less than before")
        for _ in range(taken - self.taken):
            self.frames.popleft()
        self.taken = taken


class Sender(Machine):
    """Keeps the books of a transfer for the side that has the files.

    Attributes:
        offered: how many entries were offered.
        unsized: files among them of which nobody knows how many bytes.
        listed: how many folders were offered as listed, and not answered yet.
        differing: those of them that were answered, and not as the same: what is in them is to be offered.
        same_entries, same_bytes: what is in the others, and never offered.
        sent_bytes: payload bytes that were sent.
        missing_bytes: that the receiver has not got of what it wants, as far as it has said so: at least that many,
            for in files of which it has another version none are counted.
        unwanted_bytes: in files that were offered, and skipped, refused or left out.
        stored_bytes: payload bytes that the receiver has verified and written, or had.
        held_bytes: of these files, what it had from an attempt before.
        files: how many files were sent whole.
        skipped: how many files the receiver kept its own of.
        refused: what the receiver refused, and why, to be told.
        whole: files of which all is said but their end.
        only_looks: whether the receiver may look at what is offered, and want none of it.
        concluded: the receipt that an attempt before should have brought, where the receiver has said that it would.
    """

    role = Role.SENDER

    def __init__(self) -> None:
        super().__init__()
        self.offered = 0
        self.unsized = 0
        self.listed = 0
        self.differing: deque[Entry] = deque()
        self.same_entries = 0
        self.same_bytes = 0
        self.sent_bytes = 0
        self.missing_bytes = 0
        self._counted: dict[int, int] = {}  # what of it is of files that are not wanted whole
        self.unwanted_bytes = 0
        self.stored_bytes = 0
        self.held_bytes = 0
        self.files = 0
        self.skipped = 0
        self.refused: deque[tuple[Entry, Answer]] = deque()
        self.whole: deque[Going] = deque()
        self.only_looks = False
        self.concluded: Receipt | None = None
        self._unanswered: dict[int, Entry] = {}
        self._wanted: dict[int, Entry] = {}  # files that are not settled
        self._small: deque[Small] = deque()
        self._large: deque[Going] = deque()  # none that waits for what the receiver has to tell
        self._pipes: deque[Going] = deque()
        self._going: dict[int, Going] = {}
        self._left_out = Ids()  # of which more may be told, by whoever does not know yet
        self._remembered = 0  # of those that have ended, and may be wanted again
        self._pieces = 0  # that are told of the receiver's own versions, of files that have not ended
        self._streams: dict[int, _Stream] = {}
        self._settled_there = 0
        self._offered_bytes = 0  # of files whose size is known, and of blocks of others that were said
        self._arrived_bytes = 0
        self._tree = TreeDigest()
        # Hard links: how each file ended that has other names, who waits for such an end, and whose own is due.
        self._ends: dict[int, FileEnd | None] = {}
        self._waiting_links: dict[int, list[int]] = {}
        self._links: deque[FileEnd | LeftOut] = deque()

    @property
    def room(self) -> int:
        """How many more entries the receiver's window lets us offer now, and what we have to remember."""
        if self._remembered >= _REMEMBERED and self._settled_there < self.offered:
            return 0
        window = min(self.peer.window, MAX_WINDOW) if self.peer else 0
        return window - (self.offered - self._settled_there)

    @property
    def all_sent(self) -> bool:
        """Everything is offered, answered and sent: time for FINISH."""
        return self.state is State.SENDING and not self._unanswered and not self._wanted

    @property
    def taken(self) -> int:
        """How many frames of data the receiver has taken, on all streams."""
        return sum(stream.taken for stream in self._streams.values())

    @property
    def pressing(self) -> bool:
        """Whether there may be something to say on stream 0, which another stream has made possible."""
        return bool(self.whole or self._links) or self.all_sent

    @property
    def has_work(self) -> bool:
        """Whether there may be something to take."""
        return bool(self._small or self._large or self._pipes)

    # Work for streams.

    def take(self, stream: int, *, small: bool, blocks: bool = True) -> Work | None:
        """Something to read and then to say on this stream, or to give back; None where there is nothing now.

        Files of unknown size are for stream 0 alone.

        Args:
            small: whether it may be small files; stream 0 takes them first.
            blocks: whether it may be blocks of files whose size is known.
        """
        if self._small and not stream:
            return self._take_batch()
        work = self._take_block(self._pipes) if not stream else None
        if work is None and blocks:
            work = self._take_block(self._large)
        if work is not None:
            return work
        return self._take_batch() if self._small and small else None

    def _take_block(self, queue: deque[Going]) -> Work | None:
        position = 0
        while position < len(queue):
            going = queue[position]
            block = going.take()
            if going.exhausted or going.waits:
                self._unqueue(going)
            else:
                position += 1
            if block is not None:
                return going, block, 1
        return None

    def _take_batch(self) -> list[Small]:
        files: list[Small] = []
        room = BLOCK_SIZE
        while self._small and len(files) < BATCH_FILES and (size := self._small[0][0].size) <= room:
            files.append(self._small.popleft())
            room -= size
        return files

    def give_back(self, work: Work) -> None:
        """What was taken is not said after all: somebody else will."""
        if isinstance(work, list):
            self._small.extendleft(reversed(work))
        else:
            going, first, count = work
            going.give_back(first, count)
            if not going.left_out:
                self._queue(going)

    def say_blocks(
        self, stream: int, going: Going, first: int, digests: bytes, message: Block | Same | Hole | Patch | Packed
    ) -> list[Buffer]:
        """The bytes to send for the blocks that were taken; none where the file was left out meanwhile.

        Raises:
            BrokenError: that stream is lost; give the work back.
            StoreError: they were sent before, and were others then.
        """
        state = self._stream(stream, message)
        if going.left_out:
            return []
        going.said(first, digests)
        if going.exhausted:  # a pipe, by now
            self._unqueue(going)
        state.frames.append((going, first, len(digests) // DIGEST_SIZE))
        if going.entry.size == UNKNOWN_SIZE:
            self._offered_bytes += BLOCK_SIZE
        if isinstance(message, Same | Patch) or (isinstance(message, Packed) and message.kind is Type.PATCH):
            going.vouch(first, len(digests) // DIGEST_SIZE)
        if isinstance(message, Block | Patch):
            self.sent_bytes += len(message.payload)
        elif isinstance(message, Packed):
            self.sent_bytes += len(message.data)
        self._look(going)
        return frame(message)

    def say_batch(
        self, stream: int, files: Sequence[Small], digests: Sequence[bytes], message: Batch | Packed
    ) -> list[Buffer]:
        """The bytes to send for small files that were taken. Raises as `say_blocks`."""
        state = self._stream(stream, message)
        size = 0
        for (entry, before), digest in zip(files, digests, strict=True):
            size += entry.size
            if before is None:
                self._settle(entry, _ARRIVED, entry.size, digest)
            elif before != digest:
                raise changed_since(entry)
        state.frames.append([(entry, digest) for (entry, _), digest in zip(files, digests, strict=True)])
        # Packed is more than content: of files of next to nothing it is more than what they hold.
        self.sent_bytes += min(size, len(message.data)) if isinstance(message, Packed) else size
        return frame(message)

    def pipe_ended(self, going: Going, size: int) -> None:
        """The block that was taken is not there: the file of unknown size has ended after `size` bytes."""
        going.pipe_ended(size)
        self._unqueue(going)
        self._look(going)

    def _stream(self, stream: int, message: Message) -> _Stream:
        state = self._streams.setdefault(stream, _Stream())
        if state.lost:
            raise BrokenError("the other side has lost this stream")
        step(self.role, self.state, Way.SENT, message.type)
        return state

    def _look(self, going: Going) -> None:
        if not (going.noted or going.ended) and going.whole:
            going.noted = True
            self.whole.append(going)

    def _queue(self, going: Going) -> None:
        if not going.queued:
            going.queued = True
            self._queue_of(going).append(going)

    def _unqueue(self, going: Going) -> None:
        if going.queued:
            going.queued = False
            self._queue_of(going).remove(going)

    def _queue_of(self, going: Going) -> deque[Going]:
        return self._pipes if going.entry.size == UNKNOWN_SIZE else self._large

    def wants(self, entry: Entry) -> bool:
        """Whether a file is wanted and not settled."""
        return entry.id in self._wanted

    def wanted(self, number: int) -> Entry:
        """A file that is wanted and not settled."""
        return self._wanted[number]

    # What is said on stream 0.

    def finish(self) -> Finish:
        """The message that ends the sending, once `all_sent`."""
        return Finish(self._tree.digest())

    def receipt(self) -> Receipt:
        """The one that is to come, once `finish` was said."""
        return Receipt(self.files, self._arrived_bytes, self._tree.digest())

    def next_whole(self) -> Going | None:
        """Take the first of `whole`; None where a stream was lost meanwhile, and with it some of this file.

        Then it is there again as soon as that is said.
        """
        going = self.whole.popleft()
        going.noted = False
        return going if going.whole else None

    def file_end(self, going: Going) -> FileEnd:
        """The message that ends a file in `whole`."""
        return FileEnd(going.entry.id, going.size or 0, going.digests.root())

    def link_end(self) -> FileEnd | LeftOut | None:
        """The message that ends a hard link, where one is due; one that falls with its file may be offered again."""
        return self._links.popleft() if self._links else None

    def _sent(self, message: Message) -> None:
        match message:
            case Offer(entries):
                if len(entries) > self.room:
                    raise LocalProtocolError(f"{len(entries)} entries do not fit a window of {self.room}")
                for entry in entries:
                    if entry.id != self.offered:
                        raise LocalProtocolError(f"entry {entry.id} offered in place of {self.offered}")
                    if entry.listing is not None:
                        if not self.agreed(FOLDERS):
                            raise LocalProtocolError(f"entry {entry.id} is listed, and nobody has agreed to that")
                        self.listed += 1
                    self._unanswered[entry.id] = entry
                    self.offered += 1
                    if entry.size != UNKNOWN_SIZE:
                        self._offered_bytes += entry.size
                    else:
                        self.unsized += 1
            case OfferEnd():
                if self.listed or self.differing:
                    raise LocalProtocolError("not everything is offered: there are listed folders")
            case FileEnd(number, size, root):
                self._end(number, Outcome.ARRIVED, size, root)
            case LeftOut(number):
                self._end(number, Outcome.LEFT_OUT)
            case Finish() if self.state is not State.DONE:
                if not self.all_sent:
                    raise LocalProtocolError("not everything is sent")
            case _:
                if message.type in DATA:
                    raise LocalProtocolError("data is said by say_blocks and say_batch")

    def _end(self, number: int, outcome: Outcome, size: int = 0, root: bytes = b"") -> None:
        entry = self._wanted.get(number)
        if entry is None:
            raise LocalProtocolError(f"entry {number} is not on its way")
        going = self._going.get(number)
        if going is not None:
            going.ended = True
            going.left_out = outcome is Outcome.LEFT_OUT
            self._pieces -= going.pieces
            going.index, going.pieces = None, 0
            if going.had and not going.left_out:
                self._remembered += _REMEMBERED_FILE + going.digests.span
            else:
                del self._going[number]
            if going.left_out:
                self._unqueue(going)
                if going.had:
                    self._left_out.add(number)
        self._settle(entry, outcome, size, root)

    def _settle(self, entry: Entry, outcome: Outcome, size: int = 0, root: bytes = b"") -> None:
        del self._wanted[entry.id]
        if outcome is _ARRIVED:
            self._tree.add(entry, outcome, size, root)
            self._arrived_bytes += size
            if self._counted:
                self._counted.pop(entry.id, None)
        else:
            self._miss(entry, outcome)
        self.files += outcome is _ARRIVED
        if entry.shared:
            self._ends[entry.id] = FileEnd(entry.id, size, root) if outcome is Outcome.ARRIVED else None
            for link in self._waiting_links.pop(entry.id, ()):
                self._link(link, entry.id)

    def _miss(self, entry: Entry, outcome: Outcome) -> None:
        self._tree.add(entry, outcome)
        if entry.size != UNKNOWN_SIZE:
            self.unwanted_bytes += entry.size
            if outcome is Outcome.LEFT_OUT:  # it may be offered again
                self.missing_bytes -= self._counted.pop(entry.id, entry.size)

    def _link(self, number: int, to: int) -> None:
        end = self._ends[to]
        self._links.append(LeftOut(number, Reason.CHANGED) if end is None else FileEnd(number, end.size, end.root))

    def _got(self, message: Message) -> None:
        match message:
            case Hello(stream=stream, window=window):
                if not window and not stream:
                    raise RemoteProtocolError("the peer's window is 0")
            case Want(runs):
                for first, count, answer in runs:
                    self._answer(first, count, answer)
            case Have():
                self._had(message)
            case Index():
                self._index(message)
            case Progress(stored, settled, taken):
                if not self._settled_there <= settled <= self.offered:
                    raise RemoteProtocolError("the peer has settled more than it was offered, or less than before")
                if stored > self._offered_bytes:
                    raise RemoteProtocolError("the peer has stored more than it was offered")
                self.stored_bytes, self._settled_there = stored, settled
                for number, count in enumerate(taken):
                    known = self._streams.get(number)
                    if known is None and count:
                        raise RemoteProtocolError(f"the peer took data from stream {number}, which had none")
                    if known is not None and not known.lost:
                        known.prune(count)
                if settled == self.offered and self._remembered:
                    self._forget()
            case Lost(number, taken):
                self._lose(number, taken)
            case Again(number, first, count):
                going = self._going.get(number)
                if going is None and number in self._left_out:
                    return
                if going is None or not going.doubt(first, count):
                    raise RemoteProtocolError(f"the peer wants blocks of entry {number} again that it never had")
                self._queue(going)
            case Receipt() if self.only_looks:  # of nothing, but it would end the waiting for others
                raise _only_for_looking()
            case Receipt():
                wanted = self.receipt() if self.state is State.FINISHING else self.concluded
                if wanted is None:
                    raise RemoteProtocolError("the peer sent a receipt for what nobody has sent")
                if message != wanted:
                    raise VerificationError("the receipt is for something else than what was sent")

    def _forget(self) -> None:
        """Everything is settled: nothing of it is wanted again."""
        for number in [number for number, going in self._going.items() if going.ended]:
            del self._going[number]
        self._remembered = 0

    def _answer(self, first: int, count: int, answer: Answer) -> None:
        if not 0 < count <= len(self._unanswered):
            raise RemoteProtocolError("the peer answered what was not offered")
        if self.only_looks and not (answer is _SKIP or answer.refusal):
            raise _only_for_looking()
        wanted = answer is _ALL or answer is _REST or answer is _DELTA or answer is _LINK
        for number in range(first, first + count):
            entry = self._unanswered.pop(number, None)
            if entry is None:
                raise RemoteProtocolError(f"the peer answered entry {number} twice or before it was offered")
            if entry.listing is not None:
                self.listed -= 1
                if answer is _SAME:
                    self._have_same(entry, entry.listing)
                    continue
                self.differing.append(entry)
            if wanted:
                self._want(entry, answer)
            elif answer is _SAME:
                raise RemoteProtocolError(f"the peer has the same as in entry {number}, which was not listed")
            elif number in self._waiting_links:
                raise RemoteProtocolError(f"the peer links to entry {number}, which it did not take")
            elif answer is _SKIP:
                self.skipped += entry.kind is _FILE
                self._miss(entry, _SKIPPED)
            else:
                self.refused.append((entry, answer))
                self._miss(entry, Outcome.REFUSED)

    def _have_same(self, entry: Entry, listing: Listing) -> None:
        self.same_entries += listing.entries
        self.same_bytes += listing.size
        self.skipped += listing.files
        self._tree.add(entry, Outcome.SAME)

    def _want(self, entry: Entry, answer: Answer) -> None:
        if entry.kind is not _FILE:
            if answer is not _ALL:
                raise RemoteProtocolError(f"the peer has blocks of entry {entry.id}, which is no file")
            self._tree.add(entry, _ARRIVED)
            return
        if entry.size != UNKNOWN_SIZE and entry.size > FILE_BLOCKS * BLOCK_SIZE:
            raise RemoteProtocolError(f"the peer wants entry {entry.id}, which is bigger than any file may be")
        self._wanted[entry.id] = entry
        if answer is not _ALL:
            self._counted[entry.id] = 0
        if answer is _LINK:
            if entry.linked in self._ends:
                self._link(entry.id, entry.linked)
            elif entry.linked in self._wanted or entry.linked in self._unanswered:
                self._waiting_links.setdefault(entry.linked, []).append(entry.id)
            else:
                raise RemoteProtocolError(f"the peer links entry {entry.id} to what it did not take")
        elif answer is _ALL and travels_in_batch(entry):
            self._small.append((entry, None))
            self.missing_bytes += entry.size
        elif entry.size == UNKNOWN_SIZE and answer is not _ALL:
            raise RemoteProtocolError(f"the peer has blocks of entry {entry.id}, of which nobody knows the size")
        else:
            going = self._going[entry.id] = Going(entry, answer)
            if not going.waits:
                self._queue(going)
            if answer is _ALL and entry.size != UNKNOWN_SIZE:
                self.missing_bytes += entry.size

    def _had(self, have: Have) -> None:
        going = self._going.get(have.id)
        if going is None and have.id in self._left_out:
            return
        if going is None or going.told_all:
            raise RemoteProtocolError(f"the peer has blocks of entry {have.id}, and did not say so")
        # An empty file has one digest too.
        if have.first * DIGEST_SIZE + len(have.digests) > max(going.blocks, 1) * DIGEST_SIZE:
            raise RemoteProtocolError(f"the peer has more blocks of entry {have.id} than there are")
        if going.ready:  # a delta
            fits = going.own(have.first, have.digests)
            going.own_known = have.last
        else:
            fits = going.digests.add(have.first, have.digests)
            count = len(have.digests) // DIGEST_SIZE
            going.vouch(have.first, count)
            going.ready = have.last
            stop = min((have.first + count) * BLOCK_SIZE, going.entry.size)
            here = stop - have.first * BLOCK_SIZE
            self.held_bytes += here
            missing = (going.entry.size if have.last else 0) - here
            self.missing_bytes += missing
            self._counted[have.id] += missing
        if not fits:
            raise RemoteProtocolError(f"the peer's blocks of entry {have.id} do not add up")
        self._look(going)
        if going.exhausted:
            self._unqueue(going)
        elif not going.waits:
            self._queue(going)

    def _index(self, index: Index) -> None:
        going = self._going.get(index.id)
        if going is None and index.id in self._left_out:
            return
        if going is None or not going.ready or going.told_all or not self.agreed(PATCHES):
            raise RemoteProtocolError(f"the peer tells of another version of entry {index.id}, and has none")
        if not going.pieces:
            going.index = Pieces(index.size)
        count = len(index.records) // RECORD_SIZE
        going.pieces += count
        self._pieces += count
        if self._pieces > MAX_PIECES:
            raise RemoteProtocolError(f"the peer tells of more than {MAX_PIECES} pieces at once")
        if going.index is not None:
            if going.index.size != index.size:
                raise RemoteProtocolError(f"the pieces of entry {index.id} are not all of one size")
            going.index.add(index.records)

    def _lose(self, number: int, taken: int) -> None:
        if number == 0:
            raise RemoteProtocolError("the peer lost stream 0, on which it says so")
        if number >= STREAMS:
            raise RemoteProtocolError(f"the peer lost stream {number}, which there never was")
        stream = self._streams.setdefault(number, _Stream())
        if stream.lost:
            raise RemoteProtocolError(f"the peer lost stream {number} twice")
        stream.prune(taken)
        stream.lost = True
        while stream.frames:
            frames = stream.frames.popleft()
            if isinstance(frames, list):
                self._small.extend(frames)
                continue
            going, first, count = frames
            if not going.left_out:
                going.again(first, count)
                self._queue(going)


def _only_for_looking() -> Refused:
    return Refused("a token for `list` is for looking, and for taking nothing")
