"""enchufe as the benchmarks run it: without encryption, as most of the others; or with it, by a code or a known key."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.processes import Command, Pipeline, Process, Stage, free_port

ENCRYPTED: Final = "--encrypted"
KNOWN: Final = "--known"
DEFAULT: Final = shlex.join([sys.executable, "-m", "enchufe"])


@dataclass(frozen=True)
class Receiver:
    """A receiver that listens.

    Attributes:
        events: the file that it writes its events to.
        address: that, or what the sender knows it by.
        code: what lets a sender in; "" where anybody is, or one that is known.
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
        known: whether both have met before what is timed, as whoever uses ssh has.
    """

    command: Command
    options: Command = ()
    plain: bool = True
    known: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """`enchufe --streams 4`: from the first long option on it is for `send` and `receive`.

        `--encrypted` is for neither: it leaves out their `--plain`. So does `--known`, by which they have met before.
        """
        words = shlex.split(text)
        command = list(takewhile(lambda word: not word.startswith("--"), words))
        options = [word for word in words[len(command) :] if word not in (ENCRYPTED, KNOWN)]
        known = KNOWN in words
        return cls(command, options, plain=not known and ENCRYPTED not in words, known=known)

    @property
    def label(self) -> str:
        """What it is called in a table."""
        how = "--plain" if self.plain else KNOWN if self.known else ENCRYPTED
        return shlex.join(["enchufe", how, *self.options])

    def receive(self, into: Path, stage: Stage, *options: str, port: int = 0) -> Receiver:
        """Start a receiver and wait until it listens."""
        if not self.known:
            return self._receive(into, stage, *options, port=port)
        port = port or free_port()
        small, kept = stage.scratch / "small", stage.scratch / "kept"
        small.write_text("so that they know each other")
        kept.mkdir()
        first = self._receive(kept, stage, "--remember", port=port)
        for process in [*stage.start(self.send(small, first, stage, "--remember")), first.process]:
            process.finish(stage.deadline)
        known = subprocess.run(
            [*self.command, "peers", "--json"],
            env={**os.environ, **_state(stage, "sender")},
            check=True,
            capture_output=True,
            text=True,
        )
        (peer,) = json.loads(known.stdout)["peers"]
        again = self._receive(into, stage, *options, port=port)
        return replace(again, address=f"@{peer['name']}", code="")

    def _receive(self, into: Path, stage: Stage, *options: str, port: int) -> Receiver:
        events = _unused(stage.scratch, "events")
        words = ["receive", "--listen", f"{stage.network.address}:{port}", "-o", str(into), "--json"]
        command = [*self.command, *words, "--plain" if self.plain else "--yes", *self.options, *options]
        own = _state(stage, "receiver")
        (process,) = stage.start(Pipeline([command], stdout=events, inside=stage.network.receiver, environment=own))
        last = "listening" if self.plain else "code"
        stage.until(lambda: bool(told(events, last)), [process], f"does not tell `{last}`")
        code = "" if self.plain else str(told(events, "code")[0]["code"])
        return Receiver(process, str(told(events, "listening")[0]["address"]), events, code)

    def send(self, source: Path, to: Receiver, stage: Stage, *options: str) -> Pipeline:
        """What sends to a receiver."""
        words = ["send", str(source), "--to", to.address, "--quiet", *(["--plain"] if self.plain else [])]
        own = _state(stage, "sender") | ({"ENCHUFE_CODE": to.code} if to.code else {})
        command = [*self.command, *words, *self.options, *options]
        return Pipeline([command], inside=stage.network.sender, environment=own)


def _state(stage: Stage, side: str) -> dict[str, str]:
    """Each has a folder of its own for that, and no key or token of whoever measures."""
    return {"XDG_STATE_HOME": str(stage.scratch / side)}


def told(events: Path, *names: str) -> Sequence[dict[str, Any]]:
    """The events of these names so far, in their order."""
    # A line counts once its end is there; the rest of it may still be on its way.
    lines = (line for line in events.read_text().splitlines(keepends=True) if line.endswith("\n"))
    return [event for event in map(json.loads, lines) if event["event"] in names]


def _unused(directory: Path, stem: str) -> Path:
    return next(path for number in range(1000) if not (path := directory / f"{stem}-{number}").exists())
