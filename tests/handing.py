"""Hands from the first small file on, and there when they are needed: that they take a moment is no test's business."""

from __future__ import annotations

import time
from collections.abc import Callable

from enchufe.store import durable, hands

PATIENCE = 60.0  # seconds


def at_once(set_to: Callable[[object, str, object], None] = setattr) -> None:
    """Have small files read and written by hands in this process, by `setattr` or a fixture that takes it back."""
    begin = hands.begin

    def begun(count: int) -> hands.Hands | None:
        them = begin(count)
        until = time.monotonic() + PATIENCE
        while them is not None and not them.ready and not them.lost and time.monotonic() < until:
            time.sleep(0.001)
        return them

    set_to(hands, "from_files", 0)
    set_to(hands, "begin", begun)
    set_to(durable, "ONE_BY_ONE", 0)
