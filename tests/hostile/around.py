"""A destination, all that is around it, and hostile names by the thousand: what is outside stays as it is.

    python -m tests.hostile.around --names 1000000

runs all of them (half a minute on four processors), CI a tenth.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, get_args

from blake3 import blake3

from enchufe.entry import NO_PARENT, Answer, Entry, Kind
from enchufe.errors import EnchufeError, Refused, RemoteProtocolError
from enchufe.store import Delivery, IfExists, Links, LocalStore
from enchufe.store.confine import confine
from tests.everywhere import everywhere

CORPUS: Final = Path(__file__).with_name("corpus.txt")
MEMORY: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
AT_ONCE: Final = 1000  # names in one delivery
_LINE: Final = re.compile(r"(yes|no) +(b(?:'.*'|\".*\"))(?: \* (\d+))?")

Seen = dict[bytes, tuple[int | bytes, ...]]


def corpus() -> list[tuple[bytes, bool]]:
    """The names in the file, and whether each is harmless."""
    found = []
    for line in CORPUS.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        told = _LINE.fullmatch(line)
        assert told is not None, line
        found.append((ast.literal_eval(told[2]) * int(told[3] or 1), told[1] == "yes"))
    return found


def harmless(name: bytes) -> bool:
    """Whether a name is one component and can be made: said apart from the code that is tested."""
    return bool(name) and len(name) <= 255 and not set(name) & set(b"/\0") and name != b"." * len(name[:2])


class Around:
    """A folder with a destination in it, that has links to all around; we stand in another, so that nothing else does.

    Args:
        home: empty.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.inbox = home / "inbox"
        outside = home / "outside"
        for folder in ("outside/folder/deep", "inbox2", "cwd", "inbox/live/deep", "inbox/d"):
            (home / folder).mkdir(parents=True)
        for file in ("outside/secret", "outside/folder/x", "inbox2/x", "cwd/x", "x", "inbox/live/x", "inbox/x"):
            (home / file).write_text("theirs")
            (home / file).chmod(0o640)
        for link, leads in (
            ("out", "../outside"),
            ("abs", str(outside)),
            ("up", ".."),
            ("live/up", ".."),
            ("live/out", "../../outside"),
            ("live/deep/root", "/"),
            ("secret", "../outside/secret"),
            ("live/new", "../../outside/new"),
        ):
            (self.inbox / link).symlink_to(leads)
        (outside / "back").symlink_to("../inbox")
        self._before = self._seen()

    def count(self) -> int:
        """How many entries the destination has."""
        return sum(len(folders) + len(files) for _, folders, files in os.walk(os.fsencode(self.inbox)))

    def check(self) -> None:
        """Nothing outside was written, made, removed, renamed, linked, or given another mode, time or attribute."""
        assert self._seen() == self._before

    def _seen(self) -> Seen:
        """All that is outside. The time of change tells of whatever was done to one; the home's own, of a new name."""
        found: Seen = {b"": (os.lstat(self.home).st_ctime_ns,)}
        top = os.fsencode(self.home)
        for here, folders, files in os.walk(top):
            if here == top:
                folders[:] = [name for name in folders if name != b"inbox"]
            for name in folders + files:
                path = os.path.join(here, name)
                info = os.lstat(path)
                content = b""
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        content = file.read()
                found[path] = (info.st_ino, info.st_mode, info.st_nlink, info.st_mtime_ns, info.st_ctime_ns, content)
        return found


@contextlib.contextmanager
def around(base: str | None = MEMORY) -> Iterator[Around]:
    """One below `base`; the process stands in it meanwhile, since a wrong path may be a relative one."""
    home = Path(tempfile.mkdtemp(prefix="enchufe-hostile-", dir=base))
    before = os.getcwd()
    try:
        made = Around(home)
        os.chdir(home / "cwd")
        yield made
    finally:
        os.chdir(before)
        shutil.rmtree(home, ignore_errors=True)


class Names:
    """Hostile names without end, the same for a seed: those of the corpus, mutated, joined, and bytes at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._corpus = [name for name, _ in corpus()]
        self._pieces = [
            *(
                b"..",
                b".",
                b"/",
                b"\\",
                b"\0",
                b"//",
                b"../",
                b"/..",
                b"%2f",
                b"%2e",
                b" ",
                b":",
                b"\n",
                b"\x1b[",
                b"~",
            ),
            *(b"\xc0\xaf", b"\xc0\xae", b"\xe2\x88\x95", b"\xef\xbc\x8e", b"\xe2\x80\x8b", b"\xff", b"\xcc\x81"),
            *(
                b"outside",
                b"secret",
                b"inbox",
                b"inbox2",
                b"live",
                b"deep",
                b"out",
                b"abs",
                b"up",
                b"x",
                b"new",
                b"cwd",
            ),
            *(b".enchufe", b".ENCHUFE", b"journal", b"etc", b"tmp", b"0" * 16, b"f" * 32, b"n" * 250, b"NUL", b"git~1"),
        ]

    def name(self) -> bytes:
        """The next."""
        rng = self.random
        choice = rng.random()
        if choice < 0.15:
            return rng.choice(self._corpus)
        if choice < 0.35:
            name = bytearray(rng.choice(self._corpus)[:300])
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(name) + 1)
                name[at : at + rng.randrange(3)] = rng.choice(self._pieces)
            return bytes(name)
        if choice < 0.85:
            return b"".join(rng.choices(self._pieces, k=rng.randrange(1, 6)))
        return rng.randbytes(rng.choice((1, 2, 3, 5, 8, 20, 254, 255, 256)))

    def target(self) -> bytes:
        """The next, as where a symlink leads."""
        rng = self.random
        if rng.random() < 0.3:
            return rng.choice((b"..", b"../..", b"/", b"../outside", b"../../outside/secret", b"a/..", b"x", b"out/x"))
        return b"/".join(self.name() for _ in range(rng.randrange(1, 3)))[:4095] or b"."


def deliver(home: Around, names: Names, count: int) -> Counter[str]:
    """Offer that many names to one delivery, as files, folders and links, in new folders and in those that are there.

    Every name that is harmless must be taken, every other must not; and nothing may change outside.
    """
    rng = names.random
    if_exists: IfExists = rng.choice(get_args(IfExists))
    links: Links = rng.choice(get_args(Links))
    before = home.count()
    delivery = LocalStore(home.inbox, if_exists=if_exists, links=links).begin()
    ends: Counter[str] = Counter()
    try:
        taken = _offer(delivery, names, count, ends, roots=if_exists != "fail")
        delivery.commit()
        ends["committed"] += 1
        if if_exists in ("rename", "fail"):  # then each is something new
            assert home.count() == before + taken
    finally:
        delivery.abandon()
        home.check()
        assert not (home.inbox / ".enchufe").exists()
    return ends


def _offer(delivery: Delivery, names: Names, count: int, ends: Counter[str], *, roots: bool) -> int:
    """Offer them; returns how many entries were taken."""
    rng = names.random
    offered: set[tuple[int, bytes]] = set()
    # A new folder, and some that the destination has already, for its policy to meet; a link among these.
    folders = []
    there = (b"tree", b"live", b"out", b"d") if roots else (b"tree %d" % rng.randrange(1 << 60),)
    for id_, name in enumerate(there):
        delivery.admit(Entry(id_, NO_PARENT, name, Kind.DIRECTORY, mode=0o755))
        offered.add((NO_PARENT, name))
        folders.append(id_)
    first = len(folders)
    for id_ in range(first, first + count):
        name = names.name()
        parent = rng.choice((*folders, NO_PARENT)) if roots else rng.choice(folders)
        if (parent, name) in offered:  # which ends a transfer, and is tested elsewhere
            ends["twice"] += 1
            continue
        kind = rng.choice((Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK))
        entry = Entry(id_, parent, name, kind, mode=rng.choice((0o644, 0o755, 0o600, 0o7777)))
        if kind is Kind.FILE:
            entry.size = 6
        elif kind is Kind.SYMLINK:
            entry.target = names.target()
        try:
            answer = delivery.admit(entry)
        except RemoteProtocolError:
            assert not harmless(name), name
            ends["refused"] += 1
            continue
        except Refused:
            ends["exists"] += 1
            continue
        assert harmless(name), name
        offered.add((parent, name))
        ends[answer.name] += 1
        if kind is Kind.FILE and answer is Answer.ALL:
            delivery.write_whole(entry, b"attack", _ATTACK)
        elif kind is Kind.DIRECTORY and len(folders) < 40:
            folders.append(id_)
    return first + ends["ALL"]


_ATTACK: Final = blake3(b"attack").digest()


def run(job: tuple[str, int, int]) -> Counter[str]:
    """That many names (below a folder, seed, count), in deliveries into one destination after the other."""
    base, seed, count = job
    names = Names(seed)
    ends: Counter[str] = Counter()
    try:
        with around(base) as home:
            while count > 0:
                ends += deliver(home, names, min(count, AT_ONCE))
                count -= AT_ONCE
    except (AssertionError, EnchufeError) as error:
        raise AssertionError(f"seed {seed}: {error!r}") from error
    return ends


def tried(count: int, seed: int = 0, workers: int | None = None) -> Counter[str]:
    """That many names, on every processor.

    What tries them is confined where that can be: should a name ever get out, it does no harm here. It is refused then,
    which fails too.
    """
    each = 5 * AT_ONCE
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="enchufe-hostile-", dir=MEMORY) as base:
        jobs = [(base, seed + number, min(each, count - number * each)) for number in range(-(-count // each))]
        for some in everywhere(run, jobs, workers, prepare=partial(confine, [base])):
            ends += some
    return ends


def main() -> None:
    """Run as many as are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    started = time.monotonic()
    ends = tried(options.names, options.seed, options.workers)
    print(f"{options.names} names {dict(ends)}: nothing outside, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
