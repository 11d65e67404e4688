"""What the processes do that are measured, and those that measure: `python -m enchufe.measure ROLE ...`.

Each role is a function that gets the rest of the command line, and says what it found in JSON, one a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from enchufe import events, transports
from enchufe.blocking import Server
from enchufe.connection import Connection
from enchufe.errors import BrokenError, EnchufeError, RemoteProtocolError
from enchufe.files import receive_files, send_files
from enchufe.measure import (
    ANSWER,
    BIG,
    CONNECTIONS,
    FRAMING,
    IN_FLIGHT,
    NAME,
    PATIENCE,
    ROUNDS,
    SMALL,
    WARM_UP,
)
from enchufe.printable import printable
from enchufe.transports import parse_address
from enchufe.transports.certificates import client_context
from enchufe.waiting import BlockingWaiter, drive


def _serve(engine: str, listen: str, what: str, certificate: str = "", key: str = "") -> None:
    """Serve until standard input ends, which it does with whoever started us."""
    handler = {"echo": _echo, "count": _count}[what]
    tls = (certificate, key) if certificate else None
    with Server(handler, listen, framing=FRAMING, engine=engine, tls=tls) as server:
        _say(server.addresses[0])
        sys.stdin.read()


async def _echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def _count(connection: Connection) -> None:
    size = 0
    async for message in connection:
        size += len(message)
    await connection.send(b"%d" % size)


def _load(kind: str, address: str, seconds: str, certificate: str = "", _key: str = "") -> None:
    """Ask, when told to begin, and say one value a round."""
    asking = {"latency": _latency, "rate": _rate, "bulk": _bulk, "echo": _there_and_back}[kind]
    drive(asking(_Target(address, certificate), float(seconds)))


@dataclass(frozen=True, slots=True)
class _Target:
    address: str
    certificate: str

    async def connected(self) -> Connection:
        waiter = BlockingWaiter()
        transport = await transports.connect(
            parse_address(self.address),
            waiter,
            waiter.now() + PATIENCE,
            tls=client_context(self.certificate) if self.certificate else None,
            server_hostname=NAME if self.certificate else None,
        )
        return Connection(transport, FRAMING, timeout=PATIENCE)

    async def echoing(self) -> Connection:
        """A connection to somebody who really echoes.

        Raises:
            BrokenError: nobody does. And whatever `connect` raises.
        """
        connection = await self.connected()
        try:
            connection.timeout = ANSWER
            if await connection.ask(b"echo") != b"echo":
                raise RemoteProtocolError("the answer is another one")
        except EnchufeError as error:
            connection.close()
            raise BrokenError(
                f"{printable(self.address)} does not echo: {error}",
                hint=f"Run there: enchufe listen {printable(self.address)} --echo --quiet --framing length:4",
            ) from error
        connection.timeout = PATIENCE
        return connection


def _rounds(seconds: float) -> Iterator[float]:
    """The seconds that each round takes, the first of which, to be forgotten, warms up."""
    yield seconds * WARM_UP
    _say("ready")
    if not sys.stdin.readline():
        sys.exit()  # whoever would tell us to begin has gone
    for _ in range(ROUNDS):
        yield seconds * (1 - WARM_UP) / ROUNDS


async def _latency(target: _Target, seconds: float) -> None:
    message = bytes(SMALL)
    values = []
    async with await target.echoing() as connection:
        for part in _rounds(seconds):
            times: list[float] = []
            now = time.perf_counter()
            end = now + part
            while now < end or not times:
                before = now
                await connection.ask(message)
                now = time.perf_counter()
                times.append(now - before)
            values.append(statistics.median(times) * 1e6)
    _say(values[1:])


async def _rate(target: _Target, seconds: float) -> None:
    batch = [bytes(SMALL)] * IN_FLIGHT
    values = []
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(await target.connected()) for _ in range(CONNECTIONS)]
        for connection in connections:
            await connection.send(*batch)
        for part in _rounds(seconds):
            count = 0
            began = now = time.perf_counter()
            while now < began + part or not count:
                for connection in connections:
                    for _ in batch:
                        await connection.receive()
                    await connection.send(*batch)
                count += IN_FLIGHT * CONNECTIONS
                now = time.perf_counter()
            values.append(count / (now - began))
    _say(values[1:])


async def _bulk(target: _Target, seconds: float) -> None:
    message = bytes(BIG)
    values = []
    for part in _rounds(seconds):
        async with await target.connected() as connection:
            size = 0
            began = time.perf_counter()
            while time.perf_counter() < began + part or not size:
                await connection.send(message)
                size += BIG
            await connection.end()
            counted = await connection.receive()
            values.append(size / (time.perf_counter() - began))
            if counted != b"%d" % size:
                raise BrokenError(f"{size} bytes were sent, and {counted!r} arrived")
    _say(values[1:])


async def _there_and_back(target: _Target, seconds: float) -> None:
    message = bytes(BIG)
    values = []
    async with await target.echoing() as connection:
        for part in _rounds(seconds):
            size = 0
            began = now = time.perf_counter()
            while now < began + part or not size:
                await connection.ask(message)
                size += BIG
                now = time.perf_counter()
            values.append(size / (now - began))
    _say(values[1:])


def _receive(folder: str) -> None:
    """Receive files, one after the other, until standard input ends."""

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Listening):
            _say(event.address)

    while sys.stdin.readline():
        receive_files(folder, listen="127.0.0.1:0", plain=True, if_exists="overwrite", on_event=tell)


def _send(path: str) -> None:
    """Send one file to every address that comes, and say the bytes per second."""
    for address in sys.stdin:
        receipt = send_files([path], to=address.strip(), plain=True)
        _say(receipt.bytes / receipt.seconds)


_ROLES: Final[dict[str, Callable[..., None]]] = {
    "serve": _serve,
    "load": _load,
    "receive": _receive,
    "send": _send,
}


def _say(what: Any) -> None:
    _write({"said": what})


def _write(line: dict[str, Any]) -> None:
    try:
        os.write(1, json.dumps(line).encode() + b"\n")
    except BrokenPipeError:
        sys.exit()  # nobody wants to know any more


def _main(role: str, *arguments: str) -> None:
    try:
        _ROLES[role](*arguments)
    except EnchufeError as error:
        _write({"failed": str(error), "hint": error.hint})


if __name__ == "__main__":
    _main(*sys.argv[1:])
