"""A sender and a receiver over streams in memory: no socket, no clock, no disk, and any order of doing things."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import TypeVar

import zstandard

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Listing, Reason
from enchufe.errors import BrokenError, VerificationError
from enchufe.store.delta import record
from enchufe.transfer.data import Batch, Block, Hole, Packed, Patch, Same
from enchufe.transfer.digests import ZERO_BLOCK, block_digest
from enchufe.transfer.going import Going
from enchufe.transfer.message import Message, Role, Type
from enchufe.transfer.messages import (
    FOLDERS,
    PATCHES,
    WINDOW,
    Have,
    Hello,
    Index,
    LeftOut,
    OfferEnd,
    Progress,
    frame,
    next_message,
)
from enchufe.transfer.offers import Offer
from enchufe.transfer.patches import Part, Pieces, along
from enchufe.transfer.receiver import Arriving, Receiver, haves
from enchufe.transfer.sender import Sender
from enchufe.transfer.states import DATA, State

D = TypeVar("D", bound=Block | Batch | Patch)

_STEPS = 5_000  # more than any transfer here takes
_ZEROS = bytes(BLOCK_SIZE)


def file(number: int, size: int, parent: int = NO_PARENT, **more: object) -> Entry:
    """A file to be offered."""
    return Entry(number, parent, b"f%d" % number, Kind.FILE, size, **more)  # type: ignore[arg-type]


def content(size: int, seed: int = 1) -> bytes:
    """Bytes of which no two blocks are the same."""
    blocks = (bytes([seed, block]) * (BLOCK_SIZE // 2) for block in range(-(-size // BLOCK_SIZE)))
    return b"".join(blocks)[:size]


def block_of(data: bytes, number: int) -> bytes:
    """A block of a file."""
    return data[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]


def join(pieces: Iterable[Buffer]) -> bytes:
    """The pieces of a frame, as they go out."""
    return b"".join(pieces)


def wire(message: Message) -> bytes:
    """A message as it goes out, whoever says it."""
    return join(frame(message))


class Pair:
    """Both sides of a transfer, and what is on its way between them.

    Attributes:
        contents: what the sender has by id; a reason where it cannot be sent.
        answers: what the receiver answers, where it is not ALL.
        kept: blocks that the receiver has of an entry answered REST; they may be damaged.
        old: the version that the receiver has of an entry answered DELTA.
        gone: blocks of an old version that are others by the time they are asked for.
        pieces: bytes in a piece of an old version; 0: blocks alone are told of.
        inside: sizes of the files in each listed folder, by its id.
        here: what the receiver has written, by id and block.
        taken: how often content was taken, by id and block.
        again: what the receiver asked for again, by id and block.
        arrived: contents of the files that the receiver completed.
        said: how often the sender said each type of message.
        streams: frames on their way to the receiver, by stream.
        back: frames on their way to the sender.
    """

    def __init__(
        self,
        contents: Mapping[int, bytes | Reason] | None = None,
        *,
        answers: Mapping[int, Answer] | None = None,
        kept: Mapping[int, Mapping[int, bytes]] | None = None,
        old: Mapping[int, bytes] | None = None,
        gone: Iterable[tuple[int, int]] = (),
        pieces: int = 0,
        streams: int = 1,
        chunk: int = 1 << 21,
        window: int = WINDOW,
        packs: bool = False,
        sender_dials: bool = True,
        inside: Mapping[int, Sequence[int]] | None = None,
        features: int = FOLDERS | PATCHES,
    ) -> None:
        self.sender, self.receiver = Sender(), Receiver()
        self.contents = dict(contents or {})
        self.answers = dict(answers or {})
        self.kept = {number: dict(blocks) for number, blocks in (kept or {}).items()}
        self.old = dict(old or {})
        self.gone = set(gone)
        self.pieces = pieces
        self.inside = dict(inside or {})
        self.chunk = chunk
        self.packs = packs
        self.here: dict[int, dict[int, bytes]] = {}
        self.taken: Counter[tuple[int, int]] = Counter()
        self.again: Counter[tuple[int, int]] = Counter()
        self.arrived: dict[int, bytes] = {}
        self.dropped: list[int] = []
        self.said: Counter[Type] = Counter()
        self.streams: dict[int, deque[bytes]] = {number: deque() for number in range(streams)}
        self.back: deque[bytes] = deque()
        self.dead: set[int] = set()  # streams that have ended, whether the sender knows or not
        self.entries: list[Entry] = []
        self.waiting: deque[Entry] = deque()  # to be offered
        self.told: deque[Have | Index] = deque()  # what old versions are made of, not said yet
        self.checks: deque[Arriving] = deque()  # what was kept, not read again yet
        self.events: list[Message] = []
        self.offers: deque[Sequence[Entry]] = deque()  # not answered yet
        self.names: set[tuple[int, bytes]] = set()
        self.heard: list[Message] = []
        self.now = 0.0
        self._size = 0
        self._buffers: dict[int, ReceiveBuffer] = {}
        hellos: list[Callable[[], None]] = [
            lambda: self.say(Hello(Role.SENDER, session=b"x" * 16, features=FOLDERS | PATCHES)),
            lambda: self.tell(Hello(Role.RECEIVER, session=b"x" * 16, window=window, features=features)),
        ]
        for hello in hellos if sender_dials else hellos[::-1]:
            hello()
            self.settle()

    # The sender.

    def say(self, message: Message) -> None:
        """The sender says it on stream 0."""
        self.said[message.type] += 1
        self.streams[0].append(join(self.sender.send(message)))

    def offer(self, *entries: Entry, end: bool = True) -> None:
        """Offer all that fits now; the rest, and the end, come when there is room."""
        self.waiting += entries
        self.offer_some()
        if end:
            self.end_offer()

    def offer_some(self, most: int = 256) -> None:
        """Offer what fits."""
        some = [self.waiting.popleft() for _ in range(min(most, self.sender.room, len(self.waiting)))]
        if some:
            self.entries += some
            self._size += sum(entry.size for entry in some if entry.size != UNKNOWN_SIZE)
            self.say(Offer(some))

    def folder(self, number: int, parent: int = NO_PARENT) -> Entry:
        """A listed folder, with what is in it."""
        sizes = self.inside[number]
        listing = Listing(len(sizes), 0, sum(sizes), block_digest(bytes(sizes)))
        return Entry(number, parent, b"d%d" % number, Kind.DIRECTORY, listing=listing)

    def look_inside(self) -> None:
        """Have offered what is in a folder that is not the same."""
        folder = self.sender.differing.popleft()
        for size in self.inside[folder.id]:
            number = len(self.entries) + len(self.waiting)
            self.contents[number] = content(size, seed=number)
            self.waiting.append(file(number, size, folder.id))

    @property
    def may_end(self) -> bool:
        """Whether there is no more to offer, and to be answered before that is said."""
        return not (self.waiting or self.sender.listed or self.sender.differing)

    def end_offer(self) -> None:
        """Say that there is no more."""
        assert self.may_end
        self.say(OfferEnd(len(self.entries) + self.sender.same_entries, self._size + self.sender.same_bytes, 0))

    def work(self, stream: int = 0) -> bool:
        """Take something, read it and say it on a stream; whether there was anything."""
        work = self.sender.take(stream, small=True)
        if work is None:
            return False
        try:
            pieces = self._say_batch(stream, work) if isinstance(work, list) else self._say_blocks(stream, *work)
        except BrokenError:
            self.sender.give_back(work)
            return True
        if pieces and stream not in self.dead:
            self.streams[stream].append(join(pieces))
        return True

    def _say_batch(self, stream: int, work: list[tuple[Entry, bytes | None]]) -> list[Buffer]:
        small = []
        for entry, digest in work:
            data = self.contents[entry.id]
            if isinstance(data, Reason):
                self.leave_out(entry, data)
            else:
                small.append(((entry, digest), (entry.id, block_digest(data), data)))
        if not small:
            return []
        batch = Batch([said for _, said in small])
        self.said[batch.type] += 1
        digests = [digest for _, (_, digest, _) in small]
        return self.sender.say_batch(stream, [one for one, _ in small], digests, self._packed(batch))

    def _say_blocks(self, stream: int, going: Going, number: int, count: int) -> list[Buffer]:
        entry, data = going.entry, self.contents[going.entry.id]
        if isinstance(data, Reason):
            self.leave_out(entry, data)
            return []
        block = block_of(data, number)
        if going.size is None and len(block) < BLOCK_SIZE:
            if not block:
                self.sender.pipe_ended(going, len(data))
                return []
            going.size = len(data)
        digests = block_digest(block)
        message: Block | Same | Hole | Patch
        if entry.sparse and block == _ZEROS:
            count = 1
            while block_of(data, number + count) == _ZEROS:
                count += 1
            count = going.extend(number, count)
            message, digests = Hole(entry.id, number, count), ZERO_BLOCK * count
        elif going.is_same(number, digests):
            message = Same(entry.id, number, 1)
        elif going.index is not None and (parts := _parts(going.index, data, number)):
            message = Patch(entry.id, number * BLOCK_SIZE, digests, parts, along(parts, block))
        else:
            message = Block(entry.id, number * BLOCK_SIZE, digests, block)
        self.said[message.type] += 1
        packed = self._packed(message) if isinstance(message, Block | Patch) else message
        return self.sender.say_blocks(stream, going, number, digests, packed)

    def _packed(self, message: D) -> D | Packed:
        if not self.packs:
            return message
        body = join(message.pack())
        return Packed(message.type, len(body), zstandard.ZstdCompressor().compress(body))

    def leave_out(self, entry: Entry, reason: Reason) -> None:
        """Say that it does not come; offer it again, if that is the reason."""
        if not self.sender.wants(entry):
            return
        self.say(LeftOut(entry.id, reason))
        if reason is Reason.AGAIN:
            number = len(self.entries) + len(self.waiting)
            self.contents[number] = content(entry.size, seed=99)
            self.waiting.append(Entry(number, entry.parent, entry.name, Kind.FILE, entry.size, mtime_ns=1))

    def ends(self) -> None:
        """End what is whole."""
        while self.sender.whole:
            going = self.sender.next_whole()
            if going is not None:
                self.say(self.sender.file_end(going))
        while (end := self.sender.link_end()) is not None:
            self.say(end)

    def hear(self) -> None:
        """The sender gets what is on its way to it."""
        data = self.back.popleft()
        for at in range(0, len(data), self.chunk):
            self.sender.receive_data(data[at : at + self.chunk])
            while (message := self.sender.next_event()) is not None:
                self.heard.append(message)

    # The receiver.

    def tell(self, message: Message) -> None:
        """The receiver says it."""
        self.back.append(join(self.receiver.send(message)))

    def take(self, stream: int = 0) -> None:
        """The receiver gets the next frame on a stream."""
        self.get(self.streams[stream].popleft(), stream)

    def get(self, data: bytes, stream: int = 0) -> None:
        """The receiver gets these bytes on a stream."""
        buffer = self.receiver.buffer if stream == 0 else self._buffers.setdefault(stream, ReceiveBuffer())
        for at in range(0, len(data), self.chunk):
            buffer.append(data[at : at + self.chunk])
            while True:
                message = self.receiver.next_event() if stream == 0 else next_message(buffer)
                if message is None or isinstance(message, int):
                    break
                self.heed(message, stream)

    def heed(self, message: Message, stream: int = 0) -> None:
        """The receiver does what a message asks for."""
        self.events.append(message)
        if stream and message.type not in DATA:
            raise self.receiver.misplaced(message)
        match message:
            case Offer(entries):
                self.offers.append(entries)
                self.answer_offers()
            case Block() | Batch() | Same() | Hole() | Patch() | Packed():
                self._store(message)
                self.receiver.took(stream)

    def answer_offers(self) -> None:
        """Answer what was offered, once the names of what was left out are free."""
        self.drop()
        while self.offers and not self.receiver.dropping:
            self._answer(self.offers.popleft())

    def _answer(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            assert (entry.parent, entry.name) not in self.names
            self.names.add((entry.parent, entry.name))
        answers = [(entry, self.answers.get(entry.id, Answer.ALL)) for entry in entries]
        self.tell(self.receiver.answer(answers))
        for entry, answer in answers:
            if answer is Answer.REST:
                self._tell_rest(entry)
            elif answer is Answer.DELTA:
                old = self.old[entry.id]
                blocks = range(min(len(old), entry.size) // BLOCK_SIZE)
                for start in range(0, (len(old) - self.pieces + 1) if self.pieces else 0, self.pieces or 1):
                    some = record(memoryview(old)[start : start + self.pieces])
                    assert self.receiver.tell_pieces(entry.id, 1) == 1
                    self.told.append(Index(entry.id, self.pieces, some))
                for number in blocks:
                    self.told.append(Have(entry.id, number, False, block_digest(block_of(old, number))))
                self.told.append(Have(entry.id, len(blocks), True, b""))

    def _tell_rest(self, entry: Entry) -> None:
        kept = self.kept.get(entry.id, {})
        data = self.contents[entry.id]
        assert isinstance(data, bytes)
        # What the journal says is right, whatever has become of the block.
        runs = [(number, block_digest(block_of(data, number))) for number in sorted(kept)]
        for have in haves(entry.id, runs):
            self.tell(have)
        arriving = self.receiver.arriving(entry.id)
        assert arriving is not None
        self.receiver.hold(arriving)
        self.here[entry.id] = dict(kept)
        self.checks.append(arriving)

    def tell_own(self) -> None:
        """Say some more of an old version."""
        self.tell(self.told.popleft())

    def check(self) -> None:
        """Read again what was kept of a file."""
        arriving = self.checks.popleft()
        data = self.contents[arriving.entry.id]
        assert isinstance(data, bytes)
        kept = self.kept.get(arriving.entry.id, {})
        self._ask_again(arriving, [number for number in sorted(kept) if kept[number] != block_of(data, number)])
        self.receiver.release(arriving)

    def _ask_again(self, arriving: Arriving, bad: list[int]) -> None:
        self.again.update((arriving.entry.id, number) for number in bad)
        for message in self.receiver.damaged(arriving, bad):
            self.tell(message)

    def _store(self, message: Message) -> None:
        match message:
            case Packed():
                self._store(message.opened())
            case Block(number, offset, digest, payload):
                arriving = self.receiver.claim_block(message)
                if arriving is not None:
                    _verify(payload, digest)
                    self._write(number, offset // BLOCK_SIZE, bytes(payload))
                    self.receiver.stored(arriving, len(payload))
            case Batch():
                for arriving, digest, payload in self.receiver.claim_batch(message):
                    _verify(payload, digest)
                    self._write(arriving.entry.id, 0, bytes(payload))
                    self.arrived[arriving.entry.id] = bytes(payload)
                    self.receiver.settle_small([(arriving, len(payload), digest)])
            case Patch():
                arriving = self.receiver.claim_patch(message)
                if arriving is not None:
                    self._put_together(arriving, message)
            case Same() | Hole():
                self._store_run(message)

    def _put_together(self, arriving: Arriving, patch: Patch) -> None:
        old, along = self.old[patch.id], bytes(patch.payload)
        block = patch.offset // BLOCK_SIZE
        made = b""
        for size, where in patch.parts:
            made += along[:size] if where is None else old[where : where + size]
            along = along[size:] if where is None else along
        if (patch.id, block) in self.gone or block_digest(made) != patch.digest:
            self._ask_again(arriving, [block])
        else:
            self._write(patch.id, block, made)
        self.receiver.stored(arriving, patch.size)

    def _store_run(self, run: Same | Hole) -> None:
        claimed = self.receiver.claim_run(run)
        if claimed is None:
            return
        arriving, digests = claimed
        assert len(digests) == run.count * DIGEST_SIZE
        numbers = range(run.first, run.first + run.count)
        bad = [number for number in numbers if isinstance(run, Same) and (run.id, number) in self.gone]
        for number in numbers:
            if number not in bad:
                old = self.old[run.id] if isinstance(run, Same) else b""
                self._write(run.id, number, block_of(old, number) if old else _ZEROS)
        self._ask_again(arriving, bad)
        self.receiver.stored(arriving, run.count * BLOCK_SIZE)

    def _write(self, number: int, block: int, data: bytes) -> None:
        self.taken[number, block] += 1
        self.here.setdefault(number, {})[block] = data

    def complete(self) -> None:
        """Complete what is all there."""
        receiver = self.receiver
        while receiver.whole:
            arriving = receiver.whole.popleft()
            entry, end = arriving.entry, arriving.end
            assert end is not None
            if arriving.answer is Answer.LINK:
                self.arrived[entry.id] = self.arrived[receiver.link_target(arriving).id]
            else:
                blocks = self.here.get(entry.id, {})
                assert sorted(blocks) == list(range(len(blocks)))
                self.arrived[entry.id] = b"".join(blocks[number] for number in sorted(blocks))
            assert len(self.arrived[entry.id]) == end.size
            receiver.settle(arriving, end.size, end.root)

    def drop(self) -> None:
        """Forget what was left out."""
        while self.receiver.dropped:
            entry = self.receiver.dropped.popleft()
            self.dropped.append(entry.id)
            self.names.discard((entry.parent, entry.name))

    def progress(self) -> Progress | None:
        """Say how far we are, if there is anything to say."""
        self.now += 1.0
        progress = self.receiver.progress(self.now)
        if progress is not None:
            self.tell(progress)
        return progress

    def lose(self, stream: int) -> None:
        """A stream ends, with all that is on its way on it."""
        self.dead.add(stream)
        self.streams.pop(stream)
        self.tell(self.receiver.lost(stream))

    # Both.

    def possible(self) -> list[Callable[[], object]]:
        """What may happen next."""
        sender, receiver = self.sender, self.receiver
        able: list[Callable[[], object]] = []
        if self.waiting and sender.room > 0:
            able.append(self.offer_some)
        if sender.differing:
            able.append(self.look_inside)
        able += [partial(self.take, number) for number, frames in self.streams.items() if frames]
        for due, do in (
            (sender.whole or sender._links, self.ends),
            (self.back, self.hear),
            (self.told, self.tell_own),
            (self.checks, self.check),
            (receiver.whole, self.complete),
            (receiver.dropped, self.drop),
            (self.offers and not receiver.dropping, self.answer_offers),
            (receiver.untold and receiver.state is not State.DONE, self.progress),
        ):
            if due:
                able.append(do)
        if sender.all_sent and not self.waiting:
            able.append(lambda: self.say(sender.finish()))
        if receiver.state is State.FINISHING and receiver.finished:
            able.append(lambda: self.tell(receiver.receipt()))
        if sender.has_work:  # last: it may lead to nothing before something else happens
            able += [partial(self.work, number) for number in self.streams]
        return able

    def settle(self, random: Random | None = None) -> None:
        """Do all that can be done, in order or at random."""
        for _ in range(_STEPS):
            able = self.possible()
            if not able:
                return
            (random.choice(able) if random else able[0])()
            assert self.receiver.stored_bytes >= 0
            assert self.receiver._booked >= 0
        raise AssertionError(f"it does not end: {self.sender}, {self.receiver}")

    def done(self) -> None:
        """It has ended well, and the books are right."""
        self.settle()
        sender, receiver = self.sender, self.receiver
        assert sender.state is receiver.state is State.DONE
        sender.end_of_stream()
        receiver.end_of_stream()
        assert not sender.has_work
        assert receiver._booked == 0
        assert sender.files == receiver.files == len(self.arrived)
        assert sender.skipped == receiver.skipped
        assert sender.unwanted_bytes == receiver.unwanted_bytes
        assert (sender.same_entries, sender.same_bytes) == (receiver.same_entries, receiver.same_bytes)
        assert sender.stored_bytes <= receiver.stored_bytes
        for number, data in self.arrived.items():
            assert data == self.contents[number]
            if self.answers.get(number) is Answer.LINK:
                continue
            # Everything exactly once; what was kept not at all, unless it was asked for again.
            for block in range(max(1, -(-len(data) // BLOCK_SIZE))) if data else ():
                kept = block in self.kept.get(number, {})
                assert self.taken[number, block] == (self.again[number, block] if kept else 1), (number, block)


def _verify(payload: Buffer, digest: bytes) -> None:
    if block_digest(payload) != digest:
        raise VerificationError("it arrived damaged")


def _parts(index: Pieces, data: bytes, number: int) -> list[Part]:
    start = number * BLOCK_SIZE
    stop = min(start + BLOCK_SIZE, len(data))
    begin, end = index.around(start, stop, len(data))
    return index.parts(bytearray(data[begin:end]), begin, start, stop)
