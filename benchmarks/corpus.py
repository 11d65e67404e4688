"""What is sent: three corpora, the same for the same seed, and the fingerprint that tells whether it arrived.

Everything is made and read in small pieces, since this program has to stay small itself: see `processes.py`
on why its own memory would show in the figures of the programs it starts.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAMES: Final = ("one", "small", "lib")

KIB: Final = 1024
MIB: Final = 1024 * KIB
NOISE: Final = 4 * MIB
DIRECTORIES: Final = 200
SMALLEST: Final = 1 * KIB
LARGEST: Final = 16 * KIB
LIB_AT_MOST: Final = 512 * MIB  # some 100 MB, where a static libpython is among it


@dataclass(frozen=True)
class Fingerprint:
    """What must be equal on both sides. Modes and times are not in it: not every peer carries them."""

    files: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class Corpus:
    """A file or a tree to send, and what it looks like."""

    name: str
    path: Path
    fingerprint: Fingerprint

    @property
    def is_tree(self) -> bool:
        """Whether it is a directory: some peers can send a single file only."""
        return self.name != "one"


def make(
    name: str,
    under: Path,
    *,
    size: int = 0,
    count: int = 0,
    seed: int = 1,
    sizes: tuple[int, int] = (SMALLEST, LARGEST),
) -> Corpus:
    """Make the corpus `name` in the directory `under`: `size` is for `one`, `count` and `sizes` for `small`."""
    path = under / name
    makers: dict[str, Callable[[], None]] = {
        "one": lambda: _make_one(path, size, seed),
        "small": lambda: _make_small(path, count, seed, sizes),
        "lib": lambda: _make_lib(path),
    }
    makers[name]()
    return Corpus(name, path, fingerprint(path))


def bytes_needed(name: str, *, size: int, count: int) -> int:
    """An upper bound of the space that one copy of the corpus takes."""
    if name == "one":
        return size
    if name == "small":
        return count * LARGEST + DIRECTORIES * 4 * KIB
    return LIB_AT_MOST


def fingerprint(root: Path) -> Fingerprint:
    """Read a file, or a tree with its names, kinds and contents (empty directories count)."""
    digest = hashlib.blake2b()
    files = total = 0
    buffer = memoryview(bytearray(256 * KIB))
    for path in _walk(root) if root.is_dir() else [root]:
        name = os.fsencode(path.relative_to(root))
        kind = b"l" if path.is_symlink() else b"d" if path.is_dir() else b"f"
        body = hashlib.blake2b()
        if kind == b"l":
            body.update(os.fsencode(os.readlink(path)))
        elif kind == b"f":
            files += 1
            with path.open("rb", buffering=0) as file:
                while got := file.readinto(buffer):
                    body.update(buffer[:got])
                    total += got
        # Each part has a fixed length or is told its length, so no two trees look alike.
        digest.update(kind + len(name).to_bytes(4, "big") + name + body.digest())
    return Fingerprint(files, total, digest.hexdigest())


def _make_one(path: Path, size: int, seed: int) -> None:
    # Noise that repeats only every 4 MiB, each MiB stamped with its number: fast to make, not to be compressed,
    # and a piece that is lost, doubled or in the wrong place changes the digest.
    source = random.Random(seed)
    noise = bytearray().join(source.randbytes(64 * KIB) for _ in range(NOISE // (64 * KIB)))
    with path.open("wb", buffering=0) as file:
        for number, start in enumerate(range(0, size, MIB)):
            at = start % NOISE
            noise[at : at + 8] = number.to_bytes(8, "big")
            file.write(memoryview(noise)[at : at + min(MIB, size - start)])


def _make_small(path: Path, count: int, seed: int, sizes: tuple[int, int]) -> None:
    source = random.Random(seed)
    directories = [path / f"directory-{number:03}" for number in range(min(DIRECTORIES, count))]
    for directory in directories:
        directory.mkdir(parents=True)
    for number in range(count):
        file = directories[number % len(directories)] / f"file-{number:06}"
        file.write_bytes(source.randbytes(source.randint(*sizes)))


def _make_lib(path: Path) -> None:
    # Symlinks are followed here because scp would follow them later, and its result would differ from the rest.
    ignored = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__")
    shutil.copytree(sysconfig.get_path("stdlib"), path, ignore=ignored, ignore_dangling_symlinks=True)


def _walk(root: Path) -> Iterator[Path]:
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in sorted(directories + files):
            yield Path(directory, name)
