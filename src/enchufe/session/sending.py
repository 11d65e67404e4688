"""The sender's side of a transfer."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final

from enchufe import events
from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, UNKNOWN_SIZE, Entry, Reason
from enchufe.errors import EnchufeError, StoreError
from enchufe.events import OnEvent
from enchufe.link import PING_AFTER, head
from enchufe.session.base import Concluded, Greeted, Options, Session
from enchufe.session.packing import Packer
from enchufe.session.shared_files import SharedFiles
from enchufe.session.streams import Stream
from enchufe.store import LeftOut, Sending, SendingFile
from enchufe.store.interface import Contents, Lister, ReadsTogether
from enchufe.store.reading import Content, read_each
from enchufe.transfer.data import Batch, Block, Hole, Packed, Patch, Same
from enchufe.transfer.digests import ZERO_BLOCK, block_digest
from enchufe.transfer.going import Going, changed_since
from enchufe.transfer.message import CONTROL_SIZE, RUN_BLOCKS, Message, Role
from enchufe.transfer.messages import (
    CONCLUDED,
    FOLDERS,
    HEARD,
    PATCHES,
    ZSTD,
    Have,
    Lost,
    OfferEnd,
    Ping,
    Progress,
    Receipt,
    Want,
    frame,
)
from enchufe.transfer.messages import LeftOut as SaidLeftOut
from enchufe.transfer.offers import Offer, offered_size
from enchufe.transfer.patches import along
from enchufe.transfer.sender import Sender, Small, Work
from enchufe.transfer.states import State
from enchufe.transports import Transport, advance, tcp

_OFFER_ENTRIES: Final = 256  # entries per OFFER: enough that the frame costs nothing, few enough to leave at once
_OFFER_LISTED: Final = 2048  # entries listed in one OFFER: the other side looks at them while we look at the next
_LISTED_IN_VAIN: Final = 5_000  # entries more than were the same: a sixtieth of a second
_WALKING: Final = 0.1  # seconds between two exchanges, and one folder or a few entries more: a disk may be slow
_FEW: Final = 16
_TELLING: Final = 0.1  # seconds between two exchanges, and one line more: a terminal may be slow
_AHEAD: Final = 4  # batches that others read while one leaves: less than they have memory for


class SendingSession(Session[Sender]):
    """Sends all of a source over a connection that was dialed from here, or whose dialer was heard.

    `complete` raises:
        BrokenError, DeadlineExceeded: the other side is gone; nothing half-done is visible there.
        Refused, BusyError: the other side said no, or its disk did.
        RemoteProtocolError: the other side broke the protocol; VerificationError: what arrived is not what was sent.
        StoreError: something here could not be read at all (single files are left out instead, and told).
    """

    role = Role.SENDER

    def __init__(self, over: Transport | Greeted[Sender], source: Sending, options: Options, on_event: OnEvent) -> None:
        super().__init__(over, Sender, options, on_event)
        self.machine.only_looks = options.only_looks
        self.source = source
        self._walk: Iterator[Entry] | None = source.walk()
        self._lister = source if isinstance(source, Lister) else None
        self._differing_entries = 0
        self._insides: deque[Iterator[Entry]] = deque()  # of folders that were listed and are not the same
        self._pending: deque[Entry] = deque()  # numbered, and not offered yet
        self._total = 0
        self._block = memoryview(bytearray(BLOCK_SIZE))
        self._files = SharedFiles(source.open)
        self._unsendable: deque[tuple[Entry, Reason]] = deque()
        self._told = 0  # how many of those that the source could not offer
        self._to_tell: Iterator[tuple[events.Path, str]] = iter(())
        # Small files cost the processor, not the link, and Python's threads have one between them: where the link is
        # fast they all go on stream 0, which is a quarter faster than on two.
        self._far = False
        self._offered_last = False
        self._packer: Packer | None = None
        self._queued = 0  # bytes of data that were queued on stream 0 last
        self._together = source if isinstance(source, ReadsTogether) else None
        self._reading = 0  # batches that others read, and of which nothing is said yet
        self._read: deque[tuple[list[Small], Contents]] = deque()  # of them those that have been
        self._leaving: Contents | None = None  # what is queued is in its memory

    @property
    def features(self) -> int:
        """Makes patches; compresses, unless it is told never to; lists folders, where the source can.

        It says that it has heard the receipt.
        """
        return (
            HEARD
            | PATCHES
            | (0 if self.options.compress == "never" else ZSTD)
            | (0 if self._lister is None else FOLDERS)
        )

    @property
    def crossed(self) -> int:
        """As `Session.crossed`."""
        return self.machine.taken  # not what was sent: a connection that is always cut takes any amount of that

    async def complete(self) -> events.Receipt:
        """As `Session.complete`; nobody reads of the source any more then, and it is closed."""
        try:
            return await super().complete()
        finally:
            self.source.close()

    async def run(self) -> events.Receipt:
        """Send everything, and return the receipt."""
        await self.greet()
        self._far = self.trip is not None and self.trip >= tcp.NEAR
        if self.machine.agreed(CONCLUDED) and self.options.concluded is not None:
            return await self._hear_receipt(self.options.concluded)
        self._packer = self._agreed_packer()
        self._list_where_it_pays()
        self.open_streams()
        try:
            while True:
                while (message := self.next_event()) is not None:
                    if isinstance(message, Receipt):
                        assert self.concluded is not None
                        self.machine.stored_bytes = message.size
                        self._tell_progress()
                        return await self._heard(self.concluded)
                    self._heed(message)
                self.say_posted()
                if self._together is not None:
                    self.link.collect(self._together.hands)
                self._say_ends()
                self._tell_untold()
                if not self.link.outgoing:
                    self._release()
                    await self._say_more()
                await self.link.exchange(self.waiter.now() if self._untold else self.tell_again_at)
                if self.waiter.now() >= self.tell_again_at:
                    self._tell_progress()
        finally:
            self._files.close_all()

    async def _hear_receipt(self, concluded: Concluded) -> events.Receipt:
        """All was sent before, and the other side has it all: wait for its word for that."""
        self.concluded, self.machine.concluded = concluded, concluded.receipt
        while not isinstance(self.next_event(), Receipt):
            self.say_posted()
            await self.link.exchange()
        return await self._heard(concluded)

    async def _heard(self, concluded: Concluded) -> events.Receipt:
        """The receipt has come: say so, or the other side would wait for us to come again for it.

        Not before it is told here: who ends us in between would send all of it again, and it would be known no more.
        """
        receipt = self.receipt_of(concluded, self.machine.sent_bytes)
        self.tell(receipt)
        self.say(self.machine.finish())
        with suppress(EnchufeError):
            await self.link.flush()
        self.concluded = None
        return receipt

    def next_event(self) -> Message | None:
        """As `Session.next_event`; what is wanted too much of, no stream can take meanwhile."""
        with self.lock:
            message = super().next_event()
            if isinstance(message, Want | Have):
                try:
                    self.expect(self.machine.missing_bytes)
                    self.spend(0)
                except EnchufeError:
                    self.over = True  # before another stream takes what this has made known
                    raise
            return message

    @property
    def has_use_for_streams(self) -> bool:
        """Only for work: to wake them for each file of which all is there costs more than the file."""
        return self.machine.has_work

    def _heed(self, message: Message) -> None:
        if isinstance(message, Want):
            self._tell_untold()  # before what comes next, which may end it
            self._look_inside()
        elif isinstance(message, Progress):
            self._tell_progress()
        elif isinstance(message, Lost):
            # It may be dead on their side only, and we would send until nobody has answered for long.
            for stream in self._streams:
                if stream.number == message.stream:
                    stream.stop()

    def _tell_progress(self) -> None:
        machine = self.machine
        total = self._total - machine.unwanted_bytes
        self.tell_progress(machine.stored_bytes, machine.held_bytes, total, machine.files)

    @property
    def _untold(self) -> bool:
        """Whether it is to be told yet what was refused, or, once the walk is over, what it could not offer."""
        machine = self.machine
        walked = not self._has_more and not machine.listed
        return bool(machine.refused) or (walked and self._told < len(self.source.left_out))

    def _tell_untold(self) -> None:
        """Tell it, for as long as the other side may wait for a sign of life: it may be very much."""
        until = self.waiter.now() + _TELLING
        while self._untold and self.waiter.now() < until:
            if self.machine.refused:
                entry, answer = self.machine.refused.popleft()
                self.tell_file(self.source.path(entry), entry.size, "refused", reason=answer.refusal)
                continue
            left_out = next(self._to_tell, None)
            if left_out is None:  # all but what has come since
                self._to_tell = islice(self.source.left_out, self._told, None)
                left_out = next(self._to_tell)
            self._told += 1
            self.tell_file(left_out[0], 0, "left out", reason=left_out[1])

    async def _say_more(self) -> None:
        """Say what comes next on stream 0: an offer or data by turns, so that wants are always on their way back."""
        machine = self.machine
        may_offer = self._has_more and machine.room > 0
        turn = not may_offer or self._offered_last
        work = self._take_work() if turn and not self._read else None
        if work is not None:  # first, for nobody else has it: whoever is asked to read may have read before
            self._offered_last = False
            await self._send_work(work)
        elif turn and self._read:
            self._offered_last = False
            self._say_read()
        elif may_offer:
            await self._offer_some()
            self._offered_last = True
        elif not self._has_more:
            self._end_offer()
            with self.lock:
                if machine.all_sent and not self._untold:
                    self.say(machine.finish())
                    self.concluded = Concluded(machine.receipt(), machine.skipped, self.left_out)

    def _take_work(self) -> Work | None:
        """What to read now; what others can read beside they begin with."""
        while self._reading < _AHEAD:
            with self.lock:
                work = self.machine.take(0, small=True, blocks=not self._spared)
            if not (isinstance(work, list) and self._read_beside(work)):
                return work
        return None

    @property
    def _spared(self) -> bool:
        """Whether stream 0 leaves blocks to the others: where it is TLS, a byte costs several times as much there."""
        return self.secret is not None and any(stream.begun and not stream.over for stream in self._streams)

    def stream_ended(self, stream: Stream, error: BaseException | None) -> None:
        """Have stream 0 look whether it was the last."""
        super().stream_ended(stream, error)
        self.ring()

    # Offering.

    @property
    def _has_more(self) -> bool:
        """Whether there is something to offer, or may be."""
        return self._walk is not None or bool(self._pending or self._insides)

    async def _offer_some(self) -> None:
        """Walk on, as far as one message and the window reach; end the offer where the walk ends."""
        entries = await self.waiter.offload(self._next_entries)
        if entries:
            self._total += sum(entry.size for entry in entries if entry.size != UNKNOWN_SIZE)
            self.say(Offer(entries))
        if not self._has_more:
            self._end_offer()

    def _next_entries(self) -> list[Entry]:
        """What fits one message, is found soon, and is no more than the other side can look at while we walk on."""
        until = self.waiter.now() + _WALKING
        entries: list[Entry] = []
        room, listed = CONTROL_SIZE - 4, 0
        most = min(_OFFER_ENTRIES, self.machine.room)
        while len(entries) < most and listed < _OFFER_LISTED and (entry := self._next_entry()) is not None:
            room -= offered_size(entry)
            if room < 0:
                self._pending.appendleft(entry)
                break
            entries.append(entry)
            if entry.listing is not None:
                listed += entry.listing.entries
            elif len(entries) % _FEW:
                continue
            if self.waiter.now() >= until:
                break
        return entries

    def _next_entry(self) -> Entry | None:
        if self._pending:
            return self._pending.popleft()
        while self._insides:
            if (entry := next(self._insides[0], None)) is not None:
                return entry
            self._insides.popleft()
        entry = None if self._walk is None else next(self._walk, None)
        if entry is None:
            self._walk = None
        return entry

    def _end_offer(self) -> None:
        """Say that there is no more, once, as soon as that is known and told."""
        machine = self.machine
        if machine.state is not State.OFFERING or machine.listed:
            return
        self._tell_untold()
        if self._untold:
            return
        count, size = machine.offered + machine.same_entries, self._total + machine.same_bytes
        self.say(OfferEnd(count, size, len(self.source.left_out)))
        self.tell(events.Offered(count, size, machine.unsized or None))

    def _look_inside(self) -> None:
        """Have what is in folders that are not the same offered, and go by the answers in what is listed at all."""
        if self._lister is None:
            return
        while self.machine.differing:
            folder = self.machine.differing.popleft()
            assert folder.listing is not None
            self._differing_entries += folder.listing.entries
            self._insides.append(self._lister.inside(folder))
        self._list_where_it_pays()

    def _list_where_it_pays(self) -> None:
        if self._lister is not None:
            in_vain = self._differing_entries - self.machine.same_entries
            self._lister.lists = self.machine.agreed(FOLDERS) and in_vain < _LISTED_IN_VAIN

    # Data.

    async def _send_work(self, work: Work) -> None:
        """On stream 0: read it and queue what is said of it."""
        pipe = not isinstance(work, list) and work[0].size is None
        # Whoever writes into a pipe may take any time.
        pieces = await (
            self.link.beside(partial(self.read, 0, work, self._block), leave=True)
            if pipe
            else self.waiter.offload(self.read, 0, work, self._block)
        )
        self._queue(pieces)

    def _queue(self, pieces: list[Buffer]) -> None:
        if self._packer is not None:  # what was queued before is sent by now
            self._packer.note(self._queued, self.waiter.now())
        self._queued = sum(map(len, pieces))
        self.link.outgoing += pieces

    def _read_beside(self, work: list[Small]) -> bool:
        """Have small files read by others; False where we are to read them ourselves."""

        def done(contents: Contents) -> None:
            self._read.append((work, contents))

        if self._together is None or not self._together.read_together([entry for entry, _ in work], done):
            return False
        self._reading += 1
        return True

    def _say_read(self) -> None:
        """Queue what is said of small files that others have read."""
        work, contents = self._read.popleft()
        self._reading -= 1
        self._leaving = contents
        self._queue(self._say_batch(0, work, contents.files))

    def _release(self) -> None:
        """What was queued has left."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            leaving.release()

    async def run_stream(self, stream: Stream) -> None:
        """As `_send_work`, over and over on another stream."""
        block = memoryview(bytearray(BLOCK_SIZE))
        carrier, timeout = stream.carrier, self.options.timeout
        said = self.waiter.now()
        while (pieces := self._next_pieces(stream.number, block, said + PING_AFTER)) is not None:
            size = sum(map(len, pieces))
            # A moment's worth at a time where there is a limit: a block may last longer than the other side's patience.
            while pieces and (granted := self._granted(stream.number)):
                part = head(pieces, granted) if granted < sum(map(len, pieces)) else pieces
                sent = sum(map(len, part))
                await carrier.send(part, self.waiter.now() + timeout)
                said = self.waiter.now()
                pieces = advance(pieces, sent)
                if self.pace is not None:
                    self.pace.spend(sent)
            if self._packer is not None:
                self._packer.note(size, self.waiter.now())

    def _next_pieces(self, stream: int, block: memoryview, ping: float) -> list[Buffer] | None:
        """What to send next on a stream, a ping where there is nothing until then; None when all is over."""
        with self.lock:
            while not self.over:
                work = self.machine.take(stream, small=self._far)
                if work is not None:
                    break
                # Not whether the wait timed out: whatever the other side says ends it, and that says nothing here.
                if (left := ping - self.waiter.now()) <= 0:
                    return frame(Ping())
                self.changed.wait(left)
            else:
                return None
        return self.read(stream, work, block)

    def read(self, stream: int, work: Work, block: memoryview) -> list[Buffer]:
        """Read what was taken, and register it as said on this stream: the bytes to send, good until the next call.

        What cannot be read is left out.
        """
        pieces = self._read_batch(stream, work) if isinstance(work, list) else self._read_blocks(stream, work, block)
        if self.machine.pressing or self._unsendable:
            self.ring()
        return pieces

    def _read_batch(self, stream: int, work: list[Small]) -> list[Buffer]:
        return self._say_batch(stream, work, read_each((entry for entry, _ in work), self.source.read_whole))

    def _say_batch(self, stream: int, work: list[Small], contents: Sequence[Content]) -> list[Buffer]:
        files: list[tuple[int, bytes, Buffer]] = []
        said: list[Small] = []
        for small, content in zip(work, contents, strict=True):
            entry = small[0]
            if isinstance(content, LeftOut):
                if small[1] is not None:  # it was said to be sent: too late to leave it out
                    raise changed_since(entry) from content
                self._unsendable.append((entry, content.reason))
                continue
            files.append((entry.id, content[1], content[0]))
            said.append(small)
        if self._unsendable:
            self.ring()
        if not files:
            return []
        batch = Batch(files)
        message = batch if self._packer is None else self._packer.packed(batch)
        with self.lock:
            try:
                pieces = self.machine.say_batch(stream, said, [digest for _, digest, _ in files], message)
            except EnchufeError:
                self.machine.give_back(said)
                raise
        self.spend(sum(len(content) for _, _, content in files))
        if self.options.each_file:
            for (entry, _), (_, root, _) in zip(said, files, strict=True):
                self.tell_file(self.source.path(entry), entry.size, "sent", digest=root)
        return pieces

    def _read_blocks(self, stream: int, work: Work, block: memoryview) -> list[Buffer]:
        assert not isinstance(work, list)
        going, number, _ = work
        entry, offset, count, got = going.entry, number * BLOCK_SIZE, 1, BLOCK_SIZE
        message: Block | Hole | Patch | Same
        try:
            with self._files.reading(entry) as file:
                zeros = file.holes(offset, entry.size) // BLOCK_SIZE if entry.sparse else 0
                if not zeros:
                    size = BLOCK_SIZE if going.size is None else min(BLOCK_SIZE, entry.size - offset)
                    got = file.read_into(block[:size], offset)
                    if got < size and going.size is not None:
                        raise LeftOut(Reason.CHANGED, self.source.path(entry))
                    digests = block_digest(block[:got])
                    message = _message(going, file, number, block[:got], digests)
            if zeros:
                with self.lock:
                    count = going.extend(number, min(zeros, RUN_BLOCKS))
                message, digests = Hole(entry.id, number, count), ZERO_BLOCK * count
        except LeftOut as left_out:
            if going.ended and not going.left_out:
                raise changed_since(entry) from left_out
            self._unsendable.append((entry, left_out.reason))
            return []
        packed: Block | Hole | Packed | Patch | Same = message
        if self._packer is not None and isinstance(message, Block | Patch):
            packed = self._packer.packed(message)
        with self.lock:
            if going.size is None and got < BLOCK_SIZE:
                if not got:
                    self.machine.pipe_ended(going, offset)
                    return []
                going.size = offset + got
            try:
                pieces = self.machine.say_blocks(stream, going, number, digests, packed)
            except StoreError:  # they were lost, and are others by now
                if going.ended:
                    raise
                self._unsendable.append((entry, Reason.CHANGED))
                return []
            except EnchufeError:
                self.machine.give_back((going, number, count))
                raise
        if pieces and isinstance(message, Block | Patch):
            self.spend(len(message.payload))
        if going.ended:  # lost or damaged there, or left out: nobody comes to close it
            self._files.close(entry)
        return pieces

    def _granted(self, stream: int) -> int:
        """Wait until bytes may go, and say how many; 0 when all is over."""
        if self.pace is None:
            return sys.maxsize
        with self.lock:
            while not self.over:
                granted, later = self.pace.grant(stream, self.waiter.now())
                if granted:
                    return granted
                assert later is not None
                self.changed.wait(max(later - self.waiter.now(), 0.001))
        return 0

    # Ends.

    def _say_ends(self) -> None:
        """End the files of which all is said, and the links to them; and leave out what cannot be sent."""
        machine = self.machine
        while machine.whole:
            entry = machine.whole[0].entry
            unchanged = self._files.unchanged(entry)
            with self.lock:
                going = machine.next_whole()
                if going is None:
                    continue
                if not unchanged:
                    self._unsendable.append((entry, Reason.CHANGED))
                    continue
                end = machine.file_end(going)
                self.say(end)
            self._files.close(entry)
            self.tell_file(self.source.path(entry), end.size, "sent", digest=end.root)
        while self._unsendable:
            self._leave_out(*self._unsendable.popleft())
        while (link := machine.link_end()) is not None:
            entry = machine.wanted(link.id)
            if isinstance(link, SaidLeftOut):
                self._leave_out_link(entry)
            else:
                self.say(link)
                self.tell_file(self.source.path(entry), link.size, "sent", digest=link.root)

    def _leave_out_link(self, entry: Entry) -> None:
        """The name that it was to be linked to is left out, and it may be a good file all the same."""
        reason = Reason.CHANGED
        try:
            self.source.open(entry).close()
        except LeftOut as left_out:
            reason = left_out.reason
        self._leave_out(entry, reason)

    def _leave_out(self, entry: Entry, reason: Reason) -> None:
        """A file cannot be sent as it was offered: offer it once more as it is now, or leave it out."""
        self._files.close(entry)
        if not self.machine.wants(entry):
            return  # another stream found out too
        again = self.source.again(entry) if reason is Reason.CHANGED else None
        if again is not None:
            self._pending.append(again)
            reason = Reason.AGAIN
        self.say(SaidLeftOut(entry.id, reason))
        if again is None:
            self.tell_file(self.source.path(entry), entry.size, "left out", reason=reason.told)

    def _agreed_packer(self) -> Packer | None:
        if not self.machine.agreed(ZSTD):
            return None
        return Packer(always=self.options.compress == "always", slow=self._far, now=self.waiter.now())


def _message(going: Going, file: SendingFile, number: int, block: memoryview, digest: bytes) -> Block | Patch | Same:
    """What to say of a block, by what the receiver's own version has."""
    entry, start = going.entry, number * BLOCK_SIZE
    stop = start + len(block)
    if going.is_same(number, digest):
        return Same(entry.id, number, 1)
    index = going.index
    if index is None or not len(index):
        return Block(entry.id, start, digest, block)
    begin, end = index.around(start, stop, entry.size)
    window = bytearray(end - begin)
    view = memoryview(window)
    file.read_into(view[: start - begin], begin)
    view[start - begin : stop - begin] = block
    file.read_into(view[stop - begin :], stop)
    parts = index.parts(window, begin, start, stop)
    if not parts:
        return Block(entry.id, start, digest, block)
    return Patch(entry.id, start, digest, parts, along(parts, block))
