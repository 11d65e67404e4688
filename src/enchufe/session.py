"""One transfer: a connection, a machine and a store put together."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from enchufe import events
from enchufe.buffer import Buffer
from enchufe.entry import UNKNOWN_SIZE, Answer, Entry, Kind, Reason
from enchufe.errors import BrokenError, ClosedError, DeadlineExceeded, VerificationError
from enchufe.events import OnEvent
from enchufe.link import Link
from enchufe.printable import printable
from enchufe.store import LeftOut, Receiving, Sending, SendingFile
from enchufe.transfer.digests import block_digest
from enchufe.transfer.machine import Machine, told_to_peer
from enchufe.transfer.messages import (
    BATCH_FILES,
    BLOCK_SIZE,
    CONTROL_SIZE,
    ENTRY_OVERHEAD,
    Batch,
    Block,
    FileEnd,
    Finish,
    Hello,
    Message,
    Offer,
    OfferEnd,
    Progress,
    Receipt,
    Role,
    Want,
)
from enchufe.transfer.messages import LeftOut as SaidLeftOut
from enchufe.transfer.receiver import PROGRESS_SECONDS, WINDOW, Receiver
from enchufe.transfer.sender import Sender, travels_in_batch
from enchufe.transfer.states import State
from enchufe.transports import Transport

HELLO_TIMEOUT: Final = 10.0  # seconds that whoever dialed us gets until its HELLO is whole: docs/protocol.md, Limits

_OFFER_ENTRIES: Final = 256  # entries per OFFER: enough that the frame costs nothing, few enough to leave at once


@dataclass(frozen=True, slots=True)
class Options:
    """How a transfer goes.

    Attributes:
        dials: whether this side connected, and so speaks first.
        timeout: seconds without a sign of life after which the other side counts as dead.
        limit: bytes per second to send at the most; None: no limit.
        each_file: whether to tell of every single file.
    """

    dials: bool
    timeout: float = 30.0
    limit: float | None = None
    each_file: bool = False


class _Session:
    """What sending and receiving have in common: the greeting, the telling, the end."""

    def __init__(self, transport: Transport, machine: Machine, options: Options, on_event: OnEvent) -> None:
        self.link = Link(transport, machine, timeout=options.timeout, limit=options.limit)
        self.options = options
        self.tell = on_event
        self.waiter = transport.waiter
        self.began = self.waiter.now()
        self._rates: deque[tuple[float, int]] = deque([(self.began, 0)])
        self.left_out = 0

    async def greet(self, hello: Hello) -> None:
        """Exchange HELLOs."""
        machine = self.link.machine
        seconds = self.options.timeout if self.options.dials else min(HELLO_TIMEOUT, self.options.timeout)
        deadline = self.waiter.now() + seconds
        if self.options.dials:
            self.link.say(hello)
        while machine.next_event() is None:
            with suppress(DeadlineExceeded):  # whichever comes first, it has said nothing
                await self.link.exchange(deadline)
            if self.waiter.now() >= deadline:
                raise DeadlineExceeded(
                    f"the other side did not say who it is within {seconds:g} s",
                    hint="It may be busy with another transfer, or not be enchufe.",
                )
        if not self.options.dials:
            self.link.say(hello)
        self.tell(events.Connected(self.link.transport.peer))

    def tell_progress(self, stored: int, total: int, files: int) -> None:
        """Tell how far we are; the rate is over the last few seconds."""
        now = self.waiter.now()
        self._rates.append((now, stored))
        while now - self._rates[0][0] > 3.0 and len(self._rates) > 2:
            self._rates.popleft()
        since, before = self._rates[0]
        self.tell(events.Progress(stored, total, files, (stored - before) / max(now - since, 1e-3)))

    def tell_file(
        self, path: events.Path, size: int, action: str, *, digest: bytes | None = None, reason: str = ""
    ) -> None:
        """Tell what became of one entry: always where it did not arrive, else where that is wanted."""
        if action in ("refused", "left out"):
            self.left_out += 1
        elif not self.options.each_file:
            return
        self.tell(events.File(path, 0 if size == UNKNOWN_SIZE else size, action, digest, reason or None))

    def tell_receipt(self, receipt: Receipt, sent_bytes: int, skipped: int) -> events.Receipt:
        """Tell that it is done."""
        seconds = self.waiter.now() - self.began
        told = events.Receipt(
            receipt.files, receipt.size, sent_bytes, skipped, self.left_out, round(seconds, 6), receipt.digest
        )
        self.tell(told)
        return told

    @asynccontextmanager
    async def ending_well(self) -> AsyncIterator[None]:
        """Whatever ends the transfer early, tell the peer if it does not know yet."""
        try:
            yield
        except (BrokenError, ClosedError, DeadlineExceeded):
            self.link.transport.abort()  # nobody there to tell
            raise
        except BaseException as error:
            if self.link.machine.state not in (State.FAILED, State.DONE):
                await self.link.farewell(told_to_peer(error))
            raise


async def send(transport: Transport, source: Sending, options: Options, on_event: OnEvent) -> events.Receipt:
    """Send all of `source` over `transport`, which the caller closes.

    Raises:
        BrokenError, DeadlineExceeded: the other side is gone; nothing half-done is visible there.
        Refused, BusyError: the other side said no, or its disk did.
        RemoteProtocolError: the other side broke the protocol; VerificationError: what arrived is not what was sent.
        StoreError: something here could not be read at all (single files are left out instead, and told).
    """
    sending = _Sending(transport, source, options, on_event)
    async with sending.ending_well():
        return await sending.run()


class _Sending(_Session):
    """The sender's side."""

    def __init__(self, transport: Transport, source: Sending, options: Options, on_event: OnEvent) -> None:
        self.machine = Sender()
        super().__init__(transport, self.machine, options, on_event)
        self.source = source
        self._walk: Iterator[Entry] | None = source.walk()
        self._kept: Entry | None = None  # walked, and did not fit the last offer
        self._total = 0
        self._block = memoryview(bytearray(BLOCK_SIZE))
        self._file: SendingFile | None = None
        self._offset = 0
        self._ended = False  # the open file's last block was read
        self._refused_told = 0

    async def run(self) -> events.Receipt:
        await self.greet(Hello(Role.SENDER, session=os.urandom(16), epoch=1))
        offered_last = False
        try:
            while True:
                while (message := self.machine.next_event()) is not None:
                    if isinstance(message, Receipt):
                        return self.tell_receipt(message, self.machine.sent_bytes, self.machine.skipped)
                    self._heed(message)
                if not self.link.outgoing:
                    # By turns, so that wants are always on their way back while data goes.
                    if self._walk is not None and self.machine.room > 0 and not (offered_last and self.machine.wanted):
                        await self.waiter.offload(self._offer_some)
                        offered_last = True
                    elif self.machine.wanted:
                        await self._send_some()
                        offered_last = False
                    elif self.machine.all_sent:
                        self.link.say(self.machine.finish())
                await self.link.exchange()
        finally:
            if self._file is not None:
                self._file.close()

    def _heed(self, message: Message) -> None:
        if isinstance(message, Want):
            while self._refused_told < len(self.machine.refused):
                entry, answer = self.machine.refused[self._refused_told]
                self._refused_told += 1
                self.tell_file(self.source.path(entry), entry.size, "refused", reason=answer.refusal)
        elif isinstance(message, Progress):
            self.tell_progress(self.machine.stored_bytes, self._total, self.machine.files)

    def _offer_some(self) -> None:
        """Walk on, as far as one message and the window reach; end the offer where the walk ends."""
        assert self._walk is not None
        entries: list[Entry] = [self._kept] if self._kept else []
        self._kept = None
        room = CONTROL_SIZE - 4 - sum(map(_offered_size, entries))
        most = min(_OFFER_ENTRIES, self.machine.room)
        while len(entries) < most:
            entry = next(self._walk, None)
            if entry is None:
                self._walk = None
                break
            room -= _offered_size(entry)
            if room < 0:
                self._kept = entry
                break
            entries.append(entry)
        if entries:
            self._total += sum(entry.size for entry in entries if entry.size != UNKNOWN_SIZE)
            self.link.say(Offer(entries))
        if self._walk is None:
            for path, reason in self.source.left_out:
                self.tell_file(path, 0, "left out", reason=reason)
            self.link.say(OfferEnd(self.machine.offered, self._total, len(self.source.left_out)))
            self.tell(events.Offered(self.machine.offered, self._total))

    async def _send_some(self) -> None:
        """Send of the wanted files what comes next: a block, or a batch of small ones."""
        entry = self.machine.wanted[0]
        if travels_in_batch(entry):
            for said in await self.waiter.offload(self._read_batch):
                self.link.say(said)
            return
        if entry.size == UNKNOWN_SIZE:  # whoever writes into a pipe may take any time
            said_next = await self.link.beside(partial(self._read_block, entry), leave=True)
        else:
            said_next = await self.waiter.offload(self._read_block, entry)
        for said in said_next:
            self.link.say(said)
        if self._ended:
            # Only now: the root covers the block that was just said.
            end = self.machine.file_end(self._offset)
            self.link.say(end)
            self.tell_file(self.source.path(entry), end.size, "sent", digest=end.root)
            self._close_file()

    def _read_batch(self) -> list[Message]:
        files: list[tuple[int, bytes, Buffer]] = []
        room = BLOCK_SIZE
        for entry in self.machine.wanted:
            if not travels_in_batch(entry) or entry.size > room or len(files) == BATCH_FILES:
                break
            try:
                data = self.source.read_whole(entry)
            except LeftOut as left_out:
                return [*([Batch(files)] if files else []), self._leave_out(entry, left_out.reason)]
            digest = block_digest(data)
            room -= len(data)
            files.append((entry.id, digest, data))
            if self.options.each_file:
                self.tell_file(self.source.path(entry), len(data), "sent", digest=digest)
        return [Batch(files)]

    def _read_block(self, entry: Entry) -> list[Message]:
        try:
            if self._file is None:
                self._file, self._offset, self._ended = self.source.open(entry), 0, False
            known = entry.size != UNKNOWN_SIZE
            size = min(BLOCK_SIZE, entry.size - self._offset)
            count = self._file.read_into(self._block[:size], self._offset)
            self._offset += count
            self._ended = self._offset == entry.size if known else count < size
            if (known and count < size) or (self._ended and not self._file.unchanged()):
                return [self._leave_out(entry, Reason.CHANGED)]
        except LeftOut as left_out:
            return [self._leave_out(entry, left_out.reason)]
        payload = self._block[:count]
        return [Block(entry.id, self._offset - count, block_digest(payload), payload)] if count else []

    def _leave_out(self, entry: Entry, reason: Reason) -> Message:
        self._close_file()
        self.tell_file(self.source.path(entry), entry.size, "left out", reason=reason.told)
        return SaidLeftOut(entry.id, reason)

    def _close_file(self) -> None:
        self._ended = False
        if self._file is not None:
            self._file.close()
            self._file = None


def _offered_size(entry: Entry) -> int:
    return ENTRY_OVERHEAD + len(entry.name) + len(entry.target)


async def receive(
    transport: Transport, begin: Callable[[], Receiving], options: Options, on_event: OnEvent
) -> events.Receipt:
    """Receive one transfer over `transport`, which the caller closes; `begin` opens the store for it.

    When this returns, everything is verified, durable and in place; when it raises, nothing half-done is visible.

    Raises:
        StoreError: this side's disk said no; NoSpaceError: it is full.
        BrokenError, DeadlineExceeded: the other side is gone.
        RemoteProtocolError: it broke the protocol; VerificationError: what arrived is not what was sent.
        Refused: there is something here that the other side's files would collide with, or too many of them.
    """
    receiving = _Receiving(transport, options, on_event)
    async with receiving.ending_well():
        await receiving.greet(Hello(Role.RECEIVER, window=WINDOW))
        # Not before somebody is there, and not while there is nobody.
        receiving.delivery = begin()
        try:
            return await receiving.run()
        except BaseException:
            receiving.delivery.abandon()
            raise


class _Receiving(_Session):
    """The receiver's side."""

    delivery: Receiving

    def __init__(self, transport: Transport, options: Options, on_event: OnEvent) -> None:
        self.machine = Receiver()
        super().__init__(transport, self.machine, options, on_event)

    async def run(self) -> events.Receipt:
        while True:
            while (message := self.machine.next_event()) is not None:
                if isinstance(message, Finish):
                    return await self._finish()
                await self._heed(message)
            progress = self.machine.progress(self.waiter.now())
            if progress is not None:
                self.link.say(progress)
                self._tell_progress()
            await self.link.exchange(self.waiter.now() + PROGRESS_SECONDS if self.machine.untold else None)

    async def _heed(self, message: Message) -> None:
        match message:
            case Offer(entries):
                answers = await self.waiter.offload(self._admit, entries)
                self.link.say(self.machine.answer(answers))
            case OfferEnd(entries=count, size=size, left_out=left_out):
                self.left_out += left_out
                self.tell(events.Offered(count, size))
            case Block(number, offset, digest, payload):
                await self.waiter.offload(self._store_block, message)
                self.machine.stored(number, offset, digest, len(payload))
            case Batch(files):
                await self.waiter.offload(self._store_batch, files)
            case FileEnd(number, size, root):
                entry = self.machine.entry(number)
                await self.waiter.offload(self.delivery.complete, entry, size)
                self.machine.settle(number, size, root)
                self.tell_file(self.delivery.path(entry), size, "received", digest=root)
            case SaidLeftOut(reason=reason):
                entry, _ = self.machine.left_out[-1]
                self.delivery.drop(entry)
                self.tell_file(self.delivery.path(entry), entry.size, "left out", reason=reason.told)

    def _admit(self, entries: Sequence[Entry]) -> list[tuple[Entry, Answer]]:
        answers = [(entry, self.delivery.admit(entry)) for entry in entries]
        for entry, answer in answers:
            if answer.refusal:
                self.tell_file(self.delivery.path(entry), entry.size, "refused", reason=answer.refusal)
            elif answer is Answer.SKIP and entry.kind is Kind.FILE:
                self.tell_file(self.delivery.path(entry), entry.size, "skipped")
        return answers

    def _store_block(self, block: Block) -> None:
        entry = self.machine.entry(block.id)
        self._verify(entry, block.payload, block.digest)
        self.delivery.write(entry, block.offset, block.payload)

    def _store_batch(self, files: Sequence[tuple[int, bytes, Buffer]]) -> None:
        for number, digest, payload in files:
            entry = self.machine.entry(number)
            self._verify(entry, payload, digest)
            self.delivery.write_whole(entry, payload)
            self.machine.stored(number, 0, digest, len(payload))
            self.machine.settle(number, len(payload), digest)
            if self.options.each_file:
                self.tell_file(self.delivery.path(entry), len(payload), "received", digest=digest)

    def _verify(self, entry: Entry, payload: Buffer, digest: bytes) -> None:
        if block_digest(payload) != digest:
            name = printable(b"/".join(self.delivery.path(entry)))
            raise VerificationError(f"a block of '{name}' arrived damaged")

    def _tell_progress(self) -> None:
        machine = self.machine
        self.tell_progress(machine.stored_bytes, machine.offered_bytes, machine.files)

    async def _finish(self) -> events.Receipt:
        self._tell_progress()
        await self.link.beside(self.delivery.commit)
        for name in self.delivery.landed.values():
            self.tell(events.Landed((name,)))
        receipt = self.machine.receipt()
        # From here on it is ours, whatever becomes of the other side.
        with suppress(BrokenError, ClosedError, DeadlineExceeded):
            self.link.say(receipt)
            await self.link.flush()
            await self.link.await_end()
        return self.tell_receipt(receipt, self.machine.stored_bytes, self.machine.skipped)
