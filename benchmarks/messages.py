"""Message servers side by side: `python -m benchmarks.messages`. The load is C, the ratios are enchufe's."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

HERE: Final = Path(__file__).parent
SETTLE: Final = 0.3  # seconds of load that nobody counts


@dataclass(frozen=True)
class Scenario:
    """One kind of load, and who is compared under it.

    Attributes:
        load: the words of `load.c` behind the port; S stands for the seconds.
        ours, theirs: kinds of `message_servers`.
    """

    name: str
    load: Sequence[str]
    ours: Sequence[str]
    theirs: Sequence[str]
    job: str = "echo"


SCENARIOS: Final = [
    Scenario(
        "echo: 64 B, 100 connections, 1 in flight on each",
        ["echo", "100", "1", "64", "S"],
        ["events"],
        ["asyncio streams", "uvloop streams", "trio streams", "bare epoll loop"],
    ),
    Scenario(
        "pipelined: 64 B, 1 connection, 64 in flight",
        ["echo", "1", "64", "64", "S"],
        ["events", "threads"],
        ["asyncio streams", "uvloop streams"],
    ),
    Scenario("one way: 64 B", ["oneway", "64", "S"], ["events"], ["asyncio streams", "uvloop streams"], "count"),
    Scenario(
        "echo: 64 B, 8 connections, 1 in flight on each",
        ["echo", "8", "1", "64", "S"],
        ["threads", "threads, plain def", "aio on asyncio", "aio on uvloop", "aio on trio"],
        ["socketserver threads", "asyncio streams", "uvloop streams", "trio streams"],
    ),
    Scenario("beside a flooder: 64 B, 1 in flight", ["flood", "64", "S"], ["events"], ["asyncio streams"]),
]


@dataclass
class Figures:
    """What one server did, round by round: messages a second, and the 99th percentile in microseconds."""

    rates: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


def compiled(folder: str) -> str:
    """The load generator, built in `folder`."""
    program = f"{folder}/load"
    subprocess.run(["cc", "-O2", "-o", program, str(HERE / "load.c"), "-lpthread"], check=True)
    return program


@contextmanager
def serving(kind: str, job: str) -> Iterator[tuple[int, int]]:
    """A server of that kind, in a process of its own: its port and its process id."""
    command = [sys.executable, "-m", "benchmarks.message_servers", kind, job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=HERE.parent, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline()), server.pid
        finally:
            server.kill()


def measured(program: str, scenario: Scenario, kind: str, seconds: float) -> tuple[float, float]:
    """Messages a second and the 99th percentile in microseconds, of one server in one round."""
    with serving(kind, scenario.job) as (port, _):
        for duration in (SETTLE, seconds):
            words = [str(duration) if word == "S" else word for word in scenario.load]
            command = [program, words[0], str(port), *words[1:]]
            for _ in range(50):
                done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
                if done.returncode == 0:
                    break
                time.sleep(0.1)  # it may still be about to listen
            else:
                raise RuntimeError(f"{kind}: {done.stderr}")
        rate, _, p99 = map(float, done.stdout.split())
    return rate, p99


def idle(program: str, kind: str, connections: int) -> float:
    """KiB of memory that each idle connection costs the server."""

    def private(pid: int) -> int:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty"))

    with serving(kind, "echo") as (port, pid):
        measured_first = [program, "echo", str(port), "100", "1", "64", "0.3"]
        while subprocess.run(measured_first, capture_output=True, check=False).returncode:
            pass
        before = private(pid)
        command = [program, "idle", str(port), str(connections)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
            assert load.stdout is not None
            if load.stdout.readline() != "open\n":
                raise RuntimeError(f"{kind}: {connections} connections could not be opened (ulimit -n?)")
            each = (private(pid) - before) / connections
            load.kill()
    return each


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default="", help="only scenarios whose name contains this")
    parser.add_argument("--idle", type=int, default=9000, metavar="N", help="idle connections; 0: leave them out")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(folder)
        for scenario in (one for one in SCENARIOS if options.only in one.name):
            kinds = [*scenario.ours, *scenario.theirs]
            figures = {kind: Figures() for kind in kinds}
            for turn in range(options.rounds):
                for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
                    rate, p99 = measured(program, scenario, kind, options.seconds)
                    figures[kind].rates.append(rate)
                    figures[kind].p99.append(p99)
            print(f"\n{scenario.name}: {options.rounds} rounds\n  {'':<22} {'msg/s':>10} {'p99 us':>8}   ", end="")
            print("   ".join(f"speed of {ours} / its speed" for ours in scenario.ours[:2]))
            for kind in kinds:
                row = figures[kind]
                print(f"  {kind:<22} {median(row.rates):10,.0f} {median(row.p99):8,.0f}   ", end="")
                for ours in scenario.ours[:2]:
                    pairs = zip(figures[ours].rates, row.rates, strict=True)
                    print(f"{median(a / b for a, b in pairs):22.2f}   ", end="")
                print()
            results[scenario.name] = {kind: {"rates": row.rates, "p99_us": row.p99} for kind, row in figures.items()}
        if options.idle and options.only in "idle":
            print(f"\n{options.idle:,} idle connections\n  {'':<22} {'KiB each':>10}")
            for kind in ("events", "asyncio streams", "uvloop streams"):
                each = idle(program, kind, options.idle)
                results.setdefault("idle, KiB each", {})[kind] = each  # type: ignore[index]
                print(f"  {kind:<22} {each:10.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
