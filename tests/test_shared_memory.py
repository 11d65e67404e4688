"""shared_memory: the contract, peers that lie, peers that die, and rings that wrap."""

from __future__ import annotations

import array
import fcntl
import gc
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import enchufe
from enchufe import framing
from enchufe.connection import Connection
from enchufe.errors import (
    BrokenError,
    BusyError,
    ClosedError,
    DeadlineExceeded,
    EnchufeError,
    LocalProtocolError,
    RemoteProtocolError,
)
from enchufe.testing import CHECKS
from enchufe.transports import Transport, parse_address, ring
from enchufe.transports.shared_memory import CAPACITY, SharedMemoryTransport
from enchufe.waiting import READ, BlockingWaiter, Doorbell, drive
from tests.until import until

WAITER = BlockingWaiter()
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def ends(capacity: int = CAPACITY) -> tuple[SharedMemoryTransport, SharedMemoryTransport]:
    here, there = socket.socketpair()
    near = SharedMemoryTransport(here, WAITER, listening=True, local="", peer="", capacity=capacity)
    far = SharedMemoryTransport(there, WAITER, listening=False, local="", peer="")
    drive(near.handshake())
    drive(far.handshake(WAITER.now() + 10))
    return near, far


@contextmanager
def pair(capacity: int = CAPACITY) -> Iterator[tuple[SharedMemoryTransport, SharedMemoryTransport]]:
    near, far = ends(capacity)
    with near, far:
        yield near, far


@pytest.mark.parametrize("turned", [False, True], ids=["listener first", "dialer first"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract(check: Callable[[Transport, Transport], None], turned: bool) -> None:
    with pair() as (near, far):
        check(*((far, near) if turned else (near, far)))


@given(st.lists(st.binary(max_size=9000), max_size=30), st.randoms(use_true_random=False))
def test_whatever_the_pieces_the_bytes_are_the_same(pieces: list[bytes], chance: object) -> None:
    data = b"".join(pieces)
    with pair(ring.LEAST) as (near, far):
        got = bytearray()
        queue = [piece for piece in pieces if piece]
        while len(got) < len(data):
            if queue:
                count = near.try_send(queue)
                while queue and count >= len(queue[0]):
                    count -= len(queue.pop(0))
                if count:
                    queue[0] = queue[0][count:]
            size = chance.randint(1, 5000)  # type: ignore[attr-defined]
            if size % 2:
                got += far.try_receive(size) or b""
            else:
                view = bytearray(size)
                got += view[: far.try_receive_into(view) or 0]
        assert got == data


def test_a_ring_that_wraps_in_the_middle_of_everything() -> None:
    with pair(ring.LEAST) as (near, far):
        for size in (3000, 3000, 4095, 1, 4096, 4000, 97):
            data = os.urandom(size)
            assert near.try_send([data[: size // 2], data[size // 2 :]]) == size
            assert far.try_receive(10_000) == data


class Reading:
    """The words of a ring whose reader goes on while the writer writes: at each look it has read 500 bytes more."""

    def __init__(self, words: memoryview) -> None:
        self.words = words
        self.read = -500

    def __getitem__(self, place: int) -> int:
        if place == ring._FIRST + ring._READ:
            self.read += 500
            return self.read
        return int(self.words[place])

    def __setitem__(self, place: int, value: int) -> None:
        self.words[place] = value


@pytest.mark.parametrize("sizes", [[3000, 3000, 300, 300], [300] * 20, [5000, 1, 1]])
def test_nothing_is_written_behind_a_piece_that_did_not_fit(sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    with pair(ring.LEAST) as (near, far):
        rings = near._rings
        assert rings is not None
        words = rings._words
        rings._words = Reading(words)  # type: ignore[assignment]
        count = near.try_send(pieces)
        rings._words = words
        view = bytes(far._rings._in)  # type: ignore[union-attr]
        data = b"".join(pieces)[:count]
        wrapped = max(0, count - ring.LEAST)
        assert view[:wrapped] == data[ring.LEAST :]
        assert view[wrapped : min(count, ring.LEAST)] == data[wrapped : ring.LEAST]


def conversation(framed: framing.Framing, capacity: int = 1 << 20) -> tuple[SharedMemoryTransport, Connection]:
    near, far = ends(capacity)
    return near, Connection(far, framed, timeout=10)


FRAMED = framing.LengthPrefixed(4)


@pytest.mark.parametrize(
    "sizes",
    [
        [65536] * 40,
        [20_000, 20_000, 5, 20_000, 0, 100_000, 100_000, 16_384, 16_383],
        [600_000, 600_000, 600_000, 64],
        [70_000, 2_000_000, 70_000, 70_000],
    ],
    ids=["alike", "mixed", "over half the ring", "over the ring"],
)
@pytest.mark.parametrize(
    "framed",
    [
        FRAMED,
        framing.LengthPrefixed(2, offset=3, adjustment=-1, max_size=1 << 16, on_too_big="skip"),
        framing.LengthPrefixed(prefix="varint"),
        framing.Netstring(),
    ],
    ids=["length", "header", "varint", "netstring"],
)
def test_large_messages_come_as_they_were_sent(framed: framing.Framing, sizes: list[int]) -> None:
    messages = [os.urandom(max(size, 3) if framed.max_size > 65536 else size % 65000 + 3) for size in sizes]
    near, connection = conversation(framed)

    def send() -> None:
        for message in messages:
            drive(near.send(framed.encode(message), WAITER.now() + 10))
        near.close()

    thread = threading.Thread(target=send)
    thread.start()
    with near:
        for message in messages:
            assert drive(connection.receive()) == message
        assert drive(connection.receive()) is None
        thread.join()
    connection.close()


class Own(framing.LengthPrefixed):
    """Somebody's framing that says no more than it has to."""

    extent = framing.SizedFraming.extent


class OwnNetstring(framing.Netstring):
    """One that tells a length after so many bytes, if that is true."""

    def __init__(self, head: int) -> None:
        super().__init__()
        self.head = head


@pytest.mark.parametrize(
    "framed",
    [
        FRAMED,
        framing.FixedLength(40_000),
        framing.LengthPrefixed(4, offset=3),
        framing.LengthPrefixed(4, adjustment=-4),
        Own(4, offset=3),
        OwnNetstring(6),
        OwnNetstring(3),
    ],
    ids=["length", "fixed", "header", "adjusted", "own header", "own tail", "own head"],
)
def test_large_messages_that_come_one_at_a_time(framed: framing.Framing) -> None:
    near, connection = conversation(framed)
    with near:
        for _ in range(4):
            drive(near.send(framed.encode(message := os.urandom(40_000))))
            assert drive(connection.receive()) == message
    connection.close()


@pytest.mark.parametrize("kind", [framing.LengthPrefixed, Own])
def test_after_a_large_message_one_that_is_too_large_is_skipped(kind: type[framing.LengthPrefixed]) -> None:
    near, connection = conversation(kind(4, max_size=50_000, on_too_big="skip"))
    with near:
        for size in (40_000, 60_000, 45_000, 50_001, 50_000):
            drive(near.send(FRAMED.encode(bytes(size))))
            if size <= 50_000:
                assert drive(connection.receive()) == bytes(size)
    connection.close()


def test_a_large_message_waits_whole_in_the_ring() -> None:
    near, connection = conversation(FRAMED)
    with near:
        for part in (0, 3, 4, 60_000):
            message = os.urandom(70_000)
            data = b"".join(FRAMED.encode(message))
            drive(near.send([data]))
            assert drive(connection.receive()) == message
            received = connection.transport.bytes_received
            drive(near.send([data[:part]]))
            connection.timeout = 0.02
            for _ in range(2):
                with pytest.raises(DeadlineExceeded):
                    drive(connection.receive())
            connection.timeout = 10
            if part >= FRAMED.width:
                assert connection.transport.bytes_received == received, "it was copied piece by piece"
            drive(near.send([data[part:]]))
            assert drive(connection.receive()) == message
    connection.close()


def test_a_large_message_that_is_cut_or_too_big() -> None:
    for rest, kind in ((b"\0\0\xff\xff" + bytes(99), "ended inside"), (b"\xff\xff\xff\xff" + bytes(99), "max_size")):
        near, connection = conversation(FRAMED)
        drive(near.send(FRAMED.encode(bytes(70_000))))
        drive(near.send(FRAMED.encode(bytes(70_000))))
        drive(near.send([rest]))
        drive(near.end())
        for _ in range(2):
            assert drive(connection.receive()) == bytes(70_000)
        for _ in range(2):
            with pytest.raises(RemoteProtocolError, match=kind):
                drive(connection.receive())
        near.close()
        connection.close()


def test_a_frame_goes_on_after_large_messages_where_another_framing_takes_over() -> None:
    near, connection = conversation(FRAMED)
    with near:
        for _ in range(3):
            drive(near.send(FRAMED.encode(bytes(70_000))))
        drive(near.send([b"and a line\n"]))
        for _ in range(3):
            assert drive(connection.receive()) == bytes(70_000)
        connection.reframe(framing.Lines())
        assert drive(connection.receive()) == b"and a line"
    connection.close()


def test_who_sleeps_is_woken_once_there_is_as_much_as_it_waits_for() -> None:
    with pair(ring.LEAST) as (near, far):
        writer, reader = near._rings, far._rings
        assert writer is not None
        assert reader is not None
        reader.reader_sleeps(1000)
        for size, woken in ((999, False), (1, True), (3096, False)):
            writer.write([bytes(size)])
            assert writer.wakes_reader() == woken
        writer.writer_sleeps(1024)
        for size, woken in ((1023, False), (1, True), (3000, False)):
            reader.skip(size)
            assert reader.wakes_writer() == woken


@pytest.mark.parametrize("most", [1, 100, 4096])
def test_a_full_ring_stalls_nobody(most: int) -> None:
    """However little is read at a time, a sender that sleeps goes on before the reader has nothing left."""
    data = os.urandom(20 * ring.LEAST if most > 1 else 3 * ring.LEAST)
    with pair(ring.LEAST) as (near, far):
        thread = threading.Thread(target=lambda: drive(near.send([data], WAITER.now() + 30)))
        thread.start()
        got = bytearray()
        while len(got) < len(data):
            got += drive(far.receive(most, WAITER.now() + 30))
        thread.join()
        assert got == data


def offer(descriptors: list[int], hello: bytes) -> None:
    """Dial with a listener that says `hello` and sends `descriptors`."""
    here, there = socket.socketpair()
    far = SharedMemoryTransport(there, WAITER, listening=False, local="", peer="")
    with here, far:
        here.sendmsg([hello], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
        drive(far.handshake(WAITER.now() + 10))


def memory(size: int, seals: int = SEALS) -> int:
    descriptor = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


GOOD = struct.pack("@8sQ", ring.MAGIC, 8192)


@pytest.mark.parametrize(
    ("hello", "sizes", "seals"),
    [
        (GOOD, [], SEALS),
        (GOOD, [ring.size_of(8192)], SEALS),
        (GOOD, [ring.size_of(8192)] * 10, SEALS),
        (GOOD, [ring.size_of(8192), None, None], SEALS),
        (GOOD, [ring.size_of(8192), None], 0),
        (GOOD, [ring.size_of(8192), None], fcntl.F_SEAL_GROW),
        (GOOD, [ring.size_of(8192), None], SEALS | fcntl.F_SEAL_WRITE),
        (GOOD, [ring.size_of(4096), None], SEALS),
        (GOOD, [ring.size_of(8192) + 1, None], SEALS),
        (GOOD, [ring.size_of(8192), ring.size_of(8192)], SEALS),
        (GOOD, [None, None], SEALS),
        (struct.pack("@8sQ", b"GET / HT", 8192), [ring.size_of(8192), None], SEALS),
        (struct.pack("@8sQ", ring.MAGIC, 8193), [ring.size_of(8193), None], SEALS),
        (struct.pack("@8sQ", ring.MAGIC, 0), [ring.HEAD, None], SEALS),
        (struct.pack("@8sQ", ring.MAGIC, 1 << 62), [ring.size_of(8192), None], SEALS),
        (GOOD[:5], [ring.size_of(8192), None], SEALS),
    ],
)
def test_an_offer_that_cannot_be_trusted_is_never_mapped(hello: bytes, sizes: list[int | None], seals: int) -> None:
    bells = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    descriptors = [memory(size, seals) if size is not None else bells[0].fileno() for size in sizes]
    try:
        with pytest.raises(RemoteProtocolError):
            offer(descriptors, hello)
    finally:
        for descriptor, size in zip(descriptors, sizes, strict=True):
            if size is not None:
                os.close(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before
    assert "hostile" not in Path("/proc/self/maps").read_text()
    for bell in bells:
        bell.close()


def test_silence_and_a_hang_up_instead_of_an_offer() -> None:
    here, there = socket.socketpair()
    with SharedMemoryTransport(there, WAITER, listening=False, local="", peer="") as far:
        with pytest.raises(LocalProtocolError):
            far.try_receive(1)
        with pytest.raises(DeadlineExceeded):
            drive(far.handshake(WAITER.now() + 0.05))
        here.close()
        with pytest.raises(BrokenError):
            drive(far.handshake(WAITER.now() + 10))


@pytest.mark.parametrize("lie", [1, 8293, 1 << 40, (1 << 64) - 1])
def test_indices_that_make_no_sense(lie: int) -> None:
    with pair(8192) as (near, far):
        assert near.try_send([b"x" * 100]) == 100
        assert far.try_receive(100) == b"x" * 100
        words = near._rings._words  # type: ignore[union-attr]
        if lie > 1:
            words[ring._FIRST + ring._READ] = lie  # it has read what was never written
            with pytest.raises(RemoteProtocolError):
                near.try_send([bytes(8192)])
                near.try_send([bytes(8192)])
        words[ring._FIRST + ring._WRITTEN] = lie  # written less than was read, or more than there is room for
        with pytest.raises(RemoteProtocolError):
            far.try_receive(10)


@pytest.mark.parametrize("waits_for", ["reader", "writer"])
def test_a_killed_peer_is_found_and_is_no_end(waits_for: str, tmp_path: Path) -> None:
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        with suppress(BaseException):
            here.close()
            far = SharedMemoryTransport(there, WAITER, listening=False, local="", peer="")
            drive(far.handshake(WAITER.now() + 10))
            far.try_send([b"last words"])
            signal.pause()
        os._exit(1)
    there.close()
    with SharedMemoryTransport(here, WAITER, listening=True, local="", peer="") as near:
        drive(near.handshake())
        assert drive(near.receive(100, WAITER.now() + 10)) == b"last words"
        killer = threading.Timer(0.1, os.kill, (child, signal.SIGKILL))
        killer.start()
        with pytest.raises(BrokenError):
            if waits_for == "reader":
                drive(near.receive(100, WAITER.now() + 30))
            else:
                drive(near.send([bytes(4 * CAPACITY)], WAITER.now() + 30))
        killer.join()
        os.waitpid(child, 0)


def test_what_was_sent_before_an_end_arrives_whole() -> None:
    near, far = ends()
    with far:
        near.try_send([b"x" * 1000])
        near.close()
        assert far.try_receive(5000) == b"x" * 1000
        assert far.try_receive(1) == b""


def test_two_processes_never_miss_each_other(tmp_path: Path) -> None:
    """Doorbells without a lost wake-up: each side sleeps and is woken, again and again, with and without spinning."""
    address = f"shm:{tmp_path / 'socket'}"

    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    with enchufe.Server(echo, address, framing=framing.LengthPrefixed(4), engine="processes") as server:
        with enchufe.connect(server.addresses[0], framing=framing.LengthPrefixed(4), timeout=30) as client:
            with pytest.MonkeyPatch.context() as patch:
                for spin in (50e-6, 0.0):
                    patch.setattr("enchufe.transports.shared_memory.SPIN", spin)
                    for number in range(10_000):
                        text = b"%d" % number
                        assert client.ask(text) == text

            def send_all() -> None:
                for number in range(50_000):
                    client.send(b"%d" % number)
                client.end()

            sender = threading.Thread(target=send_all)
            sender.start()
            assert list(client) == [b"%d" % number for number in range(50_000)]
            sender.join()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:enchufe")

    before = len(os.listdir("/proc/self/fd")), mapped()
    for _ in range(20):
        near, far = ends()
        drive(near.send([b"x"]))
        near.close()
        far.abort()
    del near, far
    assert (len(os.listdir("/proc/self/fd")), mapped()) == before


@pytest.mark.parametrize("free", [0, 1, 2, 3])
def test_a_listener_without_descriptors_says_so(free: int) -> None:
    here, there = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    lowest = os.dup(here.fileno())
    os.close(lowest)
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    with there, SharedMemoryTransport(here, WAITER, listening=True, local="", peer="") as near:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, usual[1]))
        try:
            with pytest.raises(BusyError):
                drive(near.handshake())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_a_drain_does_not_put_a_senders_deadline_off() -> None:
    bell = Doorbell()
    bell.ring()
    here, there = socket.socketpair()
    near = SharedMemoryTransport(here, BlockingWaiter(bell), listening=True, local="", peer="", capacity=ring.LEAST)
    outcome: list[EnchufeError] = []

    def send() -> None:
        try:
            drive(near.send([bytes(2 * ring.LEAST)], near.waiter.now() + 0.05))
        except EnchufeError as error:
            outcome.append(error)

    with there, near:
        drive(near.handshake())
        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        thread.join(10)
        late = thread.is_alive()
    thread.join(10)
    bell.close()
    assert not late, "it waits for ever"
    assert isinstance(outcome[0], DeadlineExceeded)


class Pausing(BlockingWaiter):
    """A waiter that gives the others their turn for real, as a loop does."""

    @types.coroutine
    def pause(self) -> Generator[None, None, None]:
        yield


@pytest.mark.parametrize("into", [False, True])
def test_a_receive_cancelled_at_its_turn_loses_nothing(into: bool) -> None:
    here, there = socket.socketpair()
    with SharedMemoryTransport(here, WAITER, listening=True, local="", peer="") as near:
        with SharedMemoryTransport(there, Pausing(), listening=False, local="", peer="") as far:
            drive(near.handshake())
            drive(far.handshake(WAITER.now() + 10))
            for _ in range(100):
                assert near.try_send([b"x"]) == 1
                view = bytearray(1)
                coroutine: Coroutine[None, None, object] = far.receive_into(view) if into else far.receive(1)
                try:
                    coroutine.send(None)
                except StopIteration:
                    continue
                with pytest.raises(KeyboardInterrupt):
                    coroutine.throw(KeyboardInterrupt())
                break
            else:
                pytest.fail("the others never had their turn")
            assert far.try_receive(10) == b"x"


def test_the_others_have_their_turn_though_messages_are_large() -> None:
    waiter, size = Pausing(), 1 << 20
    pauses = 0
    with pair() as (near, far):
        far.waiter = waiter
        receiving = Connection(far, framing.LengthPrefixed(max_size=size))
        sending = Connection(near, framing.LengthPrefixed(max_size=size))
        for _ in range(8):
            drive(sending.send(bytes(size)))
            coroutine = receiving.receive()
            with suppress(StopIteration):
                while True:
                    coroutine.send(None)
                    pauses += 1
    assert 3 <= pauses <= 6


def test_to_close_in_the_middle_of_a_send_is_no_end() -> None:
    near, far = ends(ring.LEAST)
    outcome: list[EnchufeError] = []

    def send() -> None:
        try:
            drive(near.send([bytes(3 * ring.LEAST)]))
        except EnchufeError as error:
            outcome.append(error)

    with far:
        thread = threading.Thread(target=send)
        thread.start()
        got = 0
        while got <= ring.LEAST:  # so that it is in the middle, whatever the threads' pace
            got += len(drive(far.receive(1, WAITER.now() + 10)))
        near.close()
        thread.join()
        assert isinstance(outcome[0], ClosedError)
        with pytest.raises(BrokenError):
            while drive(far.receive(10_000, WAITER.now() + 10)):
                pass


@pytest.mark.parametrize("waits_for", ["reader", "writer"])
@pytest.mark.parametrize("loop", [False, True])
def test_a_doorbell_that_says_something_is_another_protocol(
    waits_for: str, loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockingWaiter, "blocks", not loop)
    with pair(ring.LEAST) as (near, far):
        bell = near._sock if waits_for == "reader" else near._room_bell
        assert bell is not None
        bell.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(RemoteProtocolError, match="does not speak shared memory"):
            if waits_for == "reader":
                drive(far.receive(100, WAITER.now() + 10))
            else:
                drive(far.send([bytes(2 * ring.LEAST)], WAITER.now() + 10))


def test_sending_to_one_that_is_gone_raises_at_once() -> None:
    near, far = ends()
    with near:
        far.close()
        assert drive(near.receive(1, WAITER.now() + 10)) == b""
        near._clear([(near._sock, READ)])
        with pytest.raises(BrokenError, match="takes no more"):
            near.try_send([b"x"])


def test_to_end_after_a_cut_send_raises() -> None:
    with pair(ring.LEAST) as (near, _):
        with pytest.raises(DeadlineExceeded):
            drive(near.send([bytes(2 * ring.LEAST)], WAITER.now()))
        with pytest.raises(BrokenError, match="in the middle of a message"):
            drive(near.end())


def test_other_processors_and_odd_sizes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here, there = socket.socketpair()
    there.close()
    with pytest.raises(LocalProtocolError, match="power of two"):
        SharedMemoryTransport(here, WAITER, listening=True, local="", peer="", capacity=5000)
    assert here.fileno() == -1
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(LocalProtocolError, match="aarch64"):
        enchufe.connect("shm:/nowhere", framing=framing.Lines())
    with pytest.raises(LocalProtocolError, match="aarch64"):
        enchufe.Server(lambda _: None, f"shm:{tmp_path / 'socket'}", framing=framing.Lines())
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    with pytest.raises(LocalProtocolError, match="a Python of 64 bits"):
        enchufe.connect("shm:/nowhere", framing=framing.Lines())


def test_addresses() -> None:
    assert str(parse_address("shm:/run/x")) == "shm:/run/x"
    for wrong in ("shm:", "shm:" + "x" * 200):
        with pytest.raises(LocalProtocolError):
            parse_address(wrong)
    with pytest.raises(LocalProtocolError, match="no TLS"):
        enchufe.connect("shm:/run/x", framing=framing.Lines(), tls=True)


def test_what_comes_after_a_stop_is_not_received() -> None:
    with pair() as (near, far):
        drive(far.send([b"before"]))
        near.stop_receiving()
        drive(far.send([b"after"]))
        view = bytearray(4)
        assert [drive(near.receive(4)), drive(near.receive_into(view)), drive(near.receive(4))] == [b"befo", 2, b""]


def test_who_waits_when_it_is_to_receive_no_more_can_still_answer() -> None:
    with pair() as (near, far):
        receiving = threading.Thread(target=lambda: drive(near.receive(1)))
        receiving.start()
        until(lambda: near._vain)  # it has looked in vain, and sleeps
        near.stop_receiving()
        receiving.join(20)
        assert not receiving.is_alive()
        drive(near.send([b"answer"]))
        assert drive(far.receive(6, WAITER.now() + 10)) == b"answer"


@pytest.mark.parametrize("sending", [False, True])
def test_whoever_is_cut_off_is_woken_and_closes_as_cut(sending: bool) -> None:
    outcome: list[BaseException] = []

    def use() -> None:
        try:
            while True:
                drive(near.send([bytes(1 << 20)]) if sending else near.receive_into(bytearray(1)))
        except ClosedError as error:
            outcome.append(error)

    with pair() as (near, far):
        user = threading.Thread(target=use)
        user.start()
        near.cut_off("its time was over")
        user.join(20)
        assert not user.is_alive()
        near.close()
        with pytest.raises(BrokenError):
            while drive(far.receive(1 << 20)):
                pass
    assert "its time was over" in str(outcome[0])


@pytest.mark.parametrize("engine", ["threads", "events"])
def test_a_cut_connection_leaves_nothing_until_a_collection(engine: str, tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    with enchufe.Server(echo, f"shm:{tmp_path / 'socket'}", framing=framing.Lines(), engine=engine) as server:

        def cut() -> None:
            connection = enchufe.connect(*server.addresses, framing=framing.Lines(), timeout=20)
            assert connection.ask(b"hola") == b"hola"
            connection._connection.transport.abort()

        gc.collect()
        gc.disable()
        try:
            cut()  # what is made once
            before = descriptors()
            for _ in range(5):
                cut()
            until(lambda: descriptors() <= before)
        finally:
            gc.enable()


def test_a_fork_that_drops_a_connection_says_nothing(tmp_path: Path) -> None:
    code = f"""if True:
        import gc, os, enchufe
        from enchufe import framing
        def echo(connection):
            for message in connection:
                connection.send(message)
        with enchufe.Server(echo, "shm:{tmp_path}/s", framing=framing.Lines()) as server:
            client = enchufe.connect(server.addresses[0], framing=framing.Lines(), timeout=20)
            print(client.ask(b"hola"), flush=True)
            child = os.fork()
            if not child:
                del client
                gc.collect()
                os._exit(0)
            os.waitpid(child, 0)
            print(client.ask(b"still here"))
            client.close()
    """
    # That a fork among threads may hang is Python's own word, from 3.12 on.
    command = [sys.executable, "-W", "always::ResourceWarning", "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("b'hola'\nb'still here'\n", "")
