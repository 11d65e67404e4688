"""Standard output and standard error: whole writes, and a sentence where they fail."""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
from typing import Any, Final

from enchufe.errors import StoreError
from enchufe.waiting import Doorbell

STDOUT: Final = 1
STDERR: Final = 2

_AT_ONCE: Final = getattr(select, "PIPE_BUF", 512)  # bytes that do not block where poll() says that there is room
_MANY: Final = 1 << 20  # bytes of one write where nobody looks first
_GRACE: Final = 1000  # milliseconds that a reader may lag when there is no more time


class Hurry:
    """Once it is called for, nobody waits for long for a reader that takes nothing: a pager, a stopped program.

    One thread at a time writes with it; processes that are forked after it was made share it.
    """

    def __init__(self) -> None:
        self._bell = Doorbell()
        self._over = False
        self._pollers: dict[int, select.poll | None] = {}

    def call(self) -> None:
        """Call for it, from any thread or process; whoever waits learns of it."""
        self._bell.ring()

    def wait(self, descriptor: int) -> int:
        """Wait until there is room: for how many bytes; 0 where there was no time for that."""
        if descriptor not in self._pollers:
            self._pollers[descriptor] = self._poller(descriptor)
        poller = self._pollers[descriptor]
        if poller is None:
            return _MANY
        if any(ready == descriptor for ready, _ in poller.poll()):
            return _AT_ONCE
        self._over = not _room(descriptor).poll(0 if self._over else _GRACE)
        return 0 if self._over else _AT_ONCE

    def _poller(self, descriptor: int) -> select.poll | None:
        """What waits for room, or for a hurry; None where there is always room: in a file."""
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        poller = _room(descriptor)
        poller.register(self._bell, select.POLLIN)
        return poller


def write(data: bytes, descriptor: int = STDOUT, hurry: Hurry | None = None) -> None:
    """Write all of `data` at once: somebody may be waiting for it.

    Not through `sys.stdout`, which would keep what it could not write and fail again when the program ends.

    Raises:
        StoreError: it cannot be written: the disk is full, whoever read it is gone, or took nothing in a hurry.
    """
    rest = memoryview(data)
    try:
        while rest:
            room = _MANY if hurry is None else hurry.wait(descriptor)
            if not room:
                raise StoreError(
                    "what came last is not shown: nobody reads standard output",
                    hint="Let whoever should read it go on.",
                )
            try:
                rest = rest[os.write(descriptor, rest[:room]) :]
            except BlockingIOError:  # somebody we share it with made it so
                _room(descriptor).poll()
    except OSError as error:
        raise StoreError(
            f"cannot write standard output: {error.strerror}",
            hint="It is closed, whoever reads it has gone, or the disk behind it is full.",
        ) from error


def tell(text: str, hurry: Hurry | None = None) -> None:
    """Write `text` to standard error; where that fails too there is nobody to be told."""
    with contextlib.suppress(StoreError):
        write(text.encode("utf-8", "backslashreplace"), STDERR, hurry)


class _Printed(io.RawIOBase):
    """Standard output, for what would print on `sys.stdout`: see `write`."""

    name = "<stdout>"

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        whole = bytes(data)
        write(whole)
        return len(whole)

    def fileno(self) -> int:
        return STDOUT

    def isatty(self) -> bool:
        return os.isatty(STDOUT)


def printing() -> io.TextIOWrapper:
    """What takes the place of `sys.stdout`, so that what prints there fails as `write` does, and once."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return io.TextIOWrapper(_Printed(), encoding, "backslashreplace", write_through=True)


class _Told(_Printed):
    """Standard error, for what would print on `sys.stderr`: see `tell`."""

    name = "<stderr>"

    def write(self, data: Any) -> int:
        whole = bytes(data)
        with contextlib.suppress(StoreError):
            write(whole, STDERR)
        return len(whole)

    def fileno(self) -> int:
        return STDERR

    def isatty(self) -> bool:
        return os.isatty(STDERR)


def telling() -> io.TextIOWrapper:
    """What takes the place of `sys.stderr`, so that what prints there cares as little as `tell` where that fails."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return io.TextIOWrapper(_Told(), encoding, "backslashreplace", write_through=True)


def _room(descriptor: int) -> select.poll:
    """What waits until `descriptor` takes bytes."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return poller
