"""The options that several commands share, and the values that they take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from fractions import Fraction

_RATE: Final = re.compile(r"([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?(?:/s)?", re.IGNORECASE)
_MOST: Final = 2**63 - 1  # bytes: what an off_t holds, so that no file is bigger


class Size(click.ParamType[int]):
    """Bytes: `500k`, `20MB`, `1.5GiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        size = _bytes(value) if "/" not in value else None
        if size is None or size < 1:
            self.fail(f"{_short(value)} is no size: write 500k, 20MB or 1.5GiB", param, ctx)
        if size > _MOST:
            self.fail(f"{_short(value)} is too much: {_MOST} bytes is the most", param, ctx)
        return int(size)


class Rate(click.ParamType[float]):
    """Bytes per second: `500k`, `20MB/s`, `1.5GiB/s`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, float):
            return value
        rate = _bytes(value)
        if rate is None:
            self.fail(f"{_short(value)} is no rate: write 500k, 20MB/s or 1.5GiB/s", param, ctx)
        if rate > _MOST:
            self.fail(f"{_short(value)} is too much: {_MOST} bytes a second is the most", param, ctx)
        return float(rate)


def _bytes(value: str) -> Fraction | None:
    """What `1.5GiB` and its like say, to the last byte; None where it is no number of bytes over 0."""
    from decimal import Decimal  # noqa: PLC0415 (slow to import, and seldom needed)
    from fractions import Fraction  # noqa: PLC0415 (slow to import, and seldom needed)

    found = _RATE.fullmatch(value.strip())
    # By way of a Decimal, which any number of digits may be written of.
    if found is None or not (number := Fraction(Decimal(found[1]))):
        return None
    base = 1024 if found[3] else 1000
    scale: int = base ** " kmgt".index(found[2].lower() or " ")
    return number * scale


def _short(value: str) -> str:
    """A value for a sentence about it."""
    return repr(value if len(value) <= 40 else f"{value[:40]}...")


def seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """A number of seconds; the range lets NaN through, since it compares false with everything."""
    if math.isnan(value):
        raise click.BadParameter("nan is no number of seconds")
    return value


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _timeout(told: str) -> Decorator:
    """The option, with what it is for in this kind of command."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        callback=seconds,
        metavar="S",
        envvar="ENCHUFE_TIMEOUT",
        help=told,
    )


in_json: Final = click.option("--json", "as_json", is_flag=True, help="As JSON on standard output.")
_EVENTS: Final = click.option("--json", "as_json", is_flag=True, help="Events as JSON, one a line, on standard output.")

_TRANSFER: Final[list[Decorator]] = [
    click.option("--plain", is_flag=True, help="No encryption, no authentication: for networks you trust."),
    _timeout("Seconds without a sign of life after which the other side counts as dead."),
    click.option(
        "--retry",
        type=click.FloatRange(min=0),
        default=30.0,
        show_default=True,
        callback=seconds,
        metavar="S",
        envvar="ENCHUFE_RETRY",
        help="Seconds after a cut for which to go on trying to reconnect; 0: end at the first cut.",
    ),
    click.option(
        "--streams",
        type=click.IntRange(1, 64),
        metavar="N",
        envvar="ENCHUFE_STREAMS",
        help="Connections at the most; by default as many as pay on this link.",
    ),
    _EVENTS,
    click.option("--quiet", is_flag=True, envvar="ENCHUFE_QUIET", help="Say only what went wrong."),
    click.option("--verbose", is_flag=True, envvar="ENCHUFE_VERBOSE", help="Name every file."),
    click.option("--no-input", is_flag=True, help="Never ask anything."),
    click.option("--remember", is_flag=True, help="Pin the other's key, if it says so too: @name needs no code then."),
    click.option(
        "--tokens", is_flag=True, help="Where this listens: let in by tokens too (enchufe token new makes them)."
    ),
    click.option(
        "--announce/--no-announce",
        default=True,
        show_default=True,
        envvar="ENCHUFE_ANNOUNCE",
        help="Tell the network where this listens, and ask it where others do.",
    ),
    click.option(
        "--interface",
        "interfaces",
        multiple=True,
        metavar="NAME",
        envvar="ENCHUFE_INTERFACE",
        help="Announce and look on this network interface only. Repeatable.",
    ),
]


_TALK: Final[list[Decorator]] = [
    click.option(
        "--framing",
        default="lines",
        show_default=True,
        metavar="F",
        envvar="ENCHUFE_FRAMING",
        help="How messages are told apart: lines, fixed:N, digits:N, length:N[le|be], varint, netstring,"
        r" typed:A=8,B=length:4, delimited:\r\n; close: bytes as they are.",
    ),
    click.option(
        "--max-size", type=click.IntRange(0, _MOST), metavar="BYTES", help="Of the longest message, either way."
    ),
    click.option("--raw", is_flag=True, help="Send standard input's bytes as they are, without framing."),
    click.option("--escapes", is_flag=True, help=r"\n, \r, \t, \0, \\, \xNN and \uNNNN in a typed line are bytes."),
    click.option("--hex", "as_hex", is_flag=True, help="Type hexadecimal digits, and see a dump of all that crosses."),
    click.option(
        "--printable/--verbatim",
        "printable",
        default=None,
        help="Control characters in messages become escapes (the default on a terminal), or stay.",
    ),
    _timeout("Seconds that connecting, or sending while the other side takes nothing, may last."),
    _EVENTS,
    click.option("--quiet", is_flag=True, envvar="ENCHUFE_QUIET", help="Show no messages; say only what went wrong."),
]


_TLS: Final = click.option("--tls", is_flag=True, help="Encrypt by TLS 1.3, as the other side must.")
_BELIEVING: Final[list[Decorator]] = [
    _TLS,
    click.option("--ca", metavar="FILE", help="With --tls: trust these certificates (PEM), not the system's."),
    click.option("--server-name", metavar="NAME", help="With --tls: whose certificate it must be, if not ADDR's."),
    click.option(
        "--fingerprint",
        metavar="SHA256",
        help="With --tls: accept just the certificate that has it, as the other side tells.",
    ),
]
_PROVING: Final[list[Decorator]] = [
    _TLS,
    click.option("--cert", metavar="FILE", help="With --tls: the certificate to show (PEM), its chain behind it."),
    click.option("--key", metavar="FILE", help="With --tls: its private key (PEM)."),
]


def _giving(options: Sequence[Decorator]) -> Decorator:
    """A decorator that gives a command all of these options, which its help shows in this order."""

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return give


# For whoever dials by TLS, listens by TLS, exchanges messages, and transfers files.
believing: Final = _giving(_BELIEVING)
proving: Final = _giving(_PROVING)
talking: Final = _giving(_TALK)
transferring: Final = _giving(_TRANSFER)
