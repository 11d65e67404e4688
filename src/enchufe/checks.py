"""What an argument must be: a wrong one is refused by its name, where it is given and not where it is used."""

from __future__ import annotations

import math
import sys

from enchufe.errors import LocalProtocolError


def check_whole(name: str, value: object, least: int | None = 0, most: int | None = None) -> None:
    """See that the argument `name` is a whole number, `least` or more and `most` or less.

    Raises:
        LocalProtocolError: it is none (True and False are none), or not in there.
    """
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or (least is not None and value < least)
        or (most is not None and value > most)
    ):
        bounds = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
        raise LocalProtocolError(f"{name} must be a whole number{bounds}, not {value!r}")


def check_seconds(name: str, value: object) -> None:
    """See that the argument `name` is a number of seconds.

    Raises:
        LocalProtocolError: it is none, negative, or more than a float holds; infinity is one.
    """
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not (0 <= value <= sys.float_info.max or value == math.inf)
    ):
        raise LocalProtocolError(f"{name} must be seconds, and not negative: {value!r}")
