"""What a journal says: whatever order it was written in, whatever became of it, and in little memory."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from enchufe.entry import BLOCK_SIZE, NO_PARENT, Answer, Entry, Kind
from enchufe.errors import StoreError
from enchufe.store import Delivery, LocalStore, records
from enchufe.store.buckets import Buckets
from enchufe.store.hand import record
from enchufe.store.journal import RECORD_SIZE
from enchufe.store.records import Records, Unreadable
from tests.test_many_received import at_most

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")


def identity(number: int) -> bytes:
    return blake3(b"%d" % number).digest(16)


def digest(file: int, block: int, version: int = 0) -> bytes:
    return blake3(b"%d %d %d" % (file, block, version)).digest()


def told(file: int, block: int, version: int = 0) -> bytes:
    return record(identity(file), block, BLOCK_SIZE, digest(file, block, version))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def opened(path: Path) -> Records:
    return Records(os.open(path, os.O_RDONLY))


@pytest.mark.parametrize("few", [0, 3, records._FEW])
@pytest.mark.parametrize("seed", range(12))
def test_any_order_is_told_in_order(journal: Path, monkeypatch: pytest.MonkeyPatch, few: int, seed: int) -> None:
    """Of three files; some records are damaged, some are told again, and some are of what the file is too short for."""
    monkeypatch.setattr(records, "_FEW", few)
    monkeypatch.setattr(records, "_AT_ONCE", 4)
    monkeypatch.setattr(records, "_PIECE", 2)
    monkeypatch.setattr(records, "_PIECES", 2)
    monkeypatch.setattr(records, "_CHUNK", 5)
    chance = random.Random(seed)
    model: dict[int, dict[int, bytes]] = {0: {}, 1: {}, 2: {}}
    data = b""
    for number in range(chance.randrange(70)):
        file, block = chance.randrange(3), chance.randrange(20)
        one = told(file, block, number)
        if chance.random() < 0.2:
            one = one[:30] + bytes([one[30] ^ 4]) + one[31:]
        else:
            model[file][block] = digest(file, block, number)
        data += one
    journal.write_bytes(data + told(1, 3, 99)[: chance.randrange(RECORD_SIZE)])
    found = opened(journal)
    assert len(found) == sum(map(bool, model.values()))
    for file, blocks in model.items():
        assert (identity(file) in found) is bool(blocks)
        for there in (0, 7, 7.5, 20):
            kept = found.kept(identity(file), 20 * BLOCK_SIZE, int(there * BLOCK_SIZE))
            right = {block: told for block, told in blocks.items() if block + 1 <= there}
            assert len(kept) == len(right)
            for _ in range(2):  # it may be gone through again
                got: dict[int, bytes] = {}
                end = -1
                for first, run in kept:
                    assert first > end or len(run) == 0
                    count = len(run) // 32
                    assert 1 <= count <= 4
                    end = first + count - 1
                    got |= {first + n: run[32 * n : 32 * n + 32] for n in range(count)}
                assert got == right
    assert not found.kept(identity(7), BLOCK_SIZE, BLOCK_SIZE)
    found.close()


def test_a_million_small_files_take_little(journal: Path) -> None:
    count = 50_000
    journal.write_bytes(b"".join(record(identity(n), 0, 5, digest(n, 0)) for n in range(count)))
    with at_most(40, count):
        found = opened(journal)
    assert len(found) == count
    assert list(found.kept(identity(777), 5, 5)) == [(0, digest(777, 0))]
    found.close()


def test_a_big_file_takes_little(journal: Path) -> None:
    """However its blocks have come."""
    count = 20_000
    order = list(range(count))
    for start in range(0, count, 100):
        part = order[start : start + 100]
        random.Random(start).shuffle(part)
        order[start : start + 100] = part
    journal.write_bytes(b"".join(told(0, block) for block in order))
    size = count * BLOCK_SIZE
    with at_most(6, count):
        found = opened(journal)
        kept = found.kept(identity(0), size, size)
    assert len(kept) == count
    assert b"".join(run for _, run in kept) == b"".join(digest(0, block) for block in range(count))
    found.close()


def big(inbox: Path) -> tuple[Path, Entry]:
    """A delivery that was cut, of a file of so many blocks that they are not kept in memory; its journal."""
    count = records._FEW + 1
    entry = Entry(0, NO_PARENT, b"big", Kind.FILE, count * BLOCK_SIZE, sparse=True)
    begun = LocalStore(inbox).begin()
    begun.admit(entry)
    begun.write(entry, (count - 1) * BLOCK_SIZE, bytes(BLOCK_SIZE - 1) + b"x", digest(0, 0))
    for block in range(count):
        begun._journal.add(begun._plan.identity(entry), block, BLOCK_SIZE, digest(0, block))
    begun.suspend()
    (area,) = (inbox / ".enchufe").iterdir()
    return area / "journal", entry


@pytest.mark.parametrize("late", [True, False])
def test_a_journal_that_cannot_be_read_any_more(inbox: Path, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Before anything is moved nothing is lost but what it knew; later nothing is taken for what was not read."""
    journal, entry = big(inbox)
    begun = LocalStore(inbox).begin()
    assert isinstance(begun, Delivery)
    if late:
        assert begun.admit(entry) is Answer.REST
        os.truncate(journal, 4000 * RECORD_SIZE)
        with pytest.raises(StoreError, match=r"cannot read what is kept of .*big"):
            list(begun.kept(entry))
        with pytest.raises(StoreError):
            begun.recheck(entry, lambda: False)
    else:

        def unreadable(*_: object) -> bytes:
            raise Unreadable(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(Records, "_read_at", unreadable)
        assert begun.admit(entry) is Answer.ALL
    begun.abandon()


@given(st.lists(st.tuples(st.sampled_from("+-"), st.binary(min_size=3, max_size=3), st.binary(min_size=2, max_size=2))))
def test_buckets_are_rows_by_key(steps: list[tuple[str, bytes, bytes]]) -> None:
    buckets, model = Buckets(3, 2), dict[bytes, list[bytes]]()
    for what, key, value in steps:
        key = bytes([key[0] & 1, key[1] & 17, key[2] & 1])  # noqa: PLW2901 (few, so that they meet)
        value = bytes([value[0] & 1, value[1] & 1])  # noqa: PLW2901
        if what == "+":
            buckets.add(key, value)
            model.setdefault(key, []).append(value)
        else:
            buckets.discard(key)
            if model.get(key):
                model[key].pop(0)
        assert list(buckets.values(key)) == model.get(key, [])
        assert (key in buckets) is bool(model.get(key))
