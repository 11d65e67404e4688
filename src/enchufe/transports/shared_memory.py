"""shared_memory: two processes of one machine, without the kernel between them while both are awake.

The bytes go through two rings in a memfd (see `ring`), sealed so that nobody can make it smaller under our feet. The
listener makes it and sends it over the Unix connection that stays: as the doorbell of a reader that sleeps, and as the
sign of a peer that died. A second pair of sockets is the doorbell of a writer that sleeps. Bytes are copied out before
anybody looks at them, so nothing changes once it was checked.
"""

from __future__ import annotations

import array
import contextlib
import errno
import mmap
import os
import socket
import struct
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

from enchufe.buffer import Buffer
from enchufe.errors import (
    BrokenError,
    DeadlineExceeded,
    EnchufeError,
    LocalProtocolError,
    RemoteProtocolError,
)
from enchufe.transports import ring, unix
from enchufe.transports.addresses import SharedMemoryAddress
from enchufe.transports.ring import Rings
from enchufe.transports.stream import _SHARE, INTERRUPTED, Process, Transport
from enchufe.waiting import NO_ROOM, READ, WRITE, Interest, Waiter, no_room

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: it is imported there, and refused when it is to be used
    fcntl = None

NAME: Final = "shared_memory"

CAPACITY: Final = 1 << 22  # bytes of each ring
# Seconds for which a thread looks again and again before it sleeps: an answer that comes as soon as that costs no
# system call. An event loop does not: the others would wait as long.
SPIN: Final = 50e-6

# Sleeps without a look before the next try, at the most, where looks are in vain.
_VAIN: Final = 63

_HELLO: Final = struct.Struct("@8sQ")  # magic, capacity
# Bytes of a frame from which on it is received by itself, not with others in one piece.
_LARGE: Final = 16 * 1024
_FDS: Final = 2  # the memory, and the writer's doorbell
_SEALS: Final = getattr(fcntl, "F_SEAL_SHRINK", 2) | getattr(fcntl, "F_SEAL_GROW", 4) | getattr(fcntl, "F_SEAL_SEAL", 1)
_SEALABLE: Final = getattr(os, "MFD_CLOEXEC", 0) | getattr(os, "MFD_ALLOW_SEALING", 0)
_TAKING: Final = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_BELL: Final = b"\0"
_INT: Final = array.array("i", [0]).itemsize


Extent = Callable[[bytes], tuple[int, int] | None]
"""Where in a frame that begins with some bytes its message lies."""


async def connect(address: SharedMemoryAddress, waiter: Waiter, deadline: float | None = None) -> Transport:
    """Dial, and map the memory.

    Raises:
        LocalProtocolError: this processor or system cannot.
        BrokenError, DeadlineExceeded: as `unix.connect`.
        RemoteProtocolError: who listens there speaks something else.
    """
    _check_system()
    plain = await unix.connect(address, waiter, deadline)
    transport = _over(plain, listening=False)
    try:
        await transport.handshake(deadline)
    except BaseException:
        transport.close()
        raise
    return transport


def transport(sock: socket.socket, waiter: Waiter) -> SharedMemoryTransport:
    """A transport over an accepted connection; `handshake` makes the memory."""
    return _over(unix.transport(sock, waiter), listening=True)


def listen(address: SharedMemoryAddress, backlog: int) -> list[socket.socket]:
    """As `unix.listen`.

    Raises:
        LocalProtocolError: this processor or system cannot, or the path cannot be used.
    """
    _check_system()
    return unix.listen(address, backlog)


def written(sock: socket.socket) -> str:
    """A bound socket's own address as people write it."""
    return f"shm:{unix.written(sock).removeprefix('unix:')}"


def _check_system() -> None:
    ring.check_processor()
    if not hasattr(os, "memfd_create"):
        raise LocalProtocolError("shared memory needs Linux", hint=ring.INSTEAD)


def _over(plain: Transport, *, listening: bool) -> SharedMemoryTransport:
    local, peer = (f"shm:{address.removeprefix('unix:')}" for address in (plain.local, plain.peer))
    plain._closed = True
    return SharedMemoryTransport(plain._sock, plain.waiter, listening=listening, local=local, peer=peer)


class SharedMemoryTransport(Transport):
    """A Transport through memory. `handshake` comes first.

    What is sent has been copied out of the sender's hands; where the peer dies, what it had sent before still arrives,
    and then BrokenError: an end is clean only where it was said.

    Args:
        sock: a connected Unix stream socket; this owns it from here on.
        listening: whether this side makes the memory.
        capacity: bytes of each ring, a power of two.
    """

    __slots__ = (
        "_capacity",
        "_ended",
        "_gone",
        "_listening",
        "_midway",
        "_need",
        "_rings",
        "_room",
        "_room_bell",
        "_vain",
        "_vainly",
    )

    def __init__(
        self,
        sock: socket.socket,
        waiter: Waiter,
        *,
        listening: bool,
        local: str,
        peer: str,
        capacity: int = CAPACITY,
    ) -> None:
        if capacity & (capacity - 1) or not ring.LEAST <= capacity <= ring.MOST:
            sock.close()
            raise LocalProtocolError(f"a ring has a power of two of bytes, {ring.LEAST} to {ring.MOST}: {capacity}")
        # All this first: what is interrupted behind it is to be closed.
        self._listening = listening
        self._capacity = capacity
        self._rings: Rings | None = None
        self._room_bell: socket.socket | None = None
        self._gone = False  # the peer's end of the socket is closed
        self._ended = False
        self._midway = False  # in the middle of a send
        self._need = 1  # bytes that whoever receives waits for
        self._room = max(1, capacity // 4)  # and whoever sends: each wake-up is to be worth it
        self._vain = 0  # the last looks were: how many sleeps without a look follow, and how many are left of them
        self._vainly = 0
        super().__init__(sock, waiter, name=NAME, local=local, peer=peer)
        self._kernel_waits = False

    def prepare(self) -> None:
        """As `Transport.prepare`: make the memory and send it, which never waits."""
        if self._listening and self._rings is None:
            self._offer()

    async def handshake(self, deadline: float | None = None) -> None:
        """Make the memory and send it, or receive and check it.

        Raises:
            BusyError: there is no descriptor for it.
            BrokenError: the peer went away, or this system makes no such memory.
            DeadlineExceeded: nothing came until `deadline`.
            RemoteProtocolError: what came is no memory that can be trusted.
        """
        if self._listening:
            self.prepare()
        else:
            await self._accept(deadline)

    # Without waiting.

    def try_receive(self, size: int) -> bytes | None:
        """As `Transport.try_receive`."""
        rings, count = self._readable(size)
        if rings is None:
            return b"" if count == 0 else None
        data = rings.copy(0, count)
        self._skip(rings, count)
        return data

    def try_receive_into(self, view: Buffer) -> int | None:
        """As `Transport.try_receive_into`."""
        rings, count = self._readable(len(view))
        if rings is None:
            return 0 if count == 0 else None
        target, filled = memoryview(view), 0
        for piece in rings.peek(count):
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
        self._skip(rings, count)
        return count

    def try_send(self, pieces: Sequence[Buffer]) -> int:
        """As `Transport.try_send`."""
        rings = self._rings
        if rings is None or self._gone or self._ended or self._broken is not None:
            raise self._takes_no_more()
        try:
            count = rings.write(pieces)
            if rings.wakes_reader():
                self._ring(self._sock)
        except EnchufeError:
            raise
        except BaseException:
            self.poison(INTERRUPTED)
            raise
        self.bytes_sent += count
        return count

    async def wait(self, interest: int, deadline: float | None = None) -> int:
        """As `Transport.wait`."""
        waiter = self.waiter
        if waiter.blocks and (ready := self._spin(interest)):
            return ready
        rings = self._open_rings()
        bells: list[Interest] = []
        if interest & READ:
            bells.append((self._sock, READ))
        if interest & WRITE and self._room_bell is not None:
            bells.append((self._room_bell, READ))
        try:
            while True:
                # Each time anew: whoever rang has taken the announcement back.
                if interest & READ:
                    rings.reader_sleeps(self._need)
                if interest & WRITE:
                    rings.writer_sleeps(self._room)
                if ready := self._ready(interest):
                    return ready
                if interest != READ:
                    # Not by wait_one: a bell for all that receive, rung until a drain's end, would end it at once.
                    await waiter.wait(bells, deadline)
                    self._clear(bells)
                elif not (waiter.blocks and not self._stopped and self._has_time(deadline) and self._doze()):
                    await waiter.wait_one(self._sock, READ, deadline)
                    self._clear(bells)
                if ready := self._ready(interest):
                    return ready
        except DeadlineExceeded:
            if ready := self._ready(interest):
                return ready
            raise
        finally:
            if interest & READ:
                rings.reader_wakes()
            if interest & WRITE:
                rings.writer_wakes()

    # The verbs.

    async def receive(self, size: int, deadline: float | None = None) -> bytes:
        """As `Transport.receive`."""
        self._turn -= 1
        if self._turn <= 0:
            await self._pause()
        while (data := self.try_receive(size)) is None:
            await self.wait(READ, deadline)
        return data

    async def receive_into(self, view: Buffer, deadline: float | None = None) -> int:
        """As `Transport.receive_into`."""
        self._turn -= 1
        if self._turn <= 0:
            await self._pause()
        while (count := self.try_receive_into(view)) is None:
            await self.wait(READ, deadline)
        return count

    async def receive_frame(self, head: int, extent: Extent, deadline: float | None = None) -> bytes | None:
        """Receive a message in one copy, once all of it is there: None, and nothing taken, where `receive` must do it.

        That is at the end, and where the message is small, nearly as big as the ring, or for `extent` to refuse.

        Args:
            head: bytes from which the size of a frame can be told.
            extent: gets a copy of them and says where in the frame the message begins and where it ends; None: it
                cannot. What it said counts, whatever becomes of the memory.
            deadline: as for `receive`.
        """
        self._turn -= 1
        if self._turn <= 0:
            await self._pause()
        while True:
            rings, count = self._readable(self._capacity)
            if rings is None:
                if not count:
                    return None
                await self.wait(READ, deadline)
                continue
            if count < head or not (found := extent(rings.copy(0, head))):
                return None
            start, stop = found
            if stop < _LARGE or stop > self._capacity // 2:
                return None
            if count >= stop:
                message = rings.copy(start, stop)
                self._skip(rings, stop)
                return message
            if self._stopped or self._gone or rings.state() != ring.OPEN:
                return None
            self._need = stop
            try:
                await self.wait(READ, deadline)
            finally:
                self._need = 1

    async def send(self, pieces: Sequence[Buffer], deadline: float | None = None, sent: int = 0) -> None:
        """As `Transport.send`; to close in the middle of it is a cut."""
        self._midway = True
        try:
            await super().send(pieces, deadline, sent)
        finally:
            self._midway = False

    async def drop(self, quiet: float, deadline: float) -> None:
        """As `Transport.drop`."""
        if self._late:
            raise self._closed_error()
        self._stopped = False
        bells: list[Interest] = [(self._sock, READ)]
        with contextlib.suppress(DeadlineExceeded):
            while (data := self.try_receive(65536)) != b"" and (now := self.waiter.now()) < deadline:
                if data is not None:
                    await self.waiter.pause()  # there may be more, without an end
                else:
                    self._open_rings().reader_sleeps(1)
                    if not self._ready(READ):
                        await self.waiter.wait(bells, min(deadline, now + quiet))
                        self._clear(bells)

    async def end(self, deadline: float | None = None) -> None:  # noqa: ARG002
        """As `Transport.end`."""
        rings = self._open_rings()
        if self._broken is not None:
            raise self._poisoned()
        if self._gone:
            raise BrokenError(f"the other side is gone ({self.peer})")
        if not self._ended:
            self._ended = True
            rings.say(ring.ENDED)
            self._ring(self._sock)

    def close(self) -> None:
        """As `Transport.close`: what was written is still there for the peer to read, and then a clean end."""
        self._leave(ring.ENDED)

    def abort(self) -> None:
        """As `Transport.abort`."""
        self._leave(ring.CUT)

    # What is behind them.

    def _readable(self, most: int) -> tuple[Rings | None, int]:
        """The rings and how many bytes to take; no rings and 0 at the end, -1 where there is nothing yet."""
        rings = self._rings or self._open_rings()
        state = rings.state()  # in this order: what was written before an end is there when the end is seen
        count = rings.waiting()
        if self._stopped:
            count = min(count, self._left)
        if count:
            return rings, min(count, most)
        if self._late:
            raise self._closed_error()
        if state == ring.ENDED or self._stopped:
            return None, 0
        if state != ring.OPEN or self._gone:
            # It may have written between our look and its death.
            if rings.waiting() or rings.state() == ring.ENDED:
                return self._readable(most)
            raise BrokenError(f"the other side cut the connection ({self.peer})")
        return None, -1

    def _takes_no_more(self) -> EnchufeError:
        if self._broken is not None:
            return self._poisoned()
        self._open_rings()
        if self._ended:
            return BrokenError("sending after end()")
        return BrokenError(f"the other side has closed and takes no more ({self.peer})")

    def _skip(self, rings: Rings, count: int) -> None:
        self.bytes_received += count
        if count > _SHARE:
            self._turn -= count // _SHARE
        if self._stopped:  # before they go: what came last may be counted twice, and nothing is lost
            self._left -= count
        rings.skip(count)
        if rings.wakes_writer() and self._room_bell is not None:
            self._ring(self._room_bell)

    def _ready(self, interest: int) -> int:
        rings = self._rings or self._open_rings()
        ready = 0
        if interest & READ and (
            rings.waiting() >= self._need or rings.state() != ring.OPEN or self._stopped or self._gone
        ):
            ready = READ
        if interest & WRITE and (rings.room() >= self._room or self._gone or self._late):
            ready |= WRITE
        return ready

    def _spin(self, interest: int) -> int:
        if self._vainly:
            self._vainly -= 1
            return 0
        now = self.waiter.now
        end = now() + SPIN
        while now() < end:
            if ready := self._ready(interest):
                self._vain = 0
                return ready
            os.sched_yield()  # the other side may be about to run on this very processor
        # The other side is busy, or has no processor of its own: to look only keeps it from its work.
        self._vainly = self._vain = min(2 * self._vain + 1, _VAIN)
        return 0

    def _doze(self) -> bool:
        """Sleep in the kernel for a little: whether the bell rang; one call less than to wait and then to clear it."""
        try:
            heard = self._sock.recv(4096)
            self._gone = self._gone or not (heard or self._stopped)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:  # it went with a doorbell unheard, which says nothing of what it wrote
            heard, self._gone = b"", True
        if self._closed:
            raise self._closed_error()
        if heard != _BELL:
            self._check_heard(heard)
        return True

    async def _pause(self) -> None:
        # Before anything is taken: whoever is cancelled here must lose nothing.
        self._turn = 32
        await self.waiter.pause()

    def _ring(self, bell: socket.socket) -> None:
        try:
            bell.send(_BELL, socket.MSG_DONTWAIT)
        except OSError:  # full: it rings already; closed: whoever reads will see
            return

    def _clear(self, bells: list[Interest]) -> None:
        """Silence the doorbells; at the end of one the peer is gone."""
        for bell, _ in bells:
            assert isinstance(bell, socket.socket)
            try:
                heard = bell.recv(4096, socket.MSG_DONTWAIT)
                self._check_heard(heard)
                if not heard:
                    # Where stop_receiving() has shut it, its end says nothing of the peer.
                    self._gone = self._gone or bell is self._room_bell or not self._stopped
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                if self._closed:
                    raise self._closed_error() from error
                self._gone = True
        if self._closed:
            raise self._closed_error()

    def _check_heard(self, heard: bytes) -> None:
        if heard.strip(_BELL):
            raise RemoteProtocolError(
                f"{self.peer} does not speak shared memory", hint="Use shm: on both sides, or on neither."
            )

    def _open_rings(self) -> Rings:
        rings = self._rings
        if self._closed:
            raise self._closed_error()
        if rings is None:
            raise LocalProtocolError("shared memory comes with the handshake")
        return rings

    def _pulse(self) -> tuple[int, ...]:
        rings = self._open_rings()
        return self.bytes_received, rings.waiting(), rings.room()

    def _arrived_by_now(self) -> int:
        rings = self._rings
        return 0 if rings is None else rings.waiting()

    def _wake_all(self) -> None:
        for bell in (self._sock, self._room_bell):
            if bell is not None:
                self.waiter.forget(bell)
                with contextlib.suppress(OSError):
                    bell.shutdown(socket.SHUT_RDWR)

    def _leave(self, state: int) -> None:
        if self._closed:
            return
        self._closed = True
        rings, self._rings = self._rings, None
        if rings is not None and not self._ended:
            rings.say(ring.CUT if self._midway or self._broken is not None else state)
        for bell in (self._sock, self._room_bell):
            if bell is not None:
                with contextlib.suppress(OSError):
                    bell.shutdown(socket.SHUT_RDWR)
                self.waiter.forget(bell)
                bell.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if (bell := getattr(self, "_room_bell", None)) is not None and self._process is not Process.this:
            bell.close()
        super().__del__(_warn)

    # The handshake's two sides.

    def _offer(self) -> None:
        assert hasattr(os, "memfd_create")  # or `_check_system` would have said so
        with contextlib.ExitStack() as passing, contextlib.ExitStack() as undo:
            try:
                near, far = socket.socketpair()
                undo.callback(near.close)
                passing.callback(far.close)
                descriptor = os.memfd_create("enchufe", _SEALABLE)
                passing.callback(os.close, descriptor)
                os.ftruncate(descriptor, ring.size_of(self._capacity))
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
                rings = Rings(mmap.mmap(descriptor, 0), self._capacity, first=True)
            except OSError as error:
                if error.errno not in NO_ROOM:  # as where files are limited to fewer bytes: it stays so
                    raise BrokenError(f"cannot make memory to share: {error.strerror}", hint=ring.INSTEAD) from error
                raise no_room("cannot make memory to share", error) from error
            fds = array.array("i", [descriptor, far.fileno()])
            try:
                # So few bytes always fit into a new connection.
                self._sock.sendmsg(
                    [_HELLO.pack(ring.MAGIC, self._capacity)],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)],
                    socket.MSG_DONTWAIT,
                )
            except OSError as error:
                raise BrokenError(f"the other side left at once ({self.peer}): {error.strerror}") from error
            self._room_bell, self._rings = near, rings  # closed with us, whatever happens
            undo.pop_all()

    async def _accept(self, deadline: float | None) -> None:
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(_HELLO.size, socket.CMSG_SPACE(_FDS * _INT), _TAKING)
                break
            except (BlockingIOError, InterruptedError):
                if self._closed:
                    raise self._closed_error() from None
                await self.waiter.wait_one(self._sock, READ, deadline)
            except OSError as error:
                raise self._translated(error) from error
        arrived = array.array("i")
        for _, kind, fds in ancillary:
            if kind == socket.SCM_RIGHTS:
                arrived.frombytes(fds[: len(fds) - len(fds) % _INT])
        try:
            if not data:
                raise BrokenError(f"the other side left at once ({self.peer})")
            self._map(data, arrived, flags)
        finally:
            for descriptor in arrived:
                os.close(descriptor)

    def _map(self, data: bytes, arrived: array.array[int], flags: int) -> None:
        """Believe nothing of what came before it was looked at; only then map it."""
        strange = RemoteProtocolError(
            f"{self.peer} offers no shared memory that can be trusted", hint="It may be another program: use unix:."
        )
        if flags & socket.MSG_CTRUNC and len(arrived) < _FDS:  # they came, and found no place here
            raise no_room("cannot map shared memory", OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        if len(data) != _HELLO.size or len(arrived) != _FDS or flags & socket.MSG_CTRUNC:
            raise strange
        magic, capacity = _HELLO.unpack(data)
        if magic != ring.MAGIC or capacity & (capacity - 1) or not ring.LEAST <= capacity <= ring.MOST:
            raise strange
        try:
            # Sealed first: what is measured afterwards stays as it is.
            sealed = fcntl.fcntl(arrived[0], fcntl.F_GET_SEALS)
            if sealed & _SEALS != _SEALS or os.fstat(arrived[0]).st_size != ring.size_of(capacity):
                raise strange
            room_bell = socket.socket(fileno=arrived[1])
        except OSError as error:
            raise strange from error
        del arrived[1]  # the socket owns it
        if room_bell.family != socket.AF_UNIX or room_bell.type != socket.SOCK_STREAM:
            room_bell.close()
            raise strange
        self._room_bell = room_bell
        self._capacity = capacity
        self._room = capacity // 4
        try:
            self._rings = Rings(mmap.mmap(arrived[0], 0), capacity, first=False)
        except PermissionError as error:  # opened to read only, or sealed against writing
            raise strange from error
        except OSError as error:
            raise no_room("cannot map shared memory", error) from error
