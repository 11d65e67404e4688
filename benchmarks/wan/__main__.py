"""A long link: one big file, and many small ones, against scp, plain TCP connections, and tar through netcat.

    python -m benchmarks.wan [--rtt 50 --rate 1000 --loss 0.1]

As root: it makes two network namespaces and takes them away again. The small files cross a link of the same rate and
loss, with --small-rtt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import corpus as corpora
from benchmarks import report, runs
from benchmarks.corpus import KIB
from benchmarks.ourselves import Ourselves
from benchmarks.peers import Peer, absences, peers
from benchmarks.processes import own_peak
from benchmarks.wan import link as links
from benchmarks.wan import tcp
from benchmarks.wan.link import Link

CONGESTION: Final = "bbr"  # of the raw connections
GOALS: Final = {"scp": 4.0, "tcp8": 1.0}  # how many times as fast enchufe has to be
TOO_SLOW: Final = ("scp",)  # waits some round trips for each file: a quarter of an hour
SMALL_SECONDS: Final = 1.0  # that the small files may take longer than tar through netcat


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both; 1 if a run failed, delivered anything wrong, or nothing was measured."""
    options = _parser().parse_args(arguments)
    if why := links.absence():
        print(f"FAILED: {why}", file=sys.stderr)
        return 1
    long = Link(options.rtt, options.rate, options.loss, options.congestion, options.seed)
    known = {peer.name: peer for peer in _peers(options.enchufe, options.also)}
    absent = absences(list(known.values()))
    print(*(f"{key}: {value}" for key, value in runs.machine(options.on, False).items()), sep=", ")
    print(*(f"LEFT OUT {name}: {why}\n" for name, why in absent.items()), sep="", flush=True)
    present = [peer for peer in known.values() if peer.name not in absent]
    results: dict[str, Any] = {}
    with runs.reported(results, options.json), runs.work_directory(options.on) as work:
        if "one" in options.corpus:
            able = [peer for peer in present if peer.files]
            results["one"] = _measure("one", able, long, work, options)
        if "small" in options.corpus:
            able = [peer for peer in present if peer.trees and peer.name not in TOO_SLOW]
            results["small"] = _measure("small", able, replace(long, rtt=options.small_rtt), work, options)
    return 0


def _peers(ours: Ourselves, variants: Sequence[Ourselves]) -> list[Peer]:
    """Who can cross it; enchufe is the last, in plain text and encrypted."""
    wanted = ("scp", "wdt", "wdt-gcm", "tar", "enchufe", "encrypted", *(variant.label for variant in variants))
    raw = [tcp.peer(1, CONGESTION), tcp.peer(8, CONGESTION)]
    return [*raw, *(peer for peer in peers(ours, variants) if peer.name in wanted)]


def _measure(name: str, able: Sequence[Peer], link: Link, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One corpus over one link: rounds in which all run, a table, the link's own counters."""
    sources = work / "sources"
    with runs.fresh(sources):
        sent = corpora.make(
            name, sources, size=options.size, count=options.count, seed=options.seed, sizes=(4 * KIB, 4 * KIB)
        )
        measured = {peer.name: report.Measured(peer.label) for peer in able}
        by_name = {peer.name: peer for peer in able}
        scratch = work / f"link-{name}"
        with links.up(link, scratch) as network:
            for number in range(options.rounds):
                for peer in runs.turns(number, list(by_name)):
                    with runs.fresh(work / "into") as into:
                        run = runs.timed(
                            by_name[peer], sent.path, into, work / "scratch", timeout=options.timeout, network=network
                        )
                        if by_name[peer].delivers:
                            runs.check(peer, sent, into)
                    measured[peer].add(run)
                    print(f"{name} {number + 1}/{options.rounds} {peer} {run.seconds:.3f} s", file=sys.stderr)
        counted = links.counters(scratch)
    goals = GOALS if name == "one" else {}
    print(f"over {link}")
    print(report.table(sent, measured, own_peak(), goals))
    if name == "small" and {"tar", "enchufe"} <= measured.keys():
        print(_small_goal(measured))
    print(*(f"  {line}" for line in counted.splitlines()), "", sep="\n", flush=True)
    return {**report.as_json(sent, measured, own_peak(), goals), "link": asdict(link), "counters": counted}


def _small_goal(measured: Mapping[str, report.Measured]) -> str:
    pairs = zip(measured["enchufe"].seconds, measured["tar"].seconds, strict=True)
    longer = median(ours - theirs for ours, theirs in pairs)
    return f"  seconds longer than tar | nc: {longer:.2f}; {report.against(longer, most=SMALL_SECONDS)}"


def _parser() -> argparse.ArgumentParser:
    parser = runs.options("wan", __doc__ or "", rounds=3, timeout=300)
    parser.add_argument("--rtt", type=float, default=50, metavar="MS", help="there and back; default: %(default)s")
    parser.add_argument("--rate", type=float, default=1000, metavar="MBIT", help="a second; default: %(default)s")
    parser.add_argument("--loss", type=float, default=0.1, metavar="PERCENT", help="each way; default: %(default)s")
    parser.add_argument("--small-rtt", type=float, default=250, metavar="MS", help="default: %(default)s")
    parser.add_argument("--congestion", metavar="NAME", help="of who chooses none; default: as this machine has it")
    names = ["one", "small"]
    parser.add_argument("--corpus", type=runs.names(names), default=names, metavar="A,B", help="one, small, or both")
    parser.add_argument("--size", type=runs.size, default="256MiB", help="size of `one`; default: %(default)s")
    parser.add_argument("--count", type=runs.positive, default=2000, help="files of 4 KiB; default: %(default)s")
    runs.also(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
