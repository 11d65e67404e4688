"""threads: one thread per connection; waiting blocks that thread and nobody else."""

from __future__ import annotations

import contextlib
import threading
from typing import Final

from enchufe.errors import BusyError, DeadlineExceeded
from enchufe.server import Acceptor, Handler, log, serve_connection
from enchufe.transports import Transport
from enchufe.waiting import READ, BlockingWaiter, Doorbell, Interest, drive, start

NAME: Final = "threads"

_AT_ONCE: Final = 64  # connections accepted before we look whether it is time to stop


class Engine:
    """Accepts in the thread that calls `run`, and gives every connection a thread of its own."""

    def __init__(self, handler: Handler, acceptor: Acceptor) -> None:
        self._handler = handler
        self._acceptor = acceptor
        self._lock = threading.RLock()  # a signal handler may call stop() while we hold it
        self._threads: dict[Transport, threading.Thread] = {}
        self._stop = Doorbell()
        self._drain_bell = Doorbell()
        self._waiter = BlockingWaiter(self._drain_bell)

    def stop(self) -> None:
        """Ask `run` to drain and return; any thread or signal handler may."""
        with self._lock:
            self._stop.ring()

    def run(self) -> None:
        """Serve until `stop`, then drain: no new connections, and what runs gets `drain` seconds to finish."""
        try:
            while not drive(self._stopped()):
                for _ in range(_AT_ONCE):
                    accepted = self._acceptor.try_take(self._waiter)
                    if accepted is None or not self._start(accepted):
                        break
        finally:
            self._acceptor.close()
            self._drain()
            self._acceptor.dispose()
            with self._lock:  # a thread that outlived the drain may be waiting
                self._stop.close()
                self._drain_bell.close()

    async def _stopped(self) -> bool:
        """Wait until somebody comes, room is made, or we are told to stop."""
        interests: list[Interest] = [(self._stop, READ), *self._acceptor.interests()]
        with contextlib.suppress(DeadlineExceeded):
            ready = await self._waiter.wait(interests, self._acceptor.retry_at(self._waiter.now()))
            return any(thing is self._stop for thing, _ in ready)
        return False

    def _start(self, transport: Transport) -> bool:
        """Serve it, where there is a thread for it: whether there was."""
        args = (transport, len(self._acceptor.open))
        thread = threading.Thread(target=self._serve, args=args, name=f"enchufe {transport.peer}", daemon=True)
        with self._lock:
            self._threads[transport] = thread
        try:
            start(thread)
        except BusyError as error:
            with self._lock:
                del self._threads[transport]
            self._acceptor.put_back(transport, error)
            return False
        return True

    def _serve(self, transport: Transport, connections: int) -> None:
        try:
            drive(serve_connection(self._handler, transport, self._acceptor.options, connections))
        finally:
            self._forget(transport)

    def _forget(self, transport: Transport) -> None:
        with self._lock:
            del self._threads[transport]
        self._acceptor.release(transport)

    def _drain(self) -> None:
        with self._lock:
            threads = list(self._threads.values())
            for transport in self._threads:
                transport.stop_receiving()
        drain = self._acceptor.options.drain
        deadline = self._waiter.now() + drain
        for thread in threads:
            thread.join(min(max(0.0, deadline - self._waiter.now()), threading.TIMEOUT_MAX))
        with self._lock:
            late = dict(self._threads)
            for transport in late:
                log.warning("%s did not finish in %g s and is cut off", transport.peer, drain)
                transport.cut_off(f"it did not finish in {drain:g} s")
        for thread in late.values():
            thread.join(1.0)
        with self._lock:  # whoever is busy with something else: its other side is to know
            for transport in self._threads:
                transport.abort()
