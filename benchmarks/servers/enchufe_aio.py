"""enchufe in somebody else's loop."""

from __future__ import annotations

from benchmarks.servers import loops
from benchmarks.servers.enchufe_engine import count, echo
from benchmarks.servers.wire import BACKLOG, HERE, announce, words
from enchufe import aio, framing


async def main() -> None:
    """Serve until killed."""
    handler = echo if echoes else count
    async with aio.Server(handler, HERE, framing=framing.LengthPrefixed(4), backlog=BACKLOG) as server:
        announce(server.addresses[0])
        await aio.host().sleep_forever()


if __name__ == "__main__":
    echoes, (loop,) = words()
    loops.run(loop, main)
