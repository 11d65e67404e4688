"""enchufe as the benchmarks run it: without encryption, as all the others but scp."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.processes import Command, Pipeline, Process, Stage

DEFAULT: Final = shlex.join([sys.executable, "-m", "enchufe"])


@dataclass(frozen=True)
class Receiver:
    """A receiver that listens.

    Attributes:
        events: the file that it writes its events to.
    """

    process: Process
    address: str
    events: Path


@dataclass(frozen=True)
class Ourselves:
    """The command, and what both `send` and `receive` are told beyond the defaults."""

    command: Command
    options: Command = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """`enchufe --streams 4`: from the first long option on it is for `send` and `receive`."""
        words = shlex.split(text)
        command = list(takewhile(lambda word: not word.startswith("--"), words))
        return cls(command, words[len(command) :])

    @property
    def label(self) -> str:
        """What it is called in a table."""
        return shlex.join(["enchufe", *(self.options or ["--plain"])])

    def receive(self, into: Path, stage: Stage, *options: str, port: int = 0) -> Receiver:
        """Start a receiver and wait until it listens."""
        events = _unused(stage.scratch, "events")
        words = ["receive", "--listen", f"{stage.network.address}:{port}", "-o", str(into), "--plain", "--json"]
        command = [*self.command, *words, *self.options, *options]
        (process,) = stage.start(Pipeline([command], stdout=events, inside=stage.network.receiver))
        stage.until(lambda: bool(told(events, "listening")), [process], "does not say where it listens")
        return Receiver(process, str(told(events, "listening")[0]["address"]), events)

    def send(self, source: Path, to: str, stage: Stage, *options: str) -> Pipeline:
        """What sends to a receiver."""
        words = ["send", str(source), "--to", to, "--plain", "--quiet"]
        return Pipeline([[*self.command, *words, *self.options, *options]], inside=stage.network.sender)


def told(events: Path, *names: str) -> Sequence[dict[str, Any]]:
    """The events of these names so far, in their order."""
    # A line counts once its end is there; the rest of it may still be on its way.
    lines = (line for line in events.read_text().splitlines(keepends=True) if line.endswith("\n"))
    return [event for event in map(json.loads, lines) if event["event"] in names]


def _unused(directory: Path, stem: str) -> Path:
    return next(path for number in range(1000) if not (path := directory / f"{stem}-{number}").exists())
