"""Signals that ask a process to stop, heard at once wherever its threads may be waiting."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType

from enchufe.errors import BusyError
from enchufe.waiting import start

# Python runs a handler between two steps of the main thread. A signal that comes just before that thread blocks in the
# kernel would be heard when it wakes for another reason; so it never blocks for longer than this.
_HEARS_EVERY = 0.5  # seconds


def run_until(numbers: Iterable[signal.Signals], run: Callable[[], None], stop: Callable[[], None]) -> None:
    """Run `run` in a thread, to its end; `stop` is called whenever one of the signals comes. In the main thread only.

    The signals may be blocked when this is called, so that none is lost before: they are unblocked here.

    Raises:
        BusyError: there is no thread left.
        Whatever `run` raises.
    """
    errors: list[BaseException] = []

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)  # what a handler starts is not to be deaf
        try:
            run()
        except BaseException as error:  # noqa: BLE001 (raised below)
            errors.append(error)

    def heard(_number: int, _frame: FrameType | None) -> None:
        stop()

    thread = threading.Thread(target=work, name="enchufe server", daemon=True)
    before = {number: signal.signal(number, heard) for number in numbers}
    try:
        try:
            start(thread)
        except BusyError:
            stop()
            run()  # to its end at once: what it has is given back
            raise
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        while thread.is_alive():
            thread.join(_HEARS_EVERY)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if errors:
        raise errors[0]
