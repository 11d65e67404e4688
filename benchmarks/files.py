"""Files: enchufe and its peers move the same files over loopback, side by side, and ratios are printed.

    python -m benchmarks.files                         everything, on /dev/shm
    python -m benchmarks.files --corpus small --on .   one corpus, on the filesystem of this directory

See the README beside this file for what is timed and what is not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import corpus as corpora
from benchmarks import report
from benchmarks.corpus import Corpus
from benchmarks.peers import Peer, peers
from benchmarks.processes import Failed, Stage, own_peak

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; 1 if a run failed, delivered anything wrong, or nothing was measured."""
    options = _parser().parse_args(arguments)
    known = peers(shlex.split(options.enchufe))
    chosen = [peer for peer in known if options.only is None or peer.name in options.only]
    absences = {peer.name: peer.absence() for peer in chosen}
    present = [peer for peer in chosen if absences[peer.name] is None]
    absent = {name: why for name, why in absences.items() if why is not None}
    if options.sync is None:
        options.sync = _filesystem(options.on) != "tmpfs"
    machine = _machine(options)
    print(*(f"{key}: {value}" for key, value in machine.items()), sep=", ")
    print(*(f"LEFT OUT {name}: {why}\n" for name, why in absent.items()), sep="", flush=True)
    results: dict[str, Any] = {}
    try:
        with _work_directory(options.on) as work:
            for name in options.corpus:
                _measure_corpus(name, present, work, options, results)
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    if options.json:
        whole = {"machine": machine, "left_out": absent, "corpora": results}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 0 if results else 1


def _measure_corpus(
    name: str, present: Sequence[Peer], work: Path, options: argparse.Namespace, results: dict[str, Any]
) -> None:
    """Make a corpus, measure it, print its table and remove it."""
    able = [peer for peer in present if (peer.files if name == "one" else peer.trees)]
    kind = "files" if name == "one" else "trees"
    unable = [peer.name for peer in present if peer not in able]
    if not able:
        print(f"{name}: nobody here sends {kind}\n")
        return
    _check_space(name, work, options)
    sources = work / "sources"
    sources.mkdir()
    sent = corpora.make(name, sources, size=options.size, count=options.count, seed=options.seed)
    measured = {peer.name: report.Measured(peer.label) for peer in able}
    for number in range(options.rounds):
        # Nobody is always the first, nor always the one after the pause.
        turn = number % len(able)
        for peer in able[turn:] + able[:turn]:
            seconds = _run(peer, sent, work, options, measured[peer.name])
            print(f"{name} {number + 1}/{options.rounds} {peer.name} {seconds:.3f} s", file=sys.stderr)
    print(report.table(sent, measured, own_peak()))
    print(f"  do not send {kind}: {', '.join(unable)}\n" if unable else "", flush=True)
    results[name] = report.as_json(sent, measured, own_peak())
    shutil.rmtree(sources)


def _run(peer: Peer, sent: Corpus, work: Path, options: argparse.Namespace, measured: report.Measured) -> float:
    """One transfer by one peer into a fresh directory: timed, checked, removed."""
    scratch, into = work / "scratch", work / "into"
    scratch.mkdir()
    into.mkdir()
    # What earlier runs left to write is not charged to this one.
    _sync(work)
    with Stage(scratch, options.timeout) as stage:
        transfer = peer.prepare(sent.path, into, stage)
        start = time.perf_counter()
        senders = stage.start(transfer.sender)
        for process in [*senders, *transfer.receivers]:
            process.finish(stage.deadline)
        if options.sync:
            _sync(into)
        seconds = time.perf_counter() - start
        measured.seconds.append(seconds)
        measured.sender_peaks.append(max(process.peak for process in senders))
        measured.receiver_peaks.append(max((process.peak for process in transfer.receivers), default=0))
    arrived = into / sent.path.name
    if not arrived.exists():
        raise Failed(f"{peer.name} reported success, but `{sent.name}` is not there")
    if (found := corpora.fingerprint(arrived)) != sent.fingerprint:
        raise Failed(f"{peer.name} delivered something else:\n  sent    {sent.fingerprint}\n  arrived {found}")
    shutil.rmtree(scratch)
    shutil.rmtree(into)
    return seconds


@contextmanager
def _work_directory(on: Path) -> Iterator[Path]:
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


def _check_space(name: str, work: Path, options: argparse.Namespace) -> None:
    needed = 2 * corpora.bytes_needed(name, size=options.size, count=options.count) + 64 * 2**20
    free = shutil.disk_usage(work).free
    if free < needed:
        raise Failed(f"{name} needs {needed / 1e9:.1f} GB on {options.on}, where {free / 1e9:.1f} are free")


def _sync(path: Path) -> None:
    subprocess.run(["sync", "-f", path], check=True)


def _filesystem(path: Path) -> str:
    shown = subprocess.run(["df", "--output=fstype", path], check=True, capture_output=True, text=True)
    return shown.stdout.split()[-1]


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on besides the programs."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "congestion": congestion.read_text().strip() if congestion.exists() else "unknown",
        "filesystem": _filesystem(options.on),
        "sync": options.sync,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__.split("\n")[0])
    names = [peer.name for peer in peers(["enchufe"])]
    parser.add_argument("--corpus", type=_names(corpora.NAMES), default=list(corpora.NAMES), metavar="A,B")
    parser.add_argument("--only", type=_names(names), metavar="A,B", help=f"some of: {', '.join(names)}")
    parser.add_argument("--rounds", type=_positive, default=5, help="default: %(default)s")
    parser.add_argument("--size", type=_size, default="2GiB", help="size of `one`; default: %(default)s")
    parser.add_argument("--count", type=_positive, default=20_000, help="files in `small`; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the corpora's noise; default: %(default)s")
    parser.add_argument("--on", type=Path, default=Path("/dev/shm"), metavar="DIR", help="where; default: %(default)s")
    parser.add_argument(
        "--sync",
        action=argparse.BooleanOptionalAction,
        help="time `sync -f` of the result too; by default where the filesystem is not a tmpfs",
    )
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="for one run")
    parser.add_argument("--enchufe", default=shlex.join([sys.executable, "-m", "enchufe"]), metavar="COMMAND")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    return parser


def _names(known: Sequence[str]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def _size(text: str) -> int:
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return _positive(text.removesuffix(unit)) * factor
    return _positive(text)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number (sizes may end in KiB, MiB, GiB)")
    return number


if __name__ == "__main__":
    sys.exit(main())
