"""The event loop: many tasks in one thread, each waiting by being left alone until the kernel says it is ready."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from enchufe.engines.pollers import Poller, best
from enchufe.engines.slots import Slots, apart
from enchufe.errors import DeadlineExceeded, LocalProtocolError
from enchufe.waiting import READ, Doorbell, Interest, Sleeper, Waitable, idle

T = TypeVar("T")

_WORKERS: Final = 4  # threads for what keeps a disk or a processor busy

# Seconds for which those that are busy without a pause have their turn, before whoever came meanwhile.
_SLICE: Final = 0.001

# Seconds that a poll takes at the most: pollers have limits of their own, and a timeout may be infinite.
_LONGEST: Final = 86400.0

# What a task yields that waits for us; anything else is foreign.
_PARKED: Final = object()


Finish = Callable[[BaseException | None, Any], None]
"""Gets what a task raised, when it has ended, and what it was said to be about."""


class Task:
    """A coroutine that the loop runs.

    Attributes:
        done: it has ended: with `result`, or `error`.
    """

    __slots__ = ("about", "coroutine", "deadline", "done", "error", "finish", "greedy", "queued", "result", "timer")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], finish: Finish | None, about: object) -> None:
        self.coroutine = coroutine
        self.finish = finish
        self.about = about
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        # It is among those that run next, whatever else it waits for.
        self.queued = False
        # It used up all of its turn the last time that it ran, so the next one can wait.
        self.greedy = False
        # When its wait ends at the latest; and when the loop will look after it, which may be earlier, so that a
        # deadline that moves on with every wait costs nothing.
        self.deadline: float | None = None
        self.timer: float | None = None


class Loop:
    """Runs tasks until they end. It is the `Waiter` of all of them.

    Use it in one thread; only `call_soon` and `wake` may be called from others.

    Args:
        poller: how to ask the kernel; the best that there is by default.
        clock: seconds, monotonic.
    """

    blocks = False
    unsettled = False

    def __init__(self, poller: Poller | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._bell = Doorbell()  # first: where there is none, what was made before would stay until a collection
        self._clock = clock
        self._slots: Slots[Task] = Slots(poller or best(), self._go_on)
        self._by_descriptor = self._slots.by_descriptor
        self._current: Task | None = None
        self._queue: deque[Task] = deque()
        self._greedy: deque[Task] = deque()
        self._actions: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, Task]] = []
        self._order = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._answering = False
        self._thread = threading.get_ident()
        self._pool: ThreadPoolExecutor | None = None

    # What runs.

    def spawn(self, coroutine: Coroutine[Any, Any, Any], finish: Finish | None = None, about: object = None) -> Task:
        """Run `coroutine` beside the others, from the next round on; `finish` gets what it raised, and `about`.

        Where nobody asks to be told, `run` raises it.
        """
        task = Task(coroutine, finish, about)
        self._enqueue(task)
        return task

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call `function` in the loop's thread, from whatever thread."""
        self._calls.append(function)
        self._bell.ring()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine`, and whatever is spawned, until `coroutine` ends: its result.

        Raises:
            LocalProtocolError: it awaited something foreign. And whatever it raises.
        """
        self._thread = threading.get_ident()
        if not self._answering:
            self._answering = True
            self.spawn(self._answer_calls())
        main = self.spawn(coroutine, lambda *_: None)
        while not main.done:
            self._round()
        if main.error is not None:
            raise main.error
        result: T = main.result
        return result

    def close(self) -> None:
        """Give back the poller and the threads; what has not ended never will."""
        if self._pool is not None:
            self._pool.shutdown()
        self._bell.close()
        self._slots.poller.close()
        self._by_descriptor.clear()  # whoever closes what it waited for has nothing to take back

    # The waiter.

    def now(self) -> float:
        """Seconds on the loop's clock."""
        return self._clock()

    def idle(self) -> float:
        """As `Waiter.idle`: of the whole process, or on a clock of one's own all that passes."""
        return idle() if self._clock is time.monotonic else self._clock()

    @types.coroutine
    def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> Generator[object, None, None]:
        """As `Waiter.wait_one`; `interest` is READ or WRITE, not both."""
        slot = self._by_descriptor.get(thing.fileno())
        task = self._current or self._running()
        if slot is not None and slot.watched == READ == interest and slot.reader is None:
            slot.reader = task  # what nearly every wait is
        else:
            self._slots.park(thing.fileno(), interest, task)
        if deadline is not None:
            self._set_timer(task, deadline)
        try:
            yield _PARKED
        except BaseException:
            self._slots.unpark([(thing, interest)], task)
            raise

    async def wait(self, interests: Iterable[Interest], deadline: float | None = None) -> list[Interest]:
        """As `Waiter.wait`."""
        task = self._running()
        waiting = single = apart(interests)
        try:
            for thing, kind in single:
                self._slots.park(thing.fileno(), kind, task)
            while len(waiting) == len(single):
                if deadline is not None:
                    self._set_timer(task, deadline)
                await self._parked()
                waiting = self._slots.parked(single, task)
        finally:
            self._slots.unpark(single, task)
        return [interest for interest in single if interest not in waiting]

    def settle(self) -> None:
        """As `Waiter.settle`: what a task had to do before it waits."""
        actions, self._actions = self._actions, []
        for action in actions:
            action()

    def wake(self, thing: Waitable) -> bool:
        """As `Waiter.wake`."""
        descriptor = thing.fileno()
        if threading.get_ident() == self._thread:
            self._wake_reader(descriptor)
        else:
            self.call_soon(lambda: self._wake_reader(descriptor))
        return True

    def forget(self, thing: Waitable) -> None:
        """As `Waiter.forget`."""
        for task in self._slots.forget(thing.fileno()):
            self._enqueue(task)

    @types.coroutine
    def pause(self) -> Generator[object, None, None]:
        """As `Waiter.pause`: the others that are ready run first, and so do those that become ready soon."""
        task = self._running()
        task.greedy = True
        self._put_last(task)
        yield _PARKED

    def before_waiting(self, action: Callable[[], None]) -> None:
        """As `Waiter.before_waiting`."""
        self._actions.append(action)

    def me(self) -> object:
        """As `Waiter.me`."""
        return self._current

    def beside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """As `Waiter.beside`."""
        self.spawn(coroutine)

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """As `Waiter.offload`, in one of a few threads."""
        task = self._running()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="enchufe offload")
        future = self._pool.submit(function, *args)
        future.add_done_callback(lambda _: self.call_soon(lambda: self._enqueue(task)))
        while not future.done():
            await self._parked()
        return future.result()

    def sleeper(self) -> Sleeper:
        """As `Waiter.sleeper`."""
        return _Sleeper(self, self._running())

    # One round: what the kernel says is ready, then what was put off, then some of those that are busy without a pause,
    # then whose time has come.

    def _round(self) -> None:
        begun = self._clock() if self._greedy else 0.0
        self._slots.poll(self._patience())
        for _ in range(len(self._queue)):
            task = self._queue.popleft()
            task.queued = False
            if not task.done:
                self._step(task)
        if self._greedy:
            self._run_greedy(begun)
        if self._timers:
            self._run_timers()

    def _run_greedy(self, begun: float) -> None:
        """For as long as the others took since `begun`, where that is known, so that nobody starves."""
        now = self._clock()
        until = now + max(_SLICE, now - (begun or now))
        for _ in range(len(self._greedy)):
            task = self._greedy.popleft()
            task.queued = False
            if not task.done:
                self._step(task)
            if self._clock() >= until:
                break

    def _patience(self) -> float | None:
        if self._queue or self._greedy:
            return 0
        return min(max(0.0, self._timers[0][0] - self._clock()), _LONGEST) if self._timers else None

    def _step(self, task: Task, error: BaseException | None = None) -> None:
        self._current = task
        task.deadline = None
        try:
            trap = task.coroutine.send(None) if error is None else task.coroutine.throw(error)
            while trap is not _PARKED:
                trap = task.coroutine.throw(
                    LocalProtocolError(
                        f"the events engine cannot await {trap!r}",
                        hint="Await only enchufe's own calls there; use enchufe.aio for code that awaits others.",
                    )
                )
        except StopIteration as stop:
            self._end(task, stop.value, None)
        except KeyboardInterrupt:
            raise
        except BaseException as caught:  # noqa: BLE001 (told to whoever waits for the task)
            self._end(task, None, caught)
        if self._actions:
            self.settle()

    def _end(self, task: Task, result: Any, error: BaseException | None) -> None:
        task.done, task.result, task.error = True, result, error
        if task.finish is not None:
            task.finish(error, task.about)
        elif error is not None:
            raise error

    def _put_last(self, task: Task) -> None:
        if not task.queued:
            task.queued = True
            self._greedy.append(task)

    def _enqueue(self, task: Task) -> None:
        if not task.queued:
            task.queued = True
            self._queue.append(task)

    @types.coroutine
    def _parked(self) -> Generator[object, None, None]:
        yield _PARKED

    def _running(self) -> Task:
        """The task that asks."""
        task = self._current
        if task is None:
            raise LocalProtocolError("waiting by a loop outside its tasks")
        return task

    def _go_on(self, task: Task) -> None:
        if task.queued:
            return
        if task.greedy:
            task.greedy = False
            self._put_last(task)
        else:
            self._step(task)

    def _wake_reader(self, descriptor: int) -> None:
        task = self._slots.wake(descriptor)
        if task is not None:
            self._enqueue(task)

    def _set_timer(self, task: Task, deadline: float) -> None:
        task.deadline = deadline
        if task.timer is None or deadline < task.timer:
            task.timer = deadline
            heapq.heappush(self._timers, (deadline, next(self._order), task))

    def _run_timers(self) -> None:
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            when, _, task = heapq.heappop(self._timers)
            if task.timer != when:
                continue  # an earlier one took its place
            task.timer = None
            if task.deadline is None or task.done or task.queued:
                continue
            if task.deadline > now:
                self._set_timer(task, task.deadline)
            else:
                self._step(task, DeadlineExceeded("nothing happened before the deadline"))

    async def _answer_calls(self) -> None:
        while True:
            await self.wait_one(self._bell, READ)
            self._bell.clear()
            while self._calls:
                self._calls.popleft()()


class _Sleeper:
    """A task that waits for another."""

    __slots__ = ("_asleep", "_awake", "_loop", "_task")

    def __init__(self, loop: Loop, task: Task) -> None:
        self._loop = loop
        self._task = task
        self._awake = self._asleep = False

    async def sleep(self, deadline: float | None = None) -> None:
        self._asleep = True
        try:
            while not self._awake:
                if deadline is not None:
                    self._loop._set_timer(self._task, deadline)
                await self._loop._parked()
        finally:
            self._asleep = False

    def wake(self) -> None:
        if threading.get_ident() == self._loop._thread:
            self._wake_up()
        else:
            self._loop.call_soon(self._wake_up)

    def _wake_up(self) -> None:
        self._awake = True
        if self._asleep:
            self._loop._enqueue(self._task)
