"""Objects that are still there, without asking Python's search for garbage.

What `gc.get_objects` finds while other threads run may be half made, or half gone: a process has died of looking at it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest


def living(monkeypatch: pytest.MonkeyPatch, *kinds: type[Any]) -> tuple[Callable[[], int], Callable[[], int]]:
    """How many of these are made from now on, and how many of those are still there."""
    made: list[weakref.ref[Any]] = []

    def watch(kind: type[Any]) -> None:
        begin = kind.__init__

        def begun(one: Any, *arguments: Any, **more: Any) -> None:
            made.append(weakref.ref(one))
            begin(one, *arguments, **more)

        monkeypatch.setattr(kind, "__init__", begun)

    for kind in kinds:
        watch(kind)
    return lambda: len(made), lambda: sum(one() is not None for one in made)
