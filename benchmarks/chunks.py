"""Content-defined chunks against aligned blocks, and rsync's delta: what would cross of a changed file, and how soon.

    python -m benchmarks.chunks                     files of 1 GiB, on /dev/shm: ten minutes
    python -m benchmarks.chunks --size 64MiB --corpus inserted-1,database

It wants pyfastcdc: `pip install pyfastcdc blake3` in an environment of yours. It is no part of enchufe, which does not
cut by content: what is measured is what that would be. Both sides' work is done here, one step after the other, with
the files in memory:

- the old file is cut and hashed where it is (index),
- the new one is cut and hashed at its sender, and what the index does not have crosses (scan),
- the new file is put together and written, and each block of 1 MiB hashed (build).

A time over a link is the sum of these and of what crosses, at its rate: nothing overlaps. That of rsync is what its
daemon takes on loopback, and what crosses, at the rate. Rates stand in brackets, in Mbit/s; round trips are left out.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from blake3 import blake3

from benchmarks import runs
from benchmarks.corpus import KIB, MIB
from benchmarks.peers import rsync
from benchmarks.processes import Failed, Stage

try:
    import pyfastcdc  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    pyfastcdc = None

BLOCK: Final = MIB
ALIGNED: Final = (1024 * KIB, 64 * KIB)  # enchufe's blocks, and what smaller ones would be
AVERAGES: Final = (16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB)
BY_BLOCKS: Final = 64 * KIB
RATES: Final = (1000, 100, 10)  # Mbit/s
DIGEST: Final = 32
CHUNK_RECORD: Final = DIGEST + 4  # of an index: and the length, since offsets add up
COPY_RECORD: Final = 12  # where from, how much
ROW: Final = 400  # bytes of a row of the database, about

Piece = tuple[int, int, bytes, int]  # offset, length, digest of what it is part of, and where it begins in that
Cut = Callable[[memoryview], Iterator[Piece]]


@dataclass(frozen=True)
class Result:
    """One way to bring one file.

    Attributes:
        content: bytes of the new file that cross.
        told: bytes besides: digests, and where to take what is there from.
        index, scan, build: seconds; of rsync all is in `build`.
        pieces: that the old file has.
    """

    content: int
    told: int
    index: float
    scan: float
    build: float
    pieces: int = 0

    def over(self, rate: float | None) -> float:
        """Seconds over a link of so many Mbit/s; None: of any."""
        return self.index + self.scan + self.build + (0 if rate is None else (self.content + self.told) * 8e-6 / rate)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; 1 if what was put together is not the new file, or something is missing."""
    options = _parser().parse_args(arguments)
    if pyfastcdc is None:
        print("FAILED: pyfastcdc is not installed here", file=sys.stderr)
        return 1
    print(*(f"{key}: {value}" for key, value in runs.machine(options.on, False).items()), sep=", ", flush=True)
    results: dict[str, Any] = {}
    with runs.reported(results, options.json), runs.work_directory(options.on) as work:
        runs.check_space(6 * options.size, work)
        for name in options.corpus:
            with runs.fresh(work / name) as place:
                old, new = place / "old", place / "new"
                MAKERS[name](old, new, options.size, random.Random(options.seed))
                results[name] = _compare(name, old, new, place, options)
    return 0


def _compare(name: str, old: Path, new: Path, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    cuts = {f"aligned, {size // KIB} KiB": (_aligned(size), _aligned(size), 0) for size in ALIGNED}
    for size in AVERAGES:
        cuts[f"chunks, {size // KIB} KiB"] = (_by_content(size), _by_content(size), COPY_RECORD)
    cuts[f"by blocks, {BY_BLOCKS // KIB} KiB"] = (_by_content(BY_BLOCKS), _by_blocks(BY_BLOCKS), COPY_RECORD)
    ways: dict[str, Callable[[], Result]] = {way: partial(_bring, old, new, place, *how) for way, how in cuts.items()}
    ways["rsync"] = lambda: _rsync(old, new, place, options.timeout)
    measured: dict[str, list[Result]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way in runs.turns(number, list(ways)):
            measured[way].append(ways[way]())
    print(f"{name}: {old.stat().st_size / 1e6:.1f} MB before, {new.stat().st_size / 1e6:.1f} MB now")
    rates = "".join(f"{f'({rate})':>9}" for rate in RATES)
    print(f"  {'':<16}{'content':>11}{'told':>9}{'pieces':>8}{'index':>7}{'scan':>7}{'build':>7}{'in all':>8}{rates}")
    told: dict[str, Any] = {}
    for way, found in measured.items():
        index, scan, build = (median(getattr(each, step) for each in found) for step in ("index", "scan", "build"))
        middle = Result(found[0].content, found[0].told, index, scan, build, found[0].pieces)
        times = "".join(f"{middle.over(rate):9.2f}" for rate in RATES)
        print(
            f"  {way:<16}{middle.content / 1e6:8.2f} MB{middle.told / 1e3:6.0f} kB{middle.pieces or '':8}"
            f"{middle.index:7.2f}{middle.scan:7.2f}{middle.build:7.2f}{middle.over(None):8.2f}{times}",
            flush=True,
        )
        told[way] = [asdict(each) for each in found]
    return {"before": old.stat().st_size, "now": new.stat().st_size, "ways": told}


def _aligned(size: int) -> Cut:
    def cut(data: memoryview) -> Iterator[Piece]:
        for offset in range(0, len(data), size):
            block = data[offset : offset + size]
            yield offset, len(block), blake3(block).digest(), 0

    return cut


def _by_content(average: int) -> Cut:
    def cut(data: memoryview) -> Iterator[Piece]:
        for chunk in pyfastcdc.FastCDC(average).cut_buf(data):  # a quarter of that at least, four times at the most
            yield chunk.offset, chunk.length, blake3(chunk.data).digest(), 0

    return cut


def _by_blocks(average: int) -> Cut:
    """Each block of 1 MiB for itself, so that streams need not wait for each other: cut from far enough before it on.

    Some cuts before a place differ, from where cutting began; soon they are the same.
    """
    margin = 4 * average  # of the biggest chunk

    def cut(data: memoryview) -> Iterator[Piece]:
        for start in range(0, len(data), BLOCK):
            stop, begin = min(start + BLOCK, len(data)), max(0, start - margin)
            for chunk in pyfastcdc.FastCDC(average).cut_buf(data[begin : stop + margin]):
                first, last = begin + chunk.offset, begin + chunk.offset + chunk.length
                if last > start and first < stop:
                    skipped = max(0, start - first)
                    yield first + skipped, min(last, stop) - first - skipped, blake3(chunk.data).digest(), skipped
                if last >= stop:
                    break

    return cut


def _bring(old: Path, new: Path, place: Path, cut: Cut, cut_new: Cut, copy_record: int) -> Result:
    """All the steps; aligned blocks (no copy record) count only where they have always been."""
    with (
        old.open("rb") as file,
        new.open("rb") as other,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as there,
        mmap.mmap(other.fileno(), 0, access=mmap.ACCESS_READ) as here,
        memoryview(there) as theirs,
        memoryview(here) as ours,
    ):
        for view in (theirs, ours):  # both are in memory, and mapped, before anybody looks at the clock
            blake3(view).digest()
        start = time.perf_counter()
        index: dict[bytes, tuple[int, int]] = {}
        places: set[tuple[int, bytes]] = set()
        pieces = 0
        for offset, length, digest, _ in cut(theirs):
            pieces += 1
            index.setdefault(digest, (offset, length))
            places.add((offset, digest))
        indexed = time.perf_counter()
        content = copies = 0
        plan: list[tuple[bool, int, int]] = []  # whether it is there, where, and how much
        for offset, length, digest, skipped in cut_new(ours):
            found = index.get(digest) if copy_record or (offset, digest) in places else None
            is_there, begin = found is not None, offset if found is None else found[0] + skipped
            if plan and plan[-1][0] == is_there and sum(plan[-1][1:]) == begin:
                plan[-1] = (is_there, plan[-1][1], plan[-1][2] + length)
            else:
                plan.append((is_there, begin, length))
                copies += is_there
            content += 0 if is_there else length
        scanned = time.perf_counter()
        _build(plan, theirs, ours, place / "built")
        built = time.perf_counter()
        with (place / "built").open("rb") as result:
            if blake3(result.read()).digest() != blake3(ours).digest():
                raise Failed("what was put together is something else")
    (place / "built").unlink()
    record = CHUNK_RECORD if copy_record else DIGEST
    told = pieces * record + copies * copy_record
    return Result(content, told, indexed - start, scanned - indexed, built - scanned, pieces)


def _build(plan: Sequence[tuple[bool, int, int]], theirs: memoryview, ours: memoryview, into: Path) -> None:
    """Block after block, as they would come: each put together, hashed, and written."""
    buffer = memoryview(bytearray(BLOCK))
    filled = 0
    with into.open("wb", buffering=0) as file:
        for is_there, begin, length in plan:
            source = theirs if is_there else ours
            at, end = begin, begin + length
            while at < end:
                step = min(BLOCK - filled, end - at)
                buffer[filled : filled + step] = source[at : at + step]
                filled, at = filled + step, at + step
                if filled == BLOCK:
                    blake3(buffer).digest()
                    file.write(buffer)
                    filled = 0
        blake3(buffer[:filled]).digest()
        file.write(buffer[:filled])


def _rsync(old: Path, new: Path, place: Path, timeout: float) -> Result:
    """Through its daemon, as it is with a file that is there in another version."""
    with runs.fresh(place / "into") as into, runs.fresh(place / "scratch") as scratch:
        shutil.copyfile(old, into / new.name)
        os.utime(into / new.name, (0, 0))
        with Stage(scratch, timeout) as stage:
            transfer = rsync("--no-whole-file", "--stats")(new, into, stage)
            command = transfer.sender.commands[0]
            start = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout)
            seconds = time.perf_counter() - start
        said = {key: int(value.replace(",", "")) for key, value in re.findall(r"^(.+): ([\d,]+)", done.stdout, re.M)}
        content = said["Literal data"]
        told = said["Total bytes sent"] + said["Total bytes received"] - content
    return Result(content, told, 0, 0, seconds)


# What changes. Each makes an old file, and a new one.


def _inserted(count: int) -> Callable[[Path, Path, int, random.Random], None]:
    def make(old: Path, new: Path, size: int, source: random.Random) -> None:
        with old.open("wb") as file, new.open("wb") as other:
            other.write(source.randbytes(count))
            for _ in range(size // MIB):
                piece = source.randbytes(MIB)
                file.write(piece)
                other.write(piece)

    return make


def _in_place(old: Path, new: Path, size: int, source: random.Random) -> None:
    """One of a hundred aligned blocks holds something else: what `benchmarks.delta` measures."""
    with old.open("wb") as file, new.open("wb") as other:
        for number in range(size // MIB):
            piece = source.randbytes(MIB)
            file.write(piece)
            other.write(source.randbytes(MIB) if number % 100 == 50 else piece)


def _archive(old: Path, new: Path, _size: int, source: random.Random) -> None:
    """/usr/include as tar makes it of a copy, before and after some lines came into ten files and one file came."""
    root = old.parent / "tree"
    shutil.copytree("/usr/include", root, symlinks=True, ignore_dangling_symlinks=True)
    _tar(root, old)
    files = sorted(path for path in root.rglob("*.h") if path.is_file() and not path.is_symlink())
    for path in source.sample(files, 10):
        lines = path.read_bytes().splitlines(keepends=True)
        lines.insert(len(lines) // 2, b"/* " + source.randbytes(30).hex().encode() + b" */\n")
        path.write_bytes(b"".join(lines))
    (files[len(files) // 3].parent / "new.h").write_text("int added_since;\n" * 200)
    _tar(root, new)
    shutil.rmtree(root)


def _tar(root: Path, into: Path) -> None:
    with tarfile.open(into, "w") as archive:
        archive.add(root, "include")  # in the order of their names


def _database(old: Path, new: Path, size: int, source: random.Random) -> None:
    """SQLite: 1,000 rows changed, 1,000 came, 200 went, near each other half of the time."""
    rows = size // 2 // ROW
    with sqlite3.connect(old, isolation_level=None) as base:
        base.execute("pragma journal_mode = off")
        base.execute("create table t (id integer primary key, name text, value real, body blob)")
        base.execute("begin")
        made = ((f"name {source.random()}", source.random(), source.randbytes(ROW - 60)) for _ in range(rows))
        base.executemany("insert into t (name, value, body) values (?, ?, ?)", made)
        base.execute("create index by_name on t (name)")
        base.execute("commit")
    base.close()
    shutil.copyfile(old, new)
    near = source.randrange(rows // 2)
    with sqlite3.connect(new, isolation_level=None) as base:
        base.execute("begin")
        for number in range(1000):
            chosen = near + number if number % 2 else source.randrange(1, rows)
            base.execute("update t set value = ?, body = ? where id = ?", (0.5, source.randbytes(ROW - 60), chosen))
            more = (f"name {source.random()}", source.random(), source.randbytes(ROW - 60))
            base.execute("insert into t (name, value, body) values (?, ?, ?)", more)
            if number % 5 == 0:
                base.execute("delete from t where id = ?", (source.randrange(1, rows),))
        base.execute("commit")
    base.close()


def _vacuumed(old: Path, new: Path, size: int, source: random.Random) -> None:
    """The same database, and VACUUM after the changes: every page behind a row that went has moved."""
    _database(old, new, size, source)
    base = sqlite3.connect(new)
    base.execute("vacuum")
    base.close()


def _dump(old: Path, new: Path, size: int, source: random.Random) -> None:
    """A dump of a database as text: 300 lines of it changed, came or went."""
    count = size // 4 // 200
    changed = dict.fromkeys(source.sample(range(count), 300))
    with old.open("w") as file, new.open("w") as other:
        for number in range(count):
            values = f"{number},'name {source.random()}',{source.random()},X'{source.randbytes(60).hex()}'"
            line = f"INSERT INTO t VALUES({values});\n"
            file.write(line)
            if number not in changed:
                other.write(line)
            elif number % 3:
                other.write(line.replace("name", "another name"))


def _image(old: Path, new: Path, size: int, source: random.Random) -> None:
    """A file system of a virtual machine, of files of CPython's library: some are written anew, some go, some come."""
    root = old.parent / "tree"
    library = Path(os.__file__).parent
    shutil.copytree(
        library,
        root / "library",
        symlinks=True,
        ignore=shutil.ignore_patterns("site-packages", "__pycache__", "test", "*.a"),
    )
    (root / "data").write_bytes(b"".join(source.randbytes(MIB) for _ in range(size // 4 // MIB)))
    subprocess.run(["truncate", f"--size={size}", old], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", "-d", root, old], check=True)
    shutil.copyfile(old, new)
    files = sorted(path.relative_to(root) for path in (root / "library").rglob("*.py") if " " not in str(path))
    orders: list[str] = []
    for number, path in enumerate(source.sample(files, 60)):
        orders.append(f"rm /{path}")
        if number % 3:
            (root / path).write_bytes((root / path).read_bytes() + b"# changed\n" * 20)
            orders += [f"cd /{path.parent}", f"write {root / path} {path.name}"]
    more = old.parent / "more"
    more.write_bytes(source.randbytes(2 * MIB))
    orders += ["cd /", f"write {more} more"]
    (old.parent / "orders").write_text("\n".join(orders) + "\n")
    subprocess.run(["debugfs", "-w", "-f", old.parent / "orders", new], check=True, capture_output=True)
    shutil.rmtree(root)


MAKERS: Final[dict[str, Callable[[Path, Path, int, random.Random], None]]] = {
    "inserted-1": _inserted(1),
    "inserted-1024": _inserted(KIB),
    "in-place": _in_place,
    "archive": _archive,
    "database": _database,
    "vacuumed": _vacuumed,
    "dump": _dump,
    "image": _image,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.chunks", description=(__doc__ or "").partition("\n")[0])
    names = list(MAKERS)
    parser.add_argument("--corpus", type=runs.names(names), default=names, metavar="A,B", help=", ".join(names))
    parser.add_argument("--size", type=runs.size, default="1GiB", help="about; default: %(default)s")
    parser.add_argument("--rounds", type=runs.positive, default=3, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the contents; default: %(default)s")
    parser.add_argument("--on", type=Path, default=Path("/dev/shm"), metavar="DIR", help="where; default: %(default)s")
    parser.add_argument("--timeout", type=float, default=300, metavar="S", help="of rsync; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
