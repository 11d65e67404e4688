"""Interruptions (Ctrl-C, SIGTERM) that wait for the moment at which they do no harm.

A KeyboardInterrupt may come between the kernel's taking bytes and our noting how many; then nobody can say another word
on that connection, not even that it was interrupted. A command handles its signals by `interrupt`, and what must not be
torn asks for `undivided`. It is for the main thread, where Python handles signals, and costs others nothing.
"""

from __future__ import annotations

import signal
import threading

TYPE_CHECKING = False  # as in `lazy`
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Final

ENDING: Final = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""The signals that are to end a program, as far as this system has them; SIGHUP says that its terminal has gone."""


class _Undivided:
    """What lies in such a block is not torn; an interruption that comes meanwhile is raised behind it."""

    def __init__(self) -> None:
        self._inside = False
        self._came = False

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._inside = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            self._inside = False
            if self._came:
                self._came = False
                raise KeyboardInterrupt

    def come(self) -> bool:
        """Whether the interruption that has come is put off."""
        self._came = self._inside
        return self._inside


undivided = _Undivided()


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """A signal handler: as Ctrl-C, but not in the middle of what is undivided."""
    if not undivided.come():
        raise KeyboardInterrupt
