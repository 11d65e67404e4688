"""One of enchufe's engines, in its own words."""

from __future__ import annotations

import signal
from typing import Any

import enchufe
from benchmarks.servers.wire import BACKLOG, HERE, announce, total, words
from enchufe import framing


async def echo(connection: enchufe.Connection) -> None:
    """Send every message back."""
    async for message in connection:
        await connection.send(message)


async def count(connection: enchufe.Connection) -> None:
    """Take every message, and say how many there were."""
    messages = 0
    async for _ in connection:
        messages += 1
    await connection.send(total(messages))


def plain_echo(connection: enchufe.BlockingConnection) -> None:
    """Send every message back."""
    for message in connection:
        connection.send(message)


def plain_count(connection: enchufe.BlockingConnection) -> None:
    """Take every message, and say how many there were."""
    messages = 0
    for _ in connection:
        messages += 1
    connection.send(total(messages))


if __name__ == "__main__":
    echoes, (engine, *plain) = words()
    handler: Any = (plain_echo if echoes else plain_count) if plain else echo if echoes else count
    lengths = framing.LengthPrefixed(4)
    with enchufe.Server(handler, HERE, framing=lengths, engine=engine, backlog=BACKLOG) as server:
        announce(server.addresses[0])
        signal.pause()
