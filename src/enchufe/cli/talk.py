"""`enchufe connect` and `enchufe listen`: framed messages by hand.

Standard input is read in a thread of its own (`typed.py`), so both directions flow at once whatever it is: one task may
send while another receives.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shlex
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

import enchufe
from enchufe import errors, events
from enchufe.blocking import BlockingConnection
from enchufe.cli import exits
from enchufe.cli.dump import Dumped, Mixed, Unframed
from enchufe.cli.messages import RECEIVED, SENT, Form, Shown
from enchufe.cli.secured import Believing, Proving, Unsecured, exit_code
from enchufe.cli.typed import Input, Notation
from enchufe.connection import Connection
from enchufe.dataclass import dataclass
from enchufe.errors import BrokenError, ClosedError, DeadlineExceeded, EnchufeError, LocalProtocolError, StoreError
from enchufe.framing.base import Framing
from enchufe.framing.parse import parse_framing
from enchufe.transports import Transport
from enchufe.transports.addresses import to_listen_on

# Seconds for which input may be silent before nobody waits for its end any more, once the other side has ended.
_SILENCE: Final = 1.0
# Messages that are typed reach connections of this process only, and these alone may be sent to from other threads.
_TAKES_INPUT: Final = "threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a conversation is held, as the options of both commands say: see `cli/options.py`."""

    framing: str
    max_size: int | None
    raw: bool
    escapes: bool
    as_hex: bool
    printable: bool | None
    timeout: float
    as_json: bool
    quiet: bool
    secured: bool = False

    def framings(self) -> Mixed:
        """What is sent is framed by the first, what comes by the second."""
        incoming: Framing = parse_framing(self.framing, max_size=self.max_size)
        if self.framing == "close":
            incoming = Unframed()
        outgoing = Unframed() if self.raw else incoming
        # Bytes as they are may be TLS, which somebody wants to see.
        return Mixed(outgoing, incoming) if self.secured or self.framing == "close" else Unsecured(outgoing, incoming)

    def notation(self) -> Notation:
        """How messages are typed."""
        if self.raw:
            return "raw"
        if self.as_hex:
            return "hex"
        if self.escapes:
            return "escapes"
        return "raw" if self.framing == "close" else "text"

    def shown(self, counterpart: str = "") -> Shown:
        """Where it is shown.

        Args:
            counterpart: what the command for the other side ends with, beside the framing.

        Raises:
            LocalProtocolError: the options contradict each other.
        """
        if self.as_json and self.as_hex:
            raise LocalProtocolError("--json and --hex exclude each other")
        if self.escapes and (self.raw or self.as_hex):
            raise LocalProtocolError("--escapes goes without --raw and --hex")
        form: Form = "json" if self.as_json else "hex" if self.as_hex else "quiet" if self.quiet else "messages"
        return Shown(
            form,
            harmless=self.printable,
            streams=self.framing == "close",
            counterpart=("" if self.framing == "lines" else f" --framing {shlex.quote(self.framing)}") + counterpart,
        )


# The one place that knows what an address may be, and how it is secured.


def _dial(address: str, framing: Framing, timeout: float, secured: Believing) -> BlockingConnection:
    return enchufe.connect(
        address, framing=framing, timeout=timeout, tls=secured.context(), server_hostname=secured.server_name
    )


def _serve(
    handler: Callable[[Connection], object],
    address: str,
    framing: Framing,
    engine: str,
    secured: Proving,
    *,
    timeout: float,
    once: bool,
    echo: bool,
    on_event: Callable[[events.Event], None],
) -> enchufe.Server:
    return enchufe.Server(
        handler,  # type: ignore[arg-type]  # it is async def
        str(to_listen_on(address) or address),
        framing=framing,
        engine=engine,
        tls=secured.files(),
        idle_timeout=timeout,
        handshake_timeout=timeout,
        max_connections=1 if once else None,
        gathers=echo,  # but not from two threads
        on_event=on_event,
    )


def connect(address: str, manner: Manner, secured: Believing) -> int:
    """Talk to whoever listens at `address`, until both sides have ended: the exit code."""

    def run(shown: Shown) -> int:
        with _dial(address, manner.framings(), manner.timeout, secured) as connection:
            _converse(connection, manner, shown)
        return exits.DONE

    return _run(manner, run)


def listen(
    address: str,
    manner: Manner,
    secured: Proving,
    *,
    echo: bool = False,
    once: bool = False,
    engine: str = _TAKES_INPUT,
    takes_input: bool = True,
) -> int:
    """Talk to all who connect to `address`, until a signal comes, or with `once` the first has gone: the exit code."""

    def run(shown: Shown) -> int:
        if takes_input and not echo and engine != _TAKES_INPUT:
            raise LocalProtocolError(
                f"the engine {engine} sends nothing of standard input",
                hint="Say --no-input or --echo, or use the engine threads.",
            )
        audience = Audience(manner, shown) if takes_input and not echo else None
        host = Host(manner, shown, audience, echo=echo, once=once, forked=engine == "processes")
        return host.run(address, engine, secured)

    return _run(manner, run, secured.counterpart)


def _run(manner: Manner, run: Callable[[Shown], int], counterpart: Callable[[], str] = str) -> int:
    shown = Shown("messages", harmless=None, streams=False)
    try:
        shown = manner.shown(counterpart())
        return run(shown)
    except EnchufeError as error:
        shown.failed(error)
        return exit_code(error)
    except KeyboardInterrupt:
        shown.hurry()
        if shown.form == "json":
            shown.event(events.Failed("interrupted", "interrupted", ""))
        return exits.INTERRUPTED


def _converse(connection: BlockingConnection, manner: Manner, shown: Shown) -> None:
    """Send what is typed and show what comes. Raises what ended the conversation, if it was not both sides' end."""
    peer = connection.peer
    faults: list[EnchufeError] = []

    def take(messages: list[bytes]) -> None:
        _send(connection, messages, shown)

    def finish(fault: EnchufeError | None) -> None:
        try:
            if fault is not None:
                raise fault
            connection.end()
        except EnchufeError as error:
            faults.append(error)
            if not isinstance(error, BrokenError):  # else the other side's last words are still to be heard
                connection.close()

    dumped = _dumped(manner, shown, peer, lambda: False)
    if dumped is not None:
        connection.reframe(dumped)
    shown.event(events.Connected(peer))
    given = Input(manner.notation(), manner.framings().outgoing.max_size, take, finish, shown.failed)
    given.start()
    try:
        while True:
            with contextlib.suppress(DeadlineExceeded):  # it may be silent for as long as it likes
                message = connection.receive()
                if message is None:
                    break
                shown.message(RECEIVED, peer, message)
    except ClosedError:
        pass
    except KeyboardInterrupt:
        shown.hurry()
        raise
    finally:
        _show_rest(dumped)
    if faults and not isinstance(faults[0], BrokenError):
        raise faults[0]
    shown.event(events.Ended(peer))
    ended = given.outlast(_SILENCE)
    if faults:
        raise faults[0]
    if not (ended or given.is_terminal):
        raise BrokenError(
            f"{peer} ended before standard input did", hint="What may be left of standard input was not sent."
        )


def _send(connection: BlockingConnection, messages: list[bytes], shown: Shown) -> None:
    """Send messages, each shown; together where nobody looks and all of them can be framed."""
    try:
        if shown.form not in ("json", "hex"):
            with contextlib.suppress(LocalProtocolError):
                connection.send(*messages)
                return
        for message in messages:
            connection.send(message)
            shown.message(SENT, connection.peer, message)
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"{connection.peer} takes nothing any more") from error


def _dumped(manner: Manner, shown: Shown, peer: str, named: Callable[[], bool]) -> Dumped | None:
    """A framing for one connection that shows all its bytes, where that is wanted."""
    if not manner.as_hex:
        return None
    return Dumped(manner.framings(), lambda direction, parts: shown.dump(direction, peer, parts, named=named()))


def _show_rest(dumped: Dumped | None) -> None:
    """Show what came and made no message. Where that fails too, what broke the message is the fault to be told."""
    if dumped is not None:
        with contextlib.suppress(StoreError):
            dumped.show_rest()


class Audience:
    """Those who are connected: each gets what is typed."""

    def __init__(self, manner: Manner, shown: Shown) -> None:
        self.input = Input(manner.notation(), manner.framings().outgoing.max_size, self._take, self._end, shown.failed)
        self.fault: EnchufeError | None = None
        self.on_fault: Callable[[EnchufeError], None] = lambda _: None
        self._shown = shown
        self._changed = threading.Condition()
        self._connections: list[BlockingConnection] = []

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Connection) -> BlockingConnection:
        """Somebody came; as soon as that is shown they hear what is typed."""
        added = BlockingConnection(connection)
        with self._changed:
            self._shown.event(events.Connected(connection.peer))
            self._connections.append(added)
            self._changed.notify_all()
        return added

    def remove(self, connection: BlockingConnection) -> None:
        """Somebody left; again does nothing."""
        with self._changed, contextlib.suppress(ValueError):
            self._connections.remove(connection)

    def _take(self, messages: list[bytes]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._connections)  # what is typed before anybody came is for the first
            present = list(self._connections)
        for connection in present:
            self._reach(connection, lambda to: _send(to, messages, self._shown))

    def _end(self, fault: EnchufeError | None) -> None:
        if fault is not None:
            self.on_fault(fault)
        elif not self.input.empty:  # what is empty, as /dev/null, says nothing: not even that it has ended
            for connection in list(self._connections):
                self._reach(connection, BlockingConnection.end)

    def _reach(self, connection: BlockingConnection, say: Callable[[BlockingConnection], None]) -> None:
        """Say something to one of them, who may be gone: that ends nobody else's conversation."""
        try:
            say(connection)
        except LocalProtocolError:
            raise
        except ClosedError:
            self.remove(connection)
        except EnchufeError as error:
            self.remove(connection)
            self._shown.failed(error)
            connection.close()


class Host:
    """A server that shows what comes, and echoes it or lets an audience hear what is typed."""

    def __init__(
        self, manner: Manner, shown: Shown, audience: Audience | None, *, echo: bool, once: bool, forked: bool
    ) -> None:
        self._manner = manner
        self._shown = shown
        self._audience = audience
        self._echo = echo
        self._once = once
        self._forked = forked
        self._present: set[str] = set()
        self._numbers = itertools.count(1)
        # How it ends, from whatever thread or process: one exit code.
        self._over, self._say_over = os.pipe()

    def run(self, address: str, engine: str, secured: Proving) -> int:
        """Serve until it is over: the exit code."""
        signal.signal(signal.SIGTERM, _end)
        code = exits.DONE
        try:
            with _serve(
                self._talk,
                address,
                self._manner.framings(),
                engine,
                secured,
                timeout=self._manner.timeout,
                once=self._once,
                echo=self._echo,
                on_event=self._heed,
            ) as server:
                for bound in server.addresses:
                    self._shown.event(events.Listening(bound))
                if self._audience is not None:
                    self._audience.on_fault = self._fail
                    self._audience.input.start()
                try:
                    code = self._wait()
                except SystemExit:
                    self._shown.hurry()
                except KeyboardInterrupt:
                    self._shown.hurry()
                    raise
                finally:
                    if self._audience is not None:
                        self._audience.input.give_up()
            return code or self._fault()
        finally:
            for descriptor in (self._over, self._say_over):
                os.close(descriptor)

    def _wait(self) -> int:
        """Wait for the exit code; a signal raises."""
        awake, wake = os.pipe()
        os.set_blocking(wake, False)
        # Else a signal that comes just before we block would be noticed when we wake for another reason.
        before = signal.set_wakeup_fd(wake)
        try:
            poller = select.poll()
            poller.register(self._over, select.POLLIN)
            poller.register(awake, select.POLLIN)
            while not any(descriptor == self._over for descriptor, _ in poller.poll()):
                os.read(awake, 4096)
            return os.read(self._over, 1)[0]
        finally:
            signal.set_wakeup_fd(before)
            os.close(awake)
            os.close(wake)

    def _fault(self) -> int:
        """The exit code where something could not be shown while it drained."""
        poller = select.poll()
        poller.register(self._over, select.POLLIN)
        failed = poller.poll(0) and os.read(self._over, 1)[0] == exits.DISK
        return exits.DISK if failed else exits.DONE

    def _fail(self, error: EnchufeError) -> None:
        self._shown.failed(error)
        self._finish(exit_code(error))

    def _finish(self, code: int) -> None:
        with contextlib.suppress(OSError):  # it is over already
            os.write(self._say_over, bytes([code]))

    def _heed(self, event: events.Event) -> None:
        """Show why a connection ended before it began: `_talk` never heard of it. Of the others it has shown all."""
        if isinstance(event, events.Finished) and event.error is not None:
            kind, _, told = event.error.partition(": ")
            error = getattr(errors, kind, None)
            if isinstance(error, type) and issubclass(error, EnchufeError):
                failed = error(told)
                self._shown.failed(failed)
                if self._once:
                    self._finish(exit_code(failed))

    async def _talk(self, connection: Connection) -> None:
        self._name(connection.transport)
        peer, code = connection.peer, exits.DONE
        dumped = _dumped(self._manner, self._shown, peer, self._several)
        if dumped is not None:
            connection.reframe(dumped)
        self._present.add(peer)
        listening = None
        try:
            if self._audience is not None:
                listening = self._audience.add(connection)
            else:
                self._shown.event(events.Connected(peer))
            await self._hear(connection)
            self._shown.event(events.Ended(peer))
            if self._audience is not None:
                self._audience.input.outlast(_SILENCE)
        except ClosedError:
            code = exits.CUT  # it was told by whoever closed it
        except EnchufeError as error:
            code = exit_code(error)
            self._shown.failed(error)
        finally:
            if listening is not None and self._audience is not None:
                self._audience.remove(listening)
            self._present.discard(peer)
            _show_rest(dumped)
            if self._once or code == exits.DISK:
                self._finish(code)

    def _name(self, transport: Transport) -> None:
        """Give a peer a name of its own where it has none: whoever dials a path rarely has a path too."""
        if transport.peer in ("unix:", "shm:"):
            transport.peer += f"#{os.getpid() if self._forked else next(self._numbers)}"

    async def _hear(self, connection: Connection) -> None:
        """Show all that comes, and echo it, until the other side's end."""
        peer = connection.peer
        while True:
            try:
                message = await connection.receive()
            except DeadlineExceeded:  # it may be silent for as long as it likes
                continue
            if message is None:
                return
            self._shown.message(RECEIVED, peer, message, named=self._several())
            if self._echo:
                await connection.send(message)
                self._shown.message(SENT, peer, message)

    def _several(self) -> bool:
        return self._forked or len(self._present) > 1


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(exits.DONE)
