"""Results as one self-contained file: a chart in SVG, or that and the numbers in HTML; for light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from enchufe.measure import Kind, Result

# In pixels.
_WIDTH: Final = 920
_LEFT: Final = 230  # of the axis: where names end
_RIGHT: Final = 100  # for the value behind the longest bar
_ROW: Final = 22
_HEAD: Final = 40  # a panel's title
_FOOT: Final = 58  # its axis
_TOP: Final = 64  # the chart's title

_STYLE: Final = """
.chart { --ground: #ffffff; --ink: #1c2733; --soft: #5b6b7b; --grid: #dfe5ea; --bar: #1f6fb2; --range: #0c2f4d;
  font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 13px; fill: var(--ink); }
@media (prefers-color-scheme: dark) {
  .chart { --ground: #14191f; --ink: #e8edf2; --soft: #9fb0c0; --grid: #2c3640; --bar: #5aa9e6; --range: #e8edf2; }
}
.chart .ground { fill: var(--ground); } .chart .soft { fill: var(--soft); } .chart .title { font-weight: 600; }
.chart .bar { fill: var(--bar); } .chart .grid { stroke: var(--grid); }
.chart .range { stroke: var(--range); stroke-width: 1.5; }
"""

_PAGE_STYLE: Final = """
:root { color-scheme: light dark; }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; font-family: system-ui, sans-serif; background: #ffffff;
  color: #1c2733; }
svg { max-width: 100%; height: auto; } .numbers { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: 0.25rem 0.75rem; text-align: left; border-bottom: 1px solid #dfe5ea; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) { body { background: #14191f; color: #e8edf2; } th, td { border-color: #2c3640; } }
"""


def as_svg(results: Sequence[Result], machine: str) -> str:
    """The chart: a panel for every kind, bars for medians, a line on each from the lowest to the highest round."""
    parts: list[str] = []
    height = _TOP
    for kind in dict.fromkeys(result.kind for result in results):
        of_kind = [result for result in results if result.kind == kind]
        parts += _panel(kind, of_kind, height)
        height += _HEAD + _ROW * len(of_kind) + _FOOT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" role="img" aria-label="enchufe bench">',
            f"<style>{_STYLE}</style>",
            '<rect class="ground" width="100%" height="100%"/>',
            _text(16, 28, "enchufe bench", "title"),
            _text(16, 48, f"{machine}; bars: median, lines: lowest to highest round", "soft"),
            *parts,
            "</svg>\n",
        ]
    )


def as_html(results: Sequence[Result], machine: str) -> str:
    """A page with the chart and the numbers."""
    rows = "\n".join(
        f"<tr><td>{escape(result.kind.name)}</td><td>{escape(result.name)}</td>"
        + "".join(
            f'<td class="number">{value:,.1f}</td>' for value in (result.median, min(result.values), max(result.values))
        )
        + f"<td>{escape(result.kind.unit)}</td></tr>"
        for result in results
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>enchufe bench</title>
<style>{_PAGE_STYLE}</style>
</head>
<body>
{as_svg(results, machine)}
<div class="numbers">
<table>
<thead><tr><th>measured</th><th>of</th><th class="number">median</th><th class="number">lowest</th>
<th class="number">highest</th><th>unit</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
</body>
</html>
"""


def _panel(kind: Kind, results: Sequence[Result], top: int) -> list[str]:
    step, count = _ticks(max(max(result.values) for result in results))
    width = _WIDTH - _LEFT - _RIGHT
    scale = width / (step * count)
    bars, bottom = top + _HEAD, top + _HEAD + _ROW * len(results)
    divisor, unit = _unit(kind, step * count)
    better = "shorter is better" if kind.less_is_better else "longer is better"
    drawn = [_text(16, top + 22, kind.title, "title")]
    for tick in range(count + 1):
        x = _LEFT + tick * step * scale
        drawn.append(f'<line class="grid" x1="{x:.1f}" y1="{bars}" x2="{x:.1f}" y2="{bottom + 4}"/>')
        drawn.append(_text(x, bottom + 18, _number(tick * step / divisor), "soft", "middle"))
    for place, result in enumerate(results):
        y = bars + place * _ROW
        long, low, high = (value * scale for value in (result.median, min(result.values), max(result.values)))
        middle = y + _ROW / 2
        drawn += [
            _text(_LEFT - 10, middle + 4, result.name, "", "end"),
            f'<rect class="bar" x="{_LEFT}" y="{y + 3}" width="{long:.1f}" height="{_ROW - 6}" rx="2"/>',
            f'<line class="range" x1="{_LEFT + low:.1f}" y1="{middle}" x2="{_LEFT + high:.1f}" y2="{middle}"/>',
            _text(_LEFT + max(long, high) + 8, middle + 4, _number(result.median / divisor), ""),
        ]
    drawn.append(_text(_LEFT + width / 2, bottom + 38, f"{unit} ({better})", "soft", "middle"))
    return drawn


def _unit(kind: Kind, largest: float) -> tuple[float, str]:
    """What to divide values by so that they are short, and what they are in then."""
    if kind.unit == "microseconds":
        return (1, kind.unit) if largest < 1e4 else (1e3, "milliseconds") if largest < 1e7 else (1e6, "seconds")
    name = kind.unit.removesuffix("/s")
    for power, told in ((9, "billion "), (6, "million "), (3, "thousand ")):
        if largest >= 10**power:
            short = {"billion ": "GB", "million ": "MB", "thousand ": "kB"}[told]
            return 10**power, f"{short} per second" if name == "bytes" else f"{told}{name} per second"
    return 1, f"{name} per second"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ticks(largest: float) -> tuple[float, int]:
    """A round step, and how many of them reach beyond `largest`."""
    rough = largest / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return step, math.ceil(largest / step)


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'
