"""Every way of serving, as one of the same shape: a context manager that yields the addresses it listens on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import trio
import uvloop

import enchufe
from enchufe import Connection, aio
from enchufe.engines import events, pollers
from enchufe.framing.base import Framing
from enchufe.server import Acceptor, Handler, ServerOptions
from tests.every_poller import POLLERS

Serve = Callable[..., AbstractContextManager[list[str]]]


def _library(engine: str, workers: Any = None) -> Serve:
    @contextmanager
    def serve(handler: Handler, address: str, framing: Framing, **options: Any) -> Iterator[list[str]]:
        with enchufe.Server(handler, address, framing=framing, engine=engine, workers=workers, **options) as server:
            yield server.addresses

    return serve


def _poller(name: str) -> Serve:
    """The events engine on one of the pollers that there are."""

    @contextmanager
    def serve(handler: Handler, address: str, framing: Framing, **options: Any) -> Iterator[list[str]]:
        tls = options.pop("tls", None)
        acceptor = Acceptor.listening([address], 128, ServerOptions(framing=framing, **options), tls)
        engine = events.OwnLoop(handler, acceptor, POLLERS[name])
        thread = threading.Thread(target=engine.run)
        thread.start()
        try:
            yield [address for listener in acceptor.listeners for address in listener.addresses]
        finally:
            engine.stop()
            thread.join()

    return serve


def _hosted(run: Callable[[Callable[[], Any]], None]) -> Serve:
    """`enchufe.aio` in a loop of somebody else's, in a thread of its own."""

    @contextmanager
    def serve(handler: Handler, address: str, framing: Framing, **options: Any) -> Iterator[list[str]]:
        addresses: list[str] = []
        listening, stop = threading.Event(), threading.Event()
        failed: list[BaseException] = []

        async def main() -> None:
            async with aio.Server(handler, address, framing=framing, **options) as server:
                addresses.extend(server.addresses)
                listening.set()
                await aio.host().offload(stop.wait)

        def work() -> None:
            try:
                run(main)
            except BaseException as error:  # noqa: BLE001 (raised below)
                failed.append(error)
                listening.set()

        thread = threading.Thread(target=work)
        thread.start()
        listening.wait(30)
        try:
            if not failed:
                yield addresses
        finally:
            stop.set()
            thread.join(30)
        for error in failed:
            raise error

    return serve


def _run_uvloop(main: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _on_kqueue(serve: Serve) -> Serve:
    """The same where our own poller, inside the host's loop, is kqueue's."""

    @contextmanager
    def on_kqueue(*args: Any, **options: Any) -> Iterator[list[str]]:
        with mock.patch.object(pollers, "best", POLLERS["kqueue"]), serve(*args, **options) as addresses:
            yield addresses

    return on_kqueue


ENGINES: dict[str, Serve] = {
    "threads": _library("threads"),
    "threads x 2": _library("threads", 2),
    "processes": _library("processes"),
    "processes x 2": _library("processes", 2),
    "events": _library("events"),
    "events x 2": _library("events", 2),
    **{f"events, {name}": _poller(name) for name in POLLERS},
    "asyncio": _hosted(lambda main: asyncio.run(main())),
    "asyncio, kqueue": _on_kqueue(_hosted(lambda main: asyncio.run(main()))),
    "uvloop": _hosted(_run_uvloop),
    "trio": _hosted(trio.run),
}


@contextmanager
def connected(address: str, framing: Framing, **dialing: Any) -> Iterator[enchufe.BlockingConnection]:
    """A client, of the blocking kind: the other end of every cell."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(enchufe.connect(address, framing=framing, timeout=30, **dialing))


async def echo(connection: Connection) -> None:
    """What every cell serves."""
    async for message in connection:
        if message.endswith(b"boom"):
            raise ZeroDivisionError("a bug in the handler")
        if message.endswith(b"bye.."):
            return
        await connection.send(message)
    await connection.send(b"A-goodbye")
