"""events: all connections in one thread, non-blocking and multiplexed by select or better."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from enchufe.engines.loop import Finish, Loop
from enchufe.engines.pollers import Poller, best
from enchufe.errors import DeadlineExceeded, EnchufeError
from enchufe.server import Acceptor, Handler, log, serve_connection
from enchufe.transports import Transport
from enchufe.waiting import READ, Doorbell, Interest, Waitable, Waiter

NAME: Final = "events"

_AT_ONCE: Final = 64  # connections accepted before those that are in have their turn


class Spawner(Waiter, Protocol):
    """A waiter that runs tasks: our own loop, or one over somebody else's."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any], finish: Finish, about: object) -> object:
        """Run `coroutine` as a task; `finish` gets what it raised, and `about`."""


class Engine:
    """Has a task for every connection, in a loop that the caller owns: see `serve`.

    Raises:
        BusyError: there are no descriptors for it.
    """

    def __init__(self, handler: Handler, acceptor: Acceptor) -> None:
        self._handler = handler
        self._acceptor = acceptor
        self._lock = threading.RLock()  # a signal handler may call stop() while we hold it
        self._stop = Doorbell()
        self._ended = Doorbell()  # rung when the last connection has, while we drain
        self._draining = False

    def stop(self) -> None:
        """Ask it to drain and return; any thread or signal handler may."""
        with self._lock:
            self._stop.ring()

    async def serve(self, loop: Spawner) -> None:
        """Serve until `stop`, then drain: no new connections, and what runs gets `drain` seconds to finish."""
        acceptor = self._acceptor
        finish = self._finished  # once, not for every connection
        waited: set[Waitable] = {self._stop}
        try:
            while True:
                interests: list[Interest] = [(self._stop, READ), *acceptor.interests()]
                waited.update(thing for thing, _ in interests)
                with contextlib.suppress(DeadlineExceeded):
                    ready = await loop.wait(interests, acceptor.retry_at(loop.now()))
                    if any(thing is self._stop for thing, _ in ready):
                        break
                for _ in range(_AT_ONCE):
                    accepted = acceptor.try_take(loop)
                    if accepted is None:
                        break
                    serving = serve_connection(self._handler, accepted, acceptor.options, len(acceptor.open))
                    loop.spawn(serving, finish, accepted)
        finally:
            for thing in waited:
                loop.forget(thing)  # before it is closed
            acceptor.close()
            await self._drain(loop)
            loop.forget(self._ended)
            self._ended.close()
            acceptor.dispose()
            with self._lock:
                self._stop.close()

    def _finished(self, error: BaseException | None, transport: Transport) -> None:
        self._acceptor.release(transport)
        if self._draining and not self._acceptor.open:
            self._ended.ring()
        if error is not None:
            log.error("serving %s failed", transport.peer, exc_info=error)

    async def _drain(self, loop: Spawner) -> None:
        options = self._acceptor.options
        self._draining = True
        for transport in list(self._acceptor.open):
            transport.stop_receiving()
        await self._all_ended(loop, options.drain)
        for transport in list(self._acceptor.open):
            log.warning("%s did not finish in %g s and is cut off", transport.peer, options.drain)
            transport.cut_off(f"it did not finish in {options.drain:g} s")
        await self._all_ended(loop, 1.0)
        for transport in list(self._acceptor.open):  # it awaits something else: its other side is to know
            transport.abort()

    async def _all_ended(self, loop: Spawner, seconds: float) -> None:
        deadline = loop.now() + seconds
        with contextlib.suppress(EnchufeError):
            while self._acceptor.open:
                await loop.wait([(self._ended, READ)], deadline)
                self._ended.clear()


class OwnLoop(Engine):
    """The same in a loop of its own, in the thread that calls `run`."""

    def __init__(self, handler: Handler, acceptor: Acceptor, poller: Callable[[], Poller] = best) -> None:
        super().__init__(handler, acceptor)
        self._loop = Loop(poller())

    def run(self) -> None:
        """As `serve`."""
        try:
            self._loop.run(self.serve(self._loop))
        finally:
            self._loop.close()
