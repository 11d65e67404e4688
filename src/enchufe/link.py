"""Link: both directions of one connection at once, for a transfer's machine; with its heartbeat."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Final, Generic, NoReturn, TypeVar

from enchufe.buffer import Buffer
from enchufe.errors import BrokenError, BusyError, DeadlineExceeded, EnchufeError
from enchufe.interruption import undivided
from enchufe.pace import Pace
from enchufe.store.hands import Hands
from enchufe.transfer.machine import Machine
from enchufe.transfer.message import Message
from enchufe.transfer.messages import Error, Ping
from enchufe.transports import Transport, advance
from enchufe.waiting import READ, WRITE, Doorbell, Interest, start

T = TypeVar("T")

PING_AFTER: Final = 0.6  # seconds of saying nothing, so that a timeout of 1 s will do: docs/protocol.md, PING
_FAREWELL: Final = 3.0  # seconds that a peer gets to hear why we end
READ_SIZE: Final = 65536  # bytes asked for where no message lacks more
_HELD_SIZE: Final = 1 << 20  # bytes taken in while nobody reads them
LEAST_RATE: Final = 13.0  # bytes per second by which a frame must come on: half as much again as pings bring


class Link:
    """Moves bytes between a transport and a machine, sending and receiving by turns so that neither side can block
    the other.

    Args:
        transport: the connection; the caller closes it.
        machine: whose messages these are.
        timeout: seconds without a sign of life after which the peer counts as dead.
        pace: how fast it may send; None: as it can.
        bell: whoever rings it has waiting here end.
    """

    def __init__(
        self,
        transport: Transport,
        machine: Machine,
        *,
        timeout: float,
        pace: Pace | None = None,
        bell: Doorbell | None = None,
    ) -> None:
        self.transport = transport
        self.machine = machine
        self.outgoing: list[Buffer] = []
        self.ended = False
        self._waiter = transport.waiter
        self._timeout = timeout
        self._pace = pace
        self._bell = bell
        self._hands: Hands | None = None
        self._heard = self._said = self._waiter.now()
        self._due = math.inf  # when a frame that has begun is late
        self._cut: BrokenError | None = None
        # A KeyboardInterrupt may come between the kernel's taking bytes and our noting how many.
        self._midway = False

    def say(self, message: Message) -> None:
        """Queue a message; what it shows must not change until `outgoing` is empty."""
        self.outgoing += self.machine.send(message)

    async def exchange(self, until: float | None = None) -> None:
        """Send and receive what goes without waiting; where nothing does, wait until it may, or for `until`.

        A sign of life that is due goes first, whatever the caller was busy with.

        Raises:
            DeadlineExceeded: the peer was silent for too long.
            BrokenError: the connection was cut, or has ended before it may.
        """
        if self.ended:
            self.machine.end_of_stream()
        if self._cut is not None:
            raise self._cut
        if not self.outgoing and self.machine.peer is not None and self._waiter.now() >= self._said + PING_AFTER:
            self.say(Ping())
        sent, paced = False, None
        try:
            sent, paced = self._send_some()
        except BrokenError as error:
            self._cut = error  # what it said before it went says more than how it went
        if self._receive_some() or sent:
            return
        if self._cut is not None:
            raise self._cut
        interest = READ | (WRITE if self.outgoing and not paced else 0)
        await self._wait(interest, min(paced or float("inf"), until or float("inf")))

    def collect(self, hands: Hands | None) -> None:
        """Collect what they have done, and have whoever waits here go on as soon as there is more."""
        self._hands = hands
        if hands is not None:
            hands.collect()

    def push(self) -> None:
        """Send as much as goes without waiting; a cut shows with the next exchange."""
        with contextlib.suppress(EnchufeError):
            while self.outgoing and self._send_some()[0]:
                pass

    async def flush(self) -> None:
        """Exchange until everything said is sent."""
        while self.outgoing:
            await self.exchange()

    async def beside(self, function: Callable[[], T], *, leave: bool = False) -> T:
        """Run something that may take long in a thread, and keep the heartbeat meanwhile.

        What the peer says meanwhile is kept for the machine.

        Args:
            leave: whether the thread may be left behind, when the peer goes away or an interruption comes; else
                neither stops it, and it is waited for.
        """
        done = Doorbell()
        outcome = Outcome(function)
        ending = threading.Lock()
        left = False

        def work() -> None:
            outcome.settle()
            with ending:
                if left:
                    done.close()
                else:
                    done.ring()

        thread = threading.Thread(target=work, name="enchufe beside", daemon=leave)
        try:
            start(thread)
        except BusyError:  # better without the heartbeat than not at all
            done.close()
            return function()
        interrupted = True
        try:
            while not outcome.settled:
                # Before waiting: inside TLS there may be something to read though the socket is silent.
                paced = None if self.ended or self._cut else self._keep_alive()
                gone = self.ended or self._cut is not None
                if leave and gone:
                    self._raise_gone()
                interests: list[Interest] = [(done, READ)]
                full = len(self.machine.buffer) >= _HELD_SIZE  # then nobody knows whether it says more
                interest = (0 if full else READ) | (WRITE if self.outgoing and not paced else 0)
                if interest and not gone:
                    interests.append((self.transport, interest))
                # Whatever we have heard since we said something last, it is no later that we say more.
                since = self._waiter.now() if gone or self.outgoing else self._said
                with contextlib.suppress(DeadlineExceeded):
                    await self._waiter.wait(interests, min(since + PING_AFTER, paced or math.inf))
                if leave and not full and self._waiter.now() >= self._heard + self._timeout:
                    raise self._silent()
            interrupted = False
        finally:
            self._due = math.inf  # what came meanwhile may be whole: nobody has looked
            if not (interrupted and leave):
                thread.join()
            with ending:
                left = True
                if outcome.settled:
                    done.close()  # else its thread will
        return outcome.get()

    def _keep_alive(self) -> float | None:
        """Take in what the peer says, no more than it needs to say, and ping; as `_send_some`, when that may go on."""
        try:
            while not self.ended and len(self.machine.buffer) < _HELD_SIZE and self._receive_some():
                pass
            if not self.outgoing and self._waiter.now() >= self._said + PING_AFTER:
                self.say(Ping())
            return self._send_some()[1]
        except BrokenError as error:
            self._cut = error
            return None

    def _raise_gone(self) -> NoReturn:
        """Raise why the peer is gone: what it said, or how it went."""
        while self.machine.next_event() is not None:
            pass
        self.machine.end_of_stream()
        raise self._cut or BrokenError("the other side went away")

    def forget(self) -> None:
        """Nobody uses it any more, and it holds nothing of whoever did."""
        self._cut = None

    def _silent(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the other side gave no sign of life for {self._timeout:g} s")

    async def farewell(self, error: Error) -> None:
        """Tell the peer why we end, and make sure that it can read it. Raises nothing of the connection's.

        Where nobody knows how much of the last message went out, the connection is cut instead.
        """
        if self._midway:
            self.transport.abort()
            return
        deadline = self._waiter.now() + _FAREWELL
        scratch = bytearray(READ_SIZE)
        with contextlib.suppress(EnchufeError):
            self.say(error)
            while self.outgoing:
                count = self.transport.try_send(self.outgoing)
                self.outgoing = advance(self.outgoing, count)
                if not self.transport.try_receive_into(scratch) and not count:
                    await self.transport.wait(WRITE, deadline)
            await self.transport.end(deadline)
            # Closing over unread bytes would reset the connection, and the reset overtake our last words.
            while await self.transport.receive_into(scratch, deadline):
                pass

    def last_word(self, error: Error) -> None:
        """Tell the peer why we end, as far as that goes without waiting: it may be gone."""
        with contextlib.suppress(EnchufeError):
            if not self._midway:
                self.say(error)
                while self.outgoing and (count := self.transport.try_send(self.outgoing)):
                    self.outgoing = advance(self.outgoing, count)

    async def await_end(self) -> None:
        """Wait for the peer to have read everything and gone. Raises nothing of the connection's."""
        deadline = self._waiter.now() + _FAREWELL
        scratch = bytearray(READ_SIZE)
        with contextlib.suppress(EnchufeError):
            while await self.transport.receive_into(scratch, deadline):
                pass

    def _send_some(self) -> tuple[bool, float | None]:
        """Whether anything was sent; and where the rate limit forbade it, when it may go on."""
        if not self.outgoing:
            return False, None
        pieces = self.outgoing
        if self._pace is not None:
            granted, paced = self._pace.grant(0, self._waiter.now())
            if not granted:
                return False, paced
            pieces = head(pieces, granted)
        self._midway = True
        with undivided:
            count = self.transport.try_send(pieces)
            if count:
                if self._pace is not None:
                    self._pace.spend(count)
                self._said = self._waiter.now()
                self.outgoing = advance(self.outgoing, count)
            self._midway = False
        return count > 0, None

    def _receive_some(self) -> bool:
        # No more than the message in hand lacks, where it lacks much: what came behind it would have to be moved.
        lacking = self.machine.lacking
        size = max(lacking, READ_SIZE)
        count = self.transport.try_receive_into(self.machine.buffer.space(lacking)[:size])
        if count:
            self.machine.buffer.received(count)
            self._heard = self._waiter.now()
            due = min(self._due, self._heard + self._timeout)
            self._due = late_after(due, count, LEAST_RATE, whole=count >= lacking)
        elif count == 0:
            self.ended = True
        return count is not None

    async def _wait(self, interest: int, until: float) -> None:
        silent = self._heard + self._timeout
        # What is stuck in the queue says that we are alive as soon as the peer takes it.
        quiet = self.outgoing or self.machine.peer is None
        ping = float("inf") if quiet else self._said + PING_AFTER
        try:
            deadline = min(silent, self._due, ping, until)
            if self._bell is None:
                await self.transport.wait(interest, deadline)
            else:
                interests: list[Interest] = [(self.transport, interest), (self._bell, READ)]
                if self._hands is not None:
                    interests += [(channel, READ) for channel in self._hands.waited_for]
                await self._waiter.wait(interests, deadline)
                self._bell.clear()
        except DeadlineExceeded:
            now = self._waiter.now()
            if now >= silent:
                raise self._silent() from None
            if now >= self._due:
                raise DeadlineExceeded("what the other side has begun to say comes on too slowly") from None
            if now >= ping:
                self.say(Ping())
                self._said = now


class Outcome(Generic[T]):
    """What came of a call in another thread. A Future would do; it takes 3 ms to import, and every command waits."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.settled = False
        self._function: Callable[[], T] | None = function
        self._results: list[T] = []
        self._error: BaseException | None = None

    def settle(self) -> None:
        """Call it, once, and let go of it; raises nothing."""
        function, self._function = self._function, None
        assert function is not None
        try:
            self._results.append(function())
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            self._error = error
        self.settled = True

    def get(self) -> T:
        """What it returned, or raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]


def late_after(due: float, count: int, least: float, *, whole: bool) -> float:
    """When what has begun to come is late, now that `count` more bytes of it came until `due`.

    It has a timeout, and what it takes at `least` bytes a second: where its length was changed on its way so that it
    grew, only pings come, which would fill it in hours. They bring two thirds of it, so three timeouts find it.
    """
    return math.inf if whole else due + count / least


def head(pieces: list[Buffer], count: int) -> list[Buffer]:
    """The first `count` bytes of `pieces`."""
    head: list[Buffer] = []
    for piece in pieces:
        head.append(memoryview(piece)[:count])
        count -= len(piece)
        if count <= 0:
            break
    return head
