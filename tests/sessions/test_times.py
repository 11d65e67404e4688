"""Times that 64 bits of nanoseconds cannot tell: a file has the nearest there, and is no other for it here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from enchufe.entry import Kind
from enchufe.store import LocalStore, Source
from tests import handing
from tests.sessions.transfers import transfer

YEAR: Final = 31_556_952  # seconds
FIRST, LAST = -1 << 63, (1 << 63) - 1


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on a tmpfs, which has times that no file system on a disk has."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(prefix="enchufe-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture(params=[(400, LAST), (-400, FIRST)], ids=["2370", "1570"])
def told(request: pytest.FixtureRequest, memory: Path) -> int:
    """A tree of such a time, `memory/tree`; and what is told of it."""
    years, told = request.param
    time = years * YEAR * 10**9
    tree = memory / "tree"
    (tree / "inner").mkdir(parents=True)
    for number in range(5):
        (tree / "inner" / f"small{number}").write_bytes(b"small" * number)
    (tree / "big").write_bytes(os.urandom(3_000_000))
    os.link(tree / "big", tree / "same")
    (tree / "link").symlink_to("big")
    for path in (*tree.rglob("*"), tree):
        os.utime(path, ns=(time, time), follow_symlinks=False)
        if os.stat(path, follow_symlinks=False).st_mtime_ns != time:
            pytest.skip("this file system has no such times")
    return int(told)


@pytest.mark.parametrize("hands", [False, True])
def test_a_tree_of_times_beyond_telling(told: int, memory: Path, hands: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if hands:
        handing.at_once(monkeypatch.setattr)
    tree = memory / "tree"
    ends = transfer(lambda: Source([tree]), LocalStore(memory / "in", if_exists="update").begin)
    assert (ends.sender.receipt.files, ends.sender.receipt.left_out) == (7, 0)
    for path in (*tree.rglob("*"), tree):
        info = os.stat(memory / "in" / path.relative_to(memory), follow_symlinks=False)
        assert info.st_mtime_ns == told, path
        assert path.is_symlink() or path.is_dir() or info.st_size == path.stat().st_size
    again = transfer(
        lambda: Source([tree]), LocalStore(memory / "in", if_exists="update").begin, compares=True, each_file=False
    )
    assert (again.sender.receipt.skipped, again.sender.receipt.sent_bytes) == (7, 0)


def test_what_has_the_very_time_there_is_the_same(told: int, memory: Path) -> None:
    begin = LocalStore(memory, if_exists="update").begin
    for compares in (False, True):
        ends = transfer(lambda: Source([memory / "tree"]), begin, compares=compares, each_file=not compares)
        assert (ends.sender.receipt.skipped, ends.sender.receipt.sent_bytes) == (7, 0)


def test_it_is_offered_as_what_can_be_told(told: int, memory: Path) -> None:
    source = Source([memory / "tree"])
    entries = list(source.walk())
    assert {entry.mtime_ns for entry in entries} == {told}
    assert {entry.kind for entry in entries} == set(Kind)
    for entry in entries:
        if entry.kind is Kind.FILE:
            with_content = source.open(entry)
            assert with_content.unchanged()
            with_content.close()
            assert len(source.read_whole(entry)) == entry.size
    source.close()
