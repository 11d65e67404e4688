"""Resume: one side of a transfer is killed in the middle, and the same command is run again.

    python -m benchmarks.resume                        4 GiB, on /dev/shm
    python -m benchmarks.resume --size 256MiB --on .   less, on the filesystem of this directory

Nobody reconnects by itself here (`--retry 0`): both commands end or are killed, and are run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import corpus as corpora
from benchmarks import memory, report, runs
from benchmarks.corpus import MIB, Corpus
from benchmarks.ourselves import Ourselves, told
from benchmarks.processes import Failed, Stage, free_port, own_peak

BLOCK: Final = MIB  # docs/protocol.md
RECORD: Final = 64  # bytes of a journal's record, and where in it what is: docs/protocol.md
WHICH: Final = slice(0, 20)
LENGTH: Final = slice(20, 24)
CHECKED: Final = 60
RATIO: Final = 1.15  # of an uncut transfer, that both runs together may last
SECONDS: Final = 1.0  # and so much more
UNCUT: Final = "nobody"
KILLED: Final = (UNCUT, "sender", "receiver")


@dataclass(frozen=True)
class Outcome:
    """A file that arrived, however often the command was run.

    Attributes:
        seconds: from the start of the first sender to the end of the last process.
        missing: bytes that the receiver did not have when the second run began.
        sent: bytes of the second run.
        sender_peak, receiver_peak: bytes resident at most.
    """

    seconds: float
    missing: int
    sent: int
    sender_peak: int
    receiver_peak: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 if a run failed or delivered anything wrong."""
    options = _parser().parse_args(arguments)
    print(*(f"{key}: {value}" for key, value in runs.machine(options.on, False).items()), sep=", ", flush=True)
    outcomes: dict[str, list[Outcome]] = {killed: [] for killed in KILLED}
    try:
        with runs.work_directory(options.on) as work, memory.held(4 * options.size):
            # What came of a cut transfer may lie beside what comes of the next.
            runs.check_space(3 * options.size + 64 * MIB, work)
            sources = work / "sources"
            sources.mkdir()
            sent = corpora.make("one", sources, size=options.size, seed=options.seed)
            # Not counted: memory that this machine never used before is slow the first time.
            _outcome(sent, work, UNCUT, options)
            for number in range(options.rounds):
                for killed in runs.turns(number, KILLED):
                    outcome = _outcome(sent, work, killed, options)
                    outcomes[killed].append(outcome)
                    print(f"{number + 1}/{options.rounds} {killed} killed {outcome.seconds:.3f} s", file=sys.stderr)
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    print(_table(outcomes, sent, options))
    if options.json:
        whole: dict[str, Any] = {
            killed: [asdict(outcome) for outcome in several] for killed, several in outcomes.items()
        }
        options.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 0


def _outcome(sent: Corpus, work: Path, killed: str, options: argparse.Namespace) -> Outcome:
    """One file sent into a fresh directory, checked and removed."""
    with runs.fresh(work / "into") as into, runs.fresh(work / "scratch") as scratch:
        runs.sync_filesystem(work)
        with Stage(scratch, options.timeout) as stage:
            outcome = _transfer(options.enchufe, sent, into, stage, killed, options.at / 100)
        runs.check("enchufe", sent, into)
    return outcome


def _transfer(ours: Ourselves, sent: Corpus, into: Path, stage: Stage, killed: str, share: float) -> Outcome:
    """Send the file; kill this side when so much of it has arrived, and run what has ended again."""
    size = sent.fingerprint.bytes
    port = free_port()
    receiver = ours.receive(into, stage, "--retry", "0", port=port)
    receivers = [receiver.process]
    send = ours.send(sent.path, receiver, stage, "--retry", "0")
    start = time.perf_counter()
    senders = stage.start(send)
    first = receiver.events
    journalled = 0
    if killed != UNCUT:
        both = [*senders, receiver.process]
        stage.until(lambda: _progress(first) >= share * size, both, "gets no further", seconds=None)
        victim = senders[0] if killed == "sender" else receiver.process
        victim.kill()
        if killed == "receiver":
            if not senders[0].ended(stage.deadline - time.monotonic()):
                raise senders[0].failure("does not notice that its receiver was killed")
            receiver = ours.receive(into, stage, "--retry", "0", port=port)
            receivers.append(receiver.process)
        senders += stage.start(send)
        # Before it connects: starting Python takes longer than looking.
        journalled = _journalled(into)
    for process in (senders[-1], receivers[-1]):
        process.finish(stage.deadline)
    seconds = time.perf_counter() - start
    (receipt,) = told(receiver.events, "receipt")
    missing = size if killed == UNCUT else size - max(journalled, _progress(first))
    return Outcome(seconds, missing, receipt["sent_bytes"], runs.peak(senders), runs.peak(receivers))


def _progress(events: Path) -> int:
    """Bytes that the receiver says it has verified and written, of what its first sender sent."""
    connected = 0
    most = 0
    for event in told(events, "connected", "progress"):
        connected += event["event"] == "connected"
        if event["event"] == "progress" and connected == 1:
            most = max(most, event["bytes"])
    return most


def _journalled(into: Path) -> int:
    """Bytes that the journals vouch for, if there are any."""
    blocks: dict[bytes, int] = {}
    for path in into.glob(".enchufe/*/journal"):
        data = path.read_bytes()
        for at in range(0, len(data) - RECORD + 1, RECORD):
            record = data[at : at + RECORD]
            if int.from_bytes(record[CHECKED:], "big") != zlib.crc32(record[:CHECKED]):
                continue
            blocks[record[WHICH]] = int.from_bytes(record[LENGTH], "big")
    return sum(blocks.values())


def _table(outcomes: dict[str, list[Outcome]], sent: Corpus, options: argparse.Namespace) -> str:
    uncut = median(outcome.seconds for outcome in outcomes[UNCUT])
    size = sent.fingerprint.bytes
    lines = [f"one file, {size / 1e6:,.0f} MB, killed at {options.at} %, {options.rounds} rounds; medians"]
    lines.append(f"  nobody killed: {uncut:.3f} s")
    for killed in KILLED[1:]:
        several = outcomes[killed]
        sent_bytes, missing = median(each.sent for each in several), median(each.missing for each in several)
        twice = median((each.sent - each.missing) / BLOCK for each in several)
        seconds = median(each.seconds for each in several)
        lines.append(
            f"  {killed} killed: {missing / 1e6:,.0f} MB were missing, {sent_bytes / 1e6:,.0f} MB sent,"
            f" {twice:.1f} blocks too many; {report.against(twice, most=options.streams)}"
        )
        goal = report.against(seconds, most=round(RATIO * uncut + SECONDS, 3))
        lines.append(f"    both runs {seconds:.3f} s, {seconds / uncut:.2f} of the uncut one; {goal}")
    every = [outcome for several in outcomes.values() for outcome in several]
    peaks = [each.sender_peak for each in every], [each.receiver_peak for each in every]
    lines.append(report.memory(*peaks, own_peak()))
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = runs.options("resume", __doc__ or "", rounds=3, timeout=600)
    parser.add_argument("--size", type=runs.size, default="4GiB", help="of the file; default: %(default)s")
    parser.add_argument("--at", type=runs.positive, default=50, metavar="PERCENT", help="default: %(default)s")
    parser.add_argument(
        "--streams", type=runs.positive, default=2, help="a block for each may be sent twice; default: %(default)s"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
