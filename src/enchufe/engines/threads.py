"""threads: one thread per connection; waiting blocks that thread and nobody else."""

from __future__ import annotations

import contextlib
import threading
from typing import Final

from enchufe.errors import BusyError, DeadlineExceeded
from enchufe.server import Acceptor, Handler, ServerOptions, log, serve_connection
from enchufe.transports import Listener, Transport
from enchufe.waiting import READ, BlockingWaiter, Doorbell, Interest, drive

NAME: Final = "threads"

# Where descriptors ran out and none of them is ours to close, nothing tells us when there is room again.
_FULL_PAUSE: Final = 1.0  # seconds


class Engine:
    """Accepts in the thread that calls `run`, and gives every connection a thread of its own."""

    def __init__(self, handler: Handler, listeners: list[Listener], options: ServerOptions) -> None:
        self._handler = handler
        self._options = options
        self._acceptor = Acceptor(listeners)
        self._waiter = BlockingWaiter()
        self._lock = threading.RLock()  # a signal handler may call stop() while we hold it
        self._connections: dict[Transport, threading.Thread] = {}
        self._stop = Doorbell()
        self._gone = Doorbell()  # rung whenever a connection has ended

    def stop(self) -> None:
        """Ask `run` to drain and return; any thread or signal handler may."""
        with self._lock:
            self._stop.ring()

    def run(self) -> None:
        """Serve until `stop`, then drain: no new connections, and what runs gets `drain` seconds to finish."""
        try:
            while not drive(self._stopped()):
                while self._has_room() and (accepted := self._acceptor.try_accept(self._waiter)) is not None:
                    self._start(accepted)
        finally:
            self._acceptor.close()
            self._drain()
            with self._lock:  # a thread that outlived the drain may be ringing
                self._stop.close()
                self._gone.close()

    async def _stopped(self) -> bool:
        """Wait until somebody comes, room is made, or we are told to stop."""
        interests: list[Interest] = [(self._stop, READ), (self._gone, READ)]
        deadline = None
        if self._acceptor.full:
            deadline = self._waiter.now() + _FULL_PAUSE
        elif self._has_room():
            interests += self._acceptor.interests
        with contextlib.suppress(DeadlineExceeded):
            ready = await self._waiter.wait(interests, deadline)
            if any(thing is self._stop for thing, _ in ready):
                return True
        self._gone.clear()
        return False

    def _has_room(self) -> bool:
        limit = self._options.max_connections
        return limit is None or len(self._connections) < limit

    def _start(self, transport: Transport) -> None:
        thread = threading.Thread(target=self._serve, args=(transport,), name=f"enchufe {transport.peer}", daemon=True)
        with self._lock:
            self._connections[transport] = thread
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
            log.warning("%s", BusyError(f"no thread for {transport.peer}: {error}"))
            with self._lock:
                del self._connections[transport]
            transport.abort()

    def _serve(self, transport: Transport) -> None:
        try:
            drive(serve_connection(self._handler, transport, self._options))
        finally:
            with self._lock:
                del self._connections[transport]
                self._gone.ring()

    def _drain(self) -> None:
        with self._lock:
            threads = list(self._connections.values())
            for transport in self._connections:
                transport.stop_receiving()
        deadline = self._waiter.now() + self._options.drain
        for thread in threads:
            thread.join(max(0.0, deadline - self._waiter.now()))
        with self._lock:
            late = dict(self._connections)
            for transport in late:
                log.warning("%s did not finish in %g s and is closed", transport.peer, self._options.drain)
                transport.close()
        for thread in late.values():
            thread.join(1.0)
