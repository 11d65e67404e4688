"""Calls that fail, each of a receive that may, with each error it may have: `python -m tests.crash.faults --all`.

A point is a call of the receiver, counted from the moment its delivery begins or is committed, and the error that
strace makes of it. Then: a receipt and everything right, where what failed was no loss; else no receipt, an error that
says whose fault it is, its exit code, and nothing half-done that shows. The same command again ends with everything
right.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enchufe import events
from enchufe.cli import exits
from enchufe.errors import BrokenError, Refused
from tests.crash import trees
from tests.crash.everything import search
from tests.crash.peers import Peer, Receiving, Tracing, folder, send

DISK: Final = ("EIO", "ENOSPC", "EDQUOT", "EROFS")
OPEN: Final = ("EMFILE", "ENFILE", "EIO", "EACCES", "ENOMEM")

# What the receiver does to the disk, by the errors it may get.
FAILING: Final = {
    "openat": (*OPEN, "ENOSPC"),
    "write": DISK,
    "pwrite64": DISK,
    "ftruncate": DISK,
    "fallocate": ("EIO", "ENOSPC"),
    "fsync": DISK,
    "syncfs": DISK,
    "sync_file_range": ("EIO", "ENOSPC"),
    "renameat": DISK,
    "renameat2": DISK,
    "mkdirat": (*DISK, "EMLINK"),
    "linkat": (*DISK, "EMLINK"),
    "symlinkat": DISK,
    "utimensat": ("EIO", "EROFS"),
    "fchmod": ("EIO", "EROFS"),
    "fchmodat": ("EIO", "EROFS"),
    "unlinkat": ("EIO", "EROFS"),
    "newfstatat": ("EIO",),
    "getdents64": ("EIO",),
    "pread64": ("EIO",),
    "fcntl": ("EMFILE",),
    "flock": ("EIO", "ENOLCK"),
    "fstatfs": ("EIO",),
}
SYNCS: Final = "fsync,fdatasync,syncfs"
KINDS: Final = (("begin", 200), ("commit", 200), ("hands", 200), ("begin", 8), ("commit", 8))


@dataclass(frozen=True)
class Point:
    """What fails.

    Attributes:
        moment: from which on calls are counted: "begin", "hands" or "commit".
        files: in the tree; few are synced one by one.
        number: of the call, from 1 on.
        error: what it says.
        lasting: whether it goes on saying so.
    """

    moment: str
    files: int
    call: str = ""
    number: int = 0
    error: str = ""
    lasting: bool = False


def tracing(point: Point, *options: str) -> Tracing:
    return Tracing(point.moment, *options, threads=point.moment != "commit")


def receiver(inbox: Path, traced: Tracing | None = None) -> Peer:
    return Peer("receive", "-o", inbox, "--listen", "127.0.0.1:0", "--retry", "0", tracing=traced)


@functools.cache
def calls(moment: str, files: int) -> dict[str, int]:
    """How often each call that may fail is made, by the thread that makes most of them."""
    with folder() as here:
        trees.make(here / "tree", files)
        log = here / "log"
        peer = receiver(here / "inbox", tracing(Point(moment, files), "-o", str(log)))
        send(here / "tree", peer.address() or "", streams=2)
        assert peer.end() == exits.DONE, peer.errors
        made = Counter(re.findall(r"^(\d*) *(\w+)\(", log.read_text(), re.MULTILINE))
    most: dict[str, int] = {}
    for (_, call), number in made.items():
        if call in FAILING:
            most[call] = max(most.get(call, 0), number)
    return most


def points() -> list[Point]:
    return [
        Point(moment, files, call, number, error, lasting)
        for moment, files in KINDS
        for call, most in sorted(calls(moment, files).items())
        for number in range(1, most + 1)
        for error in FAILING[call]
        for lasting in (False, True)
        if call != "write" or not lasting  # which would take its standard error from it
    ]


def run(point: Point) -> str:
    try:
        return _run(point)
    except BaseException as error:
        error.add_note(f"fault at {point}")
        raise


def _run(point: Point) -> str:
    with folder() as here:
        root, inbox, log = here / "tree", here / "inbox", here / "log"
        trees.make(root, point.files)
        sent = trees.seen(root)
        when = f"{point.number}+" if point.lasting else f"{point.number}"
        options = ("-y", "-o", str(log), "-e", f"trace={SYNCS},{point.call}")
        inject = f"inject={point.call}:error={point.error}:when={when}"
        peer = receiver(inbox, tracing(point, *options, "-e", inject))
        address = peer.address()
        assert address is not None
        ended = send(root, address, streams=2)
        code = peer.end()
        if re.search(rf"write\(\d+<(?!{inbox}).*INJECTED", log.read_text()):
            return "no file"
        told = (code, peer.told[-1:], peer.errors[-2000:], ended)
        assert code in (exits.DONE, exits.DISK, exits.LEFT_OUT), told
        names = trees.check_shown(inbox, sent) if code != exits.LEFT_OUT else trees.shown(inbox)
        if code == exits.DISK:
            assert not isinstance(ended, events.Receipt), "a receipt, and the disk had said no"
            assert isinstance(ended, (Refused, BrokenError)), told
            assert peer.error is not None, told
            assert peer.error["kind"] in ("store", "no_space"), told
            assert not peer.receipt
        else:
            assert isinstance(ended, events.Receipt), told
            assert peer.receipt is not None
            if code == exits.DONE:
                trees.check_receipted(inbox, sent, root)
        check_syncs(log.read_text())
        expected = len(names) if trees.is_unheard(inbox) else len(names) + 1
        other = Receiving(inbox)
        ended = send(root, other.address(), streams=2)
        assert isinstance(ended, events.Receipt), repr(ended)
        assert isinstance(other.end(), events.Receipt)
        if code != exits.LEFT_OUT:
            trees.check_receipted(inbox, sent, root, expected)
        trees.check_swept(inbox)
        return {exits.DONE: "no loss", exits.LEFT_OUT: "left out"}.get(code, "refused" if not names else "shown")


def check_syncs(log: str) -> None:
    """After a sync has failed there is no other: the second one would say that all is well."""
    syncs = re.findall(rf"(?:{SYNCS.replace(',', '|')})\((?!-1).*", log)  # -1 asks whether there is such a call
    failed = [number for number, line in enumerate(syncs) if "(INJECTED)" in line]
    assert not failed or failed == [len(syncs) - 1], "synced again after it had failed"


def runs(points: list[Point]) -> Counter[str]:
    return Counter(map(run, points))


def main() -> None:
    search(__doc__, lambda _: points(), runs, "faults: {}, none lost or half done", default=200)


if __name__ == "__main__":
    main()
