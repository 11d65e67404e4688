"""What a server promises, whatever its engine: its options, whom it lets in, and what happens to one connection."""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from enchufe.checks import check_seconds, check_whole
from enchufe.connection import Connection
from enchufe.errors import BrokenError, BusyError, EnchufeError, LocalProtocolError, RemoteProtocolError
from enchufe.events import Accepted, Event, Finished, Rejected
from enchufe.framing.base import Framing
from enchufe.heartbeat import Heartbeat, check_options, connection_over
from enchufe.transports import Listener, Transport, certificates, inherited, parse_address
from enchufe.transports.addresses import INHERITED
from enchufe.transports.certificates import ServerTls
from enchufe.waiting import READ, Doorbell, Interest, Waiter

Handler = Callable[[Connection], Awaitable[None]]
"""What a server does with a connection: it is closed when this returns, however it returns."""

log = logging.getLogger("enchufe.server")

# Where descriptors, threads or processes ran out and none is ours to give back, nothing tells us when there is room.
_FULL_PAUSE: Final = 1.0  # seconds
# To close over unread bytes resets the connection, and the reset may overtake our last words: so what still comes is
# read and dropped, until the other side ends or is quiet, and not for ever (nginx: lingering_close).
_QUIET: Final = 0.1  # seconds
_LINGER: Final = 2.0  # seconds
# Whoever waits ends by itself when its lifetime is over; so much later it is ended whatever it does.
OVERTIME: Final = 0.5  # seconds
_LONGEST_QUEUE: Final = 2**31 - 1  # listen() takes a C int, and the kernel of that what it has room for


class Limits(TypedDict, total=False):
    """The options of a server beside its framing, as keyword arguments: see `ServerOptions`."""

    max_connections: int | None
    max_per_address: int | None
    idle_timeout: float | None
    max_lifetime: float | None
    handshake_timeout: float
    heartbeat: Heartbeat | None
    drain: float
    gathers: bool
    on_event: Callable[[Event], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What a server keeps to.

    Attributes:
        framing: how messages are told apart.
        max_connections: how many at once; while there are that many nobody is accepted, so that the others
            wait in the kernel's queue. None: no limit.
        max_per_address: how many at once from one host (TCP); more are closed as soon as they come. None: no limit.
        idle_timeout: seconds a receive or send of a handler may take before the connection is closed;
            None: no limit.
        max_lifetime: seconds after which a connection ends, however busy; None: no limit.
        handshake_timeout: seconds until the first byte of a message may come, on transports that need a handshake.
        heartbeat: what both sides say to show that they live; None: nothing.
        drain: seconds that handlers get to finish when the server stops, before their connections are closed.
        gathers: replies to messages in hand go out together, see `Connection`.
        on_event: told of every connection: `Accepted`, `Rejected`, `Finished`. Called from wherever it happened, in
            other threads and processes too, and must not block.
    """

    framing: Framing
    max_connections: int | None = None
    max_per_address: int | None = None
    idle_timeout: float | None = None
    max_lifetime: float | None = None
    handshake_timeout: float = 10.0
    heartbeat: Heartbeat | None = None
    drain: float = 10.0
    gathers: bool = True
    on_event: Callable[[Event], None] | None = None

    def __post_init__(self) -> None:
        check_options(self.framing, None, self.heartbeat)
        for name in ("max_connections", "max_per_address"):
            limit = getattr(self, name)
            if limit is not None:
                check_whole(name, limit, 1)
        for name in ("idle_timeout", "max_lifetime"):
            if (seconds := getattr(self, name)) is not None:
                check_seconds(name, seconds)
        check_seconds("handshake_timeout", self.handshake_timeout)
        check_seconds("drain", self.drain)
        if self.on_event is not None and not callable(self.on_event):
            raise LocalProtocolError(f"on_event must be a function, not {self.on_event!r}")
        if inspect.iscoroutinefunction(self.on_event):
            raise LocalProtocolError("on_event must be a plain def: nobody would await it")

    def connection(self, transport: Transport) -> Connection:
        """The connection that a handler gets."""
        deadline = None if self.max_lifetime is None else transport.waiter.now() + self.max_lifetime
        return connection_over(
            transport,
            self.framing,
            heartbeat=self.heartbeat,
            timeout=self.idle_timeout,
            deadline=deadline,
            gathers=self.gathers,
        )

    def tell(self, event: Event) -> None:
        """Tell `on_event`; a fault of its own hurts nobody."""
        if self.on_event is not None:
            try:
                self.on_event(event)
            except BaseException as error:
                if _concerns_all(error):
                    raise
                log.exception("on_event failed on %r", event)


def check_handler(handler: object) -> None:
    """See that `handler` can be called with a connection, before one comes.

    Raises:
        LocalProtocolError: it cannot.
    """
    if not callable(handler):
        raise LocalProtocolError(f"a handler is a function, not {handler!r}", hint="Write async def, or def.")
    try:
        inspect.signature(handler, follow_wrapped=False).bind(None)  # a decorator may give it what else it needs
    except TypeError as error:
        raise LocalProtocolError(
            f"a handler takes one argument, the connection, and not what {handler!r} does ({error})",
            hint="Write async def handler(connection); functools.partial gives it what else it needs.",
        ) from error
    except ValueError:
        pass  # of some that are written in C nobody knows


async def serve_connection(handler: Handler, transport: Transport, options: ServerOptions, connections: int) -> None:
    """Run `handler` on one accepted connection to its end; whatever goes wrong ends this connection only.

    Args:
        connections: how many there are now, with this one.
    """
    waiter = transport.waiter
    started = waiter.now()
    connection: Connection | None = None
    error: BaseException | None = None
    try:
        if options.on_event is not None:
            options.tell(Accepted(transport.peer, connections))
        await transport.handshake(started + options.handshake_timeout)
        connection = options.connection(transport)
        await handler(connection)
        await connection.flush()  # for as long as its own sends would have waited
    except LocalProtocolError as caught:
        error = caught
        log.exception("the handler misused its connection to %s", transport.peer)
    except EnchufeError as caught:
        error = caught
        log.info("connection to %s ended: %s", transport.peer, caught)
    except BaseException as caught:  # a handler's bug, or its sys.exit(), must not take the others' server down
        error = caught
        if _concerns_all(caught):
            transport.abort()
            raise
        log.exception("the handler failed on its connection to %s", transport.peer)
    finally:
        try:
            if connection is not None and not _concerns_all(error):
                error = await _part(connection, error)
        finally:
            transport.close()
            if options.on_event is not None:
                options.tell(
                    Finished(
                        transport.peer,
                        waiter.now() - started,
                        connection.received if connection else 0,
                        connection.sent if connection else 0,
                        transport.bytes_received,
                        transport.bytes_sent,
                        None if error is None else _told(error),
                    )
                )
            error = None  # its traceback has this frame, which would keep all of the connection until a collection


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 (a handler's own: what it cannot say of itself is left out)
        return type(error).__name__


def _concerns_all(error: BaseException | None) -> bool:
    """Whether it is not for one connection to end by: the program is interrupted, or nobody runs us any more."""
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    return isinstance(error, GeneratorExit)


async def _part(connection: Connection, error: BaseException | None) -> BaseException | None:
    """See to it that the other side can read everything that it was sent; where we failed it, not as an orderly end.

    Returns what went wrong, here or before.
    """
    transport = connection.transport
    connection.deadline = deadline = transport.waiter.now() + _LINGER
    if connection._file is not None:
        connection._file.deadline = deadline
    try:
        try:
            await connection.flush()
        except EnchufeError as caught:
            error = error or caught.with_traceback(None)  # for the same reason as above
            transport.abort()
        if error is None or await _misspoke(connection, error):
            if not connection.at_end or transport.stopped:
                await transport.end(deadline)
                await transport.drop(_QUIET, deadline)
        else:
            # A timeout, a bug in the handler, another connection of its that broke: whoever waits for an answer must
            # not take it for "that was all".
            await transport.drop(0.0, deadline)
            await transport.until_taken(deadline)
            transport.abort()
    except EnchufeError:
        transport.abort()  # the other side is gone: nobody is left to be told
    except BaseException:
        transport.abort()
        raise
    return error


async def _misspoke(connection: Connection, error: BaseException) -> bool:
    """Whether `error` says that the other side broke the framing. It does on another connection of the handler's too.

    A fault in what came is found again, for as long as one looks.
    """
    if not isinstance(error, RemoteProtocolError) or connection._file is not None:
        return False
    connection.deadline = connection.transport.waiter.now()
    try:
        await connection.receive()
    except RemoteProtocolError:
        return True
    except EnchufeError:
        pass
    return False


class Acceptor:
    """Lets connections in, from several listeners in turn, as far as the limits allow.

    Where there is no room nobody is accepted, and whoever waits for `interests` sleeps until there is.

    Attributes:
        open: the connections that are in, until `release`, each with the index of the listener it came by.
        listeners: in the order they were given.
    """

    def __init__(self, listeners: list[Listener], options: ServerOptions) -> None:
        self.options = options
        self.open: dict[Transport, int] = {}
        self.listeners = tuple(listeners)
        self._turns = deque(range(len(listeners)))
        self._hosts: dict[str, int] = {}
        self._ends: dict[Transport, float] = {}  # when their lifetimes do, the first first
        self._lock = threading.Lock()  # connections end in threads of their own
        self._full = False
        self._returned: Transport | None = None
        self._room = Doorbell()  # rung when a connection has ended

    @classmethod
    def listening(
        cls, addresses: Sequence[str], backlog: int, options: ServerOptions, tls: ServerTls | None = None
    ) -> Acceptor:
        """An acceptor that listens on `addresses`, and speaks TLS there where `tls` is given.

        Raises:
            LocalProtocolError: there are none, or one cannot be listened on; the certificate cannot be used.
            BusyError: there are no descriptors for it.
        """
        if not addresses:
            raise LocalProtocolError("no address to serve on", hint='Name one, such as "localhost:9000".')
        check_whole("backlog", backlog, 0, _LONGEST_QUEUE)
        context = certificates.for_server(tls)
        listeners: list[Listener] = []
        try:
            for address in addresses:
                if address == INHERITED:
                    listeners += inherited.listeners(tls=context)
                else:
                    listeners.append(Listener(parse_address(address), backlog=backlog, tls=context))
            return cls(listeners, options)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise

    def interests(self) -> list[Interest]:
        """What to wait for before accepting again: somebody who comes, or room for them."""
        if self._full or not self._has_room():
            return [(self._room, READ)]
        return self._comers()

    def retry_at(self, now: float) -> float | None:
        """When to try again though nothing of `interests` is ready; None: never."""
        with self._lock:
            moments = [next(iter(self._ends.values()))] if self._ends else []
        if self._full:
            moments.append(now + _FULL_PAUSE)
        return min(moments, default=None)

    def try_accept(self, waiter: Waiter) -> Transport | None:
        """A connection that is there already and may come in, or None. And those go whose time is over."""
        if self._ends:
            self._end_overdue(waiter.now())
        self._room.clear()
        if (returned := self._returned) is not None:
            self._returned = None
            return returned
        while self._has_room():
            try:
                found = self._next(waiter)
            except BusyError as error:
                self._pause(error)
                return None
            self._full = False
            if found is None:
                return None
            transport, origin = found
            if self._admit(transport, origin, waiter.now()):
                return transport
            transport.abort()
            log.info("%s has its %s connections already", transport.peer, self.options.max_per_address)
            self.options.tell(Rejected(transport.peer, "max_per_address"))
        return None

    def try_take(self, waiter: Waiter) -> Transport | None:
        """As `try_accept`, for whoever serves it in this process: with all that it needs of the system."""
        transport = self.try_accept(waiter)
        if transport is not None:
            try:
                transport.prepare()
            except BusyError as error:
                self.put_back(transport, error)
                return None
            except BrokenError:  # its handshake says so, to whoever is to know
                pass
        return transport

    def put_back(self, transport: Transport, why: BusyError) -> None:
        """A connection that came in cannot be served yet: it is the next that `try_accept` gives, some time later."""
        self._returned = transport
        self._pause(why)

    def release(self, transport: Transport) -> None:
        """A connection that came in has ended."""
        with self._lock:
            del self.open[transport]
            self._ends.pop(transport, None)
            if (host := _host(transport)) in self._hosts:
                self._hosts[host] -= 1
                if not self._hosts[host]:
                    del self._hosts[host]
            self._room.ring()

    def close(self) -> None:
        """Stop listening; who is still queued is refused."""
        for listener in self.listeners:
            listener.close()
        if (returned := self._returned) is not None:
            self._returned = None
            returned.abort()
            self.release(returned)

    def abandon(self) -> None:
        """Close this process' copies of the listeners only."""
        for listener in self.listeners:
            listener.abandon()
        self.dispose()

    def dispose(self) -> None:
        """Give back what is left when all connections have ended."""
        with self._lock:
            self._room.close()

    def _comers(self) -> list[Interest]:
        return [interest for listener in self.listeners for interest in listener.interests]

    def _has_room(self) -> bool:
        limit = self.options.max_connections
        return limit is None or len(self.open) < limit

    def _end_overdue(self, now: float) -> None:
        while True:
            with self._lock:
                transport, end = next(iter(self._ends.items()), (None, now))
                if transport is None or end > now:
                    return
                del self._ends[transport]
            transport.cut_off(f"it lasted for more than {self.options.max_lifetime:g} s")

    def _admit(self, transport: Transport, origin: int, now: float) -> bool:
        host, limit = _host(transport), self.options.max_per_address
        with self._lock:
            if limit is not None and host:
                if self._hosts.get(host, 0) >= limit:
                    return False
                self._hosts[host] = self._hosts.get(host, 0) + 1
            self.open[transport] = origin
            if self.options.max_lifetime is not None:
                self._ends[transport] = now + self.options.max_lifetime + OVERTIME
        return True

    def _next(self, waiter: Waiter) -> tuple[Transport, int] | None:
        for _ in self.listeners:
            # The one asked first is asked last the next time: none starves another.
            origin = self._turns.popleft()
            self._turns.append(origin)
            accepted = self.listeners[origin].try_accept(waiter)
            if accepted is not None:
                return accepted, origin
        return None

    def _pause(self, why: BusyError) -> None:
        if not self._full:  # once, until there is room again
            log.warning("%s; accepting pauses", why)
        self._full = True


def _host(transport: Transport) -> str:
    """The host that a peer's address names; empty where it names none."""
    return "" if transport.peer.startswith(("unix:", "shm:")) else transport.peer.rpartition(":")[0]
