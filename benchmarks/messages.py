"""Message servers side by side: `python -m benchmarks.messages`. The load is C, the ratios are enchufe's.

Behind a ratio stands what a loop without framings, limits and errors comes to (`servers/bare_messages.py`).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, NoReturn

from benchmarks.load import Load, held, run, serving
from benchmarks.processes import Stage
from benchmarks.servers.known import SERVERS

SETTLE: Final = 0.3  # seconds of load that nobody counts
PATIENCE: Final = 60.0  # seconds that one server may take beside its load
WARM: Final = Load("echo", connections=100)
RATE: Final = "rate"
P99: Final = "p99"
KIB: Final = "KiB each"
COST: Final = "cost"  # microseconds of processor that the server takes for a message: drifts least on a busy machine
COLUMNS: Final = {RATE: "msg/s", "p50": "p50 us", P99: "p99 us", COST: "cpu us each", "cpu": "load's cpu", KIB: KIB}


@dataclass(frozen=True)
class Scenario:
    """One kind of load, and who is compared under it.

    Attributes:
        ratios: each of ours with the peers it is compared with, and at least how many times as fast it should be.
        bare: each of ours with the server that does nothing but what must be done.
        beside: others to show, without a ratio.
        at_most: for figures that are no ratio: what each of ours may reach.
    """

    name: str
    load: Load
    ratios: Mapping[str, Mapping[str, float]]
    bare: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[str] = ()
    at_most: Mapping[str, float] = field(default_factory=dict)

    @property
    def servers(self) -> list[str]:
        """All of them, each once."""
        theirs = [name for peers in self.ratios.values() for name in peers]
        return list(dict.fromkeys([*self.ratios, *theirs, *self.beside, *self.bare.values()]))


PIPELINED: Final = {
    "asyncio streams": 3.5,
    "asyncio streams, maps": 3.5,
    "asyncio streams, keeps": 3.5,
    "uvloop streams": 2.5,
}
BARE: Final = {
    "events": "bare messages, events",
    "threads": "bare messages, threads",
    "threads, plain def": "bare messages, plain",
}
ALONE: Final = {"events": BARE["events"]}
HOSTED: Final = {f"aio on {loop}": {f"{loop} streams": 0.9} for loop in ("asyncio", "uvloop", "trio")}
SCENARIOS: Final = [
    Scenario(
        "echo: 64 B, 100 connections, 1 in flight on each",
        Load("echo", connections=100),
        {
            "events": {
                "asyncio streams": 2.3,
                "asyncio streams, maps": 2.3,
                "asyncio streams, keeps": 2.3,
                "uvloop streams": 0.9,
            },
            **HOSTED,
        },
        ALONE,
        ["pyzmq", "bare epoll loop", "epoll loop in C"],
    ),
    Scenario(
        "pipelined: 64 B, 1 connection, 64 in flight",
        Load("echo", in_flight=64),
        {"events": PIPELINED, "threads": PIPELINED, "threads, plain def": PIPELINED},
        BARE,
        ["pyzmq", "bare epoll loop", "epoll loop in C"],
    ),
    Scenario(
        "one way: 64 B",
        Load("oneway"),
        {"events": {"asyncio streams": 3, "uvloop streams": 3, "pyzmq": 1.2}},
        ALONE,
        ["threads", "bare epoll loop", "epoll loop in C"],
    ),
    Scenario(
        "echo: 64 B, 8 connections, 1 in flight on each",
        Load("echo", connections=8),
        {name: {"socketserver threads": 1.0} for name in ("threads", "threads, plain def")} | HOSTED,
        {name: BARE[name] for name in ("threads", "threads, plain def")},
    ),
    Scenario(
        "beside a flooder: 64 B, 1 in flight",
        Load("flood"),
        {"events": {}},
        {},
        ["asyncio streams", "uvloop streams"],
        {P99: 5000},  # microseconds
    ),
    Scenario(
        "idle connections",
        Load("idle", connections=9000),
        {"events": {}},
        {},
        ["asyncio streams", "uvloop streams"],
        {KIB: 3},
    ),
]

Figures = dict[str, list[dict[str, float]]]
"""What each server did, round by round."""


def measure(scenario: Scenario, name: str, seconds: float, scratch: Path) -> dict[str, float]:
    """One server in one round."""
    server, load = SERVERS[name], scenario.load
    with Stage(scratch, seconds + PATIENCE) as stage, serving(server, load.job, stage) as (address, process):
        if load.mode == "idle":
            run(WARM.command(address, server.wire, SETTLE), stage)
            memory = private(process.pid)
            with held(load.command(address, server.wire, seconds), stage):
                return {KIB: (private(process.pid) - memory) / load.connections}
        run(load.command(address, server.wire, SETTLE), stage)
        before = process.processor_seconds()
        found = run(load.command(address, server.wire, seconds), stage)
        if load.mode != "flood":  # where most of it is the flooder's
            found[COST] = (process.processor_seconds() - before) / found["messages"] * 1e6
        return found


def private(pid: int) -> int:
    """KiB of memory that belong to one process alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def table(scenario: Scenario, figures: Figures) -> str:
    """What was measured under one load: the medians of each server, then the ratios."""
    rows = [row for rounds in figures.values() for row in rounds]
    columns = [column for column in COLUMNS if column in rows[0]]
    lines = [scenario.name, f"  {'':<24}" + "".join(f"{COLUMNS[column]:>12}" for column in columns)]
    for name in scenario.servers:
        if not SERVERS[name].installed:
            lines.append(f"  {name:<24}{'not installed':>18}")
        if name not in figures:
            continue
        medians = {column: median(row[column] for row in figures[name]) for column in columns}
        shown = (f"{medians[column]:>12,.{0 if column in (RATE, 'p50', P99) else 2}f}" for column in columns)
        goals = (f"   goal {most:g} or less" for most in scenario.at_most.values() if name in scenario.ratios)
        lines.append(f"  {name:<24}" + "".join(shown) + "".join(goals))
    for ours, peers in scenario.ratios.items():
        for peer, least in peers.items():
            if ours in figures and peer in figures:
                faster, dearer = (ratios(figures, column, ours, peer) for column in (RATE, COST))
                spread = f"{median(faster):6.2f} ({min(faster):.2f} to {max(faster):.2f})"
                processor = f"by processor time {1 / median(dearer):.2f}"
                row = f"  {f'{ours} / {peer}':<42}{spread:<24}{f'goal {least:g} or more':<19}{processor:<24}"
                if (bare := scenario.bare.get(ours)) in figures:
                    row += f"bare {median(ratios(figures, RATE, bare, peer)):.2f}"
                lines.append(row.rstrip())
    return "\n".join(lines)


def ratios(figures: Figures, column: str, ours: str, peer: str) -> list[float]:
    """One figure of ours divided by the peer's, round by round."""
    return [us[column] / them[column] for us, them in zip(figures[ours], figures[peer], strict=True)]


def interrupted(number: int, _frame: object) -> NoReturn:
    """Leave by the way that stops the servers."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", default="", help="only scenarios whose name contains this")
    parser.add_argument("--servers", nargs="+", metavar="NAME", default=list(SERVERS), help="only these servers")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    results: dict[str, Any] = {}
    for scenario in (one for one in SCENARIOS if options.only in one.name):
        names = [name for name in scenario.servers if name in options.servers and SERVERS[name].installed]
        if not names:
            continue
        figures: Figures = {name: [] for name in names}
        for turn in range(options.rounds):
            # Nobody is always the first.
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                with tempfile.TemporaryDirectory() as scratch:
                    figures[name].append(measure(scenario, name, options.seconds, Path(scratch)))
                print(f"{scenario.name} {turn + 1}/{options.rounds} {name}", file=sys.stderr)
        print(table(scenario, figures) + "\n", flush=True)
        results[scenario.name] = figures
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
