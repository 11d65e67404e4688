"""Threads that take turns, under a seed: code that blocks and locks runs on a simulated network, and is replayed.

    network = SimNetwork(seed)
    turns = Turns(network)
    with turns.in_place(): # of threads, locks, queues, bells, clocks and chance, wherever enchufe uses them
        turns.run(script)

Each simulated thread has a real one, but only one of them runs at a time. Where one would block it hands on, to one
that chance picks; now and then it does so where it takes a lock too. When all wait, the clock goes on. So a session
with all its threads runs as it is, in no time, and any interleaving that chance finds comes back with its seed.

A `Process` is a number of threads that are killed together, as by SIGKILL: none of them gets anything done any more.
"""

from __future__ import annotations

import itertools
import queue
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType, TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from enchufe import meeting, waiting
from enchufe.errors import BrokenError, DeadlineExceeded
from enchufe.session import door, receiving, sending
from enchufe.testing.simulation import Fault, SimNetwork
from enchufe.transports import Listener, Transport
from enchufe.waiting import READ, Interest, Sleeper, Waitable

T = TypeVar("T")

_LATE: Final = (door, receiving, sending)  # imported only when they are needed: here they are, before they run

_STEPS: Final = 1_000_000  # turns in one run: more than that hangs
_LAST_STEPS: Final = 100_000  # and for what is killed in the end
_TURN: Final = 1e-6  # seconds that one takes: time that stands still would have some wait for its last rounding error
_PREEMPTED: Final = 0.05  # how often one that takes a lock hands on
_IN_VAIN: Final = 0.01  # how often one that waits is told of nothing
_FIRST_BELL: Final = 1 << 22  # far from any real descriptor, and from those of the network


class Killed(BaseException):
    """Raised in the threads of a process that was killed, wherever they are: there is nothing left to do."""


class Process:
    """Threads that are killed together, with the connections that they have.

    Attributes:
        killed: it was.
    """

    def __init__(self, turns: Turns, name: str) -> None:
        self.name = name
        self.killed = False
        self.threads = 0
        self._turns = turns
        self._transports: list[Transport] = []
        self._listeners: list[Listener] = []

    def __repr__(self) -> str:
        return f"<Process {self.name}{', killed' if self.killed else ''}>"

    def kill(self, *, unplugged: bool = False) -> None:
        """End it; from another process. Its kernel ends its connections, unless its machine goes too.

        Args:
            unplugged: no one hears of it.
        """
        self.killed = True
        for transport in self._transports:
            if unplugged:
                self._turns.network.vanish(transport)
            transport.abandon()
        for listener in self._listeners:
            listener.close()
        self._turns.until(lambda: not self.threads)

    def owns(self, transport: Transport) -> Transport:
        """It is this one's kernel that ends `transport`."""
        self._transports = [one for one in self._transports if one.fileno() >= 0]
        self._transports.append(transport)
        return transport

    def listens(self, listener: Listener) -> Listener:
        """It is this one's kernel that ends `listener`."""
        self._listeners.append(listener)
        return listener


class _Turn:
    """A thread, and what it waits for."""

    def __init__(self, process: Process, name: str) -> None:
        self.process = process
        self.name = name
        self.baton = threading.Lock()
        self.baton.acquire()
        self.look: Callable[[], Any] = _yes
        self.deadline: float | None = None
        self.result: Any = None
        self.done = False


def _yes() -> bool:
    return True


class Turns:
    """Whose turn it is.

    Args:
        network: where chance and time come from too.
        steps: turns after which it hangs.

    Attributes:
        steps: turns so far.
        faults: called for each connection that is dialed: what goes wrong on its way there, and back.
    """

    def __init__(self, network: SimNetwork, steps: int = _STEPS) -> None:
        self.network = network
        self.steps = 0
        self.faults: Callable[[], tuple[Fault | None, Fault | None]] = lambda: (None, None)
        self._most = steps
        self._random = network.random
        self._waiting: list[_Turn] = []
        self._running = _Turn(Process(self, "script"), "script")
        self._script = self._running
        self._failure: BaseException | None = None
        self._processes: list[Process] = []
        self._bells = itertools.count(_FIRST_BELL)
        self._moments = itertools.count(1)

    def run(self, script: Callable[[], T]) -> T:
        """Run `script`, as a process of its own, and what it starts.

        Raises:
            AssertionError: nothing will ever happen again, or it goes on for ever. And whatever the script raises, or
                any thread that nobody waits for.
        """
        try:
            result = script()
        finally:
            self._end()
        if self._failure is not None:
            raise self._failure
        return result

    def _end(self) -> None:
        """Have every thread end."""
        failure, self._failure = self._failure, None
        self._most = self.steps + _LAST_STEPS
        for process in self._processes:
            process.killed = True
        for process in self._processes:
            process.kill()
        self._failure = failure

    @property
    def process(self) -> Process:
        """Whose turn it is."""
        return self._running.process

    def start(self, name: str, function: Callable[[], T]) -> Started[T]:
        """Run `function` in a process of its own."""
        process = Process(self, name)
        self._processes.append(process)
        return Started(self, process, function)

    # What a thread may do.

    def now(self) -> float:
        """What time it is."""
        return self.network.clock()

    def until(self, look: Callable[[], T], deadline: float | None = None) -> T:
        """Wait until `look` gives something: what it gives.

        Raises:
            DeadlineExceeded: it did not until `deadline`.
        """
        me = self._running
        self._check(me)
        me.look, me.deadline, me.result = look, deadline, None
        self._waiting.append(me)
        self._hand_on(me)
        self._check(me)
        if not me.result:
            raise DeadlineExceeded("nothing happened before the deadline")
        result: T = me.result
        return result

    def yield_turn(self) -> None:
        """Let another have its turn, perhaps."""
        self.until(_yes)

    def sleep(self, seconds: float) -> None:
        """Wait so long."""
        until = self.now() + seconds
        self.until(lambda: self.now() >= until, until)

    def perhaps(self) -> None:
        """As `yield_turn`, now and then."""
        if self._running.process.killed or self._random.random() < _PREEMPTED:
            self.yield_turn()

    def check(self) -> None:
        """Raise Killed where this process was."""
        self._check(self._running)

    # Handing on.

    def _check(self, me: _Turn) -> None:
        if me is self._script:
            if self._failure is not None:
                raise self._failure
        elif me.process.killed:
            raise Killed

    def _hand_on(self, me: _Turn) -> None:
        chosen = self._chosen()
        if chosen is not me:
            self._running = chosen
            chosen.baton.release()
            if not me.done:
                me.baton.acquire()

    def _chosen(self) -> _Turn:
        """Who is next; it waits no more."""
        network, waiting = self.network, self._waiting
        self.steps += 1
        network.clock.advance(network.clock() + _TURN)
        if self.steps > self._most:
            self._most += _LAST_STEPS
            self._fail(AssertionError(f"seed {network.seed}: it goes on for ever"))
        while True:
            now = network.clock()
            network.step()
            ready = [turn for turn in waiting if self._is_ready(turn, now)]
            if ready:
                chosen = ready[0] if len(ready) == 1 else self._random.choice(ready)
                waiting.remove(chosen)
                return chosen
            moments = [turn.deadline for turn in waiting if turn.deadline is not None]
            if (moment := network.next_moment()) is not None:
                moments.append(moment)
            if moments:
                network.clock.advance(min(moments))
            else:
                self._fail(AssertionError(f"seed {network.seed}: nothing will ever happen again: {self._told()}"))

    def _is_ready(self, turn: _Turn, now: float) -> bool:
        if turn.process.killed or (turn is self._script and self._failure is not None):
            return True
        turn.result = turn.look()
        return bool(turn.result) or (turn.deadline is not None and turn.deadline <= now)

    def _told(self) -> str:
        return ", ".join(f"{turn.process.name}/{turn.name}" for turn in self._waiting)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error

    # What stands in for threads and their kin.

    def spawn(self, process: Process, name: str, function: Callable[[], object]) -> _Turn:
        """A thread more in `process`."""
        turn = _Turn(process, name)
        process.threads += 1

        def body() -> None:
            turn.baton.acquire()
            try:
                if not process.killed:
                    function()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 (raised where the script waits)
                if not process.killed:
                    self._fail(error)
            turn.done = True
            process.threads -= 1
            self._hand_on(turn)

        threading.Thread(target=body, name=name, daemon=True).start()
        self._waiting.append(turn)
        return turn

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """During the block enchufe's sessions wait, lock and dial here."""
        network, turns = self.network, self

        async def connect(address: object, waiter: Any, deadline: float | None = None) -> Transport:  # noqa: ARG001
            turns.yield_turn()
            return turns.dial(str(address), waiter)

        def listener(address: object) -> Listener:
            return turns.listen(str(address))

        stands_in: dict[str, tuple[object, Any]] = {
            "threading": (threading, _Threading(self)),
            "queue": (queue, _Queues(self)),
            "random": (random, network.random),
            "time": (time, _Time(self)),
            "Doorbell": (waiting.Doorbell, lambda: SimDoorbell(turns)),
            "BlockingWaiter": (waiting.BlockingWaiter, lambda: SimWaiter(turns)),
        }
        before: list[tuple[ModuleType, str, object]] = []

        def replace(module: ModuleType, name: str, by: object) -> None:
            before.append((module, name, getattr(module, name)))
            setattr(module, name, by)

        try:
            for place, module in list(sys.modules.items()):
                if place.startswith(("enchufe.session", "enchufe.link", "enchufe.pace", "enchufe.meeting")):
                    for name, (real, by) in stands_in.items():
                        if getattr(module, name, None) is real:
                            replace(module, name, by)
            dialing = ModuleType("transports")
            dialing.connect = connect  # type: ignore[attr-defined]
            for name, by in (("transports", dialing), ("Listener", listener), ("urandom", network.random.randbytes)):
                replace(meeting, name, by)
            yield
        finally:
            for module, name, value in reversed(before):
                setattr(module, name, value)

    def dial(self, address: str, waiter: waiting.Waiter) -> Transport:
        """Connect, as this process.

        Raises:
            BrokenError: nobody listens there.
        """
        try:
            there, back = self.faults()
            return self.process.owns(self.network.connect(address, waiter, there=there, back=back))
        except ConnectionRefusedError as error:
            raise BrokenError(f"could not reach {address}") from error

    def listen(self, address: str) -> Listener:
        """Listen, as this process."""
        process = self.process
        listener = self.network.listen(address)
        wrap = listener._transport
        listener._transport = lambda sock, waiter: process.owns(wrap(sock, waiter))
        return process.listens(listener)

    def moment(self) -> int:
        """Nanoseconds, no two the same."""
        return int(self.now() * 1e9) + next(self._moments)

    def descriptor(self) -> int:
        """A number for a bell."""
        return next(self._bells)


class Started(Generic[T]):
    """What runs in a process of its own.

    Attributes:
        done: it has ended.
        result, error: how, unless it was killed.
    """

    def __init__(self, turns: Turns, process: Process, function: Callable[[], T]) -> None:
        self.process = process
        self.done = False
        self.result: T | None = None
        self.error: Exception | None = None
        self._function = function
        turns.spawn(process, "main", self._run)

    def __repr__(self) -> str:
        return f"<Started {self.process!r}: {self.error or self.result or self.done}>"

    def _run(self) -> None:
        try:
            self.result = self._function()
        except Exception as error:  # noqa: BLE001 (for whoever started it)
            self.error = error
        self.done = True


class SimDoorbell:
    """A `Doorbell` that no kernel knows."""

    def __init__(self, turns: Turns) -> None:
        self._descriptor = turns.descriptor()
        self.rung = False

    def fileno(self) -> int:
        """What to wait for; -1 once closed."""
        return self._descriptor

    def ring(self) -> None:
        """As `Doorbell.ring`."""
        self.rung = True

    def clear(self) -> None:
        """As `Doorbell.clear`."""
        self.rung = False

    def close(self) -> None:
        """As `Doorbell.close`."""
        self._descriptor = -1


class SimWaiter:
    """Waits by handing on, inside the coroutine, which never suspends: `drive` runs it."""

    blocks = False  # no socket here waits in a kernel
    unsettled = False

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def now(self) -> float:
        """As `Waiter.now`."""
        return self._turns.now()

    def idle(self) -> float:
        """As `Waiter.idle`: all that passes."""
        return self._turns.now()

    async def wait(self, interests: Iterable[Interest], deadline: float | None = None) -> list[Interest]:
        """As `Waiter.wait`."""
        turns = self._turns
        watched = [(thing, thing.fileno(), interest) for thing, interest in interests]
        chance = turns.network.random

        def look() -> list[Interest]:
            ready: list[Interest] = []
            for thing, descriptor, interest in watched:
                if isinstance(thing, SimDoorbell):
                    bits = READ if thing.rung else 0
                else:
                    bits = turns.network.ready(descriptor) & interest
                if bits:
                    ready.append((thing, bits))
            return ready

        if chance.random() < _IN_VAIN:
            turns.yield_turn()
            in_vain = [(thing, interest) for thing, _, interest in watched if not isinstance(thing, SimDoorbell)]
            if ready := look() or in_vain:
                return ready
        return turns.until(look, deadline)

    async def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> None:
        """As `Waiter.wait_one`."""
        await self.wait([(thing, interest)], deadline)

    def settle(self) -> None:
        """Nothing is ever put off."""

    def wake(self, thing: Waitable) -> bool:  # noqa: ARG002 (a Waiter takes it)
        """Cannot."""
        return False

    def forget(self, thing: Waitable) -> None:
        """Nothing is kept: who waits for what is closed sees it."""

    async def pause(self) -> None:
        """As `Waiter.pause`."""
        self._turns.yield_turn()

    def before_waiting(self, action: Callable[[], None]) -> None:
        """Call it now."""
        action()

    def me(self) -> object:
        """As `Waiter.me`."""
        return self._turns._running

    def beside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """As `Waiter.beside`: here and now."""
        waiting.drive(coroutine)

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """Call it here, sooner or later."""
        self._turns.perhaps()
        return function(*args)

    def sleeper(self) -> Sleeper:
        """As `Waiter.sleeper`."""
        return _Sleeper(self._turns)


class _Sleeper:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._awake = False

    async def sleep(self, deadline: float | None = None) -> None:
        self._turns.until(lambda: self._awake, deadline)

    def wake(self) -> None:
        self._awake = True


class _Time:
    """In place of `time`."""

    def __init__(self, turns: Turns) -> None:
        self.sleep = turns.sleep
        self.time_ns = turns.moment
        self.monotonic = turns.now


class _Lock:
    """A lock, whose owner may take it again where `again` says so."""

    def __init__(self, turns: Turns, *, again: bool) -> None:
        self._turns = turns
        self._again = again
        self._owner: _Turn | None = None
        self._depth = 0

    def acquire(self) -> bool:
        turns = self._turns
        turns.perhaps()
        me = turns._running
        if self._owner is me and self._again:
            self._depth += 1
            return True
        if self._owner is not None:
            turns.until(lambda: self._owner is None)
        self._owner, self._depth = me, 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def let_go(self) -> int:
        """Release it however often it was taken: how often."""
        depth, self._depth, self._owner = self._depth, 0, None
        return depth

    def take_back(self, depth: int) -> None:
        self.acquire()
        self._depth = depth


class _Condition:
    def __init__(self, turns: Turns, lock: _Lock | None = None) -> None:
        self._turns = turns
        self._lock = lock or _Lock(turns, again=True)
        self._waiters: deque[_Event] = deque()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        told = _Event(self._turns)
        self._waiters.append(told)
        depth = self._lock.let_go()
        if not told.wait(timeout):
            self._waiters.remove(told)
        self._lock.take_back(depth)
        return told.is_set()

    def notify(self, n: int = 1) -> None:
        while self._waiters and n:
            self._waiters.popleft().set()
            n -= 1

    def notify_all(self) -> None:
        self.notify(len(self._waiters))


class _Semaphore:
    def __init__(self, turns: Turns, value: int) -> None:
        self._turns = turns
        self._value = value

    def acquire(self) -> bool:
        self._turns.until(lambda: self._value > 0)
        self._value -= 1
        return True

    def release(self) -> None:
        self._value += 1


class _Event:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def wait(self, timeout: float | None = None) -> bool:
        with suppress(DeadlineExceeded):
            self._turns.until(lambda: self._set, None if timeout is None else self._turns.now() + timeout)
        return self._set


class _Thread:
    def __init__(
        self,
        turns: Turns,
        target: Callable[..., object],
        args: Sequence[object] = (),
        name: str = "thread",
        *,
        daemon: bool = False,  # noqa: ARG002 (a Thread takes it)
    ) -> None:
        self._turns = turns
        self._target, self._args, self._name = target, args, name
        self._turn: _Turn | None = None

    def start(self) -> None:
        turns = self._turns
        turns.check()
        self._turn = turns.spawn(turns.process, self._name, lambda: self._target(*self._args))

    def is_alive(self) -> bool:
        return self._turn is not None and not self._turn.done

    def join(self) -> None:
        turn = self._turn
        assert turn is not None, "a thread that was never started is waited for"
        self._turns.until(lambda: turn.done)


class _Threading:
    """In place of `threading`."""

    local = threading.local

    def __init__(self, turns: Turns) -> None:
        self.Lock = lambda: _Lock(turns, again=False)
        self.RLock = lambda: _Lock(turns, again=True)
        self.Condition = lambda lock=None: _Condition(turns, lock)
        self.Semaphore = lambda value=1: _Semaphore(turns, value)
        self.Event = lambda: _Event(turns)
        self.Thread = lambda target, args=(), name="thread", daemon=False: _Thread(
            turns, target, args, name, daemon=daemon
        )


class _SimpleQueue(Generic[T]):
    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._items: deque[T] = deque()

    def put(self, item: T) -> None:
        self._items.append(item)

    def get(self, timeout: float | None = None) -> T:
        try:
            self._turns.until(lambda: bool(self._items), None if timeout is None else self._turns.now() + timeout)
        except DeadlineExceeded:
            raise queue.Empty from None
        return self._items.popleft()

    def get_nowait(self) -> T:
        if not self._items:
            raise queue.Empty
        return self._items.popleft()


class _Queues:
    """In place of `queue`."""

    Empty = queue.Empty

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def SimpleQueue(self) -> _SimpleQueue[Any]:
        return _SimpleQueue(self._turns)
