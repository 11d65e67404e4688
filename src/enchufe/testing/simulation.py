"""A network in memory, under a seed: real clients and servers run on it, in one thread and in no time.

    network = SimNetwork(seed)
    loop = network.loop()
    server = events.Engine(handler, Acceptor([network.listen("server:1")], options))
    ...
    transport = network.connect("server:1", loop)
    loop.run(main())

Every byte takes its time; sends and receives are partial; readiness is told late, and sometimes falsely. What goes
wrong beyond that is a `Fault`. The same seed gives the same run, so a failure is replayed by its number.
"""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from enchufe.buffer import Buffer
from enchufe.engines.loop import Loop
from enchufe.transports import Listener, Transport, tcp
from enchufe.waiting import READ, WRITE, Waiter

_FIRST_DESCRIPTOR: Final = 1 << 20  # far from any real one: doorbells are real
_PORT: Final = 40000
_ROOMS: Final = (5, 50, 300, 300, 4096, 4096, 65536, 65536)
_LATE: Final = 0.0001  # seconds until a readiness that was kept back is told


class ManualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now: float = 0.0) -> None:
        self.time = now

    def __call__(self) -> float:
        """What time it is."""
        return self.time

    def advance(self, to: float) -> None:
        """Go on to `to`; never back."""
        self.time = max(self.time, to)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in one direction of a connection.

    Attributes:
        kind: "reset" (the connection breaks for both), "stall" (nothing moves for `seconds`), "vanish" (nothing ever
            arrives again, either way, and nobody is told).
        after: bytes that still arrive before it.
        seconds: of a stall.
    """

    kind: str
    after: int
    seconds: float = 0.0


class _Pipe:
    """One direction: bytes that are under way, and those that have arrived and are not read."""

    def __init__(self, network: SimNetwork, fault: Fault | None) -> None:
        self._network = network
        self._random = network.random
        self.fault = fault
        self.room = self._random.choice(network.rooms)
        self.latency = self._random.choice((0.0, 0.001, 0.05))
        self.under_way: deque[tuple[float, bytes | None]] = deque()  # None: a reset
        self.arrived = bytearray()
        self.ended = False  # b"" was put in behind the last byte
        self.at_end = False  # and has arrived
        self.flying = 0  # bytes under way
        self.carried = 0
        self.stalled_until = 0.0
        self.vanished = False

    def free(self) -> int:
        return self.room - len(self.arrived) - self.flying

    def put(self, data: bytes | None) -> None:
        jitter = self._random.choice((0.0, 0.0, 0.0005, 0.01))
        when = self._network.clock() + self.latency + jitter
        if self.under_way:
            when = max(when, self.under_way[-1][0])  # a stream: nothing overtakes
        self.under_way.append((max(when, self.stalled_until), data))
        self.flying += len(data or b"")

    def move(self, now: float) -> bool:
        """Let arrive what has: False where the connection broke on the way."""
        while self.under_way and self.under_way[0][0] <= now and not self.vanished:
            when, data = self.under_way.popleft()
            if data is None:
                return False
            fault = self.fault
            if fault is not None and self.carried + len(data) >= fault.after:
                self.fault = None
                keep = max(0, fault.after - self.carried)
                self.flying -= keep
                self._arrive(data[:keep])
                if fault.kind == "reset":
                    return False
                if fault.kind == "vanish":
                    self.vanished = True
                    return True
                self.stalled_until = when + fault.seconds
                self.under_way = deque((max(then, self.stalled_until), more) for then, more in self.under_way)
                self.under_way.appendleft((self.stalled_until, data[keep:]))
                if not data[keep:] and not (self.ended and len(self.under_way) == 1):
                    self.under_way.popleft()
                continue
            self.flying -= len(data)
            self._arrive(data)
        return True

    def _arrive(self, data: bytes) -> None:
        self.carried += len(data)
        self.arrived += data
        if self.ended and not self.under_way:
            self.at_end = True


class _SimSocket:
    """One end of a connection, with as much of `socket.socket` as transports use."""

    def __init__(self, network: SimNetwork, local: tuple[str, int], peer: tuple[str, int]) -> None:
        self._network = network
        self._descriptor = network.descriptor(self)
        self._local = local
        self._peer = peer
        self.incoming: _Pipe
        self.outgoing: _Pipe
        self.other: _SimSocket
        self.broken = 0  # an errno, once
        self.closed = False
        self.sends = True
        self.receives = True
        self.resets = False  # close() is no orderly end

    # What the network asks.

    def ready(self) -> int:
        readable = self.incoming.arrived or self.incoming.at_end or self.broken or not self.receives
        writable = self.outgoing.free() > 0 or self.broken or not self.sends
        return (READ if readable else 0) | (WRITE if writable else 0)

    def coming(self) -> deque[tuple[float, bytes | None]]:
        return deque() if self.broken or self.incoming.vanished else self.incoming.under_way

    def fail(self) -> None:
        self.broken = errno.ECONNRESET

    # What a transport asks.

    def fileno(self) -> int:
        return self._descriptor

    def setblocking(self, flag: bool) -> None:
        assert not flag, "nothing blocks in a simulation"

    def setsockopt(self, level: int, option: int, _value: Any) -> None:
        self.resets = self.resets or (level == socket.SOL_SOCKET and option == socket.SO_LINGER)

    def getsockopt(self, _level: int, _option: int, _size: int = 0) -> bytes:
        """The state of the connection, of which only the round trip is told: `tcp.tune` asks for it."""
        trip = self.outgoing.latency + self.incoming.latency
        return bytes(tcp.RTT) + struct.pack("=I", int(trip * 1e6))

    def getsockname(self) -> tuple[str, int]:
        return self._local

    def getpeername(self) -> tuple[str, int]:
        return self._peer

    def recv(self, size: int, flags: int = 0) -> bytes:
        view = bytearray(size)
        return bytes(view[: self.recv_into(view, 0, flags)])

    def recv_into(self, view: Buffer, _size: int = 0, flags: int = 0) -> int:
        self._check()
        pipe = self.incoming
        if pipe.arrived:
            count = min(len(view), len(pipe.arrived))
            if self._network.random.random() < 0.5:
                count = self._network.random.randint(1, count)
            memoryview(view)[:count] = pipe.arrived[:count]
            if not flags & socket.MSG_PEEK:
                del pipe.arrived[:count]
            return count
        if self.broken:
            raise OSError(self.broken, os.strerror(self.broken))
        if pipe.at_end or not self.receives:
            return 0
        raise BlockingIOError(errno.EAGAIN, "nothing there")

    def send(self, data: Buffer, _flags: int = 0) -> int:
        return self.sendmsg([data])

    def sendmsg(self, pieces: Sequence[Buffer], _ancillary: object = (), _flags: int = 0) -> int:
        self._check()
        if self.broken or not self.sends:
            number = self.broken or errno.EPIPE
            raise OSError(number, os.strerror(number))
        if self.other.closed:
            self.incoming.put(None)  # as TCP: the first send to nobody is taken, and answered by a reset
            return sum(map(len, pieces))
        data = b"".join(pieces)
        count = min(len(data), max(0, self.outgoing.free()))
        if not data:
            return 0
        if not count:
            raise BlockingIOError(errno.EAGAIN, "no room")
        if self._network.random.random() < 0.5:
            count = self._network.random.randint(1, count)
        self.outgoing.put(data[:count])
        return count

    def shutdown(self, how: int) -> None:
        self._check()
        if how in (socket.SHUT_WR, socket.SHUT_RDWR) and self.sends:
            self.sends = False
            self.outgoing.ended = True
            self.outgoing.put(b"")
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self.receives = False

    def close(self) -> None:
        if not self.closed:
            if self.sends and not self.broken and not self.resets:
                self.shutdown(socket.SHUT_WR)
            reset = self.resets or self.incoming.arrived
            self.closed = True
            self._network.forget(self._descriptor)
            self._descriptor = -1
            if reset and not self.incoming.vanished:
                self.outgoing.put(None)

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class _SimListener:
    """A listening socket, with as much of `socket.socket` as `Listener` uses."""

    def __init__(self, network: SimNetwork, address: tuple[str, int]) -> None:
        self._network = network
        self._descriptor = network.descriptor(self)
        self.address = address
        self.queue: deque[tuple[float, _SimSocket]] = deque()
        self.closed = False

    def ready(self) -> int:
        return READ if self.queue and self.queue[0][0] <= self._network.clock() else 0

    def fileno(self) -> int:
        return self._descriptor

    def setblocking(self, flag: bool) -> None:
        assert not flag, "nothing blocks in a simulation"

    def getsockname(self) -> tuple[str, int]:
        return self.address

    def accept(self) -> tuple[_SimSocket, tuple[str, int]]:
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if not self.ready():
            raise BlockingIOError(errno.EAGAIN, "nobody there")
        _, sock = self.queue.popleft()
        return sock, sock.getpeername()

    def shutdown(self, _how: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        self._network.forget(self._descriptor)
        while self.queue:
            _, sock = self.queue.popleft()
            sock.other.fail()
            sock.close()


class SimPoller:
    """What is ready in a network; the clock goes on where nothing is.

    Doorbells are real descriptors, and are asked for in the kernel.
    """

    name = "simulated"
    readable = READ
    writable = WRITE

    def __init__(self, network: SimNetwork) -> None:
        self._network = network
        self._watched: dict[int, int] = {}

    def watch(self, descriptor: int, interest: int, before: int) -> None:  # noqa: ARG002
        """As `Poller.watch`."""
        if interest:
            self._watched[descriptor] = interest
        else:
            self._watched.pop(descriptor, None)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """As `Poller.poll`.

        Raises:
            AssertionError: nothing will ever happen again: the tasks wait for each other.
        """
        network = self._network
        until = None if timeout is None else network.clock() + timeout
        network.step()
        while True:
            ready = self._ready()
            if ready or (until is not None and network.clock() >= until):
                return ready
            moments = [moment for moment in (until, network.next_moment()) if moment is not None]
            if not moments:
                raise AssertionError(f"seed {network.seed}: nothing will ever happen again")
            network.clock.advance(min(moments))
            network.step()

    def _ready(self) -> list[tuple[int, int]]:
        network = self._network
        ready = []
        real = []
        for descriptor, interest in self._watched.items():
            thing = network.things.get(descriptor)
            if thing is None:
                real.append(descriptor)
                continue
            bits = thing.ready() & interest
            if bits and network.random.random() < 0.1:
                network.late(descriptor)
            elif bits or network.random.random() < 0.01:
                ready.append((descriptor, bits or interest))
        if real:
            ready += [(descriptor, READ) for descriptor in select.select(real, [], [], 0)[0]]
        network.random.shuffle(ready)
        return ready

    def close(self) -> None:
        """As `Poller.close`."""


class SimNetwork:
    """Connections in memory, whose every turn comes from a seed.

    Args:
        seed: the same gives the same run.
        rooms: what a connection may hold each way, in bytes; chance takes one of them.

    Attributes:
        clock: what time it is there.
        random: where chance comes from; use it for what else should follow from the seed.
    """

    def __init__(self, seed: int, rooms: Sequence[int] = _ROOMS) -> None:
        self.seed = seed
        self.rooms = rooms
        self.random = random.Random(seed)  # noqa: S311 (it must be replayed, not secret)
        self.clock = ManualClock()
        self.things: dict[int, _SimSocket | _SimListener] = {}
        self._listeners: dict[str, _SimListener] = {}
        self._next = _FIRST_DESCRIPTOR
        self._late = False

    def loop(self) -> Loop:
        """A loop that runs on this network and by its clock."""
        return Loop(SimPoller(self), self.clock)

    def listen(self, address: str) -> Listener:
        """A listener at `host:port`."""
        host, _, port = address.rpartition(":")
        sim = _SimListener(self, (host, int(port)))
        self._listeners[address] = sim
        sockets: Any = [sim]
        return Listener.over(sockets, tcp.transport, [address])

    def connect(
        self, address: str, waiter: Waiter, *, there: Fault | None = None, back: Fault | None = None
    ) -> Transport:
        """A connection to who listens at `address`; `there` and `back` go wrong on its way.

        Raises:
            ConnectionRefusedError: nobody listens there.
        """
        listener = self._listeners.get(address)
        if listener is None or listener.closed:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens at {address}")
        here = ("client", _PORT + len(self.things))
        near, far = _SimSocket(self, here, listener.address), _SimSocket(self, listener.address, here)
        near.other, far.other = far, near
        near.outgoing = far.incoming = _Pipe(self, there)
        near.incoming = far.outgoing = _Pipe(self, back)
        listener.queue.append((self.clock() + self.random.choice((0.0, 0.001, 0.05)), far))
        sock: Any = near
        return tcp.transport(sock, waiter)

    def ready(self, descriptor: int) -> int:
        """What may be done with `descriptor` without waiting: both, to find out, where it is closed."""
        thing = self.things.get(descriptor)
        return READ | WRITE if thing is None else thing.ready()

    def vanish(self, transport: Transport) -> None:
        """Have nothing arrive over a connection any more, either way: one of its machines has lost its power."""
        thing = self.things.get(transport.fileno())
        if isinstance(thing, _SimSocket):
            thing.incoming.vanished = thing.outgoing.vanished = True

    # What its parts ask.

    def descriptor(self, thing: _SimSocket | _SimListener) -> int:
        """A number for `thing`."""
        self._next += 1
        self.things[self._next] = thing
        return self._next

    def forget(self, descriptor: int) -> None:
        """`descriptor` is closed."""
        self.things.pop(descriptor, None)

    def late(self, _descriptor: int) -> None:
        """Something is ready and not told yet: the next look may."""
        self._late = True

    def step(self) -> None:
        """Let arrive whatever has by now."""
        now = self.clock()
        for thing in list(self.things.values()):
            if isinstance(thing, _SimSocket) and not thing.broken and not thing.incoming.move(now):
                thing.fail()
                thing.other.incoming.put(None)

    def next_moment(self) -> float | None:
        """When something happens by itself next; None: never."""
        now = self.clock()
        moments = [now + _LATE] if self._late else []
        self._late = False
        for thing in self.things.values():
            coming = thing.queue if isinstance(thing, _SimListener) else thing.coming()
            if coming and coming[0][0] > now:
                moments.append(coming[0][0])
        return min(moments, default=None)
