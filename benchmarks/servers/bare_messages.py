"""Messages with nothing around them: one receive, a loop over lengths, one send of all replies.

`events` and `threads` have `async for message in connection: await connection.send(message)`, by an async generator and
a list; `plain` is a thread that has nothing but the loop. There are no framings, limits, deadlines or errors to tell:
whatever a server does beyond this costs beyond this.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import types
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator
from functools import partial
from typing import Any, Final

from benchmarks.servers.wire import LENGTH, listen, total, words

ASKED: Final = 65536  # bytes of a receive, as enchufe asks for at the most

pack, unpack = LENGTH.pack, LENGTH.unpack_from


class Connection(ABC):
    """Messages over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._replies: list[bytes] = []

    @abstractmethod
    def receive(self) -> Awaitable[bytes]:
        """What is there; b"" at the end."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        rest = b""
        while data := await self.receive():
            data, start = rest + data, 0
            end = len(data)
            while start + 4 <= end and (stop := start + 4 + unpack(data, start)[0]) <= end:
                yield data[start + 4 : stop]
                start = stop
            rest = data[start:]
            self.flush()

    async def send(self, message: bytes) -> None:
        """Send it, with the replies to all that came with it."""
        self._replies.append(pack(len(message)) + message)

    def flush(self) -> None:
        """Send them now."""
        self.sock.sendall(b"".join(self._replies))
        self._replies.clear()


class Blocking(Connection):
    """Waits in the kernel."""

    async def receive(self) -> bytes:
        """As `Connection.receive`."""
        return self.sock.recv(ASKED)


class Parked(Connection):
    """Waits by being left alone until there is something."""

    @types.coroutine
    def receive(self) -> Generator[None, None, bytes]:
        """As `Connection.receive`."""
        yield
        return self.sock.recv(ASKED)


async def serve(connection: Connection) -> None:
    """Echo or count."""
    messages = 0
    with contextlib.suppress(ConnectionError), connection.sock:
        if echoes:
            async for message in connection:
                await connection.send(message)
        else:
            async for _ in connection:
                messages += 1
            await connection.send(total(messages))
            connection.flush()


def plain(sock: socket.socket) -> None:
    """Echo or count, with no step for a message."""
    rest, messages = b"", 0
    replies: list[bytes] = []
    with contextlib.suppress(ConnectionError), sock:
        while data := sock.recv(ASKED):
            data, start = rest + data, 0
            end = len(data)
            while start + 4 <= end and (stop := start + 4 + unpack(data, start)[0]) <= end:
                message = data[start + 4 : stop]
                start = stop
                if echoes:
                    replies.append(pack(len(message)) + message)
                else:
                    messages += 1
            rest = data[start:]
            if replies:
                sock.sendall(b"".join(replies))
                replies.clear()
        if not echoes:
            sock.sendall(pack(8) + total(messages))


def step(task: Coroutine[Any, Any, None]) -> bool:
    """Run it until it waits: whether it does."""
    try:
        task.send(None)
    except StopIteration:
        return False
    return True


def accepted() -> socket.socket:
    """Let one in."""
    sock, _ = listening.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def threads() -> None:
    """A thread for each connection."""
    while True:
        sock = accepted()
        task = partial(plain, sock) if kind == "plain" else partial(step, serve(Blocking(sock)))
        threading.Thread(target=task, daemon=True).start()


def events() -> None:
    """All of them in one thread."""
    tasks: dict[int, Coroutine[Any, Any, None]] = {}
    poller = select.epoll()
    poller.register(listening, select.EPOLLIN)
    while True:
        for ready, _ in poller.poll():
            if ready == listening.fileno():
                sock = accepted()
                tasks[sock.fileno()] = serve(Parked(sock))
                step(tasks[sock.fileno()])
                poller.register(sock, select.EPOLLIN)
            elif not step(tasks[ready]):
                del tasks[ready]


if __name__ == "__main__":
    echoes, (kind,) = words()
    listening = listen()
    if kind == "events":
        events()
    else:
        threads()
