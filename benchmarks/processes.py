"""The programs of one run: started, waited for, and stopped by their process id.

Linux counts a process's peak memory from before its exec, so it starts with the peak of the program that
started it. Hence this program stays small, and `own_peak()` is the least that `Process.peak` can be.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

LOCAL: Final = "127.0.0.1"
READY_SECONDS: Final = 20
STOP_SECONDS: Final = 5
LOOK_EVERY: Final = 0.002
LISTENING: Final = "0A"  # how /proc/net/tcp spells it
CONNECTED: Final = "01"

Command = Sequence[str]


class Failed(Exception):
    """A program failed, or what it delivered is wrong: the whole benchmark is worth nothing."""


@dataclass(frozen=True)
class Pipeline:
    """`first < stdin | second | ... > stdout`, without a shell between us and the process ids.

    Attributes:
        inside: the command that runs each of them in its place, as `ip netns exec NAME`.
        environment: variables beside our own.
    """

    commands: Sequence[Command]
    stdin: Path | None = None
    stdout: Path | None = None
    inside: Command = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """What lies between the two sides.

    Attributes:
        address: where the receiving side is reached.
        sender, receiver: the command that runs others on that side, see `Pipeline.inside`.
    """

    address: str = LOCAL
    sender: Command = ()
    receiver: Command = ()


LOOPBACK: Final = Network()


class Process:
    """One running program, the leader of its own process group, so that Ctrl-C reaches only us."""

    def __init__(self, command: Command, stdin: int, stdout: int, errors: Path, environment: Mapping[str, str]) -> None:
        self.command = command
        self.peak = 0  # bytes resident at most, known once it ended
        self._errors = errors
        with errors.open("wb") as stderr:
            self._popen = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True, env=_ours(environment)
            )
        self._watch = os.pidfd_open(self.pid)

    @property
    def pid(self) -> int:
        """Its number; nobody else's until `ended` said yes."""
        return self._popen.pid

    def kill(self) -> None:
        """End it and its group at once, as `kill -9` does."""
        if not self.ended():
            os.killpg(self._popen.pid, signal.SIGKILL)
            if not self.ended(STOP_SECONDS):
                raise self.failure("survives SIGKILL")

    def ended(self, seconds: float = 0) -> bool:
        """Whether it ends within so many seconds."""
        if self._popen.returncode is None:
            if not select.select([self._watch], [], [], max(0, seconds))[0]:
                return False
            # wait4 and not Popen.wait: only it tells this one process's peak.
            _, status, usage = os.wait4(self._popen.pid, 0)
            self._popen.returncode = os.waitstatus_to_exitcode(status)
            self.peak = usage.ru_maxrss * 1024
            os.close(self._watch)
        return True

    def processor_seconds(self) -> float:
        """How long it has run on a processor so far; it must not have ended."""
        # The name, in brackets, may hold anything; user and system time are the 14th and 15th field, proc(5).
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def finish(self, deadline: float) -> None:
        """Wait for its end, which must be in time and a success."""
        if not self.ended(deadline - time.monotonic()):
            raise self.failure("did not end in time")
        if self._popen.returncode != 0:
            raise self.failure(f"ended with {self._popen.returncode}")

    def failure(self, what: str) -> Failed:
        """An error that shows the command and the end of what it said."""
        said = self._errors.read_text(errors="replace").strip()[-2000:]
        return Failed(f"`{' '.join(self.command)}` {what}" + (f":\n{said}" if said else ""))

    def stop(self) -> None:
        """End it and its group, politely first."""
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            # Until it is reaped, its number cannot belong to anyone else.
            if self.ended():
                return
            os.killpg(self._popen.pid, number)
            if self.ended(seconds):
                return


class Stage:
    """Where one run takes place. When it is left, nothing that was started on it lives on."""

    def __init__(self, scratch: Path, seconds: float, network: Network = LOOPBACK) -> None:
        self.scratch = scratch
        self.network = network
        self.deadline = time.monotonic() + seconds
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The last first: a client goes before its server, so that no server is left with a half-open one.
        for process in reversed(self._processes):
            process.stop()

    def start(self, pipeline: Pipeline) -> list[Process]:
        """Start every program of a pipeline."""
        started: list[Process] = []
        stdin = os.open(pipeline.stdin or os.devnull, os.O_RDONLY)
        for place, command in enumerate(pipeline.commands):
            following: int | None = None
            if place < len(pipeline.commands) - 1:
                following, stdout = os.pipe()
            else:
                stdout = os.open(pipeline.stdout or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            errors = self.scratch / f"errors-{len(self._processes)}"
            process = Process([*pipeline.inside, *command], stdin, stdout, errors, pipeline.environment)
            self._processes.append(process)
            started.append(process)
            os.close(stdin)
            os.close(stdout)
            if following is not None:
                stdin = following
        return started

    def run(self, command: Command) -> None:
        """Run a program that prepares something."""
        for process in self.start(Pipeline([command])):
            process.finish(self.deadline)

    def listening(self, processes: Sequence[Process], port: int) -> None:
        """Wait until the port listens, without connecting: a one-shot receiver would take us for its sender."""
        self.until(lambda: _has(processes[0], LISTENING, ours=port), processes, f"does not listen on port {port}")

    def connected(self, processes: Sequence[Process], port: int) -> None:
        """Wait until the first of them is connected to a port of this machine."""
        until = f"does not connect to port {port}"
        self.until(lambda: _has(processes[0], CONNECTED, theirs=port), processes, until)

    def until(
        self,
        ready: Callable[[], bool],
        processes: Sequence[Process],
        complaint: str,
        *,
        seconds: float | None = READY_SECONDS,
    ) -> None:
        """Wait until something is ready, as long as the processes live that it depends on.

        `seconds` is how long at most; None: until the stage's deadline.
        """
        deadline = self.deadline if seconds is None else time.monotonic() + seconds
        while not _succeeds(ready):
            for process in processes:
                if process.ended():
                    raise process.failure("ended too early")
            if time.monotonic() > deadline:
                raise processes[0].failure(complaint)
            time.sleep(LOOK_EVERY)


def _ours(environment: Mapping[str, str]) -> dict[str, str]:
    """Our variables and these; but nobody compiles all Python each time that it starts, as developers may like it."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**ours, **environment}


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


def own_peak() -> int:
    """The most memory this program had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _succeeds(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except OSError:  # what it looks at is not there yet, or not any more
        return False


def _has(process: Process, wanted: str, ours: int | None = None, theirs: int | None = None) -> bool:
    # Its own table and not ours: it may live in another network namespace.
    with open(f"/proc/{process.pid}/net/tcp", encoding="ascii") as table:
        next(table)
        rows = (line.split() for line in table)
        return any(
            state == wanted and ours in (None, int(local[-4:], 16)) and theirs in (None, int(remote[-4:], 16))
            for _, local, remote, state, *_ in rows
        )
