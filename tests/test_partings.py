"""How connections to a server end, on every engine: an orderly end where nothing is missing, and only there."""

from __future__ import annotations

import asyncio
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
