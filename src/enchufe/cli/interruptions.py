"""Ctrl-C and SIGTERM: the first ends the command, and however many follow, its exit code is one.

A terminal and whoever started us may both say it, and people press Ctrl-C twice.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
from types import FrameType
from typing import Final

from enchufe.interruption import interrupt

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SAME: Final = 1.0  # seconds for which more of them say nothing new; then they do: something hangs


def heed() -> None:
    """Have them interrupt the command, until it is `over`."""
    said = float("-inf")

    def heard(number: int, frame: FrameType | None) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said > _SAME:
            said = now
            interrupt(number, frame)

    for each in _SIGNALS:
        signal.signal(each, heard)


def over(code: int) -> None:
    """The command has ended so: from here on they only hasten the end of its process."""
    for each in _SIGNALS:
        signal.signal(each, lambda _number, _frame: os._exit(code))
    atexit.register(_ignore)
    # Python ends by SIGINT where an interruption has left an `exec`, as in the making of a dataclass, though it was
    # caught behind that; unless another `exec` is run.
    exec("")  # noqa: S102


def _ignore() -> None:
    """What Python does last gives handlers back their default, which is death. It takes no time worth hastening."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
