"""Replies that are held back: nobody else's are, none is lost, doubled or torn, whatever the handler does meanwhile."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import enchufe
from enchufe import BlockingConnection, Connection, aio, framing, transports
from enchufe.engines.loop import Loop
from enchufe.errors import BrokenError, ClosedError, DeadlineExceeded
from enchufe.heartbeat import BeatingConnection, Heartbeat
from enchufe.transports import TcpAddress, tcp, unix
from enchufe.waiting import WRITE, BlockingWaiter, Waitable, drive
from tests.beside import Beside
from tests.framed import framed
from tests.test_heartbeat import Narrow, Scripted
from tests.until import until

PREFIXED = framing.LengthPrefixed(4)
BIG = b"r" * 5_000


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return data


@contextmanager
def talking(waiter: Any) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection that gathers, and the other end of it."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with theirs, closing(Connection(unix.transport(ours, waiter), PREFIXED, gathers=True)) as connection:
        yield connection, theirs


def test_what_another_thread_sends_is_not_held_back() -> None:
    with talking(BlockingWaiter()) as (connection, theirs):
        theirs.sendall(framed(b"1", b"2"))
        assert drive(connection.receive()) == b"1"
        Beside(lambda: drive(connection.send(b"from elsewhere"))).result()
        assert read(theirs, 18) == framed(b"from elsewhere")
        drive(connection.send(b"reply"))
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


def test_threads_that_receive_and_send_do_not_mix_what_is_anybody_elses() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with talking(BlockingWaiter()) as (connection, theirs), talking(BlockingWaiter()) as (other, innocent):
            count = 20_000
            numbers = [b"%06d" % number for number in range(count)]

            def answer() -> None:
                for number in numbers:
                    drive(connection.send(number))

            def listen() -> int:
                heard = 0
                while drive(connection.receive()) is not None:
                    heard += 1
                return heard

            sending, listening = Beside(answer), Beside(listen)
            reading = Beside(lambda: read(theirs, 10 * count))
            for _ in range(200):
                theirs.sendall(framed(*[b"m"] * 50))
            sending.result()
            assert reading.result() == framed(*numbers)
            theirs.shutdown(socket.SHUT_WR)
            assert listening.result() == 10_000
            innocent.sendall(framed(b"a", b"b"))
            assert drive(other.receive()) == b"a"
            drive(other.send(b"reply"))
            drive(other.flush())
            assert read(innocent, 9) == framed(b"reply")
    finally:
        sys.setswitchinterval(before)


def test_what_another_task_sends_is_not_held_back_and_does_not_stop_who_receives() -> None:
    """Whoever only receives goes on, though the other side reads nothing of what another task sends."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs, closing(Connection(unix.transport(ours, aio.host()), PREFIXED, gathers=True)) as connection:
            theirs.settimeout(10)

            async def push() -> None:
                while True:
                    await connection.send(BIG)

            theirs.sendall(framed(*[b"m"] * 30))
            assert await connection.receive() == b"m"
            pushing = asyncio.create_task(push())
            await asyncio.sleep(0.1)  # until there is no room
            theirs.sendall(framed(*[b"m"] * 30))
            for _ in range(59):
                assert await connection.receive() == b"m"
            pushing.cancel()
            await asyncio.wait([pushing])

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("host", [asyncio.run, trio.run])
def test_a_task_can_be_made_of_a_send_that_is_held_back(host: Callable[..., Any]) -> None:
    async def main() -> None:
        with talking(aio.host()) as (connection, theirs):
            theirs.sendall(framed(b"1", b"2", b"3"))
            if host is asyncio.run:
                tasks = [asyncio.create_task(connection.send(await anext(connection))) for _ in range(3)]
                await asyncio.gather(*tasks)
            else:
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(connection.send, await anext(connection))
            await connection.flush()
            assert read(theirs, 15) == framed(b"1", b"2", b"3")

    host(main if host is trio.run else main())


def test_a_receive_that_is_cancelled_while_replies_leave_loses_nothing() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs, closing(Connection(unix.transport(ours, aio.host()), PREFIXED, gathers=True)) as connection:
            theirs.settimeout(10)
            count, in_vain = 200, 0
            theirs.sendall(framed(*[b"m"] * count))
            reading: asyncio.Future[bytes] | None = None
            answered = 0
            while answered < count:
                try:
                    async with asyncio.timeout(0.05):
                        message = await connection.receive()
                except TimeoutError:
                    in_vain += 1
                    if reading is None:
                        reading = asyncio.ensure_future(asyncio.to_thread(read, theirs, count * (len(BIG) + 4)))
                    continue
                assert message == b"m"
                answered += 1
                try:
                    async with asyncio.timeout(0.05):
                        await connection.send(BIG)
                except TimeoutError:  # it is held back, and goes with the next
                    in_vain += 1
                    if reading is None:
                        reading = asyncio.ensure_future(asyncio.to_thread(read, theirs, count * (len(BIG) + 4)))
            await connection.flush()
            assert in_vain
            assert reading is not None
            assert await reading == framed(*[BIG] * count)

    asyncio.run(asyncio.wait_for(main(), 30))


# Of so many replies the last ones may find no room, by what the kernel has: one of these will do.
COUNTS = range(20, 64, 4)


def together(*jobs: Callable[[], Any]) -> list[Any]:
    return [job.result() for job in [Beside(job) for job in jobs]]


@pytest.mark.parametrize("engine", ["threads", "events"])
def test_replies_that_do_not_fit_go_on_leaving_while_the_handler_waits_elsewhere(engine: Any, tmp_path: Path) -> None:
    """The client reads them all, and only then lets the handler go on."""
    asked = {count: threading.Event() for count in COUNTS}
    go = {count: threading.Event() for count in COUNTS}

    def backend(connection: BlockingConnection) -> None:
        for message in connection:
            asked[int(message)].set()
            go[int(message)].wait(30)
            connection.send(b"done")

    with enchufe.Server(backend, "localhost:0", framing=PREFIXED) as other:

        async def handler(connection: Connection) -> None:
            there = transports.parse_address(other.addresses[0])
            with closing(Connection(await transports.connect(there, connection.transport.waiter), PREFIXED)) as more:
                async for message in connection:
                    await connection.send(BIG)
                    if message != b"m":
                        assert await more.ask(message) == b"done"

        def reads(count: int) -> None:
            with enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=10) as client:
                client.send(*[b"m"] * (count - 1), b"%d" % count, b"in hand")
                asked[count].wait(1)
                for _ in range(count):
                    assert client.receive() == BIG
                go[count].set()
                assert client.receive() == BIG

        with enchufe.Server(handler, f"unix:{tmp_path / 's'}", framing=PREFIXED, engine=engine) as server:
            together(*[partial(reads, count) for count in COUNTS])


Ending = Callable[[Connection], Awaitable[None]]


async def returns(connection: Connection) -> None:
    """Nothing more."""


async def closes(connection: Connection) -> None:
    connection.close()
    with pytest.raises(ClosedError):
        await connection.send(b"more")


@pytest.mark.parametrize("engine", ["threads", "events"])
@pytest.mark.parametrize("ending", [returns, closes])
def test_replies_that_do_not_fit_arrive_though_the_handler_ends(engine: Any, ending: Ending, tmp_path: Path) -> None:
    async def handler(connection: Connection) -> None:
        count = int(await connection.receive() or b"")
        for _ in range(count):
            await connection.receive()
            await connection.send(BIG)
        await ending(connection)

    def reads_late(count: int) -> None:
        with enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=15) as client:
            client.send(b"%d" % count, *[b"m"] * count, b"in hand")
            time.sleep(2.5)  # longer than what a handler that is over gets
            assert [client.receive() for _ in range(count + 1)] == [BIG] * count + [None]

    with enchufe.Server(handler, f"unix:{tmp_path / 's'}", framing=PREFIXED, engine=engine) as server:
        together(*[partial(reads_late, count) for count in COUNTS])


def test_whoever_waits_for_a_flush_keeps_no_processor_busy() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs, closing(Connection(unix.transport(ours, aio.host()), PREFIXED, gathers=True)) as connection:
            theirs.settimeout(10)
            theirs.sendall(framed(*[b"m"] * 200))
            answered = 0

            async def answer() -> None:
                nonlocal answered
                async for _ in connection:
                    await connection.send(BIG)
                    answered += 1

            answering = asyncio.create_task(answer())
            while not connection.unsent or answered < 30:
                await asyncio.sleep(0.01)
            more = asyncio.create_task(connection.send(b"from another task"))
            before = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - before < 0.25
            assert not more.done()
            size = 200 * (len(BIG) + 4) + 21
            got = await asyncio.to_thread(read, theirs, size)
            await more
            assert len(got) == size
            assert framed(b"from another task") in got
            answering.cancel()
            await asyncio.wait([answering])

    asyncio.run(asyncio.wait_for(main(), 30))


def test_under_trio_what_does_not_fit_goes_on_leaving_while_the_task_waits() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs, closing(Connection(unix.transport(ours, aio.host()), PREFIXED, gathers=True)) as connection:
            theirs.settimeout(10)
            for count in range(16, 40, 2):
                theirs.sendall(framed(*[b"m"] * count, b"in hand"))
                for _ in range(count):
                    await connection.receive()
                    await connection.send(BIG)
                await trio.sleep(0.05)
                got = await trio.to_thread.run_sync(read, theirs, count * (len(BIG) + 4))
                assert got == framed(*[BIG] * count)
                assert await connection.receive() == b"in hand"

    async def in_time() -> None:
        with trio.fail_after(30):
            await main()

    trio.run(in_time)


def test_a_flush_that_comes_too_late_goes_on_where_it_stood() -> None:
    with talking(BlockingWaiter()) as (connection, theirs):
        count = 90
        theirs.sendall(framed(*[b"m"] * count, b"in hand"))
        connection.timeout = 0.1
        late = 0
        for _ in range(count):
            drive(connection.receive())
            try:
                drive(connection.send(BIG))
            except DeadlineExceeded:
                late += 1
        assert late
        reading = Beside(lambda: read(theirs, count * (len(BIG) + 4)))
        connection.timeout = 10
        drive(connection.flush())
        assert reading.result() == framed(*[BIG] * count)


def test_what_was_not_sent_when_it_was_closed_is_no_orderly_end() -> None:
    loop = Loop()

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            connection = Connection(unix.transport(ours, loop), PREFIXED, gathers=True, timeout=0.1)
            theirs.sendall(framed(*[b"m"] * 90, b"in hand"))
            for _ in range(90):
                await connection.receive()
                try:
                    await connection.send(BIG)
                except DeadlineExceeded:
                    break
            assert connection.unsent
            connection.close()
            while connection.transport.fileno() >= 0:  # for as long as it may take
                await loop.pause()
            with pytest.raises(BrokenError, match="before all was sent"):
                connection.transport.try_send([b"more"])

    try:
        loop.run(main())
    finally:
        loop.close()


@pytest.mark.parametrize("runs", ["events", "asyncio"])
def test_an_attempt_to_dial_that_failed_leaves_nothing_behind(runs: str) -> None:
    """Its descriptor's number is the next one's, which would never be told that it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        addresses = [TcpAddress("127.0.0.1", one.getsockname()[1]) for one in (nobody, there)]

        async def main(waiter: Any) -> None:
            for _ in range(5):
                with await tcp.connect_any(addresses, waiter, waiter.now() + 10) as transport:
                    accepted, _ = there.accept()
                    with accepted:
                        accepted.send(b"hello")
                        assert await transport.receive(5, waiter.now() + 10) == b"hello"

        if runs == "asyncio":

            async def hosted() -> None:
                await main(aio.host())

            asyncio.run(hosted())
            return
        loop = Loop()
        try:
            loop.run(main(loop))
            assert len(loop._by_descriptor) == 1  # its own bell
        finally:
            loop.close()


@pytest.mark.parametrize("engine", ["threads", "events"])
def test_a_silent_peer_is_found_while_replies_leave(engine: Any, tmp_path: Path) -> None:
    """It takes nothing and says nothing."""
    ended = threading.Event()

    async def handler(connection: Connection) -> None:
        try:
            async for _ in connection:
                await connection.send(BIG)
        finally:
            ended.set()

    beat = Heartbeat(every=0.2, patience=0.6)
    address = f"unix:{tmp_path / 's'}"
    with (
        enchufe.Server(handler, address, framing=PREFIXED, engine=engine, heartbeat=beat),
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.connect(str(tmp_path / "s"))
        sock.sendall(framed(*[b"m"] * 200))
        assert ended.wait(10)


def test_what_was_written_into_a_file_and_never_sent_is_no_orderly_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        with enchufe.connect(f"127.0.0.1:{there.getsockname()[1]}", framing=PREFIXED) as connection:
            file = connection.file()
            file.write(b"never flushed")
        peer, _ = there.accept()
        with peer, pytest.raises(ConnectionResetError):
            peer.recv(1)


def test_whoever_flushes_in_another_thread_is_woken_by_a_close() -> None:
    with talking(BlockingWaiter()) as (connection, theirs):
        theirs.sendall(framed(*[b"m"] * 200, b"in hand"))

        def answer() -> None:
            for _ in range(200):
                drive(connection.receive())
                drive(connection.send(BIG))

        answering = Beside(answer)
        until(lambda: connection.unsent and connection.transport._full)
        connection.close()
        with pytest.raises((BrokenError, ClosedError)):
            answering.result()


class Hurried(Scripted):
    """A peer that makes room for a little, each time a little later; and any task of a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.task = 1

    def me(self) -> object:  # type: ignore[override]
        return self.task

    async def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> None:
        if deadline is not None and self.clock >= deadline:
            raise DeadlineExceeded("nothing happened")
        await super().wait_one(thing, interest, deadline)


@pytest.mark.parametrize("way", ["flush", "send"])
def test_a_timeout_holds_for_the_whole_of_a_call(way: str) -> None:
    ours, theirs = socket.socketpair()
    waiter = Hurried()
    transport = Narrow(ours, waiter, name="narrow", local="", peer="the peer")
    with theirs, closing(Connection(transport, PREFIXED, gathers=True, timeout=1)) as connection:

        def a_little_room() -> bool:
            if way == "flush":  # there is no end to what another task sends
                drive(connection.send(BIG))
            waiter.clock += 0.6
            transport.room = sum(map(len, connection._rest))
            return True

        transport.room = 0
        waiter.steps[WRITE] = a_little_room
        theirs.sendall(framed(*[b"m"] * 9))
        for _ in range(8):
            drive(connection.receive())
            drive(connection.send(BIG))
        if way == "flush":
            with pytest.raises(DeadlineExceeded):
                drive(connection.flush())
        else:
            transport.room, waiter.task = 0, 2
            waiter.steps[WRITE] = lambda: a_little_room() if waiter.clock < 0.5 else None
            with pytest.raises(DeadlineExceeded):
                drive(connection.send(BIG * 1000))
        assert waiter.clock <= 1.2


def test_two_tasks_that_send_behind_half_a_beat_both_do() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        beat = Heartbeat(b"beat", every=0.1, patience=20)
        transport = unix.transport(ours, aio.host())
        with theirs, closing(BeatingConnection(transport, PREFIXED, heartbeat=beat, gathers=True)) as connection:
            theirs.sendall(framed(b"1", b"2"))
            assert [await connection.receive(), await connection.receive()] == [b"1", b"2"]
            while transport.try_send([bytes(1000)]) or transport.try_send([bytes(1)]):
                pass
            filled = transport.bytes_sent
            receiving = asyncio.create_task(connection.receive())
            while not connection._beat:
                await asyncio.sleep(0.01)
            theirs.sendall(framed(b"3", b"4"))

            async def reply() -> None:
                assert await receiving == b"3"
                await connection.send(b"reply")
                await connection.flush()

            replying = asyncio.create_task(reply())
            sending = asyncio.create_task(connection.send(b"beside"))
            await asyncio.wait([replying, sending], timeout=0.3)  # both wait for room
            got = await asyncio.to_thread(read, theirs, filled + len(framed(b"beat", b"reply", b"beside")))
            await asyncio.gather(replying, sending)
            assert got[filled:] in (framed(b"beat", b"reply", b"beside"), framed(b"beat", b"beside", b"reply"))

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_close_while_replies_leave_ends_a_receive_at_once() -> None:
    """Of who was receiving, and of who comes later; the replies go on leaving."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        transport = unix.transport(ours, aio.host())
        with theirs, closing(Connection(transport, PREFIXED, gathers=True)) as connection:
            theirs.sendall(framed(*[b"m"] * 2))
            assert await connection.receive() == b"m"
            while transport.try_send([bytes(1000)]) or transport.try_send([bytes(1)]):
                pass
            filled = transport.bytes_sent
            await connection.send(b"reply")
            await asyncio.sleep(0.05)  # elsewhere
            assert await connection.receive() == b"m"
            receiving = asyncio.create_task(connection.receive())
            await asyncio.sleep(0.05)
            connection.close()
            with pytest.raises(ClosedError):
                await asyncio.wait_for(receiving, 5)
            with pytest.raises(ClosedError):
                await asyncio.wait_for(connection.receive(), 5)
            with pytest.raises(ClosedError):
                await asyncio.wait_for(connection.send(b"more"), 5)
            reply = framed(b"reply")
            assert (await asyncio.to_thread(read, theirs, filled + 100))[filled:] == reply

    asyncio.run(asyncio.wait_for(main(), 30))


def test_replies_that_still_leave_come_before_what_is_written_into_a_file() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        transport = unix.transport(ours, aio.host())
        with theirs, closing(Connection(transport, PREFIXED, gathers=True)) as connection:
            theirs.sendall(framed(b"m", b"m"))
            await connection.receive()
            while transport.try_send([bytes(1000)]) or transport.try_send([bytes(1)]):
                pass
            filled = transport.bytes_sent
            await connection.send(BIG)
            await asyncio.sleep(0.05)  # elsewhere, so that it leaves beside
            writing = asyncio.create_task(connection.file().write(bytes(100_000)))
            await asyncio.wait([writing], timeout=0.2)
            got = await asyncio.to_thread(read, theirs, filled + len(BIG) + 4 + 100_000)
            assert await writing == 100_000
            assert got[filled:] == framed(BIG) + bytes(100_000)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_another_framing_mixes_up_nothing_of_what_another_thread_flushes() -> None:
    long, short = PREFIXED, framing.LengthPrefixed(2)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(60):
            with talking(BlockingWaiter()) as (connection, theirs):
                over = threading.Event()

                def flush(connection: Connection = connection, over: threading.Event = over) -> None:
                    while not over.is_set():
                        drive(connection.flush())

                flushing = Beside(flush)
                theirs.sendall(b"".join(long.encode(b"m")) * 40 + b"".join(short.encode(b"m")) * 40)
                expected = b""
                for speaks in (long, short):
                    connection.reframe(speaks)
                    for number in range(40):
                        assert drive(connection.receive()) == b"m"
                        drive(connection.send(b"%06d" % number))
                        expected += b"".join(speaks.encode(b"%06d" % number))
                over.set()
                flushing.result()
                drive(connection.flush())
                assert read(theirs, len(expected)) == expected
    finally:
        sys.setswitchinterval(before)
