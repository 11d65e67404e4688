"""The terminal that a command was started on: where a person is asked, whatever its standard streams are."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

_TERMINAL: Final = "/dev/tty"


def opened() -> int | None:
    """A descriptor of it, never of a pipe; None: there is none."""
    with suppress(OSError):
        return os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    return 0 if os.isatty(0) else None


def ask(question: str) -> str | None:
    """A line that is typed there; None: there is nobody to type it."""
    descriptor = opened()
    if descriptor is None:
        return None
    try:
        os.write(descriptor, question.encode())
        typed = b""
        while not typed.endswith(b"\n"):
            more = os.read(descriptor, 4096)
            if not more:
                return None
            typed += more
    except OSError:  # it is gone
        return None
    finally:
        if descriptor:
            os.close(descriptor)
    return typed.decode(errors="replace").strip()
