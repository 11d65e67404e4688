"""enchufe as the benchmarks run it: without encryption, as most of the others; or with it, by a code."""

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

ENCRYPTED: Final = "--encrypted"
DEFAULT: Final = shlex.join([sys.executable, "-m", "enchufe"])


@dataclass(frozen=True)
class Receiver:
    """A receiver that listens.

    Attributes:
        events: the file that it writes its events to.
        code: what lets a sender in; "" where anybody is.
    """

    process: Process
    address: str
    events: Path
    code: str = ""


@dataclass(frozen=True)
class Ourselves:
    """The command, and what both `send` and `receive` are told beyond the defaults.

    Attributes:
        plain: whether it does without encryption.
    """

    command: Command
    options: Command = ()
    plain: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """`enchufe --streams 4`: from the first long option on it is for `send` and `receive`.

        `--encrypted` is for neither: it leaves out their `--plain`.
        """
        words = shlex.split(text)
        command = list(takewhile(lambda word: not word.startswith("--"), words))
        options = [word for word in words[len(command) :] if word != ENCRYPTED]
        return cls(command, options, plain=ENCRYPTED not in words)

    @property
    def label(self) -> str:
        """What it is called in a table."""
        return shlex.join(["enchufe", "--plain" if self.plain else ENCRYPTED, *self.options])

    def receive(self, into: Path, stage: Stage, *options: str, port: int = 0) -> Receiver:
        """Start a receiver and wait until it listens."""
        events = _unused(stage.scratch, "events")
        words = ["receive", "--listen", f"{stage.network.address}:{port}", "-o", str(into), "--json"]
        command = [*self.command, *words, "--plain" if self.plain else "--yes", *self.options, *options]
        own = {"XDG_STATE_HOME": str(stage.scratch)}  # and no key or token of whoever measures
        (process,) = stage.start(Pipeline([command], stdout=events, inside=stage.network.receiver, environment=own))
        last = "listening" if self.plain else "code"
        stage.until(lambda: bool(told(events, last)), [process], f"does not tell `{last}`")
        code = "" if self.plain else str(told(events, "code")[0]["code"])
        return Receiver(process, str(told(events, "listening")[0]["address"]), events, code)

    def send(self, source: Path, to: Receiver, stage: Stage, *options: str) -> Pipeline:
        """What sends to a receiver."""
        words = ["send", str(source), "--to", to.address, "--quiet", *(["--plain"] if self.plain else [])]
        own = {"XDG_STATE_HOME": str(stage.scratch), **({"ENCHUFE_CODE": to.code} if to.code else {})}
        command = [*self.command, *words, *self.options, *options]
        return Pipeline([command], inside=stage.network.sender, environment=own)


def told(events: Path, *names: str) -> Sequence[dict[str, Any]]:
    """The events of these names so far, in their order."""
    # A line counts once its end is there; the rest of it may still be on its way.
    lines = (line for line in events.read_text().splitlines(keepends=True) if line.endswith("\n"))
    return [event for event in map(json.loads, lines) if event["event"] in names]


def _unused(directory: Path, stem: str) -> Path:
    return next(path for number in range(1000) if not (path := directory / f"{stem}-{number}").exists())
