"""How connections to a server end, on every engine: an orderly end where nothing is missing, and only there."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import enchufe
from enchufe import Connection, events, framing
from enchufe.errors import BrokenError, EnchufeError, RemoteProtocolError
from tests.matrix.engines import ENGINES, connected, echo
from tests.until import until

PREFIXED = framing.LengthPrefixed(4)
NETSTRING = framing.Netstring(max_size=100)
EVERY = pytest.mark.parametrize("engine", ENGINES)
WORKERS = ["processes", "processes x 2", "events x 2", "threads x 2"]
KINDS = ["threads", "processes", "processes x 2", "events", "asyncio", "trio"]


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def gone() -> None:
    raise BrokenError("the backend is gone")


def nonsense() -> None:
    raise RemoteProtocolError("the backend speaks nonsense")


def leave() -> None:
    sys.exit("a bad argument")


def cancel() -> None:
    raise asyncio.CancelledError


@EVERY
@pytest.mark.parametrize("failing", [gone, nonsense, leave, cancel])
def test_a_handlers_failure_is_no_orderly_end(engine: str, failing: Callable[[], None]) -> None:
    """Whatever it raised; what it had answered arrives, and the others go on."""

    async def moody(connection: Connection) -> None:
        async for message in connection:
            if message == b"3":
                failing()
            await connection.send(message)

    with ENGINES[engine](moody, "127.0.0.1:0", PREFIXED, drain=1) as (address, *_):
        with connected(address, PREFIXED) as client, connected(address, PREFIXED) as other:
            assert other.ask(b"0") == b"0"
            client.send(b"1", b"2", b"3", b"4")
            assert [client.receive(), client.receive()] == [b"1", b"2"]
            with pytest.raises(BrokenError):
                client.receive()
            assert other.ask(b"5") == b"5"
        with connected(address, PREFIXED) as another:
            assert another.ask(b"6") == b"6"


@EVERY
def test_whoever_breaks_the_framing_gets_its_answers_and_an_end(engine: str) -> None:
    with ENGINES[engine](echo, "127.0.0.1:0", NETSTRING, drain=1) as (address, *_):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 20) as raw:
            raw.sendall(b"1:a,1:b,nonsense")
            got = b""
            while data := raw.recv(100):
                got += data
    assert got == b"1:a,1:b,"


@pytest.mark.parametrize("engine", ["threads", "events"])
def test_a_drain_ends_though_somebody_goes_on_sending(engine: str) -> None:
    told: list[events.Event] = []

    async def back(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    server = enchufe.Server(back, "127.0.0.1:0", framing=PREFIXED, engine=engine, drain=20, on_event=told.append)
    blob = framed(b"12345678") * 5000
    with socket.create_connection(("127.0.0.1", int(server.addresses[0].rpartition(":")[2])), 30) as raw:

        def push() -> None:
            with suppress(OSError):
                while True:
                    raw.sendall(blob)

        pushing = threading.Thread(target=push)
        pushing.start()
        got = len(raw.recv(1 << 20))
        closing = threading.Thread(target=server.close)
        closing.start()
        while data := raw.recv(1 << 20):
            got += len(data)
        closing.join()
        pushing.join()
    (finished,) = [event for event in told if isinstance(event, events.Finished)]
    assert finished.sent * 12 == got
    assert finished.seconds < 15


@pytest.mark.parametrize("engine", KINDS)
def test_whoever_is_late_is_cut_off(engine: str, tmp_path: Path) -> None:
    """Its other side learns that this is no end, and `on_event` what it was."""
    told = tmp_path / "told"

    async def stubborn(connection: Connection) -> None:
        with suppress(EnchufeError):  # it takes no hint
            while True:
                await connection.send(bytes(1 << 20))
        await connection.send(b"more")

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Finished):
            told.write_text(str(event.error))

    with ENGINES[engine](stubborn, "127.0.0.1:0", PREFIXED, drain=0.2, on_event=tell) as (address, *_):
        client = enchufe.connect(address, framing=PREFIXED, timeout=20)
        assert client.receive()
    with client, pytest.raises(BrokenError):
        while client.receive() is not None:
            pass
    until(told.exists)
    until(lambda: "did not finish in 0.2 s" in told.read_text())


@pytest.mark.parametrize("engine", KINDS)
def test_a_lifetime_is_over_however_busy(engine: str) -> None:
    async def ticking(connection: Connection) -> None:
        while True:  # there always is room
            await connection.send(b"tick")
            await connection.transport.waiter.offload(time.sleep, 0.001)

    with ENGINES[engine](ticking, "127.0.0.1:0", PREFIXED, max_lifetime=0.3, drain=0.2) as (address, *_):
        with connected(address, PREFIXED) as client, pytest.raises(BrokenError):
            limit = time.monotonic() + 5
            while client.receive() == b"tick":
                assert time.monotonic() < limit


@pytest.mark.parametrize("engine", KINDS)
def test_a_lifetime_is_over_for_a_file_too(engine: str) -> None:
    async def reading(connection: Connection) -> None:
        await connection.file().read()

    with ENGINES[engine](reading, "127.0.0.1:0", PREFIXED, max_lifetime=0.3, drain=0.2) as (address, *_):
        with connected(address, PREFIXED) as client, pytest.raises(BrokenError):
            client.receive()


@pytest.mark.parametrize("engine", WORKERS)
def test_a_worker_that_dies_is_no_orderly_end(engine: str) -> None:
    async def dying(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)
            if message == b"die":
                await connection.flush()
                assert await connection.receive() == b"now"
                os.kill(os.getpid(), signal.SIGKILL)

    with ENGINES[engine](dying, "127.0.0.1:0", PREFIXED, drain=1) as (address, *_):
        with connected(address, PREFIXED) as client:
            assert client.ask(b"die") == b"die"
            client.send(b"now")
            with pytest.raises(BrokenError):
                client.receive()


def test_a_worker_that_is_killed_at_the_end_of_a_drain_is_no_orderly_end() -> None:
    async def stuck(connection: Connection) -> None:
        await connection.send(b"in")
        while True:  # a signal ends one sleep
            ctypes.PyDLL(None).sleep(60)  # no thread of that process runs meanwhile

    with ENGINES["processes"](stuck, "127.0.0.1:0", PREFIXED, drain=0.1) as (address, *_):
        client = enchufe.connect(address, framing=PREFIXED, timeout=20)
        assert client.receive() == b"in"
    with client, pytest.raises(BrokenError):
        client.receive()
