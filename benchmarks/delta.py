"""A second run over what is there already: many unchanged files, and a big one that changed here and there.

    python -m benchmarks.delta                         100,000 files, and one of 1 GiB, on /dev/shm
    python -m benchmarks.delta --count 5000 --size 64MiB --on .

enchufe receives with `--if-exists update`; against it `rsync -a`, through its daemon and without a network, and for the
changed file the daemon with `--no-whole-file`.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import corpus as corpora
from benchmarks import report, runs
from benchmarks.corpus import KIB, MIB, Corpus
from benchmarks.peers import Peer, absences, enchufe, rsync, rsync_locally
from benchmarks.processes import Failed, own_peak

NAMES: Final = ("unchanged", "changed")
BLOCK: Final = MIB
SIZES: Final = (1 * KIB, 4 * KIB)  # of the unchanged files: what is in them is not read again
GOALS: Final = {"rsync": 1.0, "rsync-local": 1.0}  # how many times as fast enchufe has to be
SENT_GOAL: Final = 2.0  # percent of the changed file that may cross, where 1 % of it changed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; 1 if a run failed or delivered anything wrong."""
    options = _parser().parse_args(arguments)
    if options.sync is None:
        options.sync = runs.filesystem(options.on) != "tmpfs"
    print(*(f"{key}: {value}" for key, value in runs.machine(options.on, options.sync).items()), sep=", ", flush=True)
    results: dict[str, Any] = {}
    with runs.reported(results, options.json), runs.work_directory(options.on) as work:
        if "unchanged" in options.corpus:
            results["unchanged"] = _unchanged(work, options)
        if "changed" in options.corpus:
            results["changed"] = _changed(work, options)
    return 0


def _unchanged(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Each brings the tree to a place of its own, and then, timed, once more."""
    peers = _present(
        [
            Peer("rsync", "rsync -a, daemon", ["rsync"], rsync()),
            Peer("rsync-local", "rsync -a, locally", ["rsync"], rsync_locally),
            enchufe(options.enchufe, "--if-exists", "update"),
        ]
    )
    runs.check_space((len(peers) + 1) * options.count * SIZES[1] + 64 * MIB, work)
    with runs.fresh(work / "sources") as sources, runs.fresh(work / "there") as there:
        sent = corpora.make("small", sources, count=options.count, seed=options.seed, sizes=SIZES)
        measured = {name: report.Measured(peer.label) for name, peer in peers.items()}
        first = report.Measured("first run")
        sent_bytes: list[int] = []

        def bring(name: str) -> runs.Run:
            place = there / name
            run = runs.timed(
                peers[name], sent.path, place, work / "scratch", timeout=options.timeout, sync=options.sync
            )
            print(f"unchanged {name} {run.seconds:.3f} s", file=sys.stderr)
            return run

        for name in peers:
            (there / name).mkdir()
            run = bring(name)
            if name == "enchufe":
                first.add(run)
        for number in range(options.rounds):
            for name in runs.turns(number, list(peers)):
                run = bring(name)
                measured[name].add(run)
                if name == "enchufe":
                    sent_bytes.append(run.sent_bytes)
        for name in peers:
            _check_alone(name, sent, there / name)
    print("unchanged, the second run:")
    print(report.table(sent, measured, own_peak(), GOALS))
    print(f"  sent by enchufe: {max(sent_bytes):,} bytes; {report.against(max(sent_bytes), most=0)}")
    print(f"  its first run: {first.seconds[0]:.3f} s")
    print(report.memory(first.sender_peaks, first.receiver_peaks, own_peak()), "\n", flush=True)
    whole = report.as_json(sent, measured, own_peak(), GOALS)
    return {**whole, "sent_bytes": sent_bytes, "first_peaks": [first.sender_peaks[0], first.receiver_peaks[0]]}


def _changed(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Each finds the old file in place, and brings the new one."""
    peers = _present(
        [
            Peer("rsync", "rsync -a, its delta", ["rsync"], rsync("--no-whole-file")),
            enchufe(options.enchufe, "--if-exists", "update"),
        ]
    )
    runs.check_space(4 * options.size + 64 * MIB, work)
    with runs.fresh(work / "sources") as sources, runs.fresh(work / "old") as old:
        before = corpora.make("one", old, size=options.size, seed=options.seed)
        sent = _change(before, sources, random.Random(options.seed))
        measured = {name: report.Measured(peer.label) for name, peer in peers.items()}
        shares: list[float] = []
        for number in range(options.rounds):
            for name in runs.turns(number, list(peers)):
                with runs.fresh(work / "into") as into:
                    shutil.copy2(before.path, into)
                    run = runs.timed(
                        peers[name], sent.path, into, work / "scratch", timeout=options.timeout, sync=options.sync
                    )
                    _check_alone(name, sent, into)
                measured[name].add(run)
                if name == "enchufe":
                    shares.append(100 * run.sent_bytes / sent.fingerprint.bytes)
                print(f"changed {number + 1}/{options.rounds} {name} {run.seconds:.3f} s", file=sys.stderr)
    print("changed, 1 % of its blocks:")
    print(report.table(sent, measured, own_peak(), GOALS))
    share = median(shares)
    print(f"  sent by enchufe: {share:.2f} % of its bytes; {report.against(share, most=SENT_GOAL)}\n", flush=True)
    return {**report.as_json(sent, measured, own_peak(), GOALS), "sent_percent": shares}


def _change(before: Corpus, into: Path, source: random.Random) -> Corpus:
    """The same file, in which one aligned block of a hundred holds something else; with a time of its own."""
    path = into / before.name
    shutil.copyfile(before.path, path)
    blocks = max(1, before.fingerprint.bytes // BLOCK)
    with path.open("r+b", buffering=0) as file:
        for block in source.sample(range(blocks), max(1, blocks // 100)):
            file.seek(block * BLOCK)
            file.write(source.randbytes(min(BLOCK, before.fingerprint.bytes - block * BLOCK)))
    return Corpus(before.name, path, corpora.fingerprint(path))


def _check_alone(name: str, sent: Corpus, into: Path) -> None:
    """It took the place of what was there: no second copy under another name."""
    runs.check(name, sent, into)
    visible = [path.name for path in into.iterdir() if not path.name.startswith(".")]
    if visible != [sent.path.name]:
        raise Failed(f"{name} left {', '.join(sorted(visible))} instead of `{sent.path.name}` alone")


def _present(peers: Sequence[Peer]) -> dict[str, Peer]:
    absent = absences(peers)
    if absent:
        raise Failed("; ".join(f"{name}: {why}" for name, why in absent.items()))
    return {peer.name: peer for peer in peers}


def _parser() -> argparse.ArgumentParser:
    parser = runs.options("delta", __doc__ or "", rounds=3, timeout=600)
    parser.add_argument("--corpus", type=runs.names(NAMES), default=list(NAMES), metavar="A,B", help=", ".join(NAMES))
    parser.add_argument("--count", type=runs.positive, default=100_000, help="unchanged files; default: %(default)s")
    parser.add_argument("--size", type=runs.size, default="1GiB", help="of the changed file; default: %(default)s")
    runs.sync(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
