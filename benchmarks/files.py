"""Files: enchufe and its peers move the same files over loopback, side by side, and ratios are printed.

    python -m benchmarks.files                         everything, on /dev/shm
    python -m benchmarks.files --corpus small --on .   one corpus, on the filesystem of this directory

See the README beside this file for what is timed and what is not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import corpus as corpora
from benchmarks import memory, report, runs
from benchmarks.ourselves import Ourselves
from benchmarks.peers import Peer, absences, peers
from benchmarks.processes import Failed, own_peak

# How many times as fast as the peer enchufe has to be: in plain text, and encrypted.
GOALS: Final[Mapping[str, Mapping[str, float]]] = {
    "one": {"socat": 1.0, "rsync": 1.5, "wdt": 1.0},
    "small": {"tar": 1.2, "rsync": 2.0, "wdt": 1.0},
    "lib": {"tar": 1.2, "wdt": 1.0},
}
ENCRYPTED: Final = ("encrypted", "known")
ENCRYPTED_GOALS: Final[Mapping[str, Mapping[str, float]]] = {
    "one": {"socat": 0.85, "scp": 3.0, "wormhole": 4.0, "wdt-gcm": 1.0},
    "small": {"tar": 1.0, "rsync-ssh": 3.0, "wdt-gcm": 1.0},
    "lib": {"wdt-gcm": 1.0},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; 1 if a run failed, delivered anything wrong, or nothing was measured."""
    options = _parser().parse_args(arguments)
    known = peers(options.enchufe, options.also)
    chosen = [peer for peer in known if options.only is None or peer.name in (*options.only, *_names(options.also))]
    absent = absences(chosen)
    present = [peer for peer in chosen if peer.name not in absent]
    if options.sync is None:
        options.sync = runs.filesystem(options.on) != "tmpfs"
    machine = runs.machine(options.on, options.sync)
    print(*(f"{key}: {value}" for key, value in machine.items()), sep=", ")
    print(*(f"LEFT OUT {name}: {why}\n" for name, why in absent.items()), sep="", flush=True)
    results: dict[str, Any] = {}
    try:
        with runs.work_directory(options.on) as work:
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
    able = {peer.name: peer for peer in present if (peer.files if name == "one" else peer.trees)}
    kind = "files" if name == "one" else "trees"
    unable = [peer.name for peer in present if peer.name not in able]
    if not able:
        print(f"{name}: nobody here sends {kind}\n")
        return
    needed = 2 * corpora.bytes_needed(name, size=options.size, count=options.count) + 64 * 2**20
    runs.check_space(needed, work)
    with memory.held(2 * needed):
        _measure_held(name, able, work, options, results)
    print(f"  do not send {kind}: {', '.join(unable)}\n" if unable else "", flush=True)


def _measure_held(
    name: str, able: Mapping[str, Peer], work: Path, options: argparse.Namespace, results: dict[str, Any]
) -> None:
    sources = work / "sources"
    sources.mkdir()
    sent = corpora.make(name, sources, size=options.size, count=options.count, seed=options.seed)
    measured = {peer.name: report.Measured(peer.label) for peer in able.values()}
    for number in range(options.rounds):
        for peer in runs.turns(number, list(able)):
            with runs.fresh(work / "into") as into:
                run = runs.timed(
                    able[peer], sent.path, into, work / "scratch", timeout=options.timeout, sync=options.sync
                )
                runs.check(peer, sent, into)
            measured[peer].add(run)
            print(f"{name} {number + 1}/{options.rounds} {peer} {run.seconds:.3f} s", file=sys.stderr)
    print(report.table(sent, measured, own_peak(), GOALS[name]))
    results[name] = report.as_json(sent, measured, own_peak(), GOALS[name])
    for by in ENCRYPTED:
        if by in measured:
            print(report.table(sent, measured, own_peak(), ENCRYPTED_GOALS[name], by=by))
            results[f"{name}, {by}"] = report.as_json(sent, measured, own_peak(), ENCRYPTED_GOALS[name], by=by)
    shutil.rmtree(sources)


def _names(variants: Sequence[Ourselves]) -> Sequence[str]:
    return [variant.label for variant in variants]


def _parser() -> argparse.ArgumentParser:
    parser = runs.options("files", __doc__ or "", rounds=5, timeout=600)
    names = [peer.name for peer in peers(Ourselves(["enchufe"]))]
    parser.add_argument("--corpus", type=runs.names(corpora.NAMES), default=list(corpora.NAMES), metavar="A,B")
    parser.add_argument("--only", type=runs.names(names), metavar="A,B", help=f"some of: {', '.join(names)}")
    parser.add_argument("--size", type=runs.size, default="2GiB", help="size of `one`; default: %(default)s")
    parser.add_argument("--count", type=runs.positive, default=20_000, help="files in `small`; default: %(default)s")
    runs.sync(parser)
    runs.also(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
