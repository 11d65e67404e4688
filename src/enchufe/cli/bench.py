"""`enchufe bench`: measured on this machine, as a table with bars, as JSON, and as a file with a chart."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, Final

import enchufe
from enchufe import measure
from enchufe.cli import exits, output
from enchufe.cli.chart import as_html, as_svg
from enchufe.cli.short import failed
from enchufe.cli.show import in_bytes
from enchufe.errors import EnchufeError, LocalProtocolError, StoreError
from enchufe.measure import Result

# In characters, of the longest bar: the most, and the least that still compares anything.
_BAR: Final = 24
_LEAST_BAR: Final = 8


def bench(
    address: str | None, *, seconds: float, only: Sequence[str], as_json: bool, html: str | None, svg: str | None
) -> int:
    """Measure, and show what was found, also where something failed then: the exit code."""
    drawn = [(path, draw) for path, draw in ((html, as_html), (svg, as_svg)) if path is not None]
    results: list[Result] = []
    code = exits.DONE
    try:
        chosen = measure.plan(address, only)
        _check([path for path, _ in drawn])
        try:
            for number, result in enumerate(measure.run(chosen, seconds), 1):
                results.append(result)
                _progress(f"{number} of {len(chosen)}: {result.kind.name}, {result.name}")
        except EnchufeError as error:
            if not results:
                raise
            _progress("")
            code = failed(error)
        _progress("")
        if as_json:
            output.write(json.dumps(as_dict(results)).encode() + b"\n")
        else:
            output.write(tables(results, shutil.get_terminal_size().columns).encode())
        for path, draw in drawn:
            _write(path, draw(results, machine()))
    except EnchufeError as error:
        _progress("")
        return failed(error)
    except KeyboardInterrupt:
        _progress("")
        raise
    return code


def as_dict(results: Sequence[Result]) -> dict[str, Any]:
    """All results as JSON can say them."""
    return {"v": 1, "machine": machine(), "results": [result.as_dict() for result in results]}


def machine() -> str:
    """What was measured, in a line."""
    implementation = f"{platform.python_implementation()} {platform.python_version()}"
    return f"enchufe {enchufe.__version__}, {implementation}, {platform.system()} {platform.release()}"


def told(result: Result, value: float) -> str:
    """A value with its unit, for a person."""
    if result.kind.unit == "bytes/s":
        return f"{in_bytes(value)}/s"
    if result.kind.unit == "microseconds":
        return f"{value:,.1f} µs" if value < 1e4 else f"{value / 1e3:,.1f} ms"
    return (
        f"{value / 1e6:,.2f} M/s" if value >= 1e6 else f"{value / 1e3:,.1f} k/s" if value >= 1e3 else f"{value:.1f}/s"
    )


def _progress(text: str) -> None:
    """Say how far it is, on a terminal, over what stood there."""
    if sys.stderr.isatty():
        output.tell(f"\r\x1b[K{text}")


def _check(paths: Sequence[str]) -> None:
    """Find out that a file cannot be written before a minute is spent; what is there stays, until there is better."""
    if "-" in paths:
        raise LocalProtocolError("a chart goes into a file", hint="Name it; on standard output there is the table.")
    if len(set(map(os.path.realpath, paths))) < len(paths):
        raise LocalProtocolError("the page and the chart cannot be one file", hint="The page has the chart in it.")
    for path in paths:
        was_there = os.path.lexists(path)
        _write(path, "", "a")
        if not was_there:
            os.unlink(path)


def _write(path: str, text: str, mode: str = "w") -> None:
    try:
        with open(path, mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"cannot write {path!r}: {error.strerror}") from error


def tables(results: Sequence[Result], columns: int) -> str:
    """A table for every kind: names and medians always, ranges and bars where so many columns have room for them."""
    parts = []
    for kind in dict.fromkeys(result.kind for result in results):
        better = "less is better" if kind.less_is_better else "more is better"
        parts += ["", *textwrap.wrap(f"{kind.title} ({better})", columns, break_long_words=False)]
        parts += _of_kind([result for result in results if result.kind == kind], columns)
    return "".join(f"{line}\n" for line in parts)


def _of_kind(results: Sequence[Result], columns: int) -> list[str]:
    longest = max(result.median for result in results)
    rows = [("", "median", "lowest to highest")] + [
        (
            result.name,
            told(result, result.median),
            f"{told(result, min(result.values))} to {told(result, max(result.values))}",
        )
        for result in results
    ]
    names, medians, ranges = (max(map(len, cells)) for cells in zip(*rows, strict=True))
    lines = [f"{name:{names}}  {median:>{medians}}" for name, median, _ in rows]
    room = columns - names - medians - ranges - 4
    if room >= 0:
        lines = [f"{line}  {spread:>{ranges}}" for line, (_, _, spread) in zip(lines, rows, strict=True)]
    bar = min(_BAR, room - 2)
    if bar >= _LEAST_BAR:
        lines[1:] = [
            f"{line}  {'█' * max(1, round(bar * result.median / longest))}"
            for line, result in zip(lines[1:], results, strict=True)
        ]
    return lines
