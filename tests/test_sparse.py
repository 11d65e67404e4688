"""Sparse files: holes told of, and holes left, on the file systems that are here."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from enchufe.entry import Kind
from enchufe.store import Source
from enchufe.store.sparse import PAGE, write_sparse, zeros_ahead

MIB = 1 << 20


def holey(path: Path, size: int, *data: int) -> None:
    """A file of `size` bytes with a page at each of `data`, and nothing else."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset in data:
            os.pwrite(file.fileno(), b"x" * PAGE, offset)
    if path.stat().st_blocks * 512 >= size:
        pytest.skip("this file system has no holes")


def test_sparse_files_are_offered_so(place: Path) -> None:
    (place / "t").mkdir()
    holey(place / "t/sparse", 10 * MIB, 5 * MIB)
    (place / "t/full").write_bytes(b"x" * MIB)
    (place / "t/zeros").write_bytes(bytes(MIB))
    (place / "t/empty").touch()
    holey(place / "root", 10 * MIB)
    with contextlib.closing(Source([place / "t", place / "root"])) as source:
        sparse = {entry.name: entry.sparse for entry in source.walk() if entry.kind is Kind.FILE}
    assert sparse == {b"sparse": True, b"full": False, b"zeros": False, b"empty": False, b"root": True}


def test_holes(place: Path) -> None:
    path = place / "file"
    holey(path, 10 * MIB, 5 * MIB)
    with contextlib.closing(Source([path])) as source:
        (entry,) = source.walk()
        with contextlib.closing(source.open(entry)) as file:
            if file.holes(0, 10 * MIB) == 0:
                pytest.skip("this file system does not tell of holes")
            # A file system may call more of it data than is, in units of its own.
            assert 4 * MIB <= file.holes(0, 10 * MIB) <= 5 * MIB
            assert file.holes(MIB, 2 * MIB) == MIB
            assert file.holes(MIB + 5, MIB + 10) == 5
            assert file.holes(5 * MIB, 6 * MIB) == 0
            assert file.holes(5 * MIB + 1, 6 * MIB) == 0
            assert file.holes(8 * MIB, 10 * MIB) == 2 * MIB
            assert file.holes(10 * MIB, 10 * MIB) == 0
            assert file.holes(3, 3) == 0
            # Reading goes on by offset, whatever was asked.
            view = memoryview(bytearray(2 * PAGE))
            assert file.read_into(view, 5 * MIB - PAGE) == 2 * PAGE
            assert view == bytes(PAGE) + b"x" * PAGE


def test_where_nothing_tells_of_holes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "file"
    holey(path, MIB)
    reading, writing = os.pipe()
    assert zeros_ahead(reading, 0, 100) == 0  # ESPIPE
    os.close(reading)
    os.close(writing)
    with path.open("rb") as file:
        assert zeros_ahead(file.fileno(), 0, MIB) == MIB
        monkeypatch.delattr(os, "SEEK_DATA")
        assert zeros_ahead(file.fileno(), 0, MIB) == 0


def test_every_hole_is_zeros(place: Path) -> None:
    """What is told is true, for holes and data anywhere."""
    rng = random.Random(4)
    path = place / "file"
    size = 4 * MIB + 777
    holey(path, size, *(rng.randrange(size - PAGE) for _ in range(20)))
    content = path.read_bytes()
    with path.open("rb") as file:
        for _ in range(500):
            start = rng.randrange(size)
            stop = min(start + rng.choice([1, PAGE, MIB]), size)
            hole = zeros_ahead(file.fileno(), start, stop)
            assert 0 <= hole <= stop - start
            assert content[start : start + hole] == bytes(hole)


def written(path: Path, data: bytes | memoryview, offset: int, size: int) -> int:
    """Write `data` to a new file of `size` bytes; returns how many of them have room on the disk."""
    with path.open("wb") as file:
        write_sparse(file.fileno(), data, offset)
        file.truncate(size)
    return path.stat().st_blocks * 512


def test_zeros_stay_holes(place: Path) -> None:
    assert written(place / "file", bytes(MIB), MIB, 3 * MIB) == 0
    assert (place / "file").read_bytes() == bytes(3 * MIB)
    data = bytearray(MIB)
    data[10 * PAGE + 5] = 1
    data[20 * PAGE : 22 * PAGE] = b"y" * (2 * PAGE)
    data[-1] = 1
    room = written(place / "file", memoryview(data), MIB, 2 * MIB)
    assert (place / "file").read_bytes() == bytes(MIB) + data
    assert room < MIB // 4  # 4 pages, and what a file system adds of its own


def test_the_last_part_of_a_page_is_a_hole_too(place: Path) -> None:
    assert written(place / "file", bytes(PAGE + 100), 0, PAGE + 100) == 0
    assert (place / "file").read_bytes() == bytes(PAGE + 100)


def test_pages_are_the_files(place: Path) -> None:
    """Single pages of zeros between data, which would not be seen if they were counted from where the write begins."""
    start = b"x" * 100
    data = start + (bytes(PAGE) + b"x" * PAGE) * 50
    room = written(place / "file", data, PAGE - len(start), 101 * PAGE)
    assert (place / "file").read_bytes() == bytes(PAGE - len(start)) + data
    assert room < 75 * PAGE  # 51, and what a file system adds of its own


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_reads_the_same(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    kinds: list[Callable[[int], bytes]] = [bytes, rng.randbytes, lambda size: bytes(size // 2) + b"\1" * (size // 2)]
    sizes = [0, 1, 7, 100, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE, 20 * PAGE]
    pieces = [rng.choice(kinds)(rng.choice(sizes)) for _ in range(rng.randrange(12))]
    data = b"".join(pieces)
    offset = rng.choice([0, 0, MIB, 1, PAGE - 1, 12345])
    written(tmp_path / "file", data, offset, offset + len(data) + 9)
    assert (tmp_path / "file").read_bytes() == bytes(offset) + data + bytes(9)


def test_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, view, offset: whole(descriptor, view[:1000], offset))
    data = b"x" * (2 * PAGE) + bytes(PAGE) + b"y" * PAGE
    written(tmp_path / "file", data, 0, len(data))
    assert (tmp_path / "file").read_bytes() == data
