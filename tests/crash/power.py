"""Power cuts: `python -m tests.crash.power --cuts 1000`, as root.

The destination is an ext4, or else an xfs, in an image on a loop device. At some moment of a receive, or just after its
receipt, the file system is shut down without its log being flushed (FS_IOC_SHUTDOWN), unmounted, and mounted again, so
that what was never on the disk is gone. Then: what was receipted is there and right; whatever else shows is whole; and
the same command again, on what is left, ends with everything right.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import functools
import os
import random
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from enchufe import events
from enchufe.errors import EnchufeError
from enchufe.store import linux
from tests.crash import trees
from tests.crash.peers import Receiving, folder, send
from tests.everywhere import everywhere

SHUTDOWN: Final = 0x8004587D  # FS_IOC_SHUTDOWN
NO_LOG_FLUSH: Final = 2
NEW_MOUNTS: Final = 0x00020000  # CLONE_NEWNS
MADE: Final = {"ext4": (96 << 20, ("mkfs.ext4", "-q", "-F")), "xfs": (320 << 20, ("mkfs.xfs", "-q", "-f"))}

Act = Callable[[], None]


def call(*command: str | Path) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


class Disk:
    """A file system of this kind of its own, mounted at `at`."""

    def __init__(self, here: Path, kind: str) -> None:
        self._image = here / "image"
        self.at = here / "disk"
        self.at.mkdir()
        size, make = MADE[kind]
        with self._image.open("wb") as file:
            file.truncate(size)
        call(*make, self._image)
        self.plug()

    def plug(self) -> None:
        call("mount", "-o", "loop", self._image, self.at)

    def pull(self) -> None:
        """All that is not on the disk will never be."""
        descriptor = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def settle(self) -> None:
        """All that is written by now is on the disk; too late, it is not."""
        with suppress(OSError):
            descriptor = os.open(self.at, os.O_RDONLY)
            try:
                linux.syncfs(descriptor)
            finally:
                os.close(descriptor)

    def unplug(self) -> None:
        call("umount", self.at)


@contextmanager
def disk(kind: str) -> Iterator[Disk]:
    with folder() as here:
        made = Disk(here, kind)
        try:
            yield made
        finally:
            made.unplug()


def see_alone() -> None:
    """Have this process's mounts seen by nobody else: whoever copied one would keep it from being unmounted."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "no mounts of one's own")
    call("mount", "--make-rprivate", "/")


def _tried(_point: int) -> str:
    try:
        see_alone()
        with disk("ext4") as made:
            made.pull()
    except OSError as error:
        return f"no file system can be mounted and shut down here: {error}"
    return ""


@functools.cache
def refused() -> str:
    """Why there can be no such disk here; empty where there can."""
    return "only root may mount" if os.geteuid() else next(everywhere(_tried, [0], 1))


class Moment:
    """When the power goes: some time after the sender is connected, or just after the receipt.

    Args:
        seconds: that a transfer takes.
        settle: has all that is written by then on the disk, as kernels do now and then; at a moment before.
    """

    def __init__(self, rng: random.Random, seconds: float, pull: Act, settle: Act) -> None:
        self._after_receipt = rng.random() < 0.3
        self._pull = pull
        later = rng.uniform(0, seconds)
        self._timers = [threading.Timer(later, pull)]
        if rng.random() < 0.5:
            self._timers.append(threading.Timer(rng.uniform(0, later), settle))
        self.receipted = False

    def heed(self, event: events.Event) -> None:
        """The sender's events."""
        if isinstance(event, events.Connected) and not self._after_receipt:
            for timer in self._timers:
                timer.start()
        elif isinstance(event, events.Receipt):
            self.receipted = True
            if self._after_receipt:
                self._pull()

    def end(self) -> None:
        for timer in self._timers:
            if timer.ident is not None:
                timer.join()


def measured(disk: Disk, root: Path) -> float:
    """Seconds of a transfer that nobody cuts."""
    other = Receiving(disk.at / "inbox")
    ended = send(root, other.address(), streams=2)
    other.end()
    assert isinstance(ended, events.Receipt)
    call("rm", "-r", disk.at / "inbox")
    return ended.seconds


def cut(disk: Disk, root: Path, sent: trees.Seen, seconds: float, rng: random.Random) -> str:
    inbox = disk.at / "inbox"
    pulled = threading.Event()
    lock = threading.Lock()

    def pull() -> None:
        with lock:
            if not pulled.is_set():
                disk.pull()
                pulled.set()

    moment = Moment(rng, seconds, pull, disk.settle)
    other = Receiving(inbox)
    ended = send(root, other.address(), streams=2, on_event=moment.heed)
    moment.end()
    if isinstance(ended, EnchufeError) and other.ended is None:
        # It was told of by an error here, and goes on listening: somebody must end it.
        send(root, other.address(), streams=2)
    other.end()
    pull()
    receipted = isinstance(ended, events.Receipt)
    assert receipted or not moment.receipted
    disk.unplug()
    disk.plug()
    names = trees.check_shown(inbox, sent)
    if receipted:
        trees.check_receipted(inbox, sent, root)
    kept = sum(map(trees.journaled, trees.areas(inbox)))
    expected = len(names) if trees.is_unheard(inbox) else len(names) + 1
    assert expected == 1 or receipted, "what its sender has not heard of would come twice"
    again = Receiving(inbox)
    ended = send(root, again.address(), streams=2)
    assert isinstance(ended, events.Receipt), repr(ended)
    assert isinstance(again.end(), events.Receipt)
    trees.check_receipted(inbox, sent, root, expected)
    trees.check_swept(inbox)
    return "receipted" if receipted else "shown" if names else "resumed" if kept else "hidden"


def run(job: tuple[int, int, str]) -> Counter[str]:
    """So many cuts, from this seed on, on one disk; in a process for nothing else."""
    see_alone()
    first, count, kind = job
    ends: Counter[str] = Counter()
    with disk(kind) as made, folder() as here:
        trees.make(here / "many", 200)
        trees.make(here / "few", 9, seed=2)
        roots = [here / "many", here / "few"]
        kinds = [(root, trees.seen(root), measured(made, root)) for root in roots]
        for seed in range(first, first + count):
            rng = random.Random(seed)
            try:
                ends[cut(made, *rng.choice(kinds), rng)] += 1
            except BaseException as error:
                error.add_note(f"power cut with --from {seed}")
                raise
            call("rm", "-r", made.at / "inbox")
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--file-system", choices=MADE, default="ext4")
    options = parser.parse_args()
    if why := refused():
        raise SystemExit(why)
    started = time.monotonic()
    stop = options.first + options.cuts
    jobs = [(first, min(50, stop - first), options.file_system) for first in range(options.first, stop, 50)]
    ends: Counter[str] = Counter()
    for some in everywhere(run, jobs, options.workers):
        ends += some
        print(f"{ends.total()} of {options.cuts} in {time.monotonic() - started:.0f} s: {dict(ends)}", flush=True)
    print(f"{options.cuts} power cuts: nothing that was receipted is lost, nothing shows half done")


if __name__ == "__main__":
    main()
