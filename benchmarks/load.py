"""The load: `load.c`, compiled and driven. Its one line of JSON becomes a dictionary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from benchmarks.compiled import compiled
from benchmarks.processes import Command, Pipeline, Process, Stage
from benchmarks.servers.known import Server

SOURCE: Final = Path(__file__).with_name("load.c")

_numbers = count()


@dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Attributes:
        mode: of `load.c`: echo, oneway, idle or flood.
        in_flight: messages on each connection.
        body: bytes of a message.
    """

    mode: str
    connections: int = 1
    in_flight: int = 1
    body: int = 64

    @property
    def job(self) -> str:
        """What the server does under it."""
        return "count" if self.mode == "oneway" else "echo"

    def command(self, address: str, wire: str, seconds: float) -> list[str]:
        """How to make it."""
        numbers = {"-c": self.connections, "-d": self.in_flight, "-b": self.body, "-s": seconds, "-w": wire}
        options = [word for name, value in numbers.items() for word in (name, str(value))]
        return [str(compiled(SOURCE)), self.mode, address, *options]


@contextmanager
def serving(server: Server, job: str, stage: Stage) -> Iterator[tuple[str, Process]]:
    """The server in a process of its own, inside the block: its address and its process."""
    output = stage.scratch / f"server-{next(_numbers)}"
    (process,) = stage.start(Pipeline([server.command(job)], stdout=output))
    try:
        stage.until(lambda: output.read_text().endswith("\n"), [process], "does not say where it listens")
        yield output.read_text().strip(), process
    finally:
        process.stop()


def run(command: Command, stage: Stage) -> dict[str, Any]:
    """Make the load and return its figures.

    Raises:
        Failed: the server did not keep up its side: a wrong reply, a lost message, a connection cut.
    """
    output = stage.scratch / f"load-{next(_numbers)}"
    for process in stage.start(Pipeline([command], stdout=output)):
        process.finish(stage.deadline)
    figures: dict[str, Any] = json.loads(output.read_text())
    return figures


@contextmanager
def held(command: Command, stage: Stage) -> Iterator[None]:
    """Idle connections, all open inside the block.

    Raises:
        Failed: not all could be opened.
    """
    output = stage.scratch / f"load-{next(_numbers)}"
    (process,) = stage.start(Pipeline([command], stdout=output))
    try:
        stage.until(lambda: output.read_text().endswith("\n"), [process], "is still opening connections")
        yield
    finally:
        process.stop()
