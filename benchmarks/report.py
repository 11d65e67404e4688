"""From the seconds of every run to ratios: a table for people, and the same for programs.

The peers of one round run within a minute of each other, so their ratio holds where the seconds themselves
drift with whatever else the machine does. What is reported is the median of the rounds' ratios and their range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.corpus import Corpus


@dataclass
class Measured:
    """One peer with one corpus: the seconds and the peaks (bytes resident) of each round."""

    label: str
    seconds: list[float] = field(default_factory=list)
    sender_peaks: list[int] = field(default_factory=list)
    receiver_peaks: list[int] = field(default_factory=list)


def reference(measured: Mapping[str, Measured]) -> str:
    """Whose speed the others' is compared with: enchufe's, or the first peer's where enchufe does not run."""
    return "enchufe" if "enchufe" in measured else next(iter(measured))


def ratios(one: Measured, other: Measured) -> list[float]:
    """How many times as fast as the other this one was, round by round."""
    return [theirs / ours for ours, theirs in zip(one.seconds, other.seconds, strict=True)]


def table(corpus: Corpus, measured: Mapping[str, Measured], floor: int) -> str:
    """One corpus as a table. `floor` is the memory of the program that started the others, see `processes.py`."""
    by = measured[reference(measured)]
    amount, unit, digits = _amount(corpus)
    files = "1 file" if corpus.fingerprint.files == 1 else f"{corpus.fingerprint.files:,} files"
    lines = [
        f"{corpus.name}: {files}, {corpus.fingerprint.bytes / 1e6:,.0f} MB, {len(by.seconds)} rounds",
        f"  {'':<20} {'median s':>9} {unit:>9}   speed of {by.label} / its speed (min..max)",
    ]
    for entry in measured.values():
        seconds, compared = median(entry.seconds), ratios(by, entry)
        ratio = f"{median(compared):9.2f}  ({min(compared):.2f}..{max(compared):.2f})"
        lines.append(
            f"  {entry.label:<20} {seconds:9.3f} {amount / seconds:9,.{digits}f}   "
            + ("        -" if entry is by else ratio)
        )
    if "enchufe" in measured:
        ours = measured["enchufe"]
        sender, receiver = (_peak(max(peaks), floor) for peaks in (ours.sender_peaks, ours.receiver_peaks))
        lines.append(f"  peak memory of enchufe: sender {sender}, receiver {receiver}")
    return "\n".join(lines)


def as_json(corpus: Corpus, measured: Mapping[str, Measured], floor: int) -> dict[str, Any]:
    """One corpus with every figure of every round."""
    amount, unit, _ = _amount(corpus)
    by = reference(measured)
    found: dict[str, Any] = {}
    for name, entry in measured.items():
        compared = ratios(measured[by], entry)
        found[name] = {
            "label": entry.label,
            "seconds": entry.seconds,
            "median_seconds": median(entry.seconds),
            unit: amount / median(entry.seconds),
            "ratio": {"median": median(compared), "min": min(compared), "max": max(compared)},
        }
        if name == "enchufe":
            found[name]["peak_rss"] = {
                "sender": entry.sender_peaks,
                "receiver": entry.receiver_peaks,
                "floor": floor,
            }
    return {"files": corpus.fingerprint.files, "bytes": corpus.fingerprint.bytes, "reference": by, "peers": found}


def _amount(corpus: Corpus) -> tuple[float, str, int]:
    if corpus.is_tree:
        return corpus.fingerprint.files, "files/s", 0
    return corpus.fingerprint.bytes / 1e9, "GB/s", 2


def _peak(peak: int, floor: int) -> str:
    return f"{peak / 1e6:.0f} MB" if peak > floor else f"at most {floor / 1e6:.0f} MB"
