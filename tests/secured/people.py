"""People who run secured commands: each has a state folder of his own, and maybe a machine of his own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.namespaces import SOURCE, Machine

PATIENCE: Final = 120.0  # seconds after which something hangs
MIB: Final = 1 << 20

# The command itself, or what stands in for it in a test: a program that changes something and then runs it.
ENCHUFE: Final = ("-m", "enchufe")


def sitting_at(terminal: str) -> tuple[str, ...]:
    """The command, run by somebody at this terminal."""
    program = (
        "import os, sys; os.close(os.open(sys.argv.pop(1), os.O_RDWR)); sys.argv[0] = 'enchufe';"
        " from enchufe.cli.main import main; main()"
    )
    return ("-c", program, terminal)


HERE: Final = ("--listen", "127.0.0.1:0", "--no-announce")


class Run:
    """One command with --json, its events read as they come."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # nobody to ask, unless its program opens a terminal
        )
        self.events: list[dict[str, Any]] = []
        self.output = b""
        self.told = b""  # on standard error
        self._changed = threading.Condition()
        self._over = False
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_told)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.output += line
                event = json.loads(line)
                event.pop("time", None)
                self.events.append(event)
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _read_told(self) -> None:
        assert self.process.stderr is not None
        self.told = self.process.stderr.read()

    def named(self, name: str) -> list[dict[str, Any]]:
        with self._changed:
            return [event for event in self.events if event["event"] == name]

    def wait_for(
        self, name: str, condition: Callable[[dict[str, Any]], bool] = lambda _event: True, *, count: int = 1
    ) -> dict[str, Any]:
        """The event of this name that meets the condition; the `count`-th of them."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events if event["event"] == name and condition(event)]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count or self._over, PATIENCE)
            assert len(found()) >= count, f"no {name}: {self.events}"
            return found()[count - 1]

    @property
    def address(self) -> str:
        return str(self.wait_for("listening")["address"])

    def code(self, count: int = 1) -> str:
        """The `count`-th code that it shows."""
        return str(self.wait_for("code", count=count)["code"])

    def link(self, count: int = 1) -> str:
        return str(self.wait_for("code", count=count)["link"])

    @property
    def receipt(self) -> dict[str, Any]:
        (receipt,) = self.named("receipt")
        return receipt

    @property
    def error(self) -> dict[str, Any]:
        """What it said last of what went wrong."""
        return self.named("error")[-1]

    def end(self) -> int:
        """Its exit code."""
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
            assert not reader.is_alive(), "what it has started has its output, and goes on"
        return code

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


class Person:
    """Somebody with keys of his own.

    Attributes:
        folder: where his things are.
        machine: where he sits; None: here.
    """

    def __init__(self, folder: Path, machine: Machine | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.machine = machine
        self.runs: list[Run] = []

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def environment(self, code: str | None = None) -> dict[str, str]:
        """What his commands see, and nothing of the tests' own settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ENCHUFE_")}
        said = {} if code is None else {"ENCHUFE_CODE": code}
        return {
            **kept,
            "PYTHONPATH": str(SOURCE),
            "XDG_STATE_HOME": str(self.state),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            **said,
        }

    def command(self, *arguments: str | Path, program: tuple[str, ...] = ENCHUFE) -> list[str]:
        command = [sys.executable, *program, *map(str, arguments)]
        return command if self.machine is None else self.machine.inside(*command)

    def start(
        self, *arguments: str | Path, code: str | None = None, program: tuple[str, ...] = ENCHUFE, json: bool = True
    ) -> Run:
        """Start `enchufe` with these arguments."""
        command = self.command(*arguments, *(["--json"] if json else []), program=program)
        self.runs.append(Run(command, self.environment(code)))
        return self.runs[-1]

    def do(self, *arguments: str | Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `enchufe` with these arguments, to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(code),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def known(self) -> list[str]:
        """The machines that he knows."""
        listed = self.do("peers", "list", "--json")
        assert listed.returncode == 0, listed
        return [each["name"] for each in json.loads(listed.stdout)["peers"]]

    def send(self, *paths: Path, options: tuple[str, ...] = (), **how: Any) -> Run:
        return self.start("send", *paths, *options, **how)

    def receive(self, *arguments: str, **how: Any) -> Run:
        return self.start("receive", *arguments, "-o", self.inbox, "--yes", **how)


@contextmanager
def two_people(folder: Path, machines: tuple[Machine, Machine] | None = None) -> Iterator[tuple[Person, Person]]:
    """Ana and Blas; what still runs of theirs ends with the block."""
    one, two = machines or (None, None)
    people = Person(folder / "ana", one), Person(folder / "blas", two)
    try:
        yield people
    finally:
        for person in people:
            for run in person.runs:
                run.close()


def generated(path: Path, size: int) -> Path:
    """A file that does not shrink."""
    path.write_bytes(os.urandom(size))
    return path
