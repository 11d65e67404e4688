"""The sync face: the same connections and servers for code that does not await."""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Final, Literal, Self, Unpack

from enchufe import transports
from enchufe.buffer import Buffer
from enchufe.connection import DONE, Connection
from enchufe.engines import Engine, events, processes, threads
from enchufe.engines.signals import run_until
from enchufe.errors import BusyError, LocalProtocolError
from enchufe.file import BlockingFile
from enchufe.framing.base import Framing
from enchufe.heartbeat import Heartbeat, check_options, connection_over
from enchufe.server import Acceptor, Handler, Limits, ServerOptions, check_handler
from enchufe.transports import parse_address
from enchufe.transports.certificates import ClientTls, ServerTls, for_client
from enchufe.waiting import BlockingWaiter, drive, start

ENGINES: Final[dict[str, Callable[[Handler, Acceptor], Engine] | None]] = {
    threads.NAME: threads.Engine,
    processes.NAME: None,  # it needs another one inside, and has a plain one
    events.NAME: events.OwnLoop,
}
"""The engines by name."""

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)

Workers = int | Literal["each"] | None

AnyHandler = Callable[[Connection], Awaitable[None]] | Callable[["BlockingConnection"], None]
"""An `async def handler(connection)`, or a plain `def` that gets a BlockingConnection."""


class BlockingConnection:
    """A Connection whose calls return when they are done. What each does and raises stands there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._connection)[1:]}"

    @property
    def peer(self) -> str:
        """The other end's address, as people write it."""
        return self._connection.peer

    def send(self, *messages: Buffer) -> None:
        """Send messages, gathered."""
        sending = self._connection.send(*messages)
        if sending is not DONE:
            drive(sending)

    def receive(self) -> bytes | None:
        """The next message; None at a clean end."""
        message = self._connection.in_hand()
        return drive(self._connection.receive()) if message is None else message

    def ask(self, message: Buffer) -> bytes:
        """Send one message and receive one answer."""
        return drive(self._connection.ask(message))

    def end(self) -> None:
        """Half-close: "I am done sending, still listening"."""
        drive(self._connection.end())

    def flush(self) -> None:
        """Send what a server's connection holds back, if anything is."""
        drive(self._connection.flush())

    def reframe(self, framing: Framing) -> None:
        """Go on with another framing, from the first byte behind the last message received."""
        self._connection.reframe(framing)

    def file(self) -> BlockingFile:
        """Go on without messages: read and write as in a file, from the first byte behind the last message.

        The connection belongs to the file from here on.
        """
        return BlockingFile(self._connection.file())

    def close(self) -> None:
        """Close both directions."""
        self._connection.close()

    def __iter__(self) -> Iterator[bytes]:
        # A step of a generator costs less than `__next__` for each message.
        in_hand = self._connection.in_hand
        while True:
            # No jump back from here to the yield: a signal is handled at one, and could lose the message.
            message = in_hand()
            if message is None and (message := self.receive()) is None:
                return
            yield message

    def __next__(self) -> bytes:
        message = self.receive()
        if message is None:
            raise StopIteration
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(
    address: str,
    *,
    framing: Framing,
    timeout: float | None = None,
    tls: ClientTls | None = None,
    server_hostname: str | None = None,
    heartbeat: Heartbeat | None = None,
) -> BlockingConnection:
    """Connect to a server.

    Args:
        address: `host:port`, `unix:/path` or `shm:/path`.
        framing: how messages are told apart; the same as the server's.
        timeout: seconds that connecting, and then any one call, may take; None: no limit.
        tls: speak TLS 1.3: True, or a context (`enchufe.transports.tls.client_context`).
        server_hostname: whose certificate it must be; the host of `address` by default.
        heartbeat: what both sides say to show that they live; the same as the server's.

    Raises:
        LocalProtocolError: `address` is none, or another argument makes no sense.
        BrokenError: nobody answers there.
        DeadlineExceeded: nobody answered in time.
        Refused, RemoteProtocolError: the server is not who it should be, or speaks no TLS.
    """
    where = parse_address(address)
    check_options(framing, timeout, heartbeat)
    waiter = BlockingWaiter()
    deadline = None if timeout is None else waiter.now() + timeout
    context = for_client(tls)
    transport = drive(transports.connect(where, waiter, deadline, tls=context, server_hostname=server_hostname))
    return BlockingConnection(connection_over(transport, framing, timeout=timeout, heartbeat=heartbeat))


class Server:
    """A server in the background, from its construction until it is closed.

    Args:
        handler: what to do with each connection: `async def`, or, under threads and processes, a plain `def` that
            gets a BlockingConnection.
        addresses: where to listen, one or more of `host:port`, `:port`, `unix:/path`; port 0 takes a free port;
            `systemd:` takes the sockets that a socket unit hands over (LISTEN_FDS).
        framing: how messages are told apart.
        engine: how connections wait: "threads", "processes" or "events".
        workers: how many processes do that, each with an engine of its own; None: this one. "processes" takes
            "each" too, its default: one for every connection.
        backlog: connections that the kernel queues before it refuses.
        tls: speak TLS 1.3: the files of the certificate and of its key, or a context.
        limits: see ServerOptions.

    Attributes:
        addresses: where it listens, ports and all; a name with several addresses gives several.

    Raises:
        LocalProtocolError: an address cannot be listened on, or an option makes no sense.
        BusyError: the system has no descriptors, processes or threads left for it.
    """

    def __init__(
        self,
        handler: AnyHandler,
        *addresses: str,
        framing: Framing,
        engine: str = "threads",
        workers: Workers = None,
        backlog: int = 128,
        tls: ServerTls | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        options = ServerOptions(framing=framing, **limits)
        self._engine, self.addresses = _prepare(handler, addresses, engine, workers, backlog, options, tls)
        try:
            self._thread = threading.Thread(target=self._engine.run, name="enchufe server", daemon=True)
            start(self._thread)
        except (BusyError, RuntimeError) as error:
            self._engine.stop()
            self._engine.run()  # to its end at once: what it has is given back
            if isinstance(error, BusyError):
                raise
            raise LocalProtocolError(f"no server runs in the background here: {error}") from error

    def close(self) -> None:
        """Drain and stop: what runs gets its time to finish. Closing again does nothing."""
        if self._thread.is_alive():
            self._engine.stop()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(
    handler: AnyHandler,
    *addresses: str,
    framing: Framing,
    engine: str = "threads",
    workers: Workers = None,
    backlog: int = 128,
    tls: ServerTls | None = None,
    **limits: Unpack[Limits],
) -> None:
    """Serve in the foreground until SIGTERM or SIGINT, then drain. Arguments and errors as for Server.

    Raises:
        LocalProtocolError: called outside the main thread, which alone hears signals: use Server there.
    """
    if threading.current_thread() is not threading.main_thread():
        raise LocalProtocolError("serve() belongs in the main thread", hint="Use enchufe.Server in other threads.")
    options = ServerOptions(framing=framing, **limits)
    # From its first worker on somebody may be served: a signal that comes then waits for `run_until`.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        running, _ = _prepare(handler, addresses, engine, workers, backlog, options, tls)
        run_until(_STOPS, running.run, running.stop)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare(
    handler: AnyHandler,
    addresses: tuple[str, ...],
    engine: str,
    workers: Workers,
    backlog: int,
    options: ServerOptions,
    tls: ServerTls | None,
) -> tuple[Engine, list[str]]:
    if not isinstance(engine, str) or engine not in ENGINES:
        raise LocalProtocolError(
            f"no engine {engine!r}",
            hint=f"There are: {', '.join(ENGINES)}; under asyncio and trio there is enchufe.aio.",
        )
    ready = _awaitable(handler, engine)
    acceptor = Acceptor.listening(addresses, backlog, options, tls)
    try:
        bound = [address for listener in acceptor.listeners for address in listener.addresses]
        return _engine(ready, acceptor, engine, workers), bound
    except BaseException:
        acceptor.close()
        acceptor.dispose()
        raise


def _engine(handler: Handler, acceptor: Acceptor, name: str, workers: Workers) -> Engine:
    inner = ENGINES[name]
    if inner is None or workers is not None:
        return processes.Engine(handler, acceptor, workers if workers is not None else processes.EACH, inner)
    return inner(handler, acceptor)


def _awaitable(handler: Any, engine: str) -> Handler:
    """`handler` itself where it is `async def`; a plain `def` gets a BlockingConnection."""
    check_handler(handler)
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        ready: Handler = handler
        return ready
    if engine == events.NAME:
        raise LocalProtocolError(
            "the events engine serves all connections in one thread, which a plain def would block",
            hint="Write async def, or use the engine threads or processes.",
        )

    async def plain(connection: Connection) -> None:
        result = handler(BlockingConnection(connection))
        if inspect.iscoroutine(result):
            result.close()
            raise LocalProtocolError(
                f"{handler!r} is no async def, and gave a coroutine that nobody awaits",
                hint="Give the async def itself, or functools.partial of it.",
            )

    return plain
