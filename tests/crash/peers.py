"""Both sides of a transfer: as processes that strace may be attached to, and in this process."""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import enchufe
from enchufe import events
from enchufe.errors import EnchufeError

HERE: Final = Path(__file__).parent.parent.parent
LONG: Final = 60.0  # seconds after which a test gives up; nothing takes as long
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": f"{HERE / 'src'}{os.pathsep}{HERE}", "PYTHONFAULTHANDLER": "1"}

A = TypeVar("A")
B = TypeVar("B")


class Tracing:
    """Where strace is attached, and what it does there.

    Args:
        moment: one of `victim.at_moment`.
        options: as `-e inject=...`; none: no strace at all.
        threads: whether it looks at every thread, or at the one alone that comes to that moment.
    """

    def __init__(self, moment: str, *options: str, threads: bool = True) -> None:
        self.moment = moment
        self.options = options
        self.threads = threads

    def command(self, arguments: Iterable[str]) -> list[str]:
        which = "all" if self.threads else "one"
        return [sys.executable, "-m", "tests.crash.victim", self.moment, which, *self.options, "--", *arguments]


class Peer:
    """An `enchufe send` or `enchufe receive` in a process of its own.

    Attributes:
        told: its events so far.
    """

    def __init__(self, *arguments: str | Path, tracing: Tracing | None = None, prefix: Iterable[str] = ()) -> None:
        words = [str(argument) for argument in arguments] + ["--plain", "--json"]
        command = [sys.executable, "-m", "enchufe", *words] if tracing is None else tracing.command(words)
        self.told: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            cwd=HERE,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def until(self, event: str) -> dict[str, Any] | None:
        """Read its events up to this one; None where it ends before."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("}\n"):
                self.told.append(json.loads(line))
                if self.told[-1]["event"] == event:
                    return self.told[-1]
        return None

    def address(self) -> str | None:
        listening = self.until("listening")
        return None if listening is None else str(listening["address"])

    def end(self) -> int:
        """Wait for it: its exit code, negative for a signal."""
        if self._process.stdout.closed:  # type: ignore[union-attr]
            return self._process.wait()
        timer = threading.Timer(LONG, self._give_up)
        timer.start()
        try:
            self.until("")
            assert self._process.stderr is not None
            self.errors = self._process.stderr.read()
            return self._process.wait()
        finally:
            timer.cancel()
            self._process.stdout.close()  # type: ignore[union-attr]
            self._process.stderr.close()  # type: ignore[union-attr]

    def kill(self) -> None:
        self._process.kill()

    def _give_up(self) -> None:
        faulthandler.dump_traceback()  # the other side may be a thread here
        self._process.send_signal(signal.SIGABRT)  # so that it tells where it stands
        self._process.send_signal(signal.SIGCONT)

    @property
    def receipt(self) -> dict[str, Any] | None:
        return next((event for event in self.told if event["event"] == "receipt"), None)

    @property
    def error(self) -> dict[str, Any] | None:
        return next((event for event in reversed(self.told) if event["event"] == "error"), None)


Ended = events.Receipt | EnchufeError


def send(root: Path, to: str, **options: Any) -> Ended:
    """Send from this process: the receipt, or what went wrong."""
    try:
        return enchufe.send_files([root], to=to, plain=True, **{"retry": 0.0, "timeout": LONG, **options})
    except EnchufeError as error:
        return error


class Receiving:
    """A receiver in a thread of this process, which goes on listening until it has received something.

    Attributes:
        failures: what went wrong so far and did not end it.
    """

    def __init__(self, inbox: Path, listen: str = "127.0.0.1:0", **options: Any) -> None:
        self.ended: Ended | None = None
        self.failures: queue.SimpleQueue[events.Failed] = queue.SimpleQueue()
        self._listening = threading.Event()
        self._address = ""
        self._options = {"listen": listen, "plain": True, "timeout": LONG, "on_event": self._heed, **options}
        self._thread = threading.Thread(target=self._run, args=(inbox,))
        self._thread.start()

    def address(self) -> str:
        assert self._listening.wait(LONG)
        return self._address

    def end(self) -> Ended:
        self._thread.join(LONG)
        assert self.ended is not None, "the receiver goes on and on"
        return self.ended

    def _heed(self, event: events.Event) -> None:
        if isinstance(event, events.Listening):
            self._address = event.address
            self._listening.set()
        elif isinstance(event, events.Failed):
            self.failures.put(event)

    def _run(self, inbox: Path) -> None:
        try:
            self.ended = enchufe.receive_files(inbox, **self._options)
        except EnchufeError as error:
            self.ended = error
        self._listening.set()


MEMORY: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextmanager
def folder(base: str | None = MEMORY) -> Iterator[Path]:
    """One that is gone afterwards, in memory unless `base` says otherwise.

    On a disk, syncfs() waits for whatever others write there; a kill takes nothing from its cache.
    """
    name = tempfile.mkdtemp(prefix="enchufe-crash-", dir=base)
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name, ignore_errors=True)


def no_strace() -> str:
    """Why nothing can be traced here; empty where it can."""
    if shutil.which("strace") is None:
        return "no strace here: sh tests/packages.sh installs it"
    tried = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"strace is not permitted here: {tried.stderr.strip()}"
