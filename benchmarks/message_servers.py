"""Message servers, each at the level its users write: `python -m benchmarks.message_servers KIND echo|count`.

Each prints the port it listens on. The wire is a length of 4 bytes and the body. With `echo` every message is sent
back; with `count` it is only taken, and the end of the connection is answered by one.
"""

from __future__ import annotations

import asyncio
import select
import socket
import socketserver
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

LENGTH: Final = struct.Struct(">I")


def enchufe_engine(engine: str, plain: bool = False) -> Callable[[bool], None]:
    """One of enchufe's engines."""

    def serve(echoes: bool) -> None:
        import enchufe  # noqa: PLC0415
        from enchufe import framing  # noqa: PLC0415

        def plain_echo(connection: enchufe.BlockingConnection) -> None:
            for message in connection:
                connection.send(message)

        listening = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        listening.close()
        print(address.rpartition(":")[2], flush=True)
        handler: Any = plain_echo if plain else _handler(echoes)
        enchufe.serve(handler, address, framing=framing.LengthPrefixed(4), engine=engine, backlog=4096)

    return serve


def _handler(echoes: bool) -> Any:
    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def count(connection: Any) -> None:
        messages = 0
        async for _ in connection:
            messages += 1

    return echo if echoes else count


def enchufe_hosted(loop: str) -> Callable[[bool], None]:
    """`enchufe.aio` in somebody else's loop."""

    def serve(echoes: bool) -> None:
        from enchufe import aio, framing  # noqa: PLC0415

        async def main() -> None:
            handler = _handler(echoes)
            async with aio.Server(handler, "127.0.0.1:0", framing=framing.LengthPrefixed(4), backlog=4096) as server:
                print(server.addresses[0].rpartition(":")[2], flush=True)
                await aio.host().sleep_forever()

        _run(loop, main)

    return serve


def _run(loop: str, main: Callable[[], Any]) -> None:
    if loop == "trio":
        import trio  # noqa: PLC0415

        trio.run(main)
    elif loop == "uvloop":
        import uvloop  # noqa: PLC0415

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    else:
        asyncio.run(main())


def streams(loop: str) -> Callable[[bool], None]:
    """asyncio's streams, as its documentation shows them."""

    def serve(echoes: bool) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    (size,) = LENGTH.unpack(await reader.readexactly(4))
                    message = await reader.readexactly(size)
                    if echoes:
                        writer.write(LENGTH.pack(size) + message)
                        await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        async def main() -> None:
            server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=4096)
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()

        _run(loop, main)

    return serve


def trio_streams(echoes: bool) -> None:
    """trio's socket streams, with a buffer for messages."""
    import trio  # noqa: PLC0415

    async def handle(stream: trio.SocketStream) -> None:
        buffer = bytearray()
        try:
            while data := await stream.receive_some(65536):
                buffer += data
                while len(buffer) >= 4 and len(buffer) >= 4 + (size := LENGTH.unpack_from(buffer)[0]):
                    message = bytes(buffer[4 : 4 + size])
                    del buffer[: 4 + size]
                    if echoes:
                        await stream.send_all(LENGTH.pack(size) + message)
        except trio.BrokenResourceError:
            pass  # it left

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
        print(listeners[0].socket.getsockname()[1], flush=True)
        await trio.serve_listeners(handle, listeners)

    trio.run(main)


def socketserver_threads(echoes: bool) -> None:
    """The standard library's threading server, with its files."""

    class Handler(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            while len(head := self.rfile.read(4)) == 4:
                message = self.rfile.read(LENGTH.unpack(head)[0])
                if echoes:
                    self.wfile.write(head + message)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 4096

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def bare_epoll(echoes: bool) -> None:
    """The ceiling for Python: no messages, just the bytes back."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listening.getsockname()[1], flush=True)
    poller = select.epoll()
    poller.register(listening, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == listening.fileno():
                sock, _ = listening.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[sock.fileno()] = sock
                poller.register(sock, select.EPOLLIN)
                continue
            try:
                data = connections[descriptor].recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                connections.pop(descriptor).close()
            elif echoes:
                connections[descriptor].send(data)


KINDS: Final[dict[str, Callable[[bool], None]]] = {
    "events": enchufe_engine("events"),
    "threads": enchufe_engine("threads"),
    "threads, plain def": enchufe_engine("threads", plain=True),
    "processes": enchufe_engine("processes"),
    "aio on asyncio": enchufe_hosted("asyncio"),
    "aio on uvloop": enchufe_hosted("uvloop"),
    "aio on trio": enchufe_hosted("trio"),
    "asyncio streams": streams("asyncio"),
    "uvloop streams": streams("uvloop"),
    "trio streams": trio_streams,
    "socketserver threads": socketserver_threads,
    "bare epoll loop": bare_epoll,
}


if __name__ == "__main__":
    KINDS[sys.argv[1]](sys.argv[2] == "echo")
