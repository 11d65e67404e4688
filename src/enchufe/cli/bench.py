"""`enchufe bench`: measured on this machine, as a table with bars, as JSON, and as a file with a chart."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import enchufe
from enchufe import measure
from enchufe.cli import exits, output
from enchufe.cli.chart import as_html, as_svg
from enchufe.cli.short import failed
from enchufe.cli.show import in_bytes
from enchufe.errors import EnchufeError, StoreError
from enchufe.measure import Result

if TYPE_CHECKING:
    from rich.table import Table

_BAR: int = 24  # characters of the longest


def bench(
    address: str | None, *, seconds: float, only: Sequence[str], as_json: bool, html: str | None, svg: str | None
) -> int:
    """Measure, and show what was found: the exit code."""
    results: list[Result] = []
    try:
        chosen = measure.plan(address, only)
        for path in (html, svg):
            if path is not None:
                _check(path)
        for number, result in enumerate(measure.run(chosen, seconds), 1):
            results.append(result)
            _progress(f"{number} of {len(chosen)}: {result.kind.name}, {result.name}")
        _progress("")
        if as_json:
            output.write(json.dumps(as_dict(results)).encode() + b"\n")
        else:
            output.write(_tables(results).encode())
        for path, draw in ((html, as_html), (svg, as_svg)):
            if path is not None:
                _write(path, draw(results, machine()))
    except EnchufeError as error:
        _progress("")
        return failed(error)
    except KeyboardInterrupt:
        _progress("")
        raise
    return exits.DONE


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


def _check(path: str) -> None:
    """Find out that a file cannot be written before a minute is spent; what is there stays, until there is better."""
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


def _tables(results: Sequence[Result]) -> str:
    from rich.console import Console  # noqa: PLC0415 (slow to import)

    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=os.isatty(output.STDOUT), width=shutil.get_terminal_size().columns)
    for kind in dict.fromkeys(result.kind for result in results):
        better = "less is better" if kind.less_is_better else "more is better"
        console.print(f"\n{kind.title} ({better})", highlight=False, style="bold")
        console.print(_of_kind([result for result in results if result.kind == kind]))
    return drawn.getvalue()


def _of_kind(results: Sequence[Result]) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("lowest to highest", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    longest = max(result.median for result in results)
    for result in results:
        spread = f"{told(result, min(result.values))} to {told(result, max(result.values))}"
        bar = "█" * max(1, round(_BAR * result.median / longest))
        table.add_row(Text(result.name), told(result, result.median), spread, bar)
    return table
