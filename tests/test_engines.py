"""What servers need, engine by engine: limits, deadlines, peers and workers that die, a drain that loses nothing."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import enchufe
from enchufe import BlockingConnection, Connection, aio, events, framing
from enchufe.buffer import ReceiveBuffer
from enchufe.engines.handover import Handover, channel
from enchufe.engines.loop import Loop
from enchufe.engines.slots import Slots
from enchufe.errors import BrokenError, DeadlineExceeded, EnchufeError, LocalProtocolError
from enchufe.heartbeat import Heartbeat
from enchufe.server import ServerOptions
from enchufe.testing import ManualClock
from enchufe.transports import unix
from enchufe.waiting import READ, WRITE, BlockingWaiter, Doorbell, drive
from tests.beside import Beside
from tests.every_poller import POLLERS
from tests.matrix.engines import ENGINES, connected, echo
from tests.until import until

PREFIXED = framing.LengthPrefixed(4)
EVERY = pytest.mark.parametrize("engine", ENGINES)
POOLS = ["processes x 2", "events x 2", "threads x 2"]


# In "processes x 2" every worker serves one connection after the other: a limit of its own.
@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "processes x 2"])
def test_the_connection_limit_pauses_accepting(engine: str) -> None:
    with ENGINES[engine](echo, "127.0.0.1:0", PREFIXED, max_connections=1, drain=1) as (address, *_):
        with connected(address, PREFIXED) as first, connected(address, PREFIXED) as second:
            assert first.ask(b"1") == b"1"
            second.send(b"2")  # the kernel takes it; nobody reads it yet
            second._connection.timeout = 0.2
            with pytest.raises(DeadlineExceeded):
                second.receive()
            first.close()
            second._connection.timeout = 20
            assert second.receive() == b"2"


@EVERY
def test_so_many_from_one_address(engine: str) -> None:
    with ENGINES[engine](echo, "127.0.0.1:0", PREFIXED, max_per_address=1, drain=1) as (address, *_):
        with connected(address, PREFIXED) as first:
            assert first.ask(b"1") == b"1"
            with pytest.raises(BrokenError), connected(address, PREFIXED) as second:
                second.ask(b"2")
            assert first.ask(b"3") == b"3"

        def again() -> bool:
            try:
                with connected(address, PREFIXED) as third:
                    return third.ask(b"4") == b"4"
            except BrokenError:
                return False

        until(again)


@EVERY
@pytest.mark.parametrize("limit", ["idle_timeout", "max_lifetime"])
def test_deadlines_end_a_connection(engine: str, limit: str) -> None:
    options: dict[str, float] = {limit: 0.3}
    with ENGINES[engine](echo, "127.0.0.1:0", PREFIXED, drain=1, **options) as (address, *_):
        with connected(address, PREFIXED) as client, pytest.raises(BrokenError):
            assert client.ask(b"1") == b"1"
            for _ in range(1000):  # busy: an idle timeout does not touch it, a lifetime does
                if limit == "max_lifetime":
                    client.ask(b"2")
                    time.sleep(0.01)
                else:
                    assert client.receive() is not None, "a clean end"


@EVERY
def test_a_killed_peer_is_found(engine: str, tmp_path: Path) -> None:
    came, ended = tmp_path / "came", tmp_path / "ended"

    async def noting(connection: Connection) -> None:
        came.touch()
        try:
            async for message in connection:
                await connection.send(message)
        finally:
            ended.touch()

    code = "import socket,sys;s=socket.create_connection(('127.0.0.1',int(sys.argv[1])));s.send(b'abc');input()"
    with ENGINES[engine](noting, "127.0.0.1:0", PREFIXED, drain=1) as (address, *_):
        command = [sys.executable, "-c", code, address.rpartition(":")[2]]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as peer:
            until(came.exists)
            time.sleep(0.2)
            assert not ended.exists()
            peer.kill()
        until(ended.exists)


@EVERY
def test_a_silent_peer_is_found_by_the_heartbeat(engine: str, tmp_path: Path) -> None:
    ended = tmp_path / "ended"

    async def noting(connection: Connection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except BrokenError as error:
            ended.write_text(str(error))

    beat = Heartbeat(b"", every=0.1, patience=2.0)  # in which whoever lives says so, however busy the machine
    with ENGINES[engine](noting, "127.0.0.1:0", PREFIXED, heartbeat=beat, drain=1) as (address, *_):
        with enchufe.connect(address, framing=PREFIXED, heartbeat=beat, timeout=20) as lively:
            assert lively.ask(b"x") == b"x"
            silent = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
            waiting = threading.Thread(target=lambda: assert_raises(lively))  # it beats while it waits
            lively._connection.timeout = 4
            waiting.start()
            until(lambda: ended.exists() and ended.read_text())  # it may be there and not written yet
            assert "sign of life" in ended.read_text()
            waiting.join()
            assert lively.ask(b"y") == b"y"
            silent.close()


def test_signs_of_life_between_messages_are_not_seen() -> None:
    beat = Heartbeat(b"")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with enchufe.connect(address, framing=PREFIXED, heartbeat=beat, timeout=20) as connection:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(
                    b"".join(piece for word in (b"a", b"", b"b", b"", b"c") for piece in PREFIXED.encode(word))
                )
                assert connection.receive() == b"a"
                assert [next(connection), connection.receive()] == [b"b", b"c"]


@EVERY
def test_a_loop_that_is_left_early_leaves_the_rest(engine: str) -> None:
    async def by_two(connection: Connection) -> None:
        async for first in connection:
            async for second in connection:
                await connection.send(first + second)
                break

    with ENGINES[engine](by_two, "127.0.0.1:0", PREFIXED, drain=1) as (address, *_):
        with enchufe.connect(address, framing=PREFIXED, timeout=20) as connection:
            connection.send(*[b"%d" % number for number in range(600)])
            connection.end()
            assert list(connection) == [b"%d%d" % (number, number + 1) for number in range(0, 600, 2)]


def assert_raises(connection: BlockingConnection) -> None:
    with pytest.raises(DeadlineExceeded):
        connection.receive()


@EVERY
def test_a_drain_loses_no_answer(engine: str) -> None:
    """While clients talk the server goes: whatever was answered arrives, and then an end."""
    talking = threading.Barrier(3)  # both have come before it goes
    outcomes: list[tuple[int, int]] = []

    def talk(address: str) -> None:
        with connected(address, PREFIXED) as client:
            asked = answered = 0
            try:
                while True:
                    asked += 1
                    if client.ask(b"%d" % asked) != b"%d" % asked:
                        break
                    answered += 1
                    if answered == 50:
                        talking.wait(20)
            except EnchufeError:
                pass
            outcomes.append((asked, answered))

    with ENGINES[engine](echo, "127.0.0.1:0", PREFIXED, drain=5) as (address, *_):
        clients = [threading.Thread(target=talk, args=(address,)) for _ in range(2)]
        for client in clients:
            client.start()
        talking.wait(20)
    for client in clients:
        client.join(20)
    assert all(asked - answered == 1 for asked, answered in outcomes) and len(outcomes) == 2


@pytest.mark.parametrize("engine", POOLS)
def test_a_dead_worker_is_replaced(engine: str) -> None:
    async def telling(connection: Connection) -> None:
        async for message in connection:
            if message == b"die":
                os.kill(os.getpid(), signal.SIGKILL)
            await connection.send(b"%d" % os.getpid())

    with ENGINES[engine](telling, "127.0.0.1:0", PREFIXED, drain=1) as (address, *_):
        with connected(address, PREFIXED) as first, connected(address, PREFIXED) as second:
            pids = {first.ask(b"who"), second.ask(b"who")}
            assert len(pids) == 2, "both went to one worker, though the other had none"
            first.send(b"die")
            with pytest.raises(BrokenError):
                first.ask(b"still there?")
            assert second.ask(b"who") in pids, "another worker's death hurt this one"

            def by_another() -> bool:
                # Until its death is noticed the dead one may still be given a connection.
                with suppress(BrokenError), connected(address, PREFIXED) as third:
                    return third.ask(b"who") not in pids
                return False

            until(by_another)


def hoards(left: int = 0) -> Callable[[Connection], Awaitable[None]]:
    """At `fill` its process has so many descriptors left, and at `free` as many as before."""

    async def handler(connection: Connection) -> None:
        before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        async for message in connection:
            if message == b"fill":
                free = os.dup(0)
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, most))
            elif message == b"free":
                resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
            await connection.send(message)

    return handler


@pytest.mark.parametrize("engine", ["threads", "events"])
def test_who_comes_to_a_worker_that_has_no_descriptor_left_waits_for_one(engine: str) -> None:
    with (
        enchufe.Server(hoards(), "127.0.0.1:0", framing=PREFIXED, engine=engine, workers=1) as server,
        enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=20) as first,
    ):
        assert first.ask(b"fill") == b"fill"
        with enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=20) as second:
            second.send(b"hola")
            for _ in range(100):  # while the worker finds that it has none
                first.ask(b"")
            assert first.ask(b"free") == b"free"
            assert second.receive() == b"hola"


@pytest.mark.parametrize("engine", ["threads", "events"])
@pytest.mark.parametrize("left", [2, 3, 4])
def test_who_comes_to_one_that_has_no_descriptor_left_for_shared_memory_waits_for_one(
    engine: str, left: int, tmp_path: Path
) -> None:
    def dial() -> BlockingConnection:
        return enchufe.connect(f"shm:{tmp_path}/s", framing=PREFIXED, timeout=20)

    with (
        enchufe.Server(hoards(left), f"shm:{tmp_path}/s", framing=PREFIXED, engine=engine, workers=1),
        dial() as first,
    ):
        assert first.ask(b"fill") == b"fill"
        dialing = Beside(dial)
        for _ in range(100):  # while the worker finds that it has none
            first.ask(b"")
        assert first.ask(b"free") == b"free"
        with dialing.result() as second:
            assert second.ask(b"hola") == b"hola"


def test_a_worker_that_has_no_descriptor_left_ends_with_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(connection: Connection) -> None:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        await connection.send(b"%d" % os.getppid())
        await connection.receive()

    told: list[object] = []
    server = enchufe.Server(handler, "127.0.0.1:0", framing=PREFIXED, engine="events", workers=1)
    with enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=20) as client:
        supervisor = int(client.receive() or b"")
        monkeypatch.setattr(threading, "excepthook", told.append)
        os.kill(supervisor, signal.SIGKILL)
        assert client.receive() is None
        server._thread.join()
    assert "supervisor" in str(told)


def test_a_supervisor_that_died_with_word_unread_is_gone_though_no_descriptor_is_left() -> None:
    """The kernel calls that a reset, and not an end."""
    giver, taker = channel()
    arrivals = Handover(taker, [], ServerOptions(framing=PREFIXED))
    gone: list[bool] = []
    arrivals.gone = lambda: gone.append(True)
    taker.sendall(bytes(4))
    giver.close()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        assert arrivals.try_accept(BlockingWaiter()) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        arrivals.dispose()
    assert gone


@EVERY
def test_what_a_handler_runs_inherits_no_connection(engine: str) -> None:
    """It would keep open what its worker's death is to cut."""

    async def handler(connection: Connection) -> None:
        await connection.send(b"%d" % os.get_inheritable(connection.transport.fileno()))

    with (
        ENGINES[engine](handler, "127.0.0.1:0", PREFIXED) as (address, *_),
        enchufe.connect(address, framing=PREFIXED, timeout=20) as client,
    ):
        assert client.receive() == b"0"
        assert not os.get_inheritable(client._connection.transport.fileno())


def test_workers_are_balanced() -> None:
    async def telling(connection: Connection) -> None:
        async for _ in connection:
            await connection.send(b"%d" % os.getpid())

    with enchufe.Server(telling, "127.0.0.1:0", framing=PREFIXED, engine="events", workers=3) as server:
        clients = [enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=20) for _ in range(30)]
        who = [client.ask(b"who") for client in clients]
        assert sorted(who.count(pid) for pid in set(who)) == [10, 10, 10]
        for client in clients:
            client.close()


SERVE = """
import sys, enchufe
from enchufe import framing
def slow(connection):
    for message in connection:
        print("got", flush=True)
        import time; time.sleep(0.5)
        connection.send(message)
async def quick(connection):
    async for message in connection:
        print("got", flush=True)
        await connection.send(message)
enchufe.serve(quick if sys.argv[2] == "events" else slow, sys.argv[1], framing=framing.Lines(),
    engine=sys.argv[2], workers=eval(sys.argv[3]), drain=60)
print("drained")
"""


@pytest.mark.parametrize("sent_to", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("engine", ["threads", "processes", "events"])
@pytest.mark.parametrize("workers", [None, 2])
def test_sigterm_drains(engine: str, workers: int | None, sent_to: signal.Signals, tmp_path: Path) -> None:
    _check_drains(SERVE, engine, workers, sent_to, tmp_path)


def _check_drains(program: str, engine: str, workers: int | None, sent_to: signal.Signals, folder: Path) -> None:
    address = f"unix:{folder / 'socket'}"
    command = [sys.executable, "-c", program, address, engine, repr(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        with _reached(address) as client:
            client.send(b"acknowledge me")
            assert server.stdout.readline() == "got\n"
            server.send_signal(sent_to)
            assert client.receive() == b"acknowledge me"
            assert client.receive() is None
        assert server.stdout.read() == "drained\n"
        assert server.wait(20) == 0


HELD_UP = """
import os, time
from enchufe.engines import processes
first, fork = os.getpid(), processes.fork
def slowly(child):
    made = fork(child)
    if os.getpid() == first:
        time.sleep(1)  # they serve by now, and nobody hears signals yet
    return made
processes.fork = slowly
"""


@pytest.mark.parametrize("sent_to", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_before_it_can_be_heard_drains_too(sent_to: signal.Signals, tmp_path: Path) -> None:
    _check_drains(HELD_UP + SERVE, "events", 2, sent_to, tmp_path)


def test_what_a_handler_starts_hears_signals(tmp_path: Path) -> None:
    """Which are blocked while the server begins."""
    code = """
import subprocess, sys, enchufe
from enchufe import framing
def blocked(connection):
    for message in connection:
        connection.send(subprocess.run(["grep", "SigBlk", "/proc/self/status"], capture_output=True).stdout.strip())
enchufe.serve(blocked, sys.argv[1], framing=framing.Lines(), engine="threads", workers=eval(sys.argv[2]))
"""
    for workers in (None, 1):
        address = f"unix:{tmp_path / repr(workers)}"
        with subprocess.Popen([sys.executable, "-c", code, address, repr(workers)]) as server:
            with _reached(address) as client:
                answer = client.ask(b"which?")
                assert answer is not None
                assert int(answer.split()[1], 16) == 0
            server.terminate()
            assert server.wait(20) == 0


def _reached(address: str) -> BlockingConnection:
    while True:
        try:
            return enchufe.connect(address, framing=framing.Lines(), timeout=20)
        except BrokenError:
            time.sleep(0.02)


def test_sockets_handed_over_by_a_service_manager() -> None:
    code = """
import os, sys, enchufe
from enchufe import framing
os.environ["LISTEN_PID"] = str(os.getpid())
async def echo(connection):
    async for message in connection:
        await connection.send(message)
enchufe.serve(echo, "systemd:", framing=framing.Lines(), engine="events")
"""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "LISTEN_FDS": "1"}
        for _ in range(2):  # and again: the socket outlives the one who served on it
            handed = lambda: os.dup2(listening.fileno(), 3)  # noqa: E731
            with subprocess.Popen(command, env=environment, pass_fds=[3], preexec_fn=handed) as server:  # noqa: PLW1509
                address = f"127.0.0.1:{listening.getsockname()[1]}"
                with enchufe.connect(address, framing=framing.Lines(), timeout=20) as client:
                    assert client.ask(b"hola") == b"hola"
                server.terminate()
                assert server.wait(20) == 0
    with pytest.raises(LocalProtocolError, match="LISTEN_FDS"):
        enchufe.Server(echo, "systemd:", framing=PREFIXED)


def test_what_a_server_tells() -> None:
    told: list[events.Event] = []
    with enchufe.Server(echo, "127.0.0.1:0", framing=PREFIXED, engine="events", on_event=told.append) as server:
        with enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=20) as client:
            assert client.ask(b"hola") == b"hola"
        until(lambda: len(told) == 2)
    accepted, finished = told
    assert isinstance(accepted, events.Accepted) and accepted.connections == 1
    assert isinstance(finished, events.Finished) and finished.error is None
    assert (finished.received, finished.sent, finished.bytes_received) == (1, 2, 8)


@pytest.mark.parametrize("engine", ["threads", "processes", "threads x 2"])
def test_a_server_stops_though_connections_come_without_a_pause(engine: str) -> None:
    stopped = threading.Event()

    def come(host: str, port: str) -> None:
        end = time.monotonic() + 60
        with suppress(OSError):
            while time.monotonic() < end and not stopped.is_set():
                with socket.create_connection((host, int(port)), 60):
                    pass
            late.append(not stopped.is_set())

    late: list[bool] = []
    coming: list[threading.Thread] = []
    with ENGINES[engine](echo, "127.0.0.1:0", PREFIXED) as (address, *_):
        with enchufe.connect(address, framing=PREFIXED, timeout=20) as client:
            host, _, port = address.rpartition(":")
            for _ in range(3):
                coming.append(threading.Thread(target=come, args=[host, port]))
                coming[-1].start()
            assert client.ask(b"hola") == b"hola"
    stopped.set()
    for thread in coming:
        thread.join()
    assert not any(late)


@EVERY
def test_each_connection_is_told_of_once_as_it_comes_and_once_as_it_ends(engine: str, tmp_path: Path) -> None:
    def tell(event: events.Event) -> None:
        assert isinstance(event, events.Accepted | events.Finished)
        with (tmp_path / "told").open("a") as file:
            file.write(f"{os.getpid()} {event.peer} {type(event).__name__}\n")

    def told() -> list[str]:
        return (tmp_path / "told").read_text().splitlines()

    with ENGINES[engine](echo, "127.0.0.1:0", PREFIXED, on_event=tell) as (address, *_):
        for _ in range(3):
            with enchufe.connect(address, framing=PREFIXED, timeout=20) as client:
                assert client.ask(b"hola") == b"hola"
    accepted = [line.removesuffix(" Accepted") for line in told() if line.endswith("Accepted")]
    assert len({line.split()[1] for line in accepted}) == len(accepted) == 3
    assert sorted(line.removesuffix(" Finished") for line in told() if line.endswith("Finished")) == sorted(accepted)


def test_a_failure_that_cannot_say_what_it_is_is_told_of_too() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    async def fail(connection: Connection) -> None:
        await connection.receive()
        raise Mute

    told: list[events.Event] = []
    with enchufe.Server(fail, "127.0.0.1:0", framing=PREFIXED, engine="events", on_event=told.append) as server:
        with enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=20) as client, pytest.raises(BrokenError):
            client.ask(b"hola")
        until(lambda: len(told) == 2)
    assert isinstance(told[1], events.Finished) and told[1].error == "Mute"


def test_options_that_make_no_sense() -> None:
    def plain(connection: BlockingConnection) -> None: ...

    async def tell(event: events.Event) -> None: ...

    for wrong in (
        lambda: enchufe.Server(plain, "127.0.0.1:0", framing=PREFIXED, engine="events"),
        lambda: enchufe.Server(echo, "127.0.0.1:0", framing=PREFIXED, engine="threads", workers=0),
        lambda: enchufe.Server(echo, "127.0.0.1:0", framing=PREFIXED, engine="events", workers="each"),
        lambda: enchufe.Server(echo, "127.0.0.1:0", framing=PREFIXED, engine="fibers"),
        lambda: enchufe.Server(echo, "127.0.0.1:0", framing=PREFIXED, max_per_address=0),
        lambda: enchufe.Server(echo, "127.0.0.1:0", framing=PREFIXED, idle_timeout=-1),
        lambda: enchufe.Server(echo, "127.0.0.1:0", framing=PREFIXED, on_event=tell),  # type: ignore[arg-type]
        lambda: Heartbeat(b"", every=0),
        aio.host,
    ):
        with pytest.raises(LocalProtocolError):
            wrong()


WRONG: list[dict[str, Any]] = [
    {"framing": framing.Lines},
    {"framing": "lines"},
    {"timeout": "5"},
    {"timeout": float("nan")},
    {"timeout": -1},
    {"timeout": True},
    {"heartbeat": 5.0},
    {"framing": framing.FixedLength(8), "heartbeat": Heartbeat()},  # which cannot carry it
    {"tls": "yes"},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_dialer_got_wrong_is_told_before_it_dials(wrong: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        enchufe.connect("unix:/nobody/is/there", **{"framing": PREFIXED, **wrong})
    with pytest.raises(LocalProtocolError):
        aio.connect("unix:/nobody/is/there", **{"framing": PREFIXED, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"framing": framing.Lines},
        {"handler": None},
        {"address": 9000},
        {"max_connections": 1.5},
        {"idle_timeout": "5"},
        {"drain": None},
        {"heartbeat": 5.0},
        {"framing": framing.Lines(), "heartbeat": Heartbeat(b"a\nb")},
        {"on_event": 3},
        {"tls": True},
        {"tls": ("cert.pem",)},
        {"tls": (2**30, 2**30)},  # which open() would take for descriptors
        {"backlog": "x"},
        {"backlog": 2**40},
        {"max_per_address": True},
        {"handler": lambda: None},
        {"handler": lambda connection, whom: None},
        {"handler": lambda *, connection: None},
    ],
)
def test_what_a_server_got_wrong_is_told_at_once(wrong: dict[str, Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"handler": echo, "address": f"unix:{tmp_path / 's'}", "framing": PREFIXED, **wrong}
    for kind in (enchufe.Server, aio.Server):
        with pytest.raises(LocalProtocolError):
            kind(options["handler"], options["address"], **{k: v for k, v in options.items() if k not in NAMES})


NAMES = ("handler", "address")


@pytest.mark.parametrize("wrong", [{"every": "5"}, {"every": float("nan")}, {"patience": "9"}, {"every": True}])
def test_a_heartbeat_beats_in_seconds(wrong: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        Heartbeat(**wrong)


@pytest.mark.parametrize("wrong", [{"workers": 1.5}, {"workers": True}, {"engine": ["threads"]}])
def test_no_such_engine(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError):
        enchufe.Server(echo, f"unix:{tmp_path / 's'}", framing=PREFIXED, **wrong)


def test_a_coroutine_that_a_plain_handler_gives_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handler: Any = lambda connection: echo(connection)  # noqa: E731, PLW0108
    with enchufe.Server(handler, f"unix:{tmp_path / 's'}", framing=PREFIXED) as server:
        with enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=20) as client:
            client.receive()
    assert "nobody awaits" in caplog.text


def test_another_framing_that_is_none_changes_nothing() -> None:
    with enchufe.Server(echo, "127.0.0.1:0", framing=PREFIXED) as server:
        with enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=20) as client:
            with pytest.raises(LocalProtocolError):
                client.reframe(framing.Lines)  # type: ignore[arg-type]
            assert client.ask(b"hola") == b"hola"


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
@pytest.mark.parametrize("engine", ["threads", "events"])
def test_a_timeout_may_be_longer_than_a_kernel_counts(engine: str, seconds: float) -> None:
    with enchufe.Server(echo, "127.0.0.1:0", framing=PREFIXED, engine=engine, idle_timeout=seconds) as server:
        with enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=seconds) as client:
            assert client.ask(b"hola") == b"hola"


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
@pytest.mark.parametrize(
    ("engine", "workers"), [("threads", None), ("processes", None), ("processes", 1), ("events", 1)]
)
def test_so_may_a_drain_and_a_lifetime(
    engine: str, workers: int | None, seconds: float, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer_last(connection: BlockingConnection) -> None:
        for message in connection:
            connection.send(message)
        connection.send(b"adios")

    async def answer_last_too(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)
        await connection.send(b"adios")

    handler: Any = answer_last_too if engine == "events" else answer_last
    options: dict[str, Any] = {"drain": seconds, "max_lifetime": seconds}
    with enchufe.Server(handler, "127.0.0.1:0", framing=PREFIXED, engine=engine, workers=workers, **options) as server:
        client = enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=20)
        assert client.ask(b"hola") == b"hola"
    with client:
        assert list(client) == [b"adios"]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", POLLERS)
def test_a_dead_descriptor_is_dropped_and_the_others_go_on(name: str) -> None:
    poller = POLLERS[name]()
    here, there = socket.socketpair()
    dead, other = socket.socketpair()
    try:
        poller.watch(here.fileno(), READ, 0)
        poller.watch(dead.fileno(), READ, 0)
        dead.close()  # without a word
        for _ in range(3):
            poller.poll(0)
        there.send(b"x")
        assert [descriptor for descriptor, bits in poller.poll(1) if bits & poller.readable] == [here.fileno()]
        poller.watch(here.fileno(), WRITE, READ)
        assert [descriptor for descriptor, bits in poller.poll(1) if bits & poller.writable] == [here.fileno()]
    finally:
        poller.close()
        for sock in (here, there, other):
            sock.close()


@pytest.mark.parametrize("name", sorted(POLLERS.keys() - {"poll", "select"}))
def test_what_the_kernel_cannot_watch_is_told_as_a_mistake_and_watched_no_more(name: str) -> None:
    here, there = socket.socketpair()
    with here, there, open(os.devnull, "rb") as null, closing(POLLERS[name]()) as poller:
        number = os.dup(null.fileno())
        try:
            with pytest.raises(LocalProtocolError, match=f"{name} cannot watch descriptor {number}"):
                poller.watch(number, READ | WRITE, 0)
        finally:
            os.close(number)
        poller.watch(here.fileno(), WRITE, 0)
        assert [descriptor for descriptor, _ in poller.poll(1)] == [here.fileno()]


def test_kqueue_watches_what_took_the_place_of_a_dead_descriptor() -> None:
    here, there = socket.socketpair()
    with here, there, closing(POLLERS["kqueue"]()) as poller:
        number = os.dup(there.fileno())
        try:
            poller.watch(number, READ, 0)
            os.dup2(here.fileno(), number)  # closes the one that is watched
            poller.watch(number, WRITE, READ)
            assert [descriptor for descriptor, bits in poller.poll(0) if bits & poller.writable] == [number]
            os.dup2(there.fileno(), number)
            poller.watch(number, READ | WRITE, WRITE)
            here.send(b"x")
            ((descriptor, bits),) = poller.poll(0)
            assert (descriptor, bits & poller.readable, bits & poller.writable) == (number, READ, WRITE)
        finally:
            os.close(number)


@pytest.mark.parametrize("name", POLLERS)
def test_of_many_that_are_ready_each_is_told_soon(name: str) -> None:
    with ExitStack() as stack:
        poller = stack.enter_context(closing(POLLERS[name]()))
        many = set()
        for _ in range(200):
            here, there = map(stack.enter_context, socket.socketpair())
            there.send(b"x")
            poller.watch(here.fileno(), READ | WRITE, 0)
            many.add(here.fileno())
        told = [told for _ in range(4) for told in poller.poll(0)]
        assert {descriptor for descriptor, bits in told if bits & poller.readable} == many
        assert {descriptor for descriptor, bits in told if bits & poller.writable} == many


@pytest.mark.parametrize("name", POLLERS)
def test_a_wait_that_begins_while_its_readiness_is_told_is_not_forgotten(name: str) -> None:
    """READ is told though nobody waits for it, with WRITE; who goes on for WRITE then waits for READ."""
    here, there = socket.socketpair()
    went_on: list[str] = []

    def resume(who: str) -> None:
        went_on.append(who)
        if who == "writer":
            slots.park(here.fileno(), READ, "reader")

    slots: Slots[str] = Slots(POLLERS[name](), resume)
    slots.park(here.fileno(), READ, "before")
    assert slots.wake(here.fileno()) == "before"
    slots.park(here.fileno(), WRITE, "writer")
    there.send(b"x")
    slots.poll(1)
    slots.poll(1)
    assert went_on == ["writer", "reader"]
    slots.poller.close()
    here.close()
    there.close()


class Foreign:
    """What somebody else's loop would understand."""

    def __await__(self) -> Generator[str, None, None]:
        yield "a future"


def test_whoever_comes_waits_for_few_of_those_that_are_busy_without_a_pause() -> None:
    """And they all go on, though others always come."""
    clock = ManualClock()
    loop = Loop(clock=clock)
    turns = [0] * 50
    waited: list[int] = []

    async def busy(number: int) -> None:
        while True:
            turns[number] += 1
            clock.advance(clock() + 0.0005)
            await loop.pause()

    async def main() -> None:
        for number in range(len(turns)):
            loop.spawn(busy(number))
        with closing(Doorbell()) as bell:
            while min(turns) < 5:
                before = sum(turns)
                bell.ring()
                await loop.wait_one(bell, READ)
                bell.clear()
                waited.append(sum(turns) - before)
            loop.forget(bell)

    loop.run(main())
    loop.close()
    assert max(waited[2:]) <= 4  # once all have begun
    assert max(turns) - min(turns) <= 1


def test_the_loop_hears_other_threads_and_ends_what_is_late() -> None:
    loop = Loop()

    async def main() -> str:
        bell = Doorbell()
        with pytest.raises(DeadlineExceeded):
            await loop.wait_one(bell, READ, loop.now() + 0.01)
        bell.ring()
        await loop.wait_one(bell, READ, loop.now() + 10)
        loop.forget(bell)
        bell.close()
        with pytest.raises(LocalProtocolError, match="cannot await"):
            await Foreign()
        return await loop.offload(lambda: "from a thread")

    assert loop.run(main()) == "from a thread"
    loop.close()


def test_under_asyncio_and_trio() -> None:
    async def main() -> None:
        async with aio.Server(echo, "127.0.0.1:0", framing=PREFIXED) as server:
            async with aio.connect(server.addresses[0], framing=PREFIXED, timeout=20) as connection:
                assert await connection.ask(b"hola") == b"hola"
                await connection.end()
                assert [message async for message in connection] == [b"A-goodbye"]
            late = await aio.connect(server.addresses[0], framing=PREFIXED, timeout=20)
            late.timeout = 0.1
            with pytest.raises(DeadlineExceeded):
                await late.receive()
            late.close()

    asyncio.run(main())
    trio.run(main)


def test_a_cancelled_receive_loses_nothing() -> None:
    async def main() -> None:
        async with aio.Server(echo, "127.0.0.1:0", framing=PREFIXED) as server:
            async with aio.connect(server.addresses[0], framing=PREFIXED) as connection:
                for _ in range(5):
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(connection.receive(), 0.01)
                assert await connection.ask(b"hola") == b"hola"

    asyncio.run(main())


def test_whoever_was_cancelled_waits_no_longer() -> None:
    """Though it did not run since."""

    async def under_asyncio() -> None:
        async with aio.Server(echo, "127.0.0.1:0", framing=PREFIXED) as server:
            async with aio.connect(server.addresses[0], framing=PREFIXED) as connection:
                waiting = asyncio.create_task(connection.receive())
                await asyncio.sleep(0.01)
                waiting.cancel()
                assert await connection.ask(b"hola") == b"hola"
                assert waiting.cancelled()

    async def under_trio() -> None:
        async with aio.Server(echo, "127.0.0.1:0", framing=PREFIXED) as server:
            async with aio.connect(server.addresses[0], framing=PREFIXED) as connection, trio.open_nursery() as nursery:
                nursery.start_soon(connection.receive)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    assert await connection.ask(b"hola") == b"hola"

    asyncio.run(under_asyncio())
    trio.run(under_trio)


def test_a_server_under_asyncio_drains_when_it_is_cancelled() -> None:
    async def main() -> None:
        serving = asyncio.create_task(aio.serve(echo, "127.0.0.1:0", framing=PREFIXED))
        await asyncio.sleep(0.05)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(main())
    assert select.select([], [], [], 0) == ([], [], [])


@pytest.mark.parametrize(
    ("run", "sleep"),
    [(lambda main: asyncio.run(main()), asyncio.sleep), (trio.run, trio.sleep)],
    ids=["asyncio", "trio"],
)
def test_a_drain_ends_a_handler_that_awaits_something_else(
    run: Callable[[Callable[[], Any]], None], sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Whose other side learns that this is no orderly end."""
    outcomes: list[str] = []

    async def busy(connection: Connection) -> None:
        await connection.send(b"in")
        try:
            await sleep(15)
            outcomes.append("slept")
        finally:
            outcomes.append("left")

    async def main() -> None:
        async with aio.Server(busy, "127.0.0.1:0", framing=PREFIXED, drain=0.1) as server:
            connection = await aio.connect(server.addresses[0], framing=PREFIXED, timeout=20)
            assert await connection.receive() == b"in"
        async with connection:
            with pytest.raises(BrokenError):
                await connection.receive()

    run(main)
    assert outcomes == ["left"]


class CountedLines(framing.Delimited):
    """Lines that count how many of them are told apart."""

    def __init__(self) -> None:
        super().__init__(b"\r\n")
        self.told_apart = 0

    def pieces(self, data: bytes) -> list[bytes]:
        """As `Delimited.pieces`."""
        found = super().pieces(data)
        self.told_apart += len(found)
        return found

    def size_before(self, buffer: ReceiveBuffer, end: int) -> int:
        """As `Delimited.size_before`."""
        self.told_apart += 1
        return super().size_before(buffer, end)


def test_a_framing_that_changes_with_each_message_costs_no_more_the_more_has_come() -> None:
    # Redis, memcached, HTTP: a line tells how long the body is. Whoever sends many at once must not have each line that
    # waits behind a body told apart again and again.
    count, lines, bodies = 2000, CountedLines(), []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(b"$3\r\na\nb\r\n" * count)
        connection = Connection(unix.transport(ours, BlockingWaiter()), lines)
        for _ in range(count):
            line = drive(connection.receive())
            assert line is not None
            connection.reframe(framing.FixedLength(int(line[1:]) + 2))
            bodies.append(drive(connection.receive()))
            connection.reframe(lines)
        assert bodies == [b"a\nb\r\n"] * count
        assert lines.told_apart < 10 * count
        connection.close()


@pytest.mark.parametrize("address", ["localhost:0", "unix:{}/s", "shm:{}/s"])
@pytest.mark.parametrize("engine", ["threads", "events", "asyncio", "trio"])
def test_messages_of_several_senders_arrive_whole(engine: str, address: str, tmp_path: Path) -> None:
    # A chat: whoever says something sends it to all, also to one who does not read just now.
    listening: list[Connection] = []
    told: list[bytes] = []

    async def chat(connection: Connection) -> None:
        async for message in connection:
            if message == b"listen":
                listening.append(connection)
                await connection.send(b"listening")
                continue
            told.append(message)
            for other in listening:
                await other.send(message)

    with (
        ENGINES[engine](chat, address.format(tmp_path), PREFIXED) as addresses,
        connected(addresses[0], PREFIXED) as listener,
        ExitStack() as talking,
    ):
        assert listener.ask(b"listen") == b"listening"
        said = [bytes([number]) * 5_000_000 for number in range(4)]
        for message in said:
            talking.enter_context(connected(addresses[0], PREFIXED)).send(message)
        until(lambda: len(told) == len(said))
        whole = sorted(listener.receive() or b"" for _ in said) == said
        assert whole  # not above, where pytest would show the difference of so many bytes


@pytest.mark.parametrize("address", ["localhost:0", "unix:{}/s", "shm:{}/s"])
def test_threads_that_share_a_connection_send_whole_messages(address: str, tmp_path: Path) -> None:
    with (
        enchufe.Server(echo, address.format(tmp_path), framing=PREFIXED) as server,
        enchufe.connect(server.addresses[0], framing=PREFIXED, timeout=30) as client,
    ):
        said = [bytes([number]) * 1_000_000 for number in range(8)]
        senders = [threading.Thread(target=client.send, args=[message]) for message in said]
        for sender in senders:
            sender.start()
        whole = sorted(client.receive() or b"" for _ in said) == said
        assert whole
        for sender in senders:
            sender.join()


def test_a_senders_message_comes_behind_what_the_receiver_has_begun_to_send() -> None:
    """Somebody waits for its turn; before it has it, held back replies go out, as far as there is room."""
    loop, got = Loop(), bytearray()
    near, far = socket.socketpair()
    far.setblocking(False)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    said = [b"first" * 20_000, b"reply" * 12_000, b"bystander"]

    def read() -> None:
        with suppress(BlockingIOError):
            got.extend(far.recv(1 << 20))

    async def main() -> None:
        with unix.transport(near, loop) as transport:
            connection = Connection(transport, PREFIXED, gathers=True)
            far.send(PREFIXED.encode_plain([b"1", b"2"]))
            await connection.receive()
            first = loop.spawn(connection.send(said[0]))
            await loop.pause()
            loop.spawn(connection.send(said[2]))
            await loop.pause()
            while not first.done:
                read()
                await loop.pause()
            await connection.send(said[1])
            while len(got) < sum(map(len, said)) + 4 * len(said):
                await loop.pause()
                read()

    with far:
        loop.run(main())
        loop.close()
    whole = sorted(PREFIXED.decoder().decode(_buffered(bytes(got)), True)) == sorted(said)
    assert whole


def _buffered(data: bytes) -> ReceiveBuffer:
    buffer = ReceiveBuffer()
    buffer.append(data)
    return buffer


@pytest.mark.parametrize("engine", ["threads", "events", "asyncio", "trio"])
def test_many_who_wait_to_send_to_one_who_does_not_read_take_no_descriptors(engine: str) -> None:
    sent = list[bytes]()
    listening: list[Connection] = []

    async def chat(connection: Connection) -> None:
        async for message in connection:
            if message == b"listen":
                listening.append(connection)
                await connection.send(bytes(PREFIXED.max_size))
            else:
                sent.append(message)
                await listening[0].send(message)

    with (
        ENGINES[engine](chat, "localhost:0", PREFIXED) as addresses,
        connected(addresses[0], PREFIXED) as listener,
        ExitStack() as talking,
    ):
        listener.send(b"listen")
        until(lambda: bool(listening) and listening[0].sent == 1)
        said = [b"%d" % number for number in range(30)]
        before = len(os.listdir("/proc/self/fd"))
        talkers = [talking.enter_context(connected(addresses[0], PREFIXED)) for _ in said]
        for talker, message in zip(talkers, said, strict=True):
            talker.send(message)
        until(lambda: len(sent) == len(said))
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * len(said)
        assert listener.receive() is not None
        assert sorted(listener.receive() or b"" for _ in said) == sorted(said)


@pytest.mark.parametrize("heartbeat", [None, Heartbeat(b"alive", 100)])
def test_what_is_held_back_goes_though_the_sender_it_was_left_to_is_cancelled(
    heartbeat: Heartbeat | None, tmp_path: Path
) -> None:
    async def main() -> None:
        flooding: list[asyncio.Task[None]] = []
        replied, over = asyncio.Event(), asyncio.Event()

        async def flood(connection: Connection) -> None:
            while True:
                await connection.send(bytes(1000))

        async def handler(connection: Connection) -> None:
            await connection.receive()
            flooding.append(asyncio.create_task(flood(connection)))
            while not (connection._flushing and connection._flushing.taken):
                await asyncio.sleep(0)
            await connection.send(b"answer")  # held back: there is another message in hand
            asyncio.get_running_loop().call_later(0.05, replied.set)
            await over.wait()

        async with (
            aio.Server(handler, f"unix:{tmp_path}/s", framing=PREFIXED, heartbeat=heartbeat) as server,
            await aio.connect(server.addresses[0], framing=PREFIXED, heartbeat=heartbeat) as client,
        ):
            await client.send(b"1", b"2")
            await replied.wait()
            flooding[0].cancel()
            await asyncio.wait(flooding)
            async with asyncio.timeout(10):
                while (message := await client.receive()) != b"answer":
                    assert message == bytes(1000)
            over.set()

    asyncio.run(main())
