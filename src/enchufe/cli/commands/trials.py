"""What `bench` and `demo` take: enchufe tried out on this machine."""

from __future__ import annotations

import sys

import click

from enchufe.cli.options import seconds


@click.command()
@click.argument("address", required=False, metavar="[ADDR]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=20.0,
    show_default=True,
    callback=seconds,
    metavar="S",
    help="To measure for in all; starting what is measured comes on top.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="WORD",
    help="Only what is called so: latency, rate, bulk, files, encode, decode, an engine, a transport, a framing.",
)
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on standard output.")
@click.option("--html", metavar="FILE", help="Write a page with a chart and the numbers.")
@click.option("--svg", metavar="FILE", help="Write the chart.")
def bench(
    address: str | None, seconds: float, only: tuple[str, ...], as_json: bool, html: str | None, svg: str | None
) -> None:
    """Measure engines, framings, transports and files on this machine.

    With ADDR, where `enchufe listen ADDR --echo --quiet --framing length:4` runs, measure the way to there.
    """
    from enchufe.cli.bench import bench as run  # noqa: PLC0415 (slow to import)

    sys.exit(run(address, seconds=seconds, only=only, as_json=as_json, html=html, svg=svg))


@click.command()
@click.option(
    "--size",
    type=click.IntRange(0, 1 << 20),
    default=256,
    show_default=True,
    metavar="MIB",
    help="Size of the generated file.",
)
def demo(size: int) -> None:
    """Send a big file and a tree from one process to another, and compare what landed."""
    from enchufe.cli.demo import run  # noqa: PLC0415 (nobody else needs it)

    sys.exit(run(size))
