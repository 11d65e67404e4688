"""The options that several commands share, and the values that they take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

import click

_RATE: Final = re.compile(r"([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?(?:/s)?", re.IGNORECASE)


class Rate(click.ParamType[float]):
    """Bytes per second: `500k`, `20MB/s`, `1.5GiB/s`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, float):
            return value
        found = _RATE.fullmatch(value.strip())
        if found is None or float(found[1]) <= 0:
            self.fail(f"{value!r} is no rate: write 500k, 20MB/s or 1.5GiB/s", param, ctx)
        base = 1024 if found[3] else 1000
        power: int = " kmgt".index(found[2].lower() or " ")
        return float(found[1]) * float(base**power)


def seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """A number of seconds; the range lets NaN through, since it compares false with everything."""
    if math.isnan(value):
        raise click.BadParameter("nan is no number of seconds")
    return value


def retry(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Only 0 for now: a cut transfer ends, and running the command again starts over."""
    if value != 0:
        raise click.BadParameter("reconnecting by itself is not there yet: only 0")
    return value


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_COMMON: Final[list[Decorator]] = [
    click.option("--plain", is_flag=True, help="No encryption, no authentication: for networks you trust."),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        callback=seconds,
        metavar="S",
        envvar="ENCHUFE_TIMEOUT",
        help="Seconds without a sign of life after which the other side counts as dead.",
    ),
    click.option("--retry", type=float, default=0.0, callback=retry, metavar="S", help="0: end at the first cut."),
    click.option("--json", "as_json", is_flag=True, help="Events as JSON, one a line, on standard output."),
    click.option("--quiet", is_flag=True, envvar="ENCHUFE_QUIET", help="Say only what went wrong."),
    click.option("--verbose", is_flag=True, envvar="ENCHUFE_VERBOSE", help="Name every file."),
    click.option("--no-input", is_flag=True, help="Never ask anything."),
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
    click.option("--max-size", type=click.IntRange(min=0), metavar="BYTES", help="Of the longest message, either way."),
    click.option("--raw", is_flag=True, help="Send standard input's bytes as they are, without framing."),
    click.option("--escapes", is_flag=True, help=r"\n, \r, \t, \0, \\, \xNN and \uNNNN in a typed line are bytes."),
    click.option("--hex", "as_hex", is_flag=True, help="Type hexadecimal digits, and see a dump of all that crosses."),
    click.option(
        "--printable/--verbatim",
        "printable",
        default=None,
        help="Control characters in messages become escapes (the default on a terminal), or stay.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        callback=seconds,
        metavar="S",
        envvar="ENCHUFE_TIMEOUT",
        help="Seconds that connecting, or sending while the other side takes nothing, may last.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Events as JSON, one a line, on standard output."),
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


def believing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of who dials by TLS."""
    for option in reversed(_BELIEVING):
        command = option(command)
    return command


def proving(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of who listens by TLS."""
    for option in reversed(_PROVING):
        command = option(command)
    return command


def talking(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of those that exchange messages."""
    for option in reversed(_TALK):
        command = option(command)
    return command


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that all transfers have."""
    for option in reversed(_COMMON):
        command = option(command)
    return command
