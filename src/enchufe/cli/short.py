"""What short commands have in common, which look something up or change it: lines, JSON, times, how they end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from enchufe import events
from enchufe.cli import exits, output
from enchufe.cli.show import failure
from enchufe.errors import EnchufeError


def ended(command: Callable[[], None]) -> int:
    """Run a command, and tell what is wrong: the exit code."""
    try:
        command()
    except EnchufeError as error:
        return failed(error)
    return exits.DONE


def failed(error: EnchufeError) -> int:
    """Tell on standard error what is wrong: the exit code."""
    output.tell("\n".join(failure(events.Failed.of(error))) + "\n")
    return exits.exit_code(error)


def write_json(told: dict[str, Any]) -> None:
    """Write an object to standard output, on one line.

    Raises:
        StoreError: it cannot be written.
    """
    output.write(json.dumps({"v": 1, **told}).encode() + b"\n")


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output.

    Raises:
        StoreError: it cannot be written.
    """
    output.write("".join(f"{line}\n" for line in lines).encode())


def shown_time(moment: float) -> str:
    """A moment, in seconds since 1970, for a person here."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
