"""asyncio's streams, as its documentation shows them, in asyncio's loop or uvloop's."""

from __future__ import annotations

import asyncio
import contextlib

from benchmarks.servers import loops
from benchmarks.servers.wire import BACKLOG, LENGTH, framed, listen, total, words


async def receive(reader: asyncio.StreamReader) -> bytes:
    """The next message."""
    (size,) = LENGTH.unpack(await reader.readexactly(4))
    return await reader.readexactly(size)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send every message back."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            message = await receive(reader)
            writer.write(framed(message))
            await writer.drain()
    writer.close()


async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take every message, and say how many there were."""
    messages = 0
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            await receive(reader)
            messages += 1
    writer.write(framed(total(messages)))
    await writer.drain()
    writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(echo if echoes else count, sock=listen(), backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    echoes, (loop,) = words()
    loops.run(loop, main)
