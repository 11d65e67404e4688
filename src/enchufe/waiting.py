"""The one question an engine answers: how do we wait?

Everything that may block is a coroutine which, when the kernel says it would block, awaits its waiter. A
`BlockingWaiter` answers with poll() inside the coroutine, so that coroutine never suspends and `drive()` runs it
to its end with one step: that is the whole sync face. An event loop's waiter suspends instead. Nothing looks a
waiter up in a global; whoever may wait was given one.

Deadlines are absolute, in seconds on the waiter's own clock (`now()`), so that a slow drip never re-arms them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from enchufe.errors import BusyError, DeadlineExceeded, LocalProtocolError

READ: Final = 1
WRITE: Final = 2

# What the system says where it has no descriptor or memory left.
NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# To hand a turn over from thread to thread costs more than a small message does. So a thread that finds another in
# there asks once more after so many seconds, before it is handed to: of several that flood each has a turn for a while.
_MOMENT: Final = 0.0003

_LONGEST_POLL: Final = 2**31 - 1  # milliseconds: poll() takes a C int

T = TypeVar("T")


class Waitable(Protocol):
    """Anything the kernel can watch: a socket, a pipe, a doorbell."""

    def fileno(self) -> int:
        """The descriptor to watch."""


Interest = tuple[Waitable, int]
"""A thing and what is awaited of it: READ, WRITE or both."""


class Waiter(Protocol):
    """How tasks wait. Transports and listeners hold one; they are the only callers of `wait`.

    Attributes:
        blocks: waiting blocks the thread, and nobody but that thread: a call that blocks in the kernel does as well,
            after `settle` where there is anything to settle.
        unsettled: `before_waiting` was called, ever, on any waiter that blocks: there may be something.
    """

    blocks: bool
    unsettled: bool

    def now(self) -> float:
        """Seconds on the clock that deadlines are on; monotonic."""

    def idle(self) -> float:
        """Seconds, so far, in which nobody here had anything to do: only what they grow by means something."""

    async def wait(self, interests: Iterable[Interest], deadline: float | None = None) -> list[Interest]:
        """Wait until something is ready and return which things for what, never an empty list.

        A thing that hung up or failed is ready for all that was awaited of it: trying tells why.

        Raises:
            DeadlineExceeded: `deadline` passed and nothing was ready.
        """

    def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> Awaitable[None]:
        """`wait` for a single thing: the fast path, which builds no set. May return though nothing is ready."""

    def settle(self) -> None:
        """Do now what was to be done before waiting: for whoever blocks in the kernel without asking us."""

    def wake(self, thing: Waitable) -> bool:
        """Have whoever waits for READ of `thing` return from it, from any thread; False where this cannot be done."""

    def forget(self, thing: Waitable) -> None:
        """`thing` is about to be closed: wake whoever waits for it, and keep nothing of it."""

    def pause(self) -> Awaitable[None]:
        """Let the others have their turn."""

    def before_waiting(self, action: Callable[[], None]) -> None:
        """Call `action`, once and not again, before this task waits for anything. It must not raise."""

    def me(self) -> object:
        """The task that asks, or the thread where a thread has one task: equal for the same one."""

    def beside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something that raises nothing in a task of its own; here and now where a thread has one task."""

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """Run something that keeps a disk or a processor busy, where it keeps no other task waiting."""

    def sleeper(self) -> Sleeper:
        """Something for this task to wait by for another one of us, which takes no descriptor."""


class Sleeper(Protocol):
    """How one task waits for another, of the same loop or in any thread."""

    async def sleep(self, deadline: float | None = None) -> None:
        """Wait until `wake`, if that was not called yet. By the task that it was made in, once.

        Raises:
            DeadlineExceeded: `deadline` passed.
        """

    def wake(self) -> None:
        """Have it go on, from any thread. Once; where nobody sleeps any more nothing happens."""


def idle() -> float:
    """Seconds in which this process used no processor; only what they grow by means something."""
    return time.monotonic() - time.process_time()


class _Actions(threading.local):
    """What each thread has to do before it waits."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []


_ACTIONS: Final = _Actions()


class BlockingWaiter:
    """Waits by blocking the thread it is used in; any number of threads may share one.

    Args:
        bell: wakes all of them that wait for READ of one thing; None: nothing does.
    """

    blocks = True
    # Of all of them: what a thread has to do first it has to do whichever of them it waits by.
    unsettled = False

    def __init__(self, bell: Doorbell | None = None) -> None:
        self._bell = bell

    def now(self) -> float:
        """Seconds of `time.monotonic()`."""
        return time.monotonic()

    def idle(self) -> float:
        """As `Waiter.idle`, of the whole process."""
        return idle()

    async def wait(self, interests: Iterable[Interest], deadline: float | None = None) -> list[Interest]:
        """As `Waiter.wait`, by poll()."""
        self.settle()
        things: dict[int, list[Interest]] = {}
        masks: dict[int, int] = {}
        for thing, interest in interests:
            descriptor = thing.fileno()
            things.setdefault(descriptor, []).append((thing, interest))
            masks[descriptor] = masks.get(descriptor, 0) | interest
        ready: list[Interest] = []
        for descriptor, events in _poll(masks, deadline):
            readable = events & ~select.POLLOUT
            writable = events & ~select.POLLIN
            for thing, interest in things[descriptor]:
                got = (interest & READ if readable else 0) | (interest & WRITE if writable else 0)
                if got:
                    ready.append((thing, got))
        return ready

    async def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> None:
        """As `Waiter.wait_one`, by poll()."""
        self.settle()
        masks = {thing.fileno(): interest}
        if self._bell is not None and interest == READ and (bell := self._bell.fileno()) >= 0:
            masks[bell] = READ
        _poll(masks, deadline)

    def wake(self, thing: Waitable) -> bool:  # noqa: ARG002 (all are woken)
        """Ring the bell, where there is one."""
        if self._bell is None:
            return False
        self._bell.ring()
        return True

    def forget(self, thing: Waitable) -> None:
        """Nothing is kept, and shutting a socket down wakes who waits for it."""

    async def pause(self) -> None:
        """Nothing: this thread has nobody else to serve."""

    def before_waiting(self, action: Callable[[], None]) -> None:
        """Call `action` before this thread waits through any BlockingWaiter."""
        _ACTIONS.due.append(action)
        BlockingWaiter.unsettled = True

    me = staticmethod(threading.get_ident)

    def beside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """As `Waiter.beside`: here and now."""
        drive(coroutine)

    def settle(self) -> None:
        """As `Waiter.settle`, for this thread."""
        if actions := _ACTIONS.due:
            _ACTIONS.due = []
            for action in actions:
                action()

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """Call it here: this thread has nobody else to serve."""
        return function(*args)

    def sleeper(self) -> Sleeper:
        """As `Waiter.sleeper`, for this thread."""
        return _SleepingThread(self)


class _SleepingThread:
    """A thread that sleeps by a lock."""

    def __init__(self, waiter: Waiter) -> None:
        self._waiter = waiter
        self._awake = threading.Lock()
        self._awake.acquire()
        self.wake = self._awake.release

    async def sleep(self, deadline: float | None = None) -> None:
        left = -1 if deadline is None else min(max(0.0, deadline - self._waiter.now()), threading.TIMEOUT_MAX)
        if not self._awake.acquire(timeout=left):
            raise DeadlineExceeded("nothing happened before the deadline")


def _poll(masks: dict[int, int], deadline: float | None) -> list[tuple[int, int]]:
    poller = select.poll()
    for descriptor, interest in masks.items():
        if descriptor < 0:
            raise LocalProtocolError("waiting for something that is closed")
        poller.register(
            descriptor,
            (select.POLLIN if interest & READ else 0) | (select.POLLOUT if interest & WRITE else 0),
        )
    while True:
        if deadline is None:
            ready = poller.poll()
        else:
            # At least one look at the kernel, however late we are: what is ready is ready.
            left = deadline - time.monotonic()
            ready = poller.poll(int(min(max(0, left * 1000 + 0.999), _LONGEST_POLL)))
            if not ready and time.monotonic() >= deadline:
                raise DeadlineExceeded("nothing happened before the deadline")
        if ready:
            return ready


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that only waits through a `BlockingWaiter`, to its end, here and now.

    Raises:
        LocalProtocolError: it awaited something foreign (an asyncio future, a trio call): nobody here would
            ever wake it.
    """
    try:
        foreign = coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    # Thrown in, not closed, so that the traceback points at the foreign await.
    error = LocalProtocolError(
        f"a blocking engine cannot await {foreign!r}",
        hint="Under threads and processes await only enchufe's own calls; use the events engine or enchufe.aio"
        " for code that awaits others.",
    )
    try:
        coroutine.throw(error)
    except StopIteration as stop:  # somebody in there expects errors: a server, of its handlers
        handled: T = stop.value
        return handled
    coroutine.close()
    raise error


def no_room(what: str, error: OSError) -> BusyError:
    """What to raise where the system has no descriptor or memory left for something."""
    return BusyError(
        f"{what}: {error.strerror}", hint="Close some connections, or raise the limit of open files (ulimit -n)."
    )


def start(thread: threading.Thread) -> None:
    """Start it.

    Raises:
        BusyError: this process has no thread left.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise BusyError(
            f"there is no thread left for '{thread.name}' ({error})",
            hint="Raise the limit of processes (`ulimit -u`), or do fewer things at once.",
        ) from error


class Doorbell:
    """Wakes whoever waits for READ of it; any thread or signal handler may ring. Rung twice is rung once.

    Raises:
        BusyError: there is no descriptor for it.
    """

    def __init__(self) -> None:
        self._read_end = self._write_end = -1
        try:
            self._read_end, self._write_end = os.pipe()
        except OSError as error:
            raise no_room("no descriptor to wait by", error) from error
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def fileno(self) -> int:
        """What to wait for; -1 once closed."""
        return self._read_end

    def ring(self) -> None:
        """Make it ready for READ until `clear()`; after `close()` nothing happens."""
        if self._write_end >= 0:
            with contextlib.suppress(BlockingIOError):  # full: it is ringing already
                os.write(self._write_end, b"\0")

    def ring_on_signals(self) -> None:
        """Ring whenever a signal with a handler comes, even one that comes just before we wait. Main thread only."""
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def clear(self) -> None:
        """Make it silent again."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._read_end, 4096)) == 4096:
                pass

    def close(self) -> None:
        """Give the descriptors back; whoever might still ring must be gone, or use the same lock."""
        read_end, write_end = self._read_end, self._write_end
        self._read_end = self._write_end = -1
        if read_end >= 0:
            os.close(write_end)
            os.close(read_end)

    def __del__(self) -> None:
        # Of something that was made by half: there was no descriptor for the rest of it.
        self.close()


Ticket = list[Sleeper]
"""Goes through a turnstile once: a new list, in which stands what who waits sleeps by."""


class Turnstile:
    """Lets one through at a time, be they tasks of a loop or threads, in the order in which they came.

    Threads that come within a fraction of a millisecond of each other may change places.

    Whoever is interrupted anywhere on the way, as by Ctrl-C, and leaves with the same ticket then, keeps nobody out.

    Attributes:
        try_enter: go in with a ticket, where nobody is: the ticket of who is in then. One call in C: each message that
            is sent comes through.
    """

    __slots__ = ("_changing", "_inside", "_queue", "try_enter")

    def __init__(self) -> None:
        self._inside: dict[None, Ticket] = {}
        self.try_enter: Callable[[Ticket], Ticket] = partial(self._inside.setdefault, None)
        self._queue: deque[Ticket] = deque()
        self._changing = threading.Lock()  # the queue

    @property
    def taken(self) -> bool:
        """Whether somebody is in."""
        return bool(self._inside)

    async def enter(self, ticket: Ticket, waiter: Waiter, deadline: float | None = None) -> None:
        """Go in, as soon as nobody is, and whoever came before has been. Whatever it raises, `leave` then.

        Raises:
            DeadlineExceeded: somebody still was at `deadline`.
        """
        if self.try_enter(ticket) is ticket:
            return
        waiter.settle()  # before it may be our turn
        if waiter.blocks and (deadline is None or deadline - waiter.now() > _MOMENT):
            time.sleep(_MOMENT)
            if self.try_enter(ticket) is ticket:
                return
        sleeper = waiter.sleeper()
        ticket.append(sleeper)
        try:
            with self._changing:
                self._queue.append(ticket)
            if self.try_enter(ticket) is ticket:  # who left did not see us any more
                self._wait_no_more(ticket)
            else:
                await sleeper.sleep(deadline)
        except BaseException:
            self._wait_no_more(ticket)
            raise

    def leave(self, ticket: Ticket) -> None:
        """Come out, and let in who has waited the longest. Whoever is not in, or no longer, changes nothing."""
        inside, queue = self._inside, self._queue
        while inside.get(None) is ticket:
            if not queue:
                del inside[None]
                if not queue or self.try_enter(ticket) is not ticket:  # or somebody came just then
                    return
            with self._changing:
                if queue:
                    # Nothing comes between these: a signal is handled after a call, and the one call is the last.
                    following = queue[0]
                    del queue[0]
                    inside[None] = following
                    following[0].wake()

    def _wait_no_more(self, ticket: Ticket) -> None:
        with self._changing:
            if ticket in self._queue:
                self._queue.remove(ticket)
