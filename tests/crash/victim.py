"""An enchufe command that strace is attached to at a certain moment.

`python -m tests.crash.victim MOMENT THREADS STRACE... -- COMMAND...`: strace gets the options before `--`.

strace counts the calls of each thread for itself, and the first thread to reach a number is the one that is hit. So
that the thread that commits is hit at each of its calls, strace can be attached to one thread alone.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from enchufe.cli import main as command
from enchufe.session import ReceivingSession, SendingSession
from enchufe.store import Delivery, LocalStore, linux
from tests import handing

_PR_SET_PTRACER: Final = 0x59616D61  # Yama lets nobody but a parent trace, unless it is told
_ANY: Final = ctypes.c_ulong(-1 & (1 << 64) - 1)

MOMENTS: Final[dict[str, list[tuple[Any, str]]]] = {
    "begin": [(LocalStore, "begin")],
    "commit": [(Delivery, "commit")],
    "stream": [(ReceivingSession, "run_stream"), (SendingSession, "run_stream")],
    "hands": [(LocalStore, "begin"), (SendingSession, "run")],
}


def attach(options: list[str], *, threads: bool) -> None:
    """Have strace look at this thread, or at all threads of this process, from now on."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
    target = os.getpid() if threads else threading.get_native_id()
    follow = ["-f"] if threads else []
    tracer = subprocess.Popen(["strace", "-qq", *follow, "-p", str(target), *options], stdout=subprocess.DEVNULL)
    tracer.returncode = 0  # it ends with us, and nobody waits for it
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with open("/proc/thread-self/status") as status:
                if not any(line.startswith("TracerPid:\t0\n") for line in status):
                    return
        except OSError:  # of its making
            return
        time.sleep(0.001)
    raise TimeoutError("strace did not come")


def at_moment(moment: str, act: Callable[[], None]) -> None:
    """Have `act` called once: at the start, or before a delivery begins or is committed, or a second stream runs.

    Before it begins with "hands": then small files are for hands from the first one on.
    """
    if moment == "start":
        act()
        return
    if moment == "hands":
        handing.at_once()
    for owner, name in MOMENTS[moment]:
        before_first(owner, name, act)


def before_first(owner: Any, name: str, act: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        setattr(owner, name, original)
        act()
        return original(*arguments, **options)

    setattr(owner, name, call)


def main() -> None:
    moment, threads, *rest = sys.argv[1:]
    end = rest.index("--")
    options, sys.argv[1:] = rest[:end], rest[end + 1 :]
    linux.use_landlock = False  # a process that confines itself cannot have strace write its log elsewhere
    at_moment(moment, lambda: attach(options, threads=threads == "all"))
    command.main()


if __name__ == "__main__":
    main()
