"""The receiver's side of a transfer."""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from enchufe import events
from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE, UNKNOWN_SIZE, Answer, Entry, Kind, Reason
from enchufe.errors import (
    BrokenError,
    ClosedError,
    DeadlineExceeded,
    EnchufeError,
    Refused,
)
from enchufe.events import OnEvent
from enchufe.printable import printable
from enchufe.session.base import HELLO_TIMEOUT, Concluded, Greeted, Options, Session
from enchufe.session.committing import Committing
from enchufe.session.consent import Declined, Offering, Question
from enchufe.session.streams import Stream
from enchufe.store import Receiving
from enchufe.store.faults import damaged
from enchufe.store.interface import WritesTogether
from enchufe.transfer.data import Batch, Block, Hole, Packed, Patch, Same
from enchufe.transfer.digests import ZERO_BLOCK, block_digest
from enchufe.transfer.machine import InterruptedThere, Looked
from enchufe.transfer.message import FILE_BLOCKS, Message, Role
from enchufe.transfer.messages import (
    CONCLUDED,
    FOLDERS,
    HEARD,
    INDEX_PIECES,
    LIST_SIZE,
    LIST_WINDOW,
    PATCHES,
    WINDOW,
    ZSTD,
    Error,
    Finish,
    Have,
    Index,
    LeftOut,
    OfferEnd,
    Ping,
    next_message,
)
from enchufe.transfer.offers import Offer
from enchufe.transfer.patches import RECORD_SIZE, piece_size
from enchufe.transfer.receiver import Arriving, Receiver, TreeMismatch, haves
from enchufe.transfer.states import State
from enchufe.transports import Transport, tcp
from enchufe.waiting import start

# Bytes of a file of which there may be more to say than is to be queued at once; simulations have less.
MUCH = 4 << 30
_TOGETHER: Final = INDEX_PIECES * RECORD_SIZE  # bytes of records in one INDEX
_LONGER: Final = 64 << 20  # bytes by which a version that is here may be longer than twice the new one, and be told of
_POSTED: Final = 64  # messages, and bytes of them, that may be queued while more is told of versions that are here
_QUEUED: Final = 4 << 20
_LOOK_AGAIN: Final = 0.05  # seconds
_TURN: Final = 0.1  # seconds of work between two exchanges, and one folder to be looked into more
_MISSING_AFTER: Final = 1.0  # seconds without data after which a stream that was not heard of will not come
_MISSING_EARLY: Final = (
    HELLO_TIMEOUT  # the same where there is more to come, which it could carry: it may be on its way
)

_LAST_WORD: Final = 3.0  # seconds that the other side gets to hear the receipt where somebody ends this one
_MOMENT: Final = 0.5  # seconds by which all may be on disk where the other side is gone: then that is told first

_GROWS_BY: Final = 8  # part of what was shown by which files may have grown when they come again, and bytes besides
_GROWS_AT_LEAST: Final = 1 << 20

_Answers = list[tuple[Entry, Answer]]
_Told = Sequence[tuple[Arriving, int, bytes]]


class ReceivingSession(Session[Receiver]):
    """Receives one transfer over a connection that was dialed from here, or whose dialer was heard.

    When `complete` returns, everything is verified, durable and in place; when it raises, nothing half-done is visible,
    and what had arrived is kept for the next attempt. It raises:
        StoreError: this side's disk said no; NoSpaceError: it is full.
        BrokenError, DeadlineExceeded: the other side is gone.
        RemoteProtocolError: it broke the protocol; VerificationError: what arrived is not what was sent.
        Refused: there is something here that the other side's files would collide with, or too many of them.
        Declined: somebody was asked, and said no.

    Args:
        begin: opens the store, once somebody is there, for what comes from that origin (`Options.origin`).
        into_pipe: it is a pipe, and writing takes as long as whoever reads it likes; for one stream only.
        compares: it takes a file of the same size and time, or a link to the same, for one that it has.
    """

    role = Role.RECEIVER
    delivery: Receiving

    def __init__(
        self,
        over: Transport | Greeted[Receiver],
        begin: Callable[[bytes], Receiving],
        options: Options,
        on_event: OnEvent,
        *,
        into_pipe: bool = False,
        compares: bool = False,
    ) -> None:
        super().__init__(over, Receiver, options, on_event)
        self._begin = begin
        self._into_pipe = into_pipe
        # Whoever is asked, or told of each file, has to hear of each.
        self._compares = compares and options.ask is None and not options.each_file
        self._together: WritesTogether | None = None
        self._offers: deque[Sequence[Entry]] = deque()
        self._backlog = False
        self._agreed = options.ask is None
        self._may_grow: int | None = None  # bytes that files may have more than was shown
        self._held: list[_Answers] = []  # until somebody has said yes
        self._held_size = 0
        self._missing = 0  # bytes that were offered, are wanted and not here, where they are counted: those of each
        self._missing_by_id: dict[int, int] = {}
        self._question: Question | None = None
        self._readers: dict[str, _Reader] = {}
        self._looks = False  # stream 0 will, by itself and soon; to wake it for each block costs more than the block
        self._quiet: tuple[list[int], float] = ([], 0.0)  # how much data had come, and since when no more

    @property
    def features(self) -> int:
        """Opens what is compressed, puts patches together, and compares folders where it compares files.

        It waits for the receipt to be heard, where the other side says so.
        """
        return HEARD | ZSTD | PATCHES | (FOLDERS if self._compares else 0)

    @property
    def window(self) -> int:
        """The whole list, where somebody is asked first."""
        return WINDOW if self.options.ask is None else LIST_WINDOW

    @property
    def crossed(self) -> int:
        """As `Session.crossed`."""
        return self.machine.received_bytes

    async def run(self) -> events.Receipt:
        """Receive everything, and return the receipt."""
        await self.greet()
        if self.options.concluded is not None:
            if self.machine.agreed(CONCLUDED):
                return await self._conclude(self.options.concluded)
            if self.options.dial is not None:  # which ends nothing there
                raise Looked("what was offered here before has arrived, and this is something else")
            # He has begun anew, having been killed perhaps; what is here is known as soon as it is on disk.
            await self._settled(self.options.concluded)
        # Not before somebody is there, and not while there is nobody.
        assert self.machine.peer is not None
        self.delivery = delivery = await self._begun(self.machine.peer.origin)
        self._together = delivery if isinstance(delivery, WritesTogether) else None
        try:
            self.open_streams()
            return await self._receive()
        except TreeMismatch:
            self._stop_work()
            self.delivery.abandon()
            raise
        except BaseException:
            self._stop_work()
            if self.concluded is None:  # else it is being put on the disk, or is there
                self.delivery.suspend()
            raise
        finally:
            if self._question is not None:
                self._question.withdraw()
                self._question = None

    async def _begun(self, origin: bytes) -> Receiving:
        """The store, opened beside the heartbeat: what cut transfers have left there may take long to look at."""
        begun: list[Receiving] = []
        try:
            await self.link.beside(lambda: begun.append(self._begin(origin)))
        except BaseException:  # an interruption may have come meanwhile
            for delivery in begun:
                delivery.suspend()
            raise
        return begun[0]

    def _stop_work(self) -> None:
        """Nobody touches the delivery after this."""
        self.end_streams()
        for reader in self._readers.values():
            reader.stop()
        self._readers.clear()

    async def _receive(self) -> events.Receipt:
        while True:
            more = await self._heed_some()
            self.say_posted()
            if self._together is not None:
                self.link.collect(self._together.hands)
            self._heed_answer()
            await self._complete()
            await self._answer_offers()
            with self.lock:
                finished = self.machine.finished
                progress = self.machine.progress(self.waiter.now())
                self._looks = untold = self.machine.untold
                late_at = self.machine.late_at
            if progress is not None:
                self.say(progress)
                self._tell_progress()
            if finished:
                return await self._finish()
            until = self._lose_missing()
            now = self.waiter.now()
            if now >= self.tell_again_at:
                self._tell_progress()
            until = min(self.tell_again_at, math.inf if until is None else until)
            try:
                await self.link.exchange(now if more or self._backlog else late_at if untold else until)
            except BrokenError:
                if not more:  # what it said before it went says more than how it went
                    raise

    async def _heed_some(self) -> bool:
        """Heed what has come, for one turn; whether there may be more."""
        until = self.waiter.now() + _TURN
        while (message := self.next_event()) is not None:
            await self._heed(message)
            if self.waiter.now() >= until:
                return True
        return False

    def _lose_missing(self) -> float | None:
        """The other side waits for what has not come, and what was said on a stream that never came here is lost.

        Returns when to look again.
        """
        if self.options.dial is not None or not self.machine.lacks_data:
            return None
        now = self.waiter.now()
        # A frame may take long: what has come of the next ones counts too.
        come = [self.machine.taken, len(self.machine.buffer), *(len(stream.buffer) for stream in self._streams)]
        if come != self._quiet[0]:
            self._quiet = come, now
        patience = _MISSING_AFTER if self.machine.state is State.FINISHING else _MISSING_EARLY
        if now < (until := self._quiet[1] + patience):
            return until
        with self.lock:
            for number in set(range(1, self._most)) - self._used:
                self._used.add(number)
                self.say(self.machine.lost(number))
        return None

    async def _heed(self, message: Message) -> None:
        match message:
            case Offer(entries):
                self._offers.append(entries)
                await self._answer_offers()
            case OfferEnd(entries=count, size=size, left_out=left_out):
                self.left_out += left_out
                self.tell(events.Offered(count, size, self.machine.unsized or None))
                self._ask()
            case LeftOut(reason=reason):
                entry = self.machine.left_out
                if entry is not None:  # it may be offered again
                    self._missing -= self._missing_by_id.pop(entry.id, 0)
                if entry is not None and reason is not Reason.AGAIN:
                    self.tell_file(self.delivery.path(entry), entry.size, "left out", reason=reason.told)
            case Block() | Batch() | Same() | Hole() | Patch() | Packed():
                if self._into_pipe:
                    # A copy: more is received meanwhile.
                    copy = type(message).unpack(memoryview(b"".join(message.pack())))
                    await self.link.beside(partial(self.take, 0, copy), leave=True)
                else:
                    await self.waiter.offload(self.take, 0, message)

    # The offer.

    async def _answer_offers(self) -> None:
        """Answer what was offered, once the names of files that were left out are free for what they became.

        Where that takes longer than a turn, the rest is a backlog.
        """
        self._backlog = False
        while self._offers and not self._backlog:
            with self.lock:
                if self.machine.dropping:
                    return  # whoever is at work on them rings the bell
            self._drop()
            entries = self._offers.popleft()
            answers = await self.waiter.offload(self._judge, entries)
            if len(answers) < len(entries):
                self._offers.appendleft(entries[len(answers) :])
                self._backlog = True
            if self._agreed:
                self._answer(answers)
            else:
                self._hold(answers)

    def _judge(self, entries: Sequence[Entry]) -> _Answers:
        """Answers, to all of them unless looking into folders takes longer than a turn."""
        until = self.waiter.now() + _TURN
        answers: _Answers = []
        for entry in entries:
            too_big = FILE_BLOCKS * BLOCK_SIZE < entry.size < UNKNOWN_SIZE or self._outgrew(entry)
            answers.append((entry, Answer.TOO_BIG if too_big else self.delivery.admit(entry)))
            if entry.listing is not None and self.waiter.now() >= until:
                break
        if self.options.allowance is not None:
            missing = {entry.id: self._missing_of(entry, answer) for entry, answer in answers}
            self._missing_by_id |= missing
            self._missing += sum(missing.values())
            self.expect(self._missing)
        return answers

    def _missing_of(self, entry: Entry, answer: Answer) -> int:
        """Bytes of an entry that are to come, as far as that is known; one that replaces another counts in whole."""
        if entry.size == UNKNOWN_SIZE or answer not in (Answer.ALL, Answer.REST, Answer.DELTA):
            return 0
        here = 0
        for first, digests in self.delivery.kept(entry) if answer is Answer.REST else ():
            start, stop = first * BLOCK_SIZE, (first + len(digests) // DIGEST_SIZE) * BLOCK_SIZE
            here += min(stop, entry.size) - start
        return entry.size - here

    def _outgrew(self, entry: Entry) -> bool:
        """Whether it comes again by more bigger than what somebody was shown lets it; else that much less is left."""
        if self._may_grow is None or (grown := self.machine.grown.pop(entry.id, 0)) <= 0:
            return False
        if grown > self._may_grow:
            return True
        self._may_grow -= grown
        return False

    def _hold(self, answers: _Answers) -> None:
        """Say nothing of it before somebody was asked."""
        self._held.append(answers)
        self._held_size += sum(len(entry.packed) for entry, _ in answers)
        if self.machine.offered >= LIST_WINDOW or self._held_size > LIST_SIZE:
            raise Refused(
                f"that is too much to be asked about: {self.machine.offered:,} entries and more",
                hint="Where you want it whatever it is, receive it with --yes (in code without ask).",
            )

    def _ask(self) -> None:
        """The offer is complete: have somebody say whether we take it, if there is anything that we can take."""
        ask, hello = self.options.ask, self.machine.peer
        if self._agreed or ask is None or hello is None:
            return
        if all(answer.refusal for answers in self._held for _, answer in answers):
            self._agree()
            return
        offering = Offering(
            (one for answers in self._held for one in answers),
            peer=self.link.transport.peer,
            name=self.options.name,
            party=self.options.party,
            session=hello.session,
            epoch=hello.epoch,
        )
        self._may_grow = _GROWS_AT_LEAST + offering.total.bytes // _GROWS_BY
        self._question = Question(ask, offering, self.ring, self.fail)

    def _heed_answer(self) -> None:
        """Go on, or end it, as soon as the answer is there."""
        if self._agreed or self._question is None or self._question.answer is None:
            return
        if not self._question.answer:
            raise Declined("the receiver declined", hint="Nothing of this offer was taken.")
        self._question = None
        self._agree()

    def _agree(self) -> None:
        self._agreed = True
        held, self._held = self._held, []
        for answers in held:
            self._answer(answers)

    def _answer(self, answers: _Answers) -> None:
        self.spend(0)
        self.say(self.machine.answer(answers))
        while self.delivery.restarted:
            path = self.delivery.restarted.pop()
            self.tell_file(path, 0, "started over", reason="it is another than when it was cut")
        rest: list[Entry] = []
        for entry, answer in answers:
            if answer.refusal:
                self.tell_file(self.delivery.path(entry), entry.size, "refused", reason=answer.refusal)
            elif answer is Answer.SKIP and entry.kind is Kind.FILE and self.options.each_file:
                self.tell_file(self.delivery.path(entry), entry.size, "skipped")
            elif answer is Answer.REST:
                rest.append(entry)
            elif answer is Answer.DELTA:
                self._reader("own").put(partial(self._tell_own, entry))
        if rest:
            self._tell_rest(rest)

    def _tell_rest(self, entries: Sequence[Entry]) -> None:
        """Say what is here of files; and have that read again."""
        held: dict[int, Arriving] = {}
        with self.lock:
            for entry in entries:
                arriving = self.machine.arriving(entry.id)
                assert arriving is not None
                self.machine.hold(arriving)
                if entry.size >= MUCH:
                    self._reader("kept").put(partial(self._tell_much, arriving, self._reader("recheck")))
                    continue
                for have in haves(entry.id, self.delivery.kept(entry)):
                    self.say(have)
                held[entry.id] = arriving

        def done(good: Sequence[Entry], others: Sequence[Entry]) -> None:
            with self.lock:
                for entry in good:
                    self.machine.release(held[entry.id])
            for entry in others:
                self._reader("recheck").put(partial(self._recheck, held[entry.id]))

        few = [one.entry for one in held.values()]
        done((), few if self._together is None else self._together.recheck_together(few, done))

    def _tell_much(self, arriving: Arriving, after: _Reader) -> None:
        """Say what is here of a big file, as fast as that leaves; and have it read again `after` that.

        Of 8 TiB it is 256 MiB.
        """
        for have in haves(arriving.entry.id, self.delivery.kept(arriving.entry)):
            self._wait_for_room()
            if self.over:
                return
            self.post(have)
        with self.lock:
            while self._posted and not self.over:
                self.changed.wait(_LOOK_AGAIN)
        after.put(partial(self._recheck, arriving))

    def _recheck(self, arriving: Arriving) -> None:
        bad = self.delivery.recheck(arriving.entry, lambda: self.over)
        with self.lock:
            self.post(*self.machine.damaged(arriving, bad))
            self.machine.release(arriving)
        self.ring()

    def _tell_own(self, entry: Entry) -> None:
        """Say what the version that is here is made of."""
        first, most = 0, entry.size // BLOCK_SIZE
        pieces = piece_size(entry.size) if self._patches else 0
        left = (2 * entry.size + _LONGER) // pieces if pieces else 0
        for digests, records in self.delivery.own(entry, pieces):
            known = digests[: (most - first) * DIGEST_SIZE]
            count = min(len(records) // RECORD_SIZE, left)
            self._wait_for_room()
            with self.lock:
                granted = self.machine.tell_pieces(entry.id, count)
            left = left - count if granted == count else 0  # there are no gaps
            told = records[: granted * RECORD_SIZE]
            if self.over or not (known or told):
                break
            for at in range(0, len(told), _TOGETHER):
                self.post(Index(entry.id, pieces, told[at : at + _TOGETHER]))
            if known:
                self.post(Have(entry.id, first, False, known))
            first += len(known) // DIGEST_SIZE
        self.post(Have(entry.id, first, True, b""))

    def _wait_for_room(self) -> None:
        """Until what was queued has left: the other side may have more and more be told, and read none of it."""
        with self.lock:
            while not self.over and (len(self._posted) > _POSTED or sum(map(len, self.link.outgoing)) > _QUEUED):
                self.changed.wait(_LOOK_AGAIN)

    @property
    def _patches(self) -> bool:
        """Whether to tell how pieces begin, so that what moved is found: on one machine it is sent sooner than that.

        A token lets nobody read.
        """
        apart = not tcp.is_one_machine(self.link.transport)
        return apart and self.options.allowance is None and self.machine.agreed(PATCHES)

    def _reader(self, name: str) -> _Reader:
        reader = self._readers.get(name)
        if reader is None:
            reader = self._readers[name] = _Reader(name, self.fail)
        return reader

    # Data, on any stream.

    async def run_stream(self, stream: Stream) -> None:
        """Take what comes on another stream, until it ends."""
        carrier, buffer, timeout = stream.carrier, stream.buffer, self.options.timeout
        while not self.over:
            while not isinstance(message := next_message(buffer), int):
                self.take(stream.number, message)
            if not await carrier.receive(buffer, message, self.waiter.now() + timeout):
                break

    def stream_ended(self, stream: Stream, error: BaseException | None) -> None:
        """Say how much was taken of a stream that has ended."""
        super().stream_ended(stream, error)
        with self.lock:
            if not self.over and stream.begun:
                self.post(self.machine.lost(stream.number))

    def take(self, stream: int, message: Message) -> None:
        """Verify and write what came on a stream."""
        if isinstance(message, Packed):
            message = message.opened()
        if self.options.allowance is not None:
            self.spend(_content(message))
        match message:
            case Block():
                self._store_block(message)
            case Batch():
                if self._store_batch(stream, message):
                    return
            case Same() | Hole():
                self._store_run(message)
            case Patch():
                self._store_patch(message)
            case Ping():
                return
            case Error() if stream:
                raise BrokenError("the other side has turned this stream away")
            case _:
                raise self.machine.misplaced(message)
        with self.lock:
            self.machine.took(stream)
            rings = stream and (self.machine.pressing or not self._looks)
        if rings:
            self.ring()

    def _store_block(self, block: Block) -> None:
        with self.lock:
            arriving = self.machine.claim_block(block)
        if arriving is None:
            return
        self._verify(arriving.entry, block.payload, block.digest)
        self.delivery.write(arriving.entry, block.offset, block.payload, block.digest)
        with self.lock:
            self.machine.stored(arriving, len(block.payload))

    def _store_batch(self, stream: int, batch: Batch) -> bool:
        """Store what it holds; True where others are still at that."""
        with self.lock:
            claimed = self.machine.claim_batch(batch)
        told = [(arriving, len(payload), digest) for arriving, digest, payload in claimed]
        # Frames of other streams count as taken in their order, should the stream be lost.
        if not stream and told and self._together is not None:
            files = [(arriving.entry, payload, digest) for arriving, digest, payload in claimed]

            def done() -> None:
                self._settle_small(told)
                with self.lock:
                    self.machine.took(0)

            if self._together.write_together(files, done):
                return True
        write_whole = self.delivery.write_whole
        for arriving, digest, payload in claimed:
            entry = arriving.entry
            self._verify(entry, payload, digest)
            write_whole(entry, payload, digest)
        self._settle_small(told)
        return False

    def _settle_small(self, told: _Told) -> None:
        with self.lock:
            self.machine.settle_small(told)
        if self.options.each_file:
            for arriving, size, digest in told:
                self.tell_file(self.delivery.path(arriving.entry), size, "received", digest=digest)

    def _store_run(self, run: Same | Hole) -> None:
        with self.lock:
            claimed = self.machine.claim_run(run)
        if claimed is None:
            return
        arriving, digests = claimed
        bad: list[int] = []
        if isinstance(run, Same):
            each = [digests[at : at + DIGEST_SIZE] for at in range(0, len(digests), DIGEST_SIZE)]
            bad = self.delivery.same(arriving.entry, run.first, each)
        elif self._into_pipe:  # where nothing can be left unwritten
            self._write_zeros(arriving.entry, run)
        with self.lock:
            if bad:  # before it may be complete
                self.post(*self.machine.damaged(arriving, bad))
            self.machine.stored(arriving, run.count * BLOCK_SIZE)

    def _write_zeros(self, entry: Entry, run: Hole) -> None:
        zeros = bytes(BLOCK_SIZE)
        for number in range(run.first, run.first + run.count):
            if self.over:
                return
            self.delivery.write(entry, number * BLOCK_SIZE, zeros, ZERO_BLOCK)

    def _store_patch(self, patch: Patch) -> None:
        with self.lock:
            arriving = self.machine.claim_patch(patch)
        if arriving is None:
            return
        block = memoryview(bytearray(patch.size))
        copies: list[tuple[int, memoryview]] = []
        at, along = 0, memoryview(patch.payload)
        for size, where in patch.parts:
            part = block[at : at + size]
            at += size
            if where is None:
                part[:], along = along[:size], along[size:]
            else:
                copies.append((where, part))
        whole = self.delivery.read_own(arriving.entry, copies) and block_digest(block) == patch.digest
        if whole:
            self.delivery.write(arriving.entry, patch.offset, block, patch.digest)
        with self.lock:
            if not whole:  # what is here has changed since it was told of
                self.post(*self.machine.damaged(arriving, [patch.offset // BLOCK_SIZE]))
            self.machine.stored(arriving, patch.size)

    def _verify(self, entry: Entry, payload: Buffer, digest: bytes) -> None:
        if block_digest(payload) != digest:
            raise damaged(self.delivery.path(entry))

    # The end.

    def _drop(self) -> None:
        while self.machine.dropped:
            self.delivery.drop(self.machine.dropped.popleft())

    async def _complete(self) -> None:
        """Finish the files of which all has come, and forget those that were left out."""
        self._drop()
        machine = self.machine
        while machine.whole:
            arriving = machine.whole.popleft()
            entry, end = arriving.entry, arriving.end
            assert end is not None
            if arriving.answer is Answer.LINK:
                self.delivery.link(entry, machine.link_target(arriving))
            else:
                await self.waiter.offload(self.delivery.complete, entry, end.size)
            with self.lock:
                machine.settle(arriving, end.size, end.root)
            self.tell_file(self.delivery.path(entry), end.size, "received", digest=end.root)

    def _tell_progress(self) -> None:
        machine = self.machine
        total = machine.offered_bytes - machine.unwanted_bytes
        self.tell_progress(machine.stored_bytes, machine.held_bytes, total, machine.files)

    async def _finish(self) -> events.Receipt:
        self._tell_progress()
        self._stop_work()
        self.link.collect(None)
        machine, delivery = self.machine, self.delivery
        receipt, skipped = machine.receipt(), machine.skipped
        remember = machine.agreed(HEARD)  # else it would stay, since nobody says that it may go

        def commit() -> events.Receipt:
            try:
                delivery.commit(remember=remember)
            except BaseException:
                delivery.suspend()
                raise
            for path, names in delivery.bare:
                told = printable(b", ".join(names))
                self.tell_file(path, 0, "left out", reason=f"its extended attributes cannot be kept here: {told}")
            for name in delivery.landed.values():
                self.tell(events.Landed((name,)))
            # From here on it is ours, whatever becomes of the other side.
            arrived = self.receipt_of(Concluded(receipt, skipped, self.left_out), machine.received_bytes)
            self.tell(arrived)
            return arrived

        return await self._conclude(Concluded(receipt, skipped, self.left_out, Committing(commit), delivery.heard))

    async def _settled(self, concluded: Concluded) -> None:
        """Wait until all is on disk that came before, or raise why it is not; what is offered meanwhile waits, too."""
        committing = concluded.committing
        assert committing is not None
        while not committing.settled:
            await self.link.beside(partial(committing.wait, _MOMENT), leave=True)
            self.say_posted()
        committing.result()

    async def _conclude(self, concluded: Concluded) -> events.Receipt:
        """Wait until all is on disk, and until the other side has heard so; where it may not, `concluded` is kept."""
        committing = concluded.committing
        assert committing is not None
        self.concluded = concluded
        committing.ring = self.ring
        try:
            while not committing.settled:
                while self.next_event() is not None:
                    pass
                self.say_posted()
                await self.link.exchange()
        except EnchufeError:
            if self.machine.state is State.FAILED or not committing.wait(_MOMENT):
                raise
        except BaseException:  # whoever ends is not told that it is over before it is, nor is the other side
            with suppress(Exception):
                committing.result()
                await self._say_receipt(concluded, _LAST_WORD)
            raise
        self.concluded = None
        receipt = committing.result()
        self.concluded = concluded
        await self._say_receipt(concluded, self.options.timeout)
        return receipt

    async def _say_receipt(self, concluded: Concluded, seconds: float) -> None:
        """Say it, and wait until it was heard, for no longer than this."""
        self.say(concluded.receipt)
        self.link.push()
        if not self.machine.agreed(HEARD):  # it goes without a word
            self.concluded = None
            await self.link.await_end()
            return
        deadline = self.waiter.now() + seconds  # whatever it says: nobody is held here by pings
        try:
            while not isinstance(self.next_event(), Finish):
                # It has come again, or is gone, or has had its time.
                if self._failure is not None or self.link.ended or self.waiter.now() >= deadline:
                    return
                await self.link.exchange(deadline)
            self.concluded = None
            concluded.heard()
            await self.link.await_end()
        except (BrokenError, ClosedError, DeadlineExceeded) as error:
            if isinstance(error, InterruptedThere):  # somebody there wants no more of it
                self.concluded = None
        except EnchufeError:  # TLS may refuse or be refused even now, and it may have found the receipt wrong
            self.concluded = None


def _content(message: Message) -> int:
    """Bytes of files in a message."""
    match message:
        case Block() | Patch():
            return len(message.payload)
        case Batch():
            return sum(len(payload) for _, _, payload in message.files)
    return 0


class _Reader:
    """A thread that reads what is on the disk, one thing after the other, beside all that arrives."""

    def __init__(self, name: str, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail
        self._stopped = False
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"enchufe {name}", daemon=True)
        start(self._thread)

    def put(self, job: Callable[[], None]) -> None:
        """Have it done, after the others."""
        self._jobs.put(job)

    def stop(self) -> None:
        """End after what is being done now."""
        self._stopped = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopped:
            try:
                job()
            except BaseException as error:  # noqa: BLE001 (raised where the session is waited for)
                self._fail(error)
                return
