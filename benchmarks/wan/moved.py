"""A file that is there in another version, in which things have moved: enchufe and rsync's delta, over a long link.

    python -m benchmarks.wan.moved --rtt 20 --rate 100
    python -m benchmarks.wan.moved --corpus inserted-1,database --size 64MiB

As root, like `benchmarks.wan`. On one machine enchufe compares blocks at their places and nothing else.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import corpus as corpora
from benchmarks import report, runs
from benchmarks.corpus import KIB, MIB, Corpus
from benchmarks.peers import Peer, enchufe, rsync
from benchmarks.processes import own_peak
from benchmarks.wan import link as links
from benchmarks.wan.link import Link

ROW: Final = 400  # bytes of a row of the database, about


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each; 1 if a run failed or delivered anything wrong, or there can be no link here."""
    options = _parser().parse_args(arguments)
    if why := links.absence():
        print(f"FAILED: {why}", file=sys.stderr)
        return 1
    link = Link(options.rtt, options.rate, options.loss, None, options.seed)
    print(*(f"{key}: {value}" for key, value in runs.machine(options.on, False).items()), sep=", ")
    print(f"over {link}", flush=True)
    results: dict[str, Any] = {"link": asdict(link)}
    with runs.reported(results, options.json), runs.work_directory(options.on) as work:
        runs.check_space(5 * options.size, work)
        for name in options.corpus:
            with runs.fresh(work / name) as place:
                old, new = place / "old", place / "file"
                MAKERS[name](old, new, options.size, random.Random(options.seed))
                results[name] = _measure(name, old, new, link, place, options)
    return 0


def _measure(name: str, old: Path, new: Path, link: Link, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One corpus: rounds in which both bring the new version over the old one."""
    peers = {
        peer.name: peer
        for peer in (
            Peer("rsync", "rsync -a, its delta", ["rsync"], rsync("--no-whole-file")),
            enchufe(options.enchufe, "--if-exists", "update"),
        )
    }
    sent = Corpus(name, new, corpora.fingerprint(new))
    measured = {each: report.Measured(peer.label) for each, peer in peers.items()}
    crossed: list[int] = []
    with links.up(link, place / "link") as network:
        for number in range(options.rounds):
            for each in runs.turns(number, list(peers)):
                with runs.fresh(place / "into") as into:
                    shutil.copyfile(old, into / new.name)
                    os.utime(into / new.name, (0, 0))
                    run = runs.timed(
                        peers[each], new, into, place / "scratch", timeout=options.timeout, network=network
                    )
                    runs.check(each, sent, into)
                measured[each].add(run)
                if each == "enchufe":
                    crossed.append(run.sent_bytes)
                print(f"{name} {number + 1}/{options.rounds} {each} {run.seconds:.3f} s", file=sys.stderr)
    print(report.table(sent, measured, own_peak(), {}))
    print(f"  content sent by enchufe: {median(crossed) / 1e6:.2f} MB\n", flush=True)
    return {**report.as_json(sent, measured, own_peak(), {}), "sent_bytes": crossed}


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
    parser = runs.options("wan.moved", __doc__ or "", rounds=1, timeout=600)
    parser.add_argument("--rtt", type=float, default=20, metavar="MS", help="there and back; default: %(default)s")
    parser.add_argument("--rate", type=float, default=100, metavar="MBIT", help="a second; default: %(default)s")
    parser.add_argument("--loss", type=float, default=0, metavar="PERCENT", help="each way; default: %(default)s")
    names = list(MAKERS)
    parser.add_argument("--corpus", type=runs.names(names), default=names, metavar="A,B", help=", ".join(names))
    parser.add_argument("--size", type=runs.size, default="1GiB", help="about; default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
