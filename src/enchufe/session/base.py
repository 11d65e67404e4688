"""What sending and receiving have in common: the greeting, the streams, the telling, the end."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import field
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar, runtime_checkable

from enchufe import events
from enchufe.dataclass import dataclass
from enchufe.entry import UNKNOWN_SIZE
from enchufe.errors import (
    BrokenError,
    ClosedError,
    DeadlineExceeded,
    EnchufeError,
    LocalProtocolError,
    RemoteProtocolError,
)
from enchufe.events import OnEvent
from enchufe.link import Link
from enchufe.pace import Pace
from enchufe.session.carrier import Carrier
from enchufe.session.committing import Committing
from enchufe.session.consent import Ask
from enchufe.session.streams import Stream
from enchufe.transfer.machine import Machine, TakenOver, told_to_peer
from enchufe.transfer.message import Message, Role
from enchufe.transfer.messages import CONCLUDED, STREAMS, Hello, Receipt
from enchufe.transfer.states import State
from enchufe.transports import Transport, tcp
from enchufe.waiting import Doorbell

if TYPE_CHECKING:
    from enchufe.access import Admitted

_RATE_OVER: Final = 3.0  # seconds, or more: from one thing that was told to another
_TELL_AGAIN: Final = 1.0  # seconds without progress after which that is told, until the rate is 0

HELLO_TIMEOUT: Final = 10.0  # seconds that whoever dialed us gets until its HELLO is whole: docs/protocol.md, Limits

# How many streams, where nobody said: measured by benchmarks.files, benchmarks.wan and benchmarks.wan.streams.
_NEAR_STREAMS: Final = 2
_NEAR_SEALED: Final = 3  # of which stream 0, in TLS, leaves the blocks to the others
_FAR_STREAMS: Final = 8
_FARTHER_STREAMS: Final = 16  # also where each loss slows a connection down
_FARTHER: Final = 0.2  # seconds of round trip: 8 connections have too little under way there to fill 1 Gbit/s


class Allowance(Protocol):
    """How much content one transfer may have cross. From any thread."""

    def expect(self, total: int) -> None:
        """So many bytes are to cross, as far as that is known: in all, those included that have.

        Raises:
            Refused: there are not so many.
        """

    def spend(self, size: int) -> None:
        """So many bytes cross now; before the first, 0 of them do.

        Raises:
            Refused: there are not so many left.
            StoreError: it cannot be written down.
        """

    def settle(self, *, finished: bool) -> None:
        """The transfer is over: its end has come, or it may come back for that.

        Raises:
            StoreError: it cannot be written down.
        """


@runtime_checkable
class Told(Protocol):
    """A `dial` that is told once the other side has said HELLO: it goes on with whom it let in."""

    @property
    def greeted(self) -> Callable[[], None]:
        """To be called then; what it raises ends the transfer."""


@dataclass(frozen=True, slots=True)
class Concluded:
    """What a transfer came to whose receipt may not have been heard: all was sent, or is on disk.

    Attributes:
        receipt: the one that the receiver says, and the sender waits for.
        skipped, left_out: as in `events.Receipt`.
        committing: a receiver's way to have it all on disk, which may still go on: what it comes to, for people.
        heard: to be called where the sender has heard that all is on disk.
    """

    receipt: Receipt
    skipped: int
    left_out: int
    committing: Committing[events.Receipt] | None = field(default=None, repr=False)
    heard: Callable[[], None] = field(default=lambda: None, repr=False)


@dataclass(frozen=True, slots=True)
class Options:
    """How a transfer goes.

    Attributes:
        dial: opens another connection to where the first one went, and may be `Told`; None: this side listened.
        session, epoch: what the dialer is about, and which attempt at it this is.
        origin: where a sender has its files from: 16 bytes that nobody else can say. What is kept of a cut transfer is
            for the same one.
        streams: connections at the most; None: as many as pay on this link.
        timeout: seconds without a sign of life after which the other side counts as dead.
        limit: bytes per second to send at the most; None: no limit.
        compress: whether to compress what shrinks: "auto" does so where the link is slower than that.
        secret: what this side, which dialed, and the other agreed on; the other streams are sealed with it. None: they
            are in plain text, or whoever dialed us has a secret of his own.
        each_file: whether to tell of every single file.
        ask: a receiver shows what is offered to this, and takes it if it says yes; None: it takes it unasked.
        name: who the other side has proved to be, where it has.
        party: equal for two connections of the same one; None: we have dialed, or it is in plain text.
        allowance: what may cross, where the other side was let in for so much.
        only_looks: whether the other side was let in to look at what is offered, and to take none of it.
        concluded: what an attempt before came to, where only the receipt is missing.
    """

    dial: Callable[[], Transport] | None = None
    session: bytes = bytes(16)
    epoch: int = 0
    origin: bytes = bytes(16)
    streams: int | None = None
    timeout: float = 30.0
    limit: float | None = None
    compress: str = "auto"
    secret: bytes | None = field(default=None, repr=False)
    each_file: bool = False
    ask: Ask | None = None
    name: str | None = None
    party: object = None
    allowance: Allowance | None = None
    only_looks: bool = False
    concluded: Concluded | None = None


M = TypeVar("M", bound=Machine)


@dataclass(slots=True)
class Greeted(Generic[M]):
    """A connection whose dialer has said HELLO, and what it sent after that.

    Attributes:
        machine: has heard it.
        secret: what it proved to know; None in plain text.
        admitted: who it is; None in plain text, or of a stream other than 0.
    """

    carrier: Carrier
    machine: M
    hello: Hello
    secret: bytes | None = field(default=None, repr=False)
    admitted: Admitted | None = field(default=None, repr=False)

    @property
    def transport(self) -> Transport:
        """The connection itself."""
        return self.carrier.transport

    @property
    def party(self) -> object:
        """Equal for two connections of the same one, as `Admitted` says; None in plain text, where nobody knows."""
        return None if self.admitted is None else self.admitted.party


async def hello_of(carrier: Carrier, machine: M, deadline: float, secret: bytes | None = None) -> Greeted[M]:
    """Hear who dialed us.

    Args:
        secret: what it proved to know before.

    Raises:
        DeadlineExceeded: it did not say so until `deadline`.
        RemoteProtocolError: it speaks something else. BrokenError: it went away.
    """
    while (message := machine.next_event()) is None:
        try:
            goes_on = await carrier.receive(machine.buffer, machine.lacking, deadline)
        except DeadlineExceeded as error:
            raise _mute(HELLO_TIMEOUT) from error
        if not goes_on:
            machine.end_of_stream()
    if not isinstance(message, Hello):
        raise RemoteProtocolError("the peer did not begin with HELLO")
    return Greeted(carrier, machine, message, secret)


def _mute(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the other side did not say who it is within {seconds:g} s",
        hint="It may be busy with another transfer, or not be enchufe.",
    )


class Rates:
    """Bytes per second, over the last few.

    Args:
        began: when there was none yet, on whatever clock.
    """

    def __init__(self, began: float) -> None:
        self._marks: deque[tuple[float, int]] = deque([(began, 0)])

    def rate(self, now: float, size: int) -> float:
        """The rate, now that there are so many: never negative, though there may be fewer than before."""
        marks = self._marks
        marks.append((now, size))
        # One mark is older than that, or what comes at once after a pause would count as the work of a moment.
        while len(marks) > 2 and now - marks[1][0] >= _RATE_OVER:
            marks.popleft()
        since, before = marks[0]
        return max(size - before, 0) / max(now - since, 1e-3)


class Session(ABC, Generic[M]):
    """One side of a transfer. Stream 0 is run by whoever calls `run`; each other stream by a thread of its own.

    Attributes:
        lock: of the machine.
        concluded: what it came to, where all was sent, or is on disk, and no receipt was heard.
    """

    role: Role

    def __init__(self, over: Transport | Greeted[M], machine: type[M], options: Options, on_event: OnEvent) -> None:
        transport = over.transport if isinstance(over, Greeted) else over
        self.machine: M = over.machine if isinstance(over, Greeted) else machine()
        self.waiter = transport.waiter
        self.began = self.waiter.now()
        self.pace = None if options.limit is None else Pace(options.limit, self.began)
        self.bell = Doorbell()
        self.link = Link(transport, self.machine, timeout=options.timeout, pace=self.pace, bell=self.bell)
        self.options = options
        self.secret = over.secret if isinstance(over, Greeted) else options.secret
        if (self.secret is None) == transport.encrypts:  # or the other streams would go in plain text
            raise LocalProtocolError("stream 0 and the others are encrypted together, or none of them")
        self._on_event = on_event
        self._telling = threading.RLock()
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.left_out = 0
        self.over = False
        self._rates = Rates(self.began)
        self.tell_again_at = math.inf  # how far we are, where nothing comes: or whoever looks believes the last rate
        self._streams: list[Stream] = []
        self._used: set[int] = {0}
        self._posted: deque[Message] = deque()
        self._failure: BaseException | None = None
        self._most = 1
        self._closed = False
        self.trip: float | None = None  # seconds of a round trip, where it is known
        self.concluded: Concluded | None = None

    async def complete(self) -> events.Receipt:
        """Do all of it, over a connection that the caller closes; what each kind of session raises it says itself."""
        finished = False
        try:
            async with self.ending_well():
                receipt = await self.run()
                finished = True
                return receipt
        finally:
            if self.options.allowance is not None:
                # What is not given back now is lost to who has the allowance, and how it ended counts for more.
                heard = finished and self.concluded is None  # else it may come again for the receipt
                with suppress(EnchufeError):
                    self.options.allowance.settle(finished=heard)

    def expect(self, total: int) -> None:
        """As `Allowance.expect`, where there is one."""
        if self.options.allowance is not None:
            self.options.allowance.expect(total)

    def spend(self, size: int) -> None:
        """As `Allowance.spend`, where there is one."""
        if self.options.allowance is not None:
            self.options.allowance.spend(size)

    @abstractmethod
    async def run(self) -> events.Receipt:
        """Do it; `complete` sees to how it ends."""

    async def greet(self) -> None:
        """Exchange HELLOs; the listener has heard the dialer's."""
        machine, options = self.machine, self.options
        streams = options.streams or STREAMS
        about = options if machine.peer is None else machine.peer
        window, features, origin = self.window, self.features, options.origin
        features |= 0 if options.concluded is None else CONCLUDED
        self.say(Hello(self.role, about.session, about.epoch, 0, streams, window, features, origin))
        if options.dial is not None:
            deadline = self.waiter.now() + options.timeout
            while machine.next_event() is None:
                with suppress(DeadlineExceeded):  # whichever comes first, it has said nothing
                    await self.link.exchange(deadline)
                if self.waiter.now() >= deadline:
                    raise _mute(options.timeout)
        assert machine.peer is not None
        if isinstance(options.dial, Told):
            options.dial.greeted()
        self._most = min(streams, machine.peer.streams)
        trip = self.trip = tcp.tune(self.link.transport)
        self.tell(events.Connected(self.link.transport.peer))
        if options.dial is not None and options.streams is None:
            self._most = min(self._most, self._streams_that_pay(trip))

    def _streams_that_pay(self, trip: float | None) -> int:
        """How many, by the seconds of a round trip; without one to measure it is a socket of this machine.

        Where the other side sends, its kernel is taken to be like ours.
        """
        if trip is None or trip < tcp.NEAR:
            return _NEAR_STREAMS if self.secret is None else _NEAR_SEALED
        if trip >= _FARTHER or tcp.is_slowed_by_losses(self.link.transport):
            return _FARTHER_STREAMS
        return _FAR_STREAMS

    @property
    @abstractmethod
    def features(self) -> int:
        """What this side can do besides."""

    @property
    def window(self) -> int:
        """How many entries the other side may have open; a sender takes none."""
        return 0

    # Streams other than 0.

    def open_streams(self) -> None:
        """Dial as many more as were agreed on; each begins by itself, and is missed by nobody if it fails."""
        dial = self.options.dial
        if dial is None:
            return
        hello = Hello(self.role, self.options.session, self.options.epoch, window=0)
        for number in range(1, self._most):
            self._start(Stream(self, number, dial=dial, hello=hello, secret=self.secret))

    def attach(self, greeted: Greeted[M]) -> bool:
        """Take a stream that was dialed to us; False where it is none of this transfer. From any thread."""
        hello, machine = greeted.hello, self.machine
        with self.lock:
            first = machine.peer
            if (
                self.over
                or first is None
                or greeted.secret != self.secret
                or (hello.session, hello.epoch, hello.role) != (first.session, first.epoch, first.role)
                or not 0 < hello.stream < self._most
                or hello.stream in self._used
            ):
                return False
            return self._start(Stream(self, hello.stream, carrier=greeted.carrier, buffer=greeted.machine.buffer))

    def _start(self, stream: Stream) -> bool:
        if not stream.start():
            return False
        self._used.add(stream.number)
        self._streams.append(stream)
        return True

    def end_streams(self) -> None:
        """Have all of them end, and wait for them."""
        with self.lock:
            self.over = True
            self.changed.notify_all()
        for stream in self._streams:
            stream.stop()
        for stream in self._streams:
            stream.join()
        self._streams.clear()

    @abstractmethod
    async def run_stream(self, stream: Stream) -> None:
        """What a stream's thread does."""

    def stream_ended(self, stream: Stream, error: BaseException | None) -> None:  # noqa: ARG002 (receivers use it)
        """A stream's thread has ended: with an error of the connection, or one that ends everything."""
        if error is not None and not isinstance(error, (BrokenError, ClosedError, DeadlineExceeded)):
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End everything; from any thread."""
        with self.lock:
            if self._failure is None and not self.over:
                self._failure = error
        self.ring()

    def post(self, *messages: Message) -> None:
        """Have stream 0 say something; from any thread."""
        self._posted.extend(messages)
        self.ring()

    def ring(self) -> None:
        """Wake stream 0; from any thread, at any time."""
        with self.lock:
            if not self._closed:
                self.bell.ring()

    def fence(self) -> None:
        """A newer attempt at the same has come: end this one at once. From any thread."""
        with self.lock:  # even where all but the receipt is over
            if self._failure is None:
                self._failure = TakenOver("a newer connection of the same transfer has taken over")
        self.ring()

    # Stream 0.

    def say(self, message: Message) -> None:
        """Queue a message on stream 0."""
        with self.lock:
            self.link.say(message)

    def next_event(self) -> Message | None:
        """What the peer has said on stream 0."""
        with self.lock:
            message = self.machine.next_event()
            if message is not None and self.has_use_for_streams:
                self.changed.notify_all()
            return message

    @property
    def has_use_for_streams(self) -> bool:
        """Whether other streams may have something to do, now that the peer has said something."""
        return True

    def say_posted(self) -> None:
        """Say what other threads want said, or raise what went wrong there."""
        if self._failure is not None:
            raise self._failure
        with self.lock:  # or somebody who waits for them to be said would find them neither here nor there
            while self._posted:
                self.say(self._posted.popleft())

    @property
    @abstractmethod
    def crossed(self) -> int:
        """How much content is known to have got across; only whether any has matters."""

    # Telling.

    def tell(self, event: events.Event) -> None:
        """Tell it, one at a time."""
        with self._telling:
            self._on_event(event)

    def tell_progress(self, stored: int, held: int, total: int, files: int) -> None:
        """Tell how far we are; what was `held` from an attempt before says nothing of how fast it goes."""
        now = self.waiter.now()
        rate = self._rates.rate(now, stored - held)
        self.tell_again_at = now + _TELL_AGAIN if rate else math.inf
        self.tell(events.Progress(stored, total, files, rate))

    def tell_file(
        self, path: events.Path, size: int, action: str, *, digest: bytes | None = None, reason: str = ""
    ) -> None:
        """Tell what became of one entry: always where it did not arrive, else where that is wanted."""
        if action in ("refused", "left out"):
            self.left_out += 1
        elif action != "started over" and not self.options.each_file:
            return
        self.tell(events.File(path, 0 if size == UNKNOWN_SIZE else size, action, digest, reason or None))

    def receipt_of(self, concluded: Concluded, sent_bytes: int) -> events.Receipt:
        """What it came to, for people."""
        receipt, seconds = concluded.receipt, round(self.waiter.now() - self.began, 6)
        skipped, left_out = concluded.skipped, concluded.left_out
        return events.Receipt(receipt.files, receipt.size, sent_bytes, skipped, left_out, seconds, receipt.digest)

    @asynccontextmanager
    async def ending_well(self) -> AsyncIterator[None]:
        """Whatever ends the transfer early, tell the peer if it does not know yet; and end the other streams.

        Then nothing that this session has knows of it: else its 10 MB would stay until somebody looks for garbage.
        """
        try:
            yield
        except (BrokenError, ClosedError, DeadlineExceeded) as error:
            if isinstance(error, TakenOver) and self.machine.state not in (State.FAILED, State.DONE):
                self.link.last_word(told_to_peer(error))
            self.link.transport.abort()  # there is nobody to tell, or to wait for
            self.end_streams()
            raise
        except BaseException as error:
            if self.machine.state not in (State.FAILED, State.DONE):
                with self.lock:
                    self.over = True
                await self.link.farewell(told_to_peer(error))
            self.end_streams()
            raise
        else:
            self.end_streams()  # all is there: what they may still be at matters to nobody
        finally:
            with self.lock:
                self._closed = True
                self.bell.close()
            self._failure = None
            self.link.forget()
