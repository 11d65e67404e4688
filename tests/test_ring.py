"""Rings in shared memory: what is written into one comes out of the other's view, however it wraps and waits."""

from __future__ import annotations

import mmap
from random import Random

import pytest

from enchufe.errors import RemoteProtocolError
from enchufe.transports import ring
from enchufe.transports.ring import Rings, size_of

CAPACITY = 16
FIRST, SECOND = 64, 512  # bytes: where docs/shared-memory.md has the heads
WRITTEN, READ = 0, 64


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, size_of(CAPACITY))


def both(memory: mmap.mmap) -> tuple[Rings, Rings]:
    return Rings(memory, CAPACITY, first=True), Rings(memory, CAPACITY, first=False)


def cut(data: bytes, random: Random) -> list[bytes]:
    """The same in pieces, some of them empty."""
    ends = sorted(random.randint(0, len(data)) for _ in range(random.randrange(9)))
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_all_comes_out_as_it_went_in(memory: mmap.mmap, seed: int) -> None:
    """In both directions at once, written and read in any pieces, many times around."""
    random = Random(seed)
    sides = both(memory)
    inside = [b"", b""]  # what waits in the ring that each writes
    for _ in range(2000):
        writer = random.randrange(2)
        here, there = sides[writer], sides[1 - writer]
        if random.randrange(2):
            data = random.randbytes(random.randint(0, CAPACITY + 4))
            assert here.room() == CAPACITY - len(inside[writer])
            count = here.write(cut(data, random))
            assert count == min(len(data), CAPACITY - len(inside[writer]))
            inside[writer] += data[:count]
        assert there.waiting() == len(inside[writer])
        count = random.randint(0, len(inside[writer]))
        assert b"".join(there.peek(count)) == inside[writer][:count]
        start = random.randint(0, count)
        assert there.copy(start, count) == inside[writer][start:count]
        if random.randrange(2):
            there.skip(count)
            inside[writer] = inside[writer][count:]


def test_what_is_there_in_one_piece_is_told_as_one(memory: mmap.mmap) -> None:
    here, there = both(memory)
    here.write([b"a" * CAPACITY])
    assert len(there.peek(CAPACITY)) == 1
    there.skip(CAPACITY - 1)
    here.write([b"b" * 5])
    assert [bytes(piece) for piece in there.peek(6)] == [b"a", b"b" * 5]


def test_what_follows_a_piece_that_did_not_fit_waits_for_its_rest(memory: mmap.mmap) -> None:
    here, there = both(memory)
    here.write([b"xyz"])

    class Next(bytes):
        def __len__(self) -> int:
            """Whoever looks at it gives the reader time."""
            there.skip(there.waiting())
            return super().__len__()

    assert here.write([b"a" * CAPACITY, Next(b"bcd")]) == CAPACITY - 3
    assert b"".join(there.peek(there.waiting()))[-CAPACITY + 3 :] == b"a" * (CAPACITY - 3)


def test_whoever_sleeps_is_woken_once_and_for_what_he_waits_for(memory: mmap.mmap) -> None:
    here, there = both(memory)
    here.write([b"before"])
    there.skip(6)
    here.write([b"abc"])
    assert not here.wakes_reader()
    there.reader_sleeps(6)
    here.write([b"de"])
    assert not here.wakes_reader()
    here.write([b"f"])
    assert here.wakes_reader()
    assert not here.wakes_reader()
    there.reader_sleeps(1)
    there.reader_wakes()
    assert not here.wakes_reader()

    here.write([b"g" * CAPACITY])
    here.writer_sleeps(4)
    there.skip(3)
    assert not there.wakes_writer()
    there.skip(1)
    assert there.wakes_writer()
    assert not there.wakes_writer()
    here.writer_sleeps(1)
    here.writer_wakes()
    assert not there.wakes_writer()
    # Who sleeps is one side of one ring.
    there.reader_sleeps(1)
    here.writer_sleeps(1)
    assert not there.wakes_reader()
    assert not here.wakes_writer()


def test_each_says_what_becomes_of_its_own_writing(memory: mmap.mmap) -> None:
    here, there = both(memory)
    assert (here.state(), there.state()) == (ring.OPEN, ring.OPEN)
    here.say(ring.ENDED)
    there.say(ring.CUT)
    assert (here.state(), there.state()) == (ring.CUT, ring.ENDED)


@pytest.mark.parametrize("index", [CAPACITY + 1, 2**64 - 1, 2**63])
def test_an_index_that_makes_no_sense_is_refused(memory: mmap.mmap, index: int) -> None:
    here, there = both(memory)
    memory[FIRST + WRITTEN : FIRST + WRITTEN + 8] = index.to_bytes(8, "little")
    with pytest.raises(RemoteProtocolError, match="no sense"):
        there.waiting()
    memory[FIRST + READ : FIRST + READ + 8] = index.to_bytes(8, "little")
    with pytest.raises(RemoteProtocolError, match="no sense"):
        here.room()
    assert here.waiting() == 0  # the other ring is another


def test_nobody_takes_back_what_he_wrote_or_read(memory: mmap.mmap) -> None:
    here, there = both(memory)
    here.write([b"abc"])
    there.skip(2)
    memory[FIRST + WRITTEN : FIRST + WRITTEN + 8] = (1).to_bytes(8, "little")
    with pytest.raises(RemoteProtocolError, match="no sense"):
        there.waiting()
    memory[FIRST + READ : FIRST + READ + 8] = (4).to_bytes(8, "little")
    with pytest.raises(RemoteProtocolError, match="no sense"):
        here.room()
