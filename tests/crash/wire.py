"""A proxy that harms what crosses it at one exact byte, and transfers between stores in memory through it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from enchufe import events, transports
from enchufe.access import Admitted
from enchufe.entry import Entry
from enchufe.errors import BrokenError, EnchufeError
from enchufe.session import Door, Options, ReceivingSession, SendingSession, Session
from enchufe.session.streams import Stream
from enchufe.store import LocalStore
from enchufe.store.memory import MemorySource, MemoryStore
from enchufe.transfer.machine import Machine
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Sender
from enchufe.transports import Listener, Transport, parse_address
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import BlockingWaiter, drive

LONG: Final = 30.0  # seconds after which a test gives up
_LATE: Final = 0.3  # seconds after which a stream will not come any more

Ended = events.Receipt | EnchufeError


@dataclass(frozen=True, slots=True)
class Harm:
    """What is done to one byte, and where.

    Attributes:
        outward: of what the dialer says; else of what it hears.
        at: the number of the byte, from 0 on.
        mask: what it is changed by; 0: it is the first that does not come, nor does any after it.
        connection: of which connection, in the order they were dialed.
        silent: in place of that, nothing crosses any more from there on, and nobody is told.
    """

    outward: bool
    at: int
    mask: int = 0
    connection: int = 0
    silent: bool = False


class Wire:
    """A Unix socket that leads to another.

    Attributes:
        crossed: how many bytes in both directions: what the dialers said, what they heard.
        connections: the bytes themselves, of each connection.
    """

    def __init__(self, here: str, there: str, harm: Harm | None) -> None:
        self.address = f"unix:{here}"
        self.connections: list[tuple[bytearray, bytearray]] = []
        self._there = there
        self._harm = harm
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(here)
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self._silent = False
        self._over = threading.Event()
        self._threads[0].start()

    @property
    def crossed(self) -> tuple[int, int]:
        return sum(len(out) for out, _ in self.connections), sum(len(back) for _, back in self.connections)

    def cut(self) -> None:
        """Everything ends here."""
        self._over.set()
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends with everything closed."""
        self.cut()
        self._threads[0].join()
        for thread in self._threads[1:]:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            self._sockets += [near, far]
            try:
                far.connect(self._there)
            except OSError:
                near.shutdown(socket.SHUT_RDWR)
                continue
            if self._over.is_set():  # these two may not have been there, or not connected
                self.cut()
                return
            harm = self._harm if self._harm is not None and self._harm.connection == number else None
            out, back = bytearray(), bytearray()
            self.connections.append((out, back))
            for source, target, crossed in ((near, far, out), (far, near, back)):
                mine = harm if harm is not None and harm.outward is (crossed is out) else None
                thread = threading.Thread(target=self._pump, args=(source, target, mine, crossed))
                self._threads.append(thread)
                thread.start()
            number += 1

    def _pump(self, source: socket.socket, target: socket.socket, harm: Harm | None, crossed: bytearray) -> None:
        done = 0
        try:
            while data := source.recv(1 << 16):
                self._silent = self._silent or (harm is not None and harm.silent and harm.at < done + len(data))
                if self._silent:
                    self._over.wait()
                    return
                if harm is not None and done <= harm.at < done + len(data):
                    data = self._harmed(data, harm.at - done, harm.mask)
                    if not harm.mask:
                        target.sendall(data)
                        source.shutdown(socket.SHUT_RDWR)
                        break
                target.sendall(data)
                done += len(data)
                crossed += data
            target.shutdown(socket.SHUT_WR if harm is None or harm.mask else socket.SHUT_RDWR)
        except OSError:
            for each in (source, target):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _harmed(data: bytes, at: int, mask: int) -> bytes:
        return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :] if mask else data[:at]


class _Late(MemorySource):
    """A source that begins when all streams have."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.streams: list[Stream] = []

    def walk(self) -> Iterator[Entry]:
        end = time.monotonic() + _LATE
        while not (self.streams and all(each.begun or each.over for each in self.streams)):
            if time.monotonic() >= end:
                break
            time.sleep(0.001)
        yield from super().walk()


@dataclass
class Outcome:
    """How an attempt went: of both sides, how much crossed in all, and what on each connection."""

    sender: Ended
    receiver: Ended
    crossed: tuple[int, int]
    connections: tuple[tuple[bytes, bytes], ...]
    stuck: bool


class Entrance(Protocol):
    """How a dialer gets in, and who else does not."""

    context: ssl.SSLContext

    async def admit(self, transport: TlsTransport, deadline: float) -> Admitted:
        """What a listener does."""

    def enter(self, transport: Transport) -> Admitted:
        """What a dialer does. The connection is closed where it fails."""


def attempt(
    source: MemoryStore,
    target: MemoryStore | LocalStore,
    harm: Harm | None = None,
    *,
    sender_dials: bool = True,
    streams: int = 1,
    epoch: int = 1,
    patience: float = LONG,
    timeout: float = LONG,
    entrance: Entrance | None = None,
    all_streams: bool = False,
) -> Outcome:
    """One attempt at sending all of `source` to `target`.

    Args:
        timeout: seconds without a sign of life.
        patience: seconds after which everything is cut, which is then told as `stuck`.
        entrance: of a listener that encrypts; None: in plain text.
        all_streams: whether nothing is offered before the other streams are there, or are known not to come.
    """

    def session(kind: type[Machine], over: Any, options: Options) -> Session[Any]:
        if kind is Sender:
            offered = _Late(source) if all_streams else source.source()
            sending = SendingSession(over, offered, options, _ignore)
            if isinstance(offered, _Late):
                offered.streams = sending._streams
            return sending
        compares = isinstance(target, MemoryStore) and target.update
        return ReceivingSession(over, target.begin, options, _ignore, compares=compares)

    dialer, listener = (Sender, Receiver) if sender_dials else (Receiver, Sender)
    ended: dict[type[Machine], Ended] = {}
    over = threading.Event()

    def serve(door: Door[Any]) -> None:
        while (greeted := door.next(0.02)) is None:
            if over.is_set():
                ended[listener] = BrokenError("nobody came in")
                return
        try:
            with greeted.transport:
                made = session(listener, greeted, Options(streams=streams, timeout=timeout))
                door.entered(made)
                ended[listener] = drive(made.complete())
        except EnchufeError as error:
            ended[listener] = error
        finally:
            door.left(greeted)

    with tempfile.TemporaryDirectory() as here, Listener(parse_address(f"unix:{here}/there")) as listening:
        wire = Wire(f"{here}/wire", f"{here}/there", harm)
        late = threading.Timer(patience, wire.cut)
        late.start()
        waiter = BlockingWaiter()

        def dial() -> Transport:
            return drive(transports.connect(parse_address(wire.address), waiter, waiter.now() + LONG))

        def enter() -> tuple[Transport, bytes | None]:
            if entrance is None:
                return dial(), None
            admitted = entrance.enter(dial())
            return admitted.transport, admitted.secret

        context, admit = (None, None) if entrance is None else (entrance.context, entrance.admit)
        with Door(listening, listener, LONG, context=context, admit=admit) as door:
            server = threading.Thread(target=serve, args=(door,))
            server.start()
            try:
                transport, secret = enter()
                with transport:
                    options = Options(
                        dial=dial, session=b"s" * 16, epoch=epoch, streams=streams, timeout=timeout, secret=secret
                    )
                    ended[dialer] = drive(session(dialer, transport, options).complete())
            except EnchufeError as error:
                ended[dialer] = error
            over.set()
            server.join()
        stuck = not late.is_alive()
        late.cancel()
        late.join()
        wire.close()
    connections = tuple((bytes(out), bytes(back)) for out, back in wire.connections)
    return Outcome(ended[Sender], ended[Receiver], wire.crossed, connections, stuck)


def _ignore(_event: events.Event) -> None:
    """Nobody listens."""
