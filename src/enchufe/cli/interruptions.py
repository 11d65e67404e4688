"""Ctrl-C, SIGTERM and SIGHUP: the first ends the command, and however many follow, its exit code is one.

A terminal and whoever started us may both say it, and people press Ctrl-C twice.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time

from enchufe.interruption import ENDING, interrupt

# What is imported here is imported before an interruption is heeded.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Final

# What was ignored when we were started stays so, as SIGINT for what a script runs behind (`&`), and SIGHUP under nohup.
_SIGNALS: Final = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
_SAME: Final = 1.0  # seconds for which more of them say nothing new; then they do: something hangs
_AGAIN: Final = 0.01  # seconds until one that got lost comes again
_IMPORTING: Final = "<frozen importlib._bootstrap>"


def heed() -> None:
    """Have them interrupt the command, which the caller is about to run, until it is `over`."""
    said = float("-inf")
    caller = sys._getframe(1)

    def heard(number: int, frame: FrameType | None) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said > _SAME:
            insists, said = said > float("-inf"), now
            deliver(number, frame, heeds_imports=not insists)

    def deliver(number: int, frame: FrameType | None, *, heeds_imports: bool = True) -> None:
        importer = _importer(frame, caller) if heeds_imports else None
        if importer is None:
            interrupt(number, frame)
        else:
            _interrupt_later(number, importer)

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        """Python tells of what was raised in a destructor or a weakref's callback, and drops it."""
        if unraisable.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            sys.__unraisablehook__(unraisable)

    for each in _SIGNALS:
        signal.signal(each, heard)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, deliver)
        sys.unraisablehook = lost


def _importer(frame: FrameType | None, caller: FrameType) -> FrameType | None:
    """Who imports something that `frame` is part of, while `caller` runs the command; None: it is no part of that."""
    importer = None
    while frame is not None and frame is not caller:
        above = frame.f_back
        if frame.f_code.co_filename == _IMPORTING and above is not None and above.f_code.co_filename != _IMPORTING:
            importer = above
        frame = above
    return importer


def _interrupt_later(number: int, frame: FrameType) -> None:
    """Interrupt `frame` at its next line, when it has imported what it is about to.

    In the middle of that, Python takes an exception for one of the module, or drops it with no more than a warning.
    """

    def trace(_frame: FrameType, _event: str, _argument: Any) -> None:
        frame.f_trace = None
        sys.settrace(before)
        interrupt(number, frame)

    before = sys.gettrace()
    frame.f_trace = trace
    sys.settrace(lambda _frame, _event, _argument: None)


def over(code: int) -> None:
    """The command has ended so: from here on they only hasten the end of its process."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        sys.unraisablehook = sys.__unraisablehook__
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
