"""The loops that coroutines run in, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def run(loop: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main` in that loop: asyncio, uvloop or trio."""
    if loop == "trio":
        import trio  # noqa: PLC0415

        trio.run(main)
    elif loop == "uvloop":
        import uvloop  # noqa: PLC0415

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    else:
        asyncio.run(main())
