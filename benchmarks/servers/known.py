"""Every server by the name that tables show, with the words that start it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.compiled import compiled

# asyncio asks for 256 KiB at each receive. glibc maps and unmaps such a piece each time, at half the speed, until a
# piece as large is freed whole, as when its first connection ends, and from then on keeps it for the next time:
# whichever happened to a server, these tell it apart. Without them it is as its users have it.
MAPS: Final = ["MALLOC_MMAP_THRESHOLD_=131072"]
KEEPS: Final = ["MALLOC_MMAP_THRESHOLD_=1048576", "MALLOC_TRIM_THRESHOLD_=2097152"]


@dataclass(frozen=True)
class Server:
    """A server to start.

    Attributes:
        name: as tables show it.
        words: the module, and how it is run; or the C file.
        wire: what it speaks: `length` or `zmtp`.
        needs: a package that may be missing.
        environment: what it needs there, as `env` takes it.
    """

    name: str
    words: Sequence[str]
    wire: str = "length"
    needs: str = "enchufe"
    environment: Sequence[str] = ()

    @property
    def installed(self) -> bool:
        """Whether it can run here."""
        return find_spec(self.needs) is not None

    def command(self, job: str) -> list[str]:
        """How to start it."""
        module, *how = self.words
        if module.endswith(".c"):
            return [str(compiled(Path(__file__).with_name(module))), job]
        return ["env", *self.environment, sys.executable, "-m", f"benchmarks.servers.{module}", job, *how]


SERVERS: Final = {
    server.name: server
    for server in [
        Server("events", ["enchufe_engine", "events"]),
        Server("threads", ["enchufe_engine", "threads"]),
        Server("threads, plain def", ["enchufe_engine", "threads", "plain"]),
        Server("aio on asyncio", ["enchufe_aio", "asyncio"]),
        Server("aio on uvloop", ["enchufe_aio", "uvloop"], needs="uvloop"),
        Server("aio on trio", ["enchufe_aio", "trio"], needs="trio"),
        Server("asyncio streams", ["asyncio_streams", "asyncio"]),
        Server("asyncio streams, maps", ["asyncio_streams", "asyncio"], environment=MAPS),
        Server("asyncio streams, keeps", ["asyncio_streams", "asyncio"], environment=KEEPS),
        Server("uvloop streams", ["asyncio_streams", "uvloop"], needs="uvloop"),
        Server("trio streams", ["trio_streams"], needs="trio"),
        Server("socketserver threads", ["socketserver_threads"]),
        Server("pyzmq", ["zmq_sockets"], wire="zmtp", needs="zmq"),
        Server("bare messages, events", ["bare_messages", "events"]),
        Server("bare messages, threads", ["bare_messages", "threads"]),
        Server("bare messages, plain", ["bare_messages", "plain"]),
        Server("bare epoll loop", ["epoll_loop"]),
        Server("epoll loop in C", ["epoll_loop.c"]),
    ]
}
