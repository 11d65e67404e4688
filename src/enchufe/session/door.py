"""The door: hears whoever dials a listener, lets one transfer in at a time, and that one's streams after it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from enchufe.errors import BusyError, ClosedError, EnchufeError
from enchufe.session.base import HELLO_TIMEOUT, Greeted, Session, hello_of
from enchufe.transfer.machine import Machine, told_to_peer
from enchufe.transfer.states import State
from enchufe.transports import Listener, Transport
from enchufe.waiting import BlockingWaiter, Doorbell, drive

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

M = TypeVar("M", bound=Machine)

# Connections that may be saying HELLO at once; more wait in the backlog. No more than this part of the descriptors that
# this process may have: whoever is inside needs the others.
_GUESTS: Final = 64
_GUESTS_PART: Final = 4
_FAREWELL: Final = 3.0  # seconds that whoever is turned away gets to hear why
_PAUSE: Final = 0.2  # seconds to wait where this process has no descriptor left


class Door(Generic[M]):
    """Accepts in a thread of its own, from `with` on.

    Args:
        listener: stays the caller's.
        machine: makes one for whoever comes.
        timeout: seconds until whoever comes must have said HELLO, HELLO_TIMEOUT at the most.
    """

    def __init__(self, listener: Listener, machine: Callable[[], M], timeout: float) -> None:
        self._listener = listener
        self._machine = machine
        self._timeout = min(timeout, HELLO_TIMEOUT)
        self._waiter = BlockingWaiter()
        self._bell = Doorbell()
        self._lock = threading.Lock()
        self._places = threading.Semaphore(_most_guests())
        self._let_in: queue.SimpleQueue[Greeted[M]] = queue.SimpleQueue()
        self._inside: Greeted[M] | None = None  # let in, and not gone
        self._session: Session[M] | None = None
        self._closed = False
        self._guests: set[Transport] = set()
        self._thread = threading.Thread(target=self._accept, name="enchufe door", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            guests = list(self._guests)
        self._bell.ring()
        self._thread.join()
        for guest in guests:
            guest.close()
        with suppress(queue.Empty):
            while True:
                self._let_in.get_nowait().transport.close()
        self._bell.close()

    def next(self, timeout: float | None = None) -> Greeted[M] | None:
        """The next dialer that was let in; None where nobody came for `timeout` seconds. `left` when done with it."""
        try:
            return self._let_in.get(timeout=timeout)
        except queue.Empty:
            return None

    def entered(self, session: Session[M]) -> None:
        """The session of the one that was let in: where its streams go, and what a newer attempt at the same ends."""
        with self._lock:
            self._session = session

    def left(self, greeted: Greeted[M]) -> None:
        """That one is gone; the next may come."""
        with self._lock:
            if self._inside is greeted:
                self._inside = self._session = None

    def _accept(self) -> None:
        while not self._closed:
            try:
                transport = drive(self._listener.accept(self._waiter, stop=self._bell))
            except BusyError:
                threading.Event().wait(_PAUSE)
                continue
            except EnchufeError:
                return
            if transport is None:
                return
            self._places.acquire()
            with self._lock:
                self._guests.add(transport)
            threading.Thread(target=self._hear, args=(transport,), name="enchufe guest", daemon=True).start()

    def _hear(self, transport: Transport) -> None:
        machine = self._machine()
        kept = False
        try:
            deadline = self._waiter.now() + self._timeout
            drive(transport.handshake(deadline))
            kept = self._admit(drive(hello_of(transport, machine, deadline)))
        except EnchufeError as error:
            self._turn_away(transport, machine, error)
        finally:
            with self._lock:
                self._guests.discard(transport)
                kept = kept and not self._closed
            if not kept:
                transport.close()
            self._places.release()

    def _admit(self, greeted: Greeted[M]) -> bool:
        """Whether it is somebody's now.

        Raises:
            BusyError: another is inside.
        """
        hello = greeted.hello
        if hello.stream:
            session = self._session
            return session is not None and session.attach(greeted)
        with self._lock:
            inside = self._inside
            if self._closed:
                return False
            if inside is not None:
                if hello.session != inside.hello.session:
                    raise BusyError("another transfer is going on here")
                if hello.epoch <= inside.hello.epoch:
                    raise BusyError("a newer attempt at this transfer was here already")
                if self._session is not None:
                    self._session.fence()
            self._inside, self._session = greeted, None
            self._let_in.put(greeted)
            return True

    def _turn_away(self, transport: Transport, machine: M, error: EnchufeError) -> None:
        if isinstance(error, ClosedError) or machine.state in (State.FAILED, State.DONE):
            return
        deadline = self._waiter.now() + _FAREWELL
        with suppress(EnchufeError):
            drive(transport.send(machine.send(told_to_peer(error)), deadline))
            drive(transport.end(deadline))
            drive(transport.drop(_FAREWELL, deadline))


def _most_guests() -> int:
    if resource is None:
        return _GUESTS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _GUESTS if limit == resource.RLIM_INFINITY else max(1, min(_GUESTS, limit // _GUESTS_PART))
