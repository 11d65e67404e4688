"""What every benchmark of files does: a directory of its own, one timed transfer, and the options that all take."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from benchmarks import corpus as corpora
from benchmarks import ourselves
from benchmarks.corpus import Corpus
from benchmarks.ourselves import Ourselves
from benchmarks.peers import Peer
from benchmarks.processes import LOOPBACK, Failed, Network, Process, Stage

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNITS: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Run:
    """One transfer.

    Attributes:
        sender_peak, receiver_peak: bytes resident at most.
        sent_bytes: payload that crossed, as enchufe's receipt says it.
    """

    seconds: float
    sender_peak: int
    receiver_peak: int
    sent_bytes: int = 0


def timed(
    peer: Peer,
    source: Path,
    into: Path,
    scratch: Path,
    *,
    timeout: float,
    sync: bool = False,
    network: Network = LOOPBACK,
) -> Run:
    """One transfer by one peer; with `sync` its time includes a `sync -f` of what it brought."""
    scratch.mkdir()
    # What earlier runs left to write is not charged to this one.
    sync_filesystem(into)
    with Stage(scratch, timeout, network) as stage:
        transfer = peer.prepare(source, into, stage)
        start = time.perf_counter()
        senders = stage.start(transfer.sender)
        for process in [*senders, *transfer.receivers]:
            process.finish(stage.deadline)
        if sync:
            sync_filesystem(into)
        seconds = time.perf_counter() - start
        receipts = ourselves.told(transfer.events, "receipt") if transfer.events else []
        run = Run(
            seconds,
            peak(senders),
            peak(transfer.receivers),
            sum(receipt["sent_bytes"] for receipt in receipts),
        )
    shutil.rmtree(scratch)
    return run


def peak(processes: Sequence[Process]) -> int:
    """The most memory that one of them had."""
    return max((process.peak for process in processes), default=0)


def check(peer: str, sent: Corpus, into: Path) -> None:
    """What arrived is what was sent."""
    arrived = into / sent.path.name
    if not arrived.exists():
        raise Failed(f"{peer} reported success, but `{sent.name}` is not there")
    if (found := corpora.fingerprint(arrived)) != sent.fingerprint:
        raise Failed(f"{peer} delivered something else:\n  sent    {sent.fingerprint}\n  arrived {found}")


def turns(number: int, names: Sequence[str]) -> Sequence[str]:
    """The order of a round: nobody is always the first, nor always the one after the pause."""
    turn = number % len(names)
    return [*names[turn:], *names[:turn]]


@contextmanager
def reported(results: object, to: Path | None) -> Iterator[None]:
    """What is measured inside is written to `to`, if that is given; a failure is said, and ends the program with 1."""
    try:
        yield
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        raise SystemExit(1) from failure
    if to:
        to.write_text(json.dumps(results, indent=2) + "\n")


@contextmanager
def work_directory(on: Path) -> Iterator[Path]:
    """A directory that goes away whatever happens, short of SIGKILL."""

    def interrupted(number: int, _frame: object) -> NoReturn:
        # A second, impatient Ctrl-C must not leave servers running and gigabytes in memory.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in SIGNALS:
        signal.signal(each, interrupted)
    work = Path(tempfile.mkdtemp(prefix="enchufe-benchmark-", dir=on.resolve()))
    try:
        yield work
    finally:
        shutil.rmtree(work)


@contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """A directory for one run."""
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def check_space(needed: int, on: Path) -> None:
    """Fail before, and not in the middle."""
    free = shutil.disk_usage(on).free
    if free < needed:
        raise Failed(f"{needed / 1e9:.1f} GB are needed on {on}, where {free / 1e9:.1f} are free")


def sync_filesystem(path: Path) -> None:
    """Write everything to the disk that `path` is on."""
    subprocess.run(["sync", "-f", path], check=True)


def filesystem(path: Path) -> str:
    """Its name, as `tmpfs`."""
    shown = subprocess.run(["df", "--output=fstype", path], check=True, capture_output=True, text=True)
    return shown.stdout.split()[-1]


def machine(on: Path, sync: bool) -> dict[str, Any]:
    """What the figures depend on besides the programs."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "congestion": congestion.read_text().strip() if congestion.exists() else "unknown",
        "filesystem": filesystem(on),
        "sync": sync,
    }


def options(module: str, about: str, *, rounds: int, timeout: float) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=about.partition("\n")[0])
    parser.add_argument("--rounds", type=positive, default=rounds, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the contents; default: %(default)s")
    parser.add_argument("--on", type=Path, default=Path("/dev/shm"), metavar="DIR", help="where; default: %(default)s")
    parser.add_argument("--timeout", type=float, default=timeout, metavar="S", help="for one run; default: %(default)s")
    parser.add_argument(
        "--enchufe",
        type=Ourselves.parse,
        default=ourselves.DEFAULT,
        metavar="COMMAND",
        help="what to run, and options of `send` and `receive`, as 'enchufe --streams 4'",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    return parser


def sync(parser: argparse.ArgumentParser) -> None:
    """The option of those whose peers make nothing durable by themselves."""
    parser.add_argument(
        "--sync",
        action=argparse.BooleanOptionalAction,
        help="time `sync -f` of the result too; by default where the filesystem is not a tmpfs",
    )


def also(parser: argparse.ArgumentParser) -> None:
    """The option of those that can compare several enchufes."""
    parser.add_argument(
        "--also",
        type=Ourselves.parse,
        action="append",
        default=[],
        metavar="COMMAND",
        help="another enchufe beside it, as 'enchufe --streams 4'; may be given again",
    )


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A type of option: some of these, with commas between."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return chosen

    return parse


def size(text: str) -> int:
    """A type of option: bytes."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return positive(text.removesuffix(unit)) * factor
    return positive(text)


def positive(text: str) -> int:
    """A type of option: a number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number (sizes may end in KiB, MiB, GiB)")
    return number
