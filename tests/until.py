"""Waiting in a test for what another thread or process is about to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_PATIENCE: Final = 60.0  # seconds: far beyond what a busy machine takes, since it only ends a test that fails


def until(condition: Callable[[], object]) -> None:
    """Wait until it is true; it fails where that takes too long."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
