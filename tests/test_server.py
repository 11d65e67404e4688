"""Connections and servers on the threads engine: the HOWTO's conversation, limits, drain, faults."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

import enchufe
from enchufe import BlockingConnection, Connection, framing
from enchufe.connection import Connection as AnyConnection
from enchufe.engines import processes
from enchufe.errors import (
    BrokenError,
    ClosedError,
    DeadlineExceeded,
    LocalProtocolError,
    RemoteProtocolError,
)
from enchufe.server import Acceptor, ServerOptions
from enchufe.transports import shared_memory, unix
from enchufe.transports.addresses import UnixAddress
from enchufe.waiting import BlockingWaiter, drive
from tests.until import until

LINES = framing.Lines()
PREFIXED = framing.LengthPrefixed(4)


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


def plain_echo(connection: BlockingConnection) -> None:
    for message in connection:
        connection.send(message)


def connect(server: enchufe.Server, timeout: float = 10.0) -> BlockingConnection:
    return enchufe.connect(server.addresses[0], framing=LINES, timeout=timeout)


@pytest.mark.parametrize("handler", [echo, plain_echo])
@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix"])
def test_ask_iterate_and_end(handler: Callable[..., None], address: str, tmp_path: Path) -> None:
    where = f"unix:{tmp_path / 's'}" if address == "unix" else address
    with enchufe.Server(handler, where, framing=LINES) as server, connect(server) as connection:
        assert connection.ask(b"hola") == b"hola"
        connection.send(b"one", b"two", b"")
        connection.end()
        assert list(connection) == [b"one", b"two", b""]
        assert connection.receive() is None
        with pytest.raises(BrokenError):
            connection.send(b"after the end")
        assert "Lines" in repr(connection)


def test_an_object_with_an_async_call_is_a_handler() -> None:
    class Shouting:
        async def __call__(self, connection: Connection) -> None:
            async for message in connection:
                await connection.send(message.upper())

    with enchufe.Server(Shouting(), "127.0.0.1:0", framing=LINES) as server, connect(server) as connection:
        assert connection.ask(b"hola") == b"HOLA"


def test_reframing_keeps_what_came_along() -> None:
    async def upgrade(connection: Connection) -> None:
        assert await connection.receive() == b"binary please"
        connection.reframe(PREFIXED)
        async for message in connection:
            await connection.send(message[::-1])

    with enchufe.Server(upgrade, "127.0.0.1:0", framing=LINES) as server, connect(server) as connection:
        with socket.create_connection(connection._connection.transport._sock.getpeername()) as raw:
            # All in one packet: a line, and behind it what would be a line too, but is not.
            raw.sendall(b"binary please\n" + b"\0\0\0\4a\nb\n" + b"\0\0\0\1\n")
            got = b""
            while len(got) < 13:
                got += raw.recv(100)
            assert got == b"\0\0\0\4\nb\na" + b"\0\0\0\1\n"


def test_an_end_inside_a_message_is_told() -> None:
    errors: list[BaseException] = []

    async def reading(connection: Connection) -> None:
        try:
            async for _ in connection:
                pass
        except RemoteProtocolError as error:
            errors.append(error)

    with enchufe.Server(reading, "127.0.0.1:0", framing=PREFIXED) as server:
        host, _, port = server.addresses[0].rpartition(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"\0\0\0\5abc")
        until(lambda: bool(errors))


def test_asking_one_who_hangs_up() -> None:
    def hang_up(connection: BlockingConnection) -> None:
        connection.receive()

    with (
        enchufe.Server(hang_up, "127.0.0.1:0", framing=LINES) as server,
        connect(server) as connection,
        pytest.raises(BrokenError, match="without an answer"),
    ):
        connection.ask(b"hello?")


def test_a_timeout_loses_nothing() -> None:
    go = threading.Event()

    def late(connection: BlockingConnection) -> None:
        go.wait(20)
        connection.send(b"late")

    with enchufe.Server(late, "127.0.0.1:0", framing=LINES) as server, connect(server, 0.2) as connection:
        with pytest.raises(DeadlineExceeded):
            connection.receive()
        go.set()
        connection._connection.timeout = 20
        assert connection.receive() == b"late"


def test_a_handlers_bug_hurts_its_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async def moody(connection: Connection) -> None:
        async for message in connection:
            if message == b"boom":
                raise ZeroDivisionError("a bug")
            await connection.send(message)

    with enchufe.Server(moody, "127.0.0.1:0", framing=LINES) as server:
        with connect(server) as good, connect(server) as bad:
            bad.send(b"boom")
            with pytest.raises(BrokenError):  # no clean end: nobody may take it for "that was all"
                bad.receive()
            assert good.ask(b"still here") == b"still here"
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)


def test_a_foreign_await_fails_by_name(caplog: pytest.LogCaptureFixture) -> None:
    async def foreign(connection: Connection) -> None:
        # Failing before the dialer has looked would break its dialing, not its receiving.
        await connection.receive()
        loop_future: asyncio.Future[None] = asyncio.Future(loop=asyncio.new_event_loop())
        try:
            await loop_future
        finally:
            loop_future.get_loop().close()

    with enchufe.Server(foreign, "127.0.0.1:0", framing=LINES) as server, connect(server) as connection:
        with pytest.raises(BrokenError):
            connection.ask(b"hello?")
    assert "cannot await" in caplog.text


def test_the_connection_limit_pauses_accepting() -> None:
    with enchufe.Server(echo, "127.0.0.1:0", framing=LINES, max_connections=2) as server:
        first, second = connect(server), connect(server)
        assert (first.ask(b"1"), second.ask(b"2")) == (b"1", b"2")
        with connect(server) as third:
            third._connection.timeout = 0.3
            third.send(b"3")  # the kernel takes it; nobody reads it yet
            with pytest.raises(DeadlineExceeded):
                third.receive()
            first.close()
            third._connection.timeout = 20
            assert third.receive() == b"3"
        second.close()


def test_idle_connections_are_closed() -> None:
    with enchufe.Server(echo, "127.0.0.1:0", framing=LINES, idle_timeout=2) as server, connect(server) as connection:
        assert connection.ask(b"x") == b"x"
        with pytest.raises(BrokenError):
            connection.receive()


def test_draining_lets_a_busy_handler_answer_and_ends_an_idle_one() -> None:
    busy, go = threading.Event(), threading.Event()

    def slow(connection: BlockingConnection) -> None:
        for message in connection:
            busy.set()
            go.wait(20)
            connection.send(message)

    server = enchufe.Server(slow, "127.0.0.1:0", framing=LINES, drain=20)
    with connect(server) as idle, connect(server) as asking:
        asking.send(b"work")
        busy.wait(20)
        closing = threading.Thread(target=server.close)
        closing.start()
        assert idle.receive() is None
        go.set()
        assert asking.receive() == b"work"
        assert asking.receive() is None
        closing.join(20)
        assert not closing.is_alive()
        with pytest.raises(BrokenError):
            connect(server)


def test_draining_closes_who_does_not_finish(caplog: pytest.LogCaptureFixture) -> None:
    stuck, errors = threading.Event(), list[BaseException]()

    async def stubborn(connection: Connection) -> None:
        stuck.set()
        try:
            while True:
                await connection.send(bytes(1 << 20))
        except ClosedError as error:
            errors.append(error)

    server = enchufe.Server(stubborn, "127.0.0.1:0", framing=framing.LengthPrefixed(4), drain=0.2)
    with connect(server):
        stuck.wait(20)
        server.close()
    assert errors
    assert "did not finish" in caplog.text


SERVE = """
import sys, enchufe
from enchufe import framing
def slow(connection):
    for message in connection:
        connection.send(b"got " + message)
print("ready", flush=True)
enchufe.serve(slow, "unix:" + sys.argv[1], framing=framing.Lines(), drain=5)
print("drained", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def listens() -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(path)) == 0

    process = subprocess.Popen([sys.executable, "-c", SERVE, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        until(listens)  # its path is there before that
        with enchufe.connect(f"unix:{path}", framing=LINES, timeout=20) as connection:
            assert connection.ask(b"1") == b"got 1"
            connection.send(b"2")
            process.send_signal(number)
            rest = list(connection)
        assert rest in ([b"got 2"], [])  # answered, or never taken; not half
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stdout.read().split() == ["ready", "drained"]
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    assert not path.exists()


STARVED = """
import os, resource, sys, threading, time, enchufe
from enchufe import framing
def echo(connection):
    for message in connection:
        connection.send(message)
with enchufe.Server(echo, "127.0.0.1:0", framing=framing.Lines()) as server:
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, used + 4))
    begin = time.process_time()
    print(server.addresses[0], flush=True)
    sys.stdin.readline()
    print(time.process_time() - begin, flush=True)
"""


# Those that wait for the server's first step are more than it has descriptors for.
STARVED_AT_ONCE = """
import os, resource, sys, threading
from enchufe import framing
from enchufe.engines import events, threads
from enchufe.server import Acceptor, ServerOptions
from enchufe.transports import shared_memory, unix
from enchufe.transports.addresses import UnixAddress
from enchufe.waiting import BlockingWaiter, drive
async def echo(connection):
    async for message in connection:
        await connection.send(message)
acceptor = Acceptor.listening([sys.argv[2]], 128, ServerOptions(framing=framing.Lines()))
engine = {"events": events.OwnLoop, "threads": threads.Engine}[sys.argv[1]](echo, acceptor)
print(acceptor.listeners[0].addresses[0], flush=True)
sys.stdin.readline()
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, used + 10))
thread = threading.Thread(target=engine.run)
thread.start()
sys.stdin.readline()
engine.stop()
thread.join()
"""


@pytest.mark.parametrize("engine", ["events", "threads"])
def test_descriptors_may_run_out_in_the_first_step(engine: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARVED_AT_ONCE, engine, "127.0.0.1:0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    with process, process.stdin as tell:
        address = process.stdout.readline().strip()
        crowd = [enchufe.connect(address, framing=LINES, timeout=20) for _ in range(20)]
        print(file=tell, flush=True)
        assert crowd[0].ask(b"served") == b"served"
        for connection in crowd[:-1]:
            connection.close()
        assert crowd[-1].ask(b"served after all") == b"served after all"
        crowd[-1].close()
    assert process.returncode == 0


@pytest.mark.parametrize("engine", ["events", "threads"])
def test_those_that_no_descriptor_is_left_for_memory_for_wait_in_the_queue(engine: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARVED_AT_ONCE, engine, f"shm:{tmp_path}/s"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    waiter = BlockingWaiter()
    with process, process.stdin as tell:
        process.stdout.readline()
        crowd = [drive(unix.connect(UnixAddress(f"{tmp_path}/s"), waiter)) for _ in range(20)]
        print(file=tell, flush=True)
        for plain in crowd:
            with shared_memory._over(plain, listening=False) as transport:
                drive(transport.handshake(waiter.now() + 20))
                assert drive(Connection(transport, LINES, timeout=20).ask(b"served")) == b"served"
    assert process.returncode == 0


NO_MEMORY = """
import resource, sys
import enchufe
from enchufe import framing
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
async def echo(connection):
    async for message in connection:
        await connection.send(message)
told = []
engine, address = sys.argv[1:]
lines = framing.Lines()
with enchufe.Server(echo, address, "127.0.0.1:0", engine=engine, framing=lines, on_event=told.append) as server:
    for address in server.addresses:
        try:
            with enchufe.connect(address, framing=lines, timeout=20) as connection:
                print(connection.ask(b"served"))
        except enchufe.BrokenError:
            print("cut")
print([event.error for event in told if type(event).__name__ == "Finished"])
"""


@pytest.mark.parametrize("engine", ["events", "threads"])
def test_a_system_that_makes_no_memory_to_share_serves_the_others(engine: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", NO_MEMORY, engine, f"shm:{tmp_path}/s"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        "cut",
        "b'served'",
        "['BrokenError: cannot make memory to share: File too large', None]",
    ]


def test_running_out_of_descriptors_is_survived_without_spinning() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARVED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stderr
    try:
        address = process.stdout.readline().strip()
        crowd = [enchufe.connect(address, framing=LINES, timeout=20) for _ in range(12)]
        time.sleep(1.5)  # what spins would show in the processor time below
        for connection in crowd[:9]:
            connection.close()
        assert crowd[-1].ask(b"served after all") == b"served after all"
        for connection in crowd:
            connection.close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert float(process.stdout.readline()) < 1.0  # of the 1.5 s that a spin would have burnt
        assert process.wait(20) == 0
        assert process.stderr.read().count("accepting pauses") >= 1
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"engine": "carrier pigeons"}, "no engine"),
        ({"max_connections": 0}, "at least 1"),
        ({"drain": -1.0}, "negative"),
    ],
)
def test_options_that_make_no_sense(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(LocalProtocolError, match=told):
        enchufe.Server(echo, "127.0.0.1:0", framing=LINES, **arguments)  # type: ignore[arg-type]


def test_no_address_and_half_good_addresses_leave_nothing_listening() -> None:
    with pytest.raises(LocalProtocolError, match="no address"):
        enchufe.Server(echo, framing=LINES)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LocalProtocolError, match="no port"):
        enchufe.Server(echo, "127.0.0.1:0", "nonsense", framing=LINES)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_program_that_ignores_the_end_of_its_children_has_workers() -> None:
    code = """if True:
        import os, signal, threading, enchufe
        from enchufe import framing
        def handler(connection):
            for message in connection:
                connection.send(message)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with enchufe.Server(handler, "127.0.0.1:0", framing=framing.Lines(), engine="processes") as server:
            with enchufe.connect(server.addresses[0], framing=framing.Lines(), timeout=20) as client:
                print(client.ask(b"hola"))
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        enchufe.serve(handler, "127.0.0.1:0", framing=framing.Lines(), engine="processes")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'hola'\n", "")


def test_serving_without_a_thread_is_refused_and_leaves_nothing_behind() -> None:
    code = """if True:
        import os, threading, enchufe
        from enchufe import framing
        async def handler(connection):
            pass
        threading.stack_size(1 << 46)  # for which no machine has room
        before = len(os.listdir("/proc/self/fd"))
        for engine in ("threads", "processes", "events"):
            try:
                enchufe.serve(handler, "127.0.0.1:0", framing=framing.Lines(), engine=engine)
            except enchufe.BusyError as error:
                print(error.hint, len(os.listdir("/proc/self/fd")) - before)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["0"] * 3, done.stderr


def test_serve_belongs_in_the_main_thread() -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enchufe.serve(echo, "127.0.0.1:0", framing=LINES)
        except LocalProtocolError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert "main thread" in str(errors[0])


def test_several_addresses_one_server(tmp_path: Path) -> None:
    with enchufe.Server(echo, "127.0.0.1:0", f"unix:{tmp_path / 's'}", framing=LINES) as server:
        assert len(server.addresses) == 2
        for address in server.addresses:
            with enchufe.connect(address, framing=LINES, timeout=20) as connection:
                assert connection.ask(b"x") == b"x"


def test_what_is_re_exported_is_there() -> None:
    for name in enchufe.__all__:
        assert getattr(enchufe, name) is not None
    assert enchufe.Connection is AnyConnection
    with pytest.raises(AttributeError):
        enchufe.nothing_of_that_name  # noqa: B018


@pytest.mark.parametrize(("module", "name"), [("aio", "connect"), ("events", "Receipt"), ("framing", "Lines")])
def test_modules_are_there_once_they_are_named(module: str, name: str) -> None:
    code = f"import sys, enchufe; assert 'enchufe.{module}' not in sys.modules; enchufe.{module}.{name}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_who_comes_while_there_is_no_thread_left_waits_for_one(caplog: pytest.LogCaptureFixture) -> None:
    with enchufe.Server(echo, "127.0.0.1:0", framing=LINES, engine="threads") as server:
        before = threading.stack_size(1 << 46)  # for which no machine has room
        try:
            with ExitStack() as clients:
                asking = [
                    clients.enter_context(enchufe.connect(server.addresses[0], framing=LINES, timeout=20))
                    for _ in range(3)
                ]
                for client in asking:
                    client.send(b"hola")
                until(lambda: "accepting pauses" in caplog.text)
                threading.stack_size(before)
                assert [client.receive() for client in asking] == [b"hola"] * 3
        finally:
            threading.stack_size(before)
    assert caplog.text.count("accepting pauses") == 1


def test_who_waits_for_a_thread_when_the_server_ends_is_told(caplog: pytest.LogCaptureFixture) -> None:
    before = threading.stack_size()
    events: list[object] = []
    try:
        with enchufe.Server(echo, "127.0.0.1:0", framing=LINES, engine="threads", on_event=events.append) as server:
            threading.stack_size(1 << 46)
            client = enchufe.connect(server.addresses[0], framing=LINES, timeout=20)
            until(lambda: "accepting pauses" in caplog.text)
        with client, pytest.raises(BrokenError):
            client.receive()
    finally:
        threading.stack_size(before)
    assert not events  # it was never served


def test_a_handler_whose_decorator_gives_it_more_than_the_connection_is_one() -> None:
    async def answers(connection: enchufe.Connection, word: bytes) -> None:
        await connection.send(word)

    @functools.wraps(answers)
    async def handler(connection: enchufe.Connection) -> None:
        await answers(connection, b"injected")

    with (
        enchufe.Server(handler, "127.0.0.1:0", framing=LINES) as server,
        enchufe.connect(server.addresses[0], framing=LINES, timeout=20) as client,
    ):
        assert client.receive() == b"injected"


@pytest.mark.parametrize("option", ["drain", "idle_timeout", "max_lifetime"])
def test_seconds_that_no_clock_counts_are_refused(option: str) -> None:
    with pytest.raises(LocalProtocolError, match=f"{option} must be seconds"):
        enchufe.Server(echo, "127.0.0.1:0", framing=LINES, **{option: 10**400})  # type: ignore[arg-type]


def test_a_supervisor_that_is_to_stop_forks_no_more() -> None:
    stop, says_so = os.pipe()
    forked, counts = os.pipe()
    os.write(says_so, b"\0")
    acceptor = Acceptor.listening(["127.0.0.1:0"], 1, ServerOptions(framing=LINES))
    supervisor = processes.Supervisor(echo, acceptor, 50, None, stop)

    def supervise() -> None:
        os.register_at_fork(after_in_child=lambda: os.write(counts, b"x") and None)
        supervisor.run()

    child = processes.fork(supervise)
    supervisor.abandon()
    os.close(counts)
    os.close(says_so)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(forked, 100) == b""
    os.close(forked)


def test_who_comes_while_there_is_no_process_left_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, left = os.fork, [True, False, False, True, False, True, True]  # the first is the supervisor

    def scarce() -> int:
        if not left.pop(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", scarce)
    with enchufe.Server(echo, "127.0.0.1:0", framing=LINES, engine="processes", max_per_address=3) as server:
        with ExitStack() as clients:
            asking = [
                clients.enter_context(enchufe.connect(server.addresses[0], framing=LINES, timeout=20)) for _ in range(3)
            ]
            assert [client.ask(b"hola") for client in asking] == [b"hola"] * 3


def test_a_worker_that_dies_as_soon_as_it_lives_is_not_replaced_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = tmp_path / "lives"
    lives.touch()

    def die(*_: object) -> None:
        with lives.open("a") as file:
            file.write(f"{time.monotonic()}\n")
        os._exit(3)

    monkeypatch.setattr(processes, "_work", die)
    with enchufe.Server(echo, "127.0.0.1:0", framing=LINES, engine="threads", workers=1):
        until(lambda: len(lives.read_text().splitlines()) >= 2)
    first, second = map(float, lives.read_text().splitlines()[:2])
    assert second - first >= 0.9


def test_who_comes_while_no_worker_takes_another_waits_for_one(tmp_path: Path) -> None:
    async def tell(connection: enchufe.Connection) -> None:
        if await connection.receive() == b"who":
            await connection.send(b"%d" % os.getpid())
        else:
            await connection.send(b"hola")

    address, many = f"unix:{tmp_path}/s", 400  # more than the socket to a worker holds
    with (
        enchufe.Server(tell, address, framing=LINES, engine="events", workers=1, backlog=many),
        ExitStack() as clients,
    ):
        with enchufe.connect(address, framing=LINES, timeout=20) as client:
            worker = int(client.ask(b"who"))
        os.kill(worker, signal.SIGSTOP)
        try:
            asking = [clients.enter_context(enchufe.connect(address, framing=LINES, timeout=20)) for _ in range(many)]
            for client in asking:
                client.send(b"hola")
        finally:
            os.kill(worker, signal.SIGCONT)
        assert [client.receive() for client in asking] == [b"hola"] * many


def test_a_subinterpreter_that_has_no_server_is_told_so_and_keeps_nothing() -> None:
    pytest.importorskip("_xxsubinterpreters")  # it has another name since Python 3.13
    code = """if True:
        import _xxsubinterpreters
        _xxsubinterpreters.run_string(_xxsubinterpreters.create(), '''if True:
            import os, enchufe
            from enchufe import framing
            def handler(connection):
                pass
            before = len(os.listdir("/proc/self/fd"))
            for engine in ("threads", "processes"):
                try:
                    enchufe.Server(handler, "127.0.0.1:0", framing=framing.Lines(), engine=engine)
                except enchufe.EnchufeError as error:
                    print(engine, "interpreter" in str(error))
                print(len(os.listdir("/proc/self/fd")) - before)
        ''')
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["threads", "True", "0", "processes", "True", "0"], done.stderr
