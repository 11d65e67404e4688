"""The door: hears whoever dials a listener, lets one transfer in at a time, and that one's streams after it.

The first byte of a connection says what it is: docs/access.md. Where this side encrypts, whoever does not prove who it
is before the deadline learns nothing, and is told nothing but what TLS and `access` tell.
"""

from __future__ import annotations

import hmac
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from enchufe.dataclass import dataclass
from enchufe.errors import (
    BrokenError,
    BusyError,
    ClosedError,
    DeadlineExceeded,
    EnchufeError,
    Refused,
    RemoteProtocolError,
)
from enchufe.events import Failed, OnEvent
from enchufe.session.base import HELLO_TIMEOUT, Greeted, Session, hello_of
from enchufe.session.carrier import Plain
from enchufe.session.crowd import Crowd, Place
from enchufe.session.strangers import Strangers
from enchufe.transfer.machine import Machine, VersionError, told_to_peer
from enchufe.transfer.message import Type
from enchufe.transfer.states import State
from enchufe.transports import Listener, Transport
from enchufe.waiting import READ, BlockingWaiter, Doorbell, Interest, drive, start

if TYPE_CHECKING:
    import ssl

    from enchufe.access import Admitted
    from enchufe.transports.tls import TlsTransport

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

M = TypeVar("M", bound=Machine)

# What a connection can begin with: docs/access.md, "The first byte".
_TLS: Final = b"\x16"
_STREAM: Final = b"\x40"
_HELLO: Final = bytes([Type.HELLO])

# Connections that may be saying who they are at once; more are dropped (crowd.py). No more than this part of the
# descriptors that this process may have: whoever is inside needs the others.
_GUESTS: Final = 64
_GUESTS_PART: Final = 4
_FAREWELL: Final = 3.0  # seconds that whoever is turned away gets to hear why
_OVERTIME: Final = 0.5  # seconds of that at the most beyond the deadline that he had
_PAUSE: Final = 0.2  # seconds to wait where this process has no descriptor left


@dataclass(eq=False, slots=True)
class _Guest(Generic[M]):
    """Somebody who dialed us and is not let in yet.

    Attributes:
        deadline: by which he must be let in.
        told: whether he may be told why he is turned away, by an ERROR.
        thread: hears him; None: nobody does yet.
    """

    transport: Transport
    machine: M
    deadline: float
    told: bool
    thread: threading.Thread | None = None


class Door(Generic[M]):
    """Accepts in a thread of its own, from `with` on.

    Args:
        listener: stays the caller's.
        machine: makes one for whoever comes.
        timeout: seconds until whoever comes must have said HELLO, HELLO_TIMEOUT at the most.
        context: to speak TLS with; None: this side takes plain text, and nothing else.
        admit: lets in whoever proves by the deadline who it is, and says for itself why not; with `context`.
        on_event: is told, from any thread, of who begins with what is no HELLO that we understand: once for each host.
    """

    def __init__(
        self,
        listener: Listener,
        machine: Callable[[], M],
        timeout: float,
        *,
        context: ssl.SSLContext | None = None,
        admit: Callable[[TlsTransport, float], Awaitable[Admitted]] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        assert (context is None) == (admit is None)
        self._context = context
        self._prove = admit
        self._on_event = on_event
        self._strangers = Strangers()
        self._listener = listener
        self._machine = machine
        self._timeout = min(timeout, HELLO_TIMEOUT)
        self._waiter = BlockingWaiter()
        self._bell = Doorbell()
        self._lock = threading.Lock()
        self._crowd = Crowd(_most_guests(), self._waiter.now())
        self._let_in: queue.SimpleQueue[Greeted[M]] = queue.SimpleQueue()
        self._inside: Greeted[M] | None = None  # let in, and not gone
        self._session: Session[M] | None = None
        self._closed = False
        self._guests: set[_Guest[M]] = set()
        self._mute: dict[_Guest[M], Place] = {}  # of them, those who have said nothing, in the order they came
        self._saying: deque[tuple[_Guest[M], Place]] = deque()  # those who say something and wait for their turn
        self._thread = threading.Thread(target=self._accept, name="enchufe door", daemon=True)

    def __enter__(self) -> Self:
        start(self._thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
        self._bell.ring()
        self._thread.join()
        for guest, place in [*self._mute.items(), *self._saying]:
            self._forget(guest, place)
        with self._lock:
            heard = list(self._guests)
        for guest in heard:
            guest.transport.hang_up()  # his thread may be using it
        for guest in heard:
            assert guest.thread is not None
            guest.thread.join()
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
            if self._inside is None or self._inside.machine is not session.machine:
                session.fence()  # a newer one has come meanwhile
            else:
                self._session = session

    def left(self, greeted: Greeted[M]) -> None:
        """That one is gone; the next may come."""
        with self._lock:
            if self._inside is greeted:
                self._inside = self._session = None
                self._crowd.expect(None)

    def _accept(self) -> None:
        closed_until = heard_at = 0.0  # before that whoever comes stays in the backlog, and who says something waits
        while not self._closed:
            now = self._waiter.now()
            interests: list[Interest] = [(self._bell, READ), *((guest.transport, READ) for guest in self._mute)]
            times = [guest.deadline for guest in islice(self._mute, 1)]  # they came in this order
            if self._saying:
                times.append(heard_at)
            if now >= closed_until:
                interests += self._listener.interests
            else:
                times.append(closed_until)
            ready = set()
            with suppress(DeadlineExceeded):
                found = drive(self._waiter.wait(interests, min(times, default=None)))
                ready = {thing.fileno() for thing, _ in found}
            if self._bell.fileno() in ready:
                return
            self._look_at_mute(ready)
            heard_at = self._waiter.now() + self._hear_some()
            if now < closed_until:
                continue
            try:
                closed_until = self._waiter.now() + self._take_in()
            except BusyError:
                closed_until = self._waiter.now() + _PAUSE
            except EnchufeError:
                return

    def _take_in(self) -> float:
        """Take in who has come, as far as that is bearable: seconds until the next may."""
        while (transport := self._listener.try_accept(self._waiter)) is not None:
            place = self._crowd.enter(transport.peer)
            if place is None:
                transport.close()
            else:
                deadline = self._waiter.now() + self._timeout
                guest = _Guest(transport, self._machine(), deadline, told=self._context is None)
                with self._lock:
                    self._guests.add(guest)
                self._mute[guest] = place
            if pause := self._crowd.pause(self._waiter.now()):
                return pause
        return 0.0

    def _look_at_mute(self, ready: Container[int]) -> None:
        """Whoever says something, or has had his time, is to be heard; who has left is forgotten, without a thread."""
        now = self._waiter.now()
        for guest in [guest for guest in self._mute if guest.transport.fileno() in ready or guest.deadline <= now]:
            place = self._mute.pop(guest)
            with suppress(BrokenError):
                if guest.transport.try_peek() != b"":
                    put = self._saying.appendleft if place.expected else self._saying.append
                    put((guest, place))
                    continue
            self._forget(guest, place)

    def _hear_some(self) -> float:
        """Hear who says something, each in a thread of his own, as far as that is bearable: seconds until the next."""
        while self._saying:
            guest, place = self._saying[0]
            if pause := self._crowd.turn(place, self._waiter.now()):
                return pause
            self._saying.popleft()
            guest.thread = threading.Thread(target=self._hear, args=(guest, place), name="enchufe guest", daemon=True)
            try:
                start(guest.thread)
            except BusyError:
                self._forget(guest, place)
        return 0.0

    def _hear(self, guest: _Guest[M], place: Place) -> None:
        kept = False
        try:
            kept = drive(self._receive(guest))
        except EnchufeError as error:
            self._turn_away(guest, error)
        finally:
            self._forget(guest, place, kept=kept)

    def _forget(self, guest: _Guest[M], place: Place, *, kept: bool = False) -> None:
        """He is no guest any more; his connection is closed unless it is `kept` by whoever has it now."""
        with self._lock:
            self._guests.discard(guest)
            kept = kept and not self._closed
        if not kept:
            guest.transport.close()
        self._crowd.leave(place)

    async def _receive(self, guest: _Guest[M]) -> bool:
        """Find out who it is, until his deadline: whether he is let in.

        Raises:
            EnchufeError: he is not, and may be told why.
        """
        deadline = guest.deadline
        await guest.transport.handshake(deadline)
        if self._context is None:
            return await self._hear_plain(guest, deadline)
        first = await guest.transport.peek(deadline)
        if first == _TLS:
            return await self._hear_tls(guest, deadline)
        if first == _STREAM:
            return await self._hear_stream(guest, deadline)
        guest.told = True  # without a look at what it says, or the answer would tell what is done here
        raise Refused("this side encrypts, and takes no plain text: leave out --plain")

    async def _hear_plain(self, guest: _Guest[M], deadline: float) -> bool:
        try:
            greeted = await hello_of(Plain(guest.transport), guest.machine, deadline)
        except RemoteProtocolError:
            if guest.machine.buffer.peek(1) == _TLS:
                raise Refused("this side takes plain text only: it runs with --plain") from None
            raise
        return self._admit(greeted)

    async def _hear_tls(self, guest: _Guest[M], deadline: float) -> bool:
        from enchufe.transports import tls  # noqa: PLC0415 (slow to import, and not everybody needs it)

        assert self._context is not None
        assert self._prove is not None
        with self._lock:
            if self._closed:
                return False
            transport = guest.transport = tls.over(guest.transport, self._context, server_side=True)
        await transport.handshake(deadline)
        admitted = await self._prove(transport, deadline)
        guest.transport, guest.told = admitted.transport, True
        carrier = Plain(admitted.transport)
        greeted = await hello_of(carrier, guest.machine, deadline, admitted.secret)
        greeted.admitted = admitted
        return self._admit(greeted)

    async def _hear_stream(self, guest: _Guest[M], deadline: float) -> bool:
        """One more stream of the transfer that is inside, by whoever knows its secret; others get no word."""
        from enchufe.session.sealed import Said, Sealed, stream_id  # noqa: PLC0415 (slow to import, and not always needed)

        said = await Said.hear(guest.transport, deadline)
        session = self._session
        if said is None or session is None or session.secret is None:
            return False
        if not hmac.compare_digest(stream_id(session.secret), said.id):
            return False
        carrier = await Sealed.answer(guest.transport, session.secret, said, deadline)
        greeted = await hello_of(carrier, guest.machine, deadline, session.secret)
        return greeted.hello.stream == said.number and session.attach(greeted)

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
                if hello.session != inside.hello.session or greeted.party != inside.party:
                    raise BusyError("another transfer is going on here")
                if hello.epoch <= inside.hello.epoch:
                    raise BusyError("a newer attempt at this transfer was here already")
                if self._session is not None:
                    self._session.fence()
            self._inside, self._session = greeted, None
            self._crowd.expect(greeted.transport.peer)
            self._let_in.put(greeted)
            return True

    def _turn_away(self, guest: _Guest[M], error: EnchufeError) -> None:
        transport, machine = guest.transport, guest.machine
        greeted = isinstance(error, VersionError) or machine.buffer.peek(1) == _HELLO  # no browser that lost its way
        if guest.told and greeted and machine.peer is None and isinstance(error, RemoteProtocolError):
            self._tell_of(transport.peer, error)
        if isinstance(error, ClosedError) or machine.state in (State.FAILED, State.DONE):
            return
        deadline = min(self._waiter.now() + _FAREWELL, guest.deadline + _OVERTIME)
        with suppress(EnchufeError):
            if guest.told:
                drive(transport.send(machine.send(told_to_peer(error)), deadline))
            if isinstance(error, DeadlineExceeded) or not (guest.told or transport.encrypts):
                return  # it has had its time, or nothing was said that it must be able to read
            drive(transport.end(deadline))
            drive(transport.drop(_FAREWELL, deadline))

    def _tell_of(self, peer: str, error: RemoteProtocolError) -> None:
        """Whoever comes in vain may be an enchufe of another version, which nobody here would know else."""
        if self._on_event is not None and self._strangers.is_new(peer):
            with suppress(Exception):  # what cannot be told here cannot be told of what counts either
                self._on_event(Failed(error.kind, f"somebody at {peer} came in vain: {error}", error.hint))


def _most_guests() -> int:
    if resource is None:
        return _GUESTS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _GUESTS if limit == resource.RLIM_INFINITY else max(1, min(_GUESTS, limit // _GUESTS_PART))
