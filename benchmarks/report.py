"""From the seconds of every run to ratios: a table for people, and the same for programs.

The peers of one round run within a minute of each other, so their ratio holds where the seconds themselves
drift with whatever else the machine does. What is reported is the median of the rounds' ratios and their range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks.corpus import Corpus
from benchmarks.runs import Run

MEMORY_GOAL: Final = 200 * 2**20  # bytes a side


@dataclass
class Measured:
    """One peer with one corpus: the seconds and the peaks (bytes resident) of each round."""

    label: str
    seconds: list[float] = field(default_factory=list)
    sender_peaks: list[int] = field(default_factory=list)
    receiver_peaks: list[int] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """One more round."""
        self.seconds.append(run.seconds)
        self.sender_peaks.append(run.sender_peak)
        self.receiver_peaks.append(run.receiver_peak)


OURS: Final = "enchufe"


def reference(measured: Mapping[str, Measured], wanted: str = OURS) -> str:
    """Whose speed the others' is compared with: the wanted one's, or the first peer's where that does not run."""
    return wanted if wanted in measured else next(iter(measured))


def ratios(one: Measured, other: Measured) -> list[float]:
    """How many times as fast as the other this one was, round by round."""
    return [theirs / ours for ours, theirs in zip(one.seconds, other.seconds, strict=True)]


def table(
    corpus: Corpus, measured: Mapping[str, Measured], floor: int, goals: Mapping[str, float], by: str = OURS
) -> str:
    """One corpus as a table.

    Args:
        corpus: what was sent.
        measured: the peers by their names.
        floor: the memory of the program that started the others, see `processes.py`.
        goals: how many times as fast as the peer of this name enchufe has to be.
        by: which enchufe it is that the others are compared with.
    """
    chosen = measured[reference(measured, by)]
    amount, unit = _amount(corpus)
    files = "1 file" if corpus.fingerprint.files == 1 else f"{corpus.fingerprint.files:,} files"
    lines = [
        f"{corpus.name}: {files}, {corpus.fingerprint.bytes / 1e6:,.0f} MB, {len(chosen.seconds)} rounds",
        f"  {'':<20} {'median s':>9} {unit:>9}   speed of {chosen.label} / its speed (min..max)",
    ]
    for name, entry in measured.items():
        seconds, compared = median(entry.seconds), ratios(chosen, entry)
        ratio = f"{median(compared):9.2f}  ({min(compared):.2f}..{max(compared):.2f})"
        goal = goals.get(name) if by in measured else None
        lines.append(
            f"  {entry.label:<20} {seconds:9.3f} {amount / seconds:9,.0f}   "
            + ("        -" if entry is chosen else f"{ratio:<28}{against(median(compared), least=goal)}").rstrip()
        )
    if by in measured:
        lines.append(memory(chosen.sender_peaks, chosen.receiver_peaks, floor))
    return "\n".join(lines)


def against(value: float, *, least: float | None = None, most: float | None = None) -> str:
    """A goal, and whether it is reached; nothing where there is none."""
    if least is not None:
        return f"goal >= {least:g}: {'yes' if value >= least else 'NO'}"
    if most is not None:
        return f"goal <= {most:g}: {'yes' if value <= most else 'NO'}"
    return ""


def memory(sender: Sequence[int], receiver: Sequence[int], floor: int) -> str:
    """A line about the peaks of enchufe's two sides."""
    goal = against(max(*sender, *receiver) / 2**20, most=MEMORY_GOAL / 2**20)
    return (
        f"  peak memory of enchufe: sender {_peak(max(sender), floor)}, receiver {_peak(max(receiver), floor)}; {goal}"
    )


def as_json(
    corpus: Corpus, measured: Mapping[str, Measured], floor: int, goals: Mapping[str, float], by: str = OURS
) -> dict[str, Any]:
    """One corpus with every figure of every round."""
    amount, unit = _amount(corpus)
    by = reference(measured, by)
    found: dict[str, Any] = {}
    for name, entry in measured.items():
        compared = ratios(measured[by], entry)
        found[name] = {
            "label": entry.label,
            "seconds": entry.seconds,
            "median_seconds": median(entry.seconds),
            unit: amount / median(entry.seconds),
            "ratio": {"median": median(compared), "min": min(compared), "max": max(compared)},
            "goal": goals.get(name),
        }
        if name == by:
            found[name]["peak_rss"] = {
                "sender": entry.sender_peaks,
                "receiver": entry.receiver_peaks,
                "floor": floor,
            }
    return {"files": corpus.fingerprint.files, "bytes": corpus.fingerprint.bytes, "reference": by, "peers": found}


def _amount(corpus: Corpus) -> tuple[float, str]:
    if corpus.is_tree:
        return corpus.fingerprint.files, "files/s"
    return corpus.fingerprint.bytes / 1e6, "MB/s"


def _peak(peak: int, floor: int) -> str:
    # In MiB, as the goal is.
    return f"{peak / 2**20:.0f} MiB" if peak > floor else f"at most {floor / 2**20:.0f} MiB"
