"""The same connections and servers under asyncio or trio, whichever runs; the caller owns the loop.

The descriptors are watched by a poller of our own, and the host's loop watches that one descriptor: so they stay
registered, and a wait costs no registration, on either. It needs a poller that is a descriptor itself: epoll or kqueue.
"""

from __future__ import annotations

import asyncio
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from enchufe import transports
from enchufe.connection import Connection
from enchufe.engines import events, pollers
from enchufe.engines.loop import Finish
from enchufe.engines.slots import Slots, apart
from enchufe.errors import DeadlineExceeded, LocalProtocolError
from enchufe.framing.base import Framing
from enchufe.heartbeat import Heartbeat, check_options, connection_over
from enchufe.server import Acceptor, Handler, Limits, ServerOptions, check_handler
from enchufe.transports import parse_address
from enchufe.transports.certificates import ClientTls, ServerTls, for_client
from enchufe.waiting import READ, Interest, Sleeper, Waitable, idle

if TYPE_CHECKING:
    import trio

T = TypeVar("T")


class Host(ABC):
    """The `Waiter` over somebody else's loop, for one connection or one server."""

    blocks = False
    unsettled = False

    def __init__(self) -> None:
        self._slots: Slots[Any] | None = None

    # What each loop does in its own way.

    @abstractmethod
    def now(self) -> float:
        """Seconds on the loop's clock."""

    @abstractmethod
    def _parked(self) -> Any:
        """Something for the current task to wait by."""

    @abstractmethod
    def _sleep(self, parked: Any, deadline: float | None) -> Awaitable[None]:
        """Wait by it, until it is resumed; DeadlineExceeded where that does not happen in time."""

    @abstractmethod
    def _resume(self, parked: Any) -> None:
        """Have who waits by it go on; again does nothing."""

    @abstractmethod
    def _waits(self, parked: Any) -> bool:
        """Whether somebody waits by it, whom nothing has woken yet."""

    @abstractmethod
    async def pause(self) -> None:
        """As `Waiter.pause`."""

    @abstractmethod
    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """As `Waiter.offload`."""

    @abstractmethod
    def before_waiting(self, action: Callable[[], None]) -> None:
        """As `Waiter.before_waiting`: as soon as the loop has its turn, which is when the task waits for anything."""

    @abstractmethod
    def me(self) -> object:
        """As `Waiter.me`."""

    @abstractmethod
    def beside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """As `Waiter.beside`."""

    @abstractmethod
    def call_soon(self, function: Callable[[], None]) -> None:
        """Call `function` in the loop's thread, from whatever thread."""

    @abstractmethod
    def _watch(self, descriptor: int) -> None:
        """From now on call `_dispatch` whenever `descriptor` is readable."""

    @abstractmethod
    def _unwatch(self, descriptor: int) -> None:
        """No longer."""

    @abstractmethod
    async def open(self) -> None:
        """Before the first `spawn`."""

    @abstractmethod
    def spawn(self, coroutine: Coroutine[Any, Any, Any], finish: Finish, about: object) -> None:
        """Run `coroutine` as a task; `finish` gets what it raised, and `about`."""

    @abstractmethod
    def cancel(self) -> None:
        """Cancel, as this loop does it, whatever was spawned and still runs."""

    @abstractmethod
    async def join(self) -> None:
        """Wait for all that was spawned, even where the caller is being cancelled."""

    @abstractmethod
    async def sleep_forever(self) -> None:
        """Until cancelled."""

    # What is the same on all.

    def idle(self) -> float:
        """As `Waiter.idle`, of the whole process."""
        return idle()

    async def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> None:
        """As `Waiter.wait_one`; `interest` is READ or WRITE, not both."""
        slots = self._slots or self._open()
        slot = slots.by_descriptor.get(thing.fileno())
        parked = self._parked()
        if slot is not None and slot.watched == READ == interest and slot.reader is None:
            slot.reader = parked  # what nearly every wait is
        else:
            slots.park(thing.fileno(), interest, parked)
        try:
            await self._sleep(parked, deadline)
        except BaseException:
            slots.unpark([(thing, interest)], parked)
            raise

    async def wait(self, interests: Iterable[Interest], deadline: float | None = None) -> list[Interest]:
        """As `Waiter.wait`."""
        slots = self._slots or self._open()
        parked = self._parked()
        single = apart(interests)
        try:
            for thing, kind in single:
                slots.park(thing.fileno(), kind, parked)
            await self._sleep(parked, deadline)
            waiting = slots.parked(single, parked)
        finally:
            slots.unpark(single, parked)
            self._close_if_idle()
        return [interest for interest in single if interest not in waiting]

    def settle(self) -> None:  # noqa: B027
        """As `Waiter.settle`: nothing, since the loop does it by itself."""

    def wake(self, thing: Waitable) -> bool:
        """As `Waiter.wake`."""
        descriptor = thing.fileno()
        self.call_soon(lambda: self._wake(descriptor))
        return True

    def forget(self, thing: Waitable) -> None:
        """As `Waiter.forget`."""
        if self._slots is not None:
            for parked in self._slots.forget(thing.fileno()):
                self._resume(parked)
            self._close_if_idle()

    def sleeper(self) -> Sleeper:
        """As `Waiter.sleeper`."""
        return _Sleeper(self, self._parked())

    def _wake(self, descriptor: int) -> None:
        if self._slots is not None and (parked := self._slots.wake(descriptor)) is not None:
            self._resume(parked)

    def _dispatch(self) -> None:
        if self._slots is not None:
            self._slots.poll(0)

    def _open(self) -> Slots[Any]:
        poller = pollers.best()
        fileno = getattr(poller, "fileno", None)
        if fileno is None:
            poller.close()
            raise LocalProtocolError(
                "this system has neither epoll nor kqueue, which enchufe.aio needs",
                hint="Use the engine threads or events.",
            )
        self._slots = Slots(poller, self._resume, self._waits)
        self._watch(fileno())
        return self._slots

    def _close_if_idle(self) -> None:
        """Where nothing is watched any more, leave nothing behind in the loop."""
        if self._slots is not None and not self._slots.by_descriptor:
            poller: Any = self._slots.poller
            self._slots = None
            self._unwatch(poller.fileno())
            poller.close()


class _Sleeper:
    """A task that waits for another."""

    __slots__ = ("_asleep", "_awake", "_host", "_parked")

    def __init__(self, host: Host, parked: Any) -> None:
        self._host = host
        self._parked = parked
        self._awake = self._asleep = False

    async def sleep(self, deadline: float | None = None) -> None:
        if self._awake:
            return
        self._asleep = True
        try:
            await self._host._sleep(self._parked, deadline)
        finally:
            self._asleep = False

    def wake(self) -> None:
        with suppress(RuntimeError):  # the loop is over, and whoever slept there with it
            self._host.call_soon(self._wake_up)

    def _wake_up(self) -> None:
        self._awake = True
        if self._asleep:
            self._host._resume(self._parked)


class AsyncioHost(Host):
    """asyncio's loop, or uvloop's."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beside: set[asyncio.Task[Any]] = set()

    def now(self) -> float:
        """Seconds on the loop's clock."""
        return self._loop.time()

    # What nearly every wait and its end are, without a call between for each of them.

    @types.coroutine
    def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> Generator[Any, None, None]:
        """As `Host.wait_one`."""
        slots = self._slots or self._open()
        slot = slots.by_descriptor.get(thing.fileno())
        parked = self._loop.create_future()
        if slot is not None and slot.watched == READ == interest and slot.reader is None:
            slot.reader = parked
        else:
            slots.park(thing.fileno(), interest, parked)
        try:
            yield from self._sleep(parked, deadline).__await__() if deadline is not None else parked
        except BaseException:
            slots.unpark([(thing, interest)], parked)
            raise

    def _dispatch(self) -> None:
        slots = self._slots
        if slots is None:
            return
        by_descriptor, writable = slots.by_descriptor, slots.poller.writable
        unusual = False
        for descriptor, bits in slots.poller.poll(0):
            slot = by_descriptor.get(descriptor)
            if not bits & writable and slot is not None and (parked := slot.reader) is not None:
                slot.reader = None
                try:  # asking first costs more
                    parked.set_result(None)
                except asyncio.InvalidStateError:
                    continue  # it was cancelled
            else:
                unusual = True
        if unusual:
            slots.poll(0)

    def _parked(self) -> asyncio.Future[None]:
        return self._loop.create_future()

    def _sleep(self, parked: asyncio.Future[None], deadline: float | None) -> Awaitable[None]:
        return parked if deadline is None else self._sleep_until(parked, deadline)

    async def _sleep_until(self, parked: asyncio.Future[None], deadline: float) -> None:
        timer = self._loop.call_at(deadline, self._expire, parked)
        try:
            await parked
        finally:
            timer.cancel()

    @staticmethod
    def _expire(parked: asyncio.Future[None]) -> None:
        if not parked.done():
            parked.set_exception(DeadlineExceeded("nothing happened before the deadline"))

    def _resume(self, parked: asyncio.Future[None]) -> None:
        if not parked.done():
            parked.set_result(None)

    def _waits(self, parked: asyncio.Future[None]) -> bool:
        return not parked.done()

    async def pause(self) -> None:
        """As `Waiter.pause`."""
        await asyncio.sleep(0)

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """As `Waiter.offload`, in the loop's executor."""
        return await self._loop.run_in_executor(None, partial(function, *args))

    def before_waiting(self, action: Callable[[], None]) -> None:
        """As `Host.before_waiting`."""
        self._loop.call_soon(action)

    me = staticmethod(asyncio.current_task)

    def beside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """As `Host.beside`."""
        task = self._loop.create_task(coroutine)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def call_soon(self, function: Callable[[], None]) -> None:
        """As `Host.call_soon`."""
        self._loop.call_soon_threadsafe(function)

    async def open(self) -> None:
        """As `Host.open`."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any], finish: Finish, about: object) -> None:
        """As `Host.spawn`."""

        def ended(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            finish(asyncio.CancelledError() if task.cancelled() else task.exception(), about)

        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(ended)

    def cancel(self) -> None:
        """As `Host.cancel`."""
        for task in self._tasks:
            task.cancel()

    async def join(self) -> None:
        """As `Host.join`."""
        while tasks := self._tasks | self._beside:
            await asyncio.wait(tasks)

    async def sleep_forever(self) -> None:
        """As `Host.sleep_forever`."""
        await self._loop.create_future()

    def _watch(self, descriptor: int) -> None:
        self._loop.add_reader(descriptor, self._dispatch)

    def _unwatch(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)


class _TrioTask:
    """A task of trio's that waits, and may be rescheduled once."""

    __slots__ = ("task", "waits")

    def __init__(self, task: Any) -> None:
        self.task = task
        self.waits = True


class TrioHost(Host):
    """trio's loop."""

    def __init__(self) -> None:
        super().__init__()
        import trio  # noqa: PLC0415 (only where it runs is it there for sure)

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._watching: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._scopes: set[trio.CancelScope] = set()
        self._stack = AsyncExitStack()

    def now(self) -> float:
        """Seconds on the loop's clock."""
        return self._trio.current_time()

    def _parked(self) -> _TrioTask:
        return _TrioTask(self._trio.lowlevel.current_task())

    async def _sleep(self, parked: _TrioTask, deadline: float | None) -> None:
        def abort(_raise_cancel: Any) -> Any:
            parked.waits = False
            return self._trio.lowlevel.Abort.SUCCEEDED

        if deadline is None:
            await self._trio.lowlevel.wait_task_rescheduled(abort)
            return
        with self._trio.CancelScope(deadline=deadline) as scope:
            await self._trio.lowlevel.wait_task_rescheduled(abort)
        if scope.cancelled_caught:
            raise DeadlineExceeded("nothing happened before the deadline")

    def _resume(self, parked: _TrioTask) -> None:
        if parked.waits:
            parked.waits = False
            self._trio.lowlevel.reschedule(parked.task)

    def _waits(self, parked: _TrioTask) -> bool:
        return parked.waits

    async def pause(self) -> None:
        """As `Waiter.pause`."""
        await self._trio.lowlevel.cancel_shielded_checkpoint()

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """As `Waiter.offload`, in one of trio's threads."""
        return await self._trio.to_thread.run_sync(partial(function, *args))

    def before_waiting(self, action: Callable[[], None]) -> None:
        """As `Host.before_waiting`."""
        self._token.run_sync_soon(action)

    def me(self) -> object:
        """As `Host.me`."""
        return self._trio.lowlevel.current_task()

    def beside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """As `Host.beside`; without a server there is no nursery."""

        async def run() -> None:
            await coroutine

        self._trio.lowlevel.spawn_system_task(run)

    def call_soon(self, function: Callable[[], None]) -> None:
        """As `Host.call_soon`."""
        self._token.run_sync_soon(function)

    async def open(self) -> None:
        """As `Host.open`."""
        self._nursery = await self._stack.enter_async_context(self._trio.open_nursery())

    def spawn(self, coroutine: Coroutine[Any, Any, Any], finish: Finish, about: object) -> None:
        """As `Host.spawn`."""

        async def run() -> None:
            error: BaseException | None = None
            # The server's own drain ends what is cancelled with it.
            scope = self._trio.CancelScope(shield=True)
            self._scopes.add(scope)
            try:
                with scope:
                    await coroutine
            except Exception as caught:  # noqa: BLE001 (told)
                error = caught
            self._scopes.discard(scope)
            finish(error, about)

        assert self._nursery is not None
        self._nursery.start_soon(run)

    def cancel(self) -> None:
        """As `Host.cancel`."""
        for scope in self._scopes:
            scope.cancel()

    async def join(self) -> None:
        """As `Host.join`."""
        assert self._nursery is not None
        self._nursery.cancel_scope.shield = True
        await self._stack.aclose()

    async def sleep_forever(self) -> None:
        """As `Host.sleep_forever`."""
        await self._trio.sleep_forever()

    def _watch(self, descriptor: int) -> None:
        self._watching = self._trio.CancelScope()
        self._trio.lowlevel.spawn_system_task(self._look, descriptor, self._watching)

    def _unwatch(self, descriptor: int) -> None:
        assert self._watching is not None
        self._watching.cancel()
        self._watching = None
        self._trio.lowlevel.notify_closing(descriptor)

    async def _look(self, descriptor: int, watching: trio.CancelScope) -> None:
        with watching:
            while self._watching is watching:
                try:
                    await self._trio.lowlevel.wait_readable(descriptor)
                except self._trio.ClosedResourceError:
                    return
                self._dispatch()


def host() -> Host:
    """A waiter over the loop that runs.

    Raises:
        LocalProtocolError: none runs.
    """
    if "trio" in sys.modules and sys.modules["trio"].lowlevel.in_trio_run():
        return TrioHost()
    try:
        return AsyncioHost()
    except RuntimeError:
        raise LocalProtocolError(
            "neither asyncio nor trio runs here", hint="Use enchufe.connect and enchufe.serve in plain code."
        ) from None


class connect:
    """Connect to a server: `async with aio.connect(...) as connection`, or `connection = await aio.connect(...)`.

    Args:
        address, framing, timeout, tls, server_hostname, heartbeat: as for `enchufe.connect`, whose errors it raises.
    """

    def __init__(
        self,
        address: str,
        *,
        framing: Framing,
        timeout: float | None = None,
        tls: ClientTls | None = None,
        server_hostname: str | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._address = parse_address(address)
        check_options(framing, timeout, heartbeat)
        self._framing = framing
        self._timeout = timeout
        self._tls = for_client(tls)
        self._server_hostname = server_hostname
        self._heartbeat = heartbeat
        self._connection: Connection | None = None

    def __await__(self) -> Generator[Any, Any, Connection]:
        return self._connect().__await__()

    async def __aenter__(self) -> Connection:
        self._connection = await self._connect()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _connect(self) -> Connection:
        waiter = host()
        deadline = None if self._timeout is None else waiter.now() + self._timeout
        transport = await transports.connect(
            self._address, waiter, deadline, tls=self._tls, server_hostname=self._server_hostname
        )
        return connection_over(transport, self._framing, timeout=self._timeout, heartbeat=self._heartbeat)


class Server:
    """A server in the loop that runs: `async with aio.Server(handler, ...) as server`; leaving the block drains it.

    Handlers that are late then are cut off, and cancelled a second later where they await something else.

    Args:
        handler: `async def`, with a Connection; it may await whatever the loop's own code may.
        addresses, framing, backlog, tls, limits: as for `enchufe.Server`.

    Attributes:
        addresses: where it listens, ports and all.

    Raises:
        LocalProtocolError: an address cannot be listened on, or an option makes no sense.
    """

    def __init__(
        self,
        handler: Handler,
        *addresses: str,
        framing: Framing,
        backlog: int = 128,
        tls: ServerTls | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        check_handler(handler)
        acceptor = Acceptor.listening(addresses, backlog, ServerOptions(framing=framing, **limits), tls)
        self.addresses = [address for listener in acceptor.listeners for address in listener.addresses]
        try:
            self._engine = events.Engine(handler, acceptor)
        except BaseException:
            acceptor.close()
            raise
        self._host: Host | None = None

    async def __aenter__(self) -> Self:
        self._host = host()
        await self._host.open()
        self._host.spawn(self._engine.serve(self._host), self._served, None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        assert self._host is not None
        self._engine.stop()
        await self._host.join()

    def _served(self, error: BaseException | None, _: object) -> None:
        """The drain is over: a handler that awaits something else than its connection learns of it too."""
        assert self._host is not None
        self._host.cancel()
        if error is not None:
            raise error


async def serve(
    handler: Handler,
    *addresses: str,
    framing: Framing,
    backlog: int = 128,
    tls: ServerTls | None = None,
    **limits: Unpack[Limits],
) -> None:
    """Serve until cancelled, then drain. Arguments and errors as for Server."""
    async with Server(handler, *addresses, framing=framing, backlog=backlog, tls=tls, **limits) as server:
        assert server._host is not None
        await server._host.sleep_forever()
