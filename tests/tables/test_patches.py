"""Patches: what the receiver has of a block is found wherever it stands, and nothing else is taken for it."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enchufe.entry import ANCHOR_SIZE, BLOCK_SIZE
from enchufe.store.delta import record
from enchufe.transfer import patches
from enchufe.transfer.patches import MAX_PARTS, MAX_PIECES, PIECE_SIZE, RECORD_SIZE, Part, Pieces, piece_size

OLD = random.Random(3).randbytes(6 * BLOCK_SIZE + 12_345)


def indexed(old: bytes, size: int = PIECE_SIZE) -> Pieces:
    index = Pieces(size)
    whole = memoryview(old)
    for start in range(0, len(old) - size + 1, size):
        index.add(record(whole[start : start + size]))
    return index


def all_parts(index: Pieces, new: bytes, block: int = BLOCK_SIZE) -> Iterator[tuple[int, list[Part]]]:
    """Where each block begins, and what it is made of."""
    for start in range(0, len(new), block):
        yield start, parts_of(index, new, start, block)


def parts_of(index: Pieces, new: bytes, start: int, block: int = BLOCK_SIZE) -> list[Part]:
    stop = min(start + block, len(new))
    begin, end = index.around(start, stop, len(new))
    return index.parts(bytearray(new[begin:end]), begin, start, stop)


def crossing(old: bytes, new: bytes, index: Pieces | None = None, block: int = BLOCK_SIZE) -> int:
    """Bytes that have to come along; what is made of the rest is right."""
    along = 0
    for start, parts in all_parts(index or indexed(old), new, block):
        size = min(block, len(new) - start)
        if not parts:
            along += size
            continue
        assert len(parts) <= MAX_PARTS
        at = start
        for length, where in parts:
            assert length > 0
            if where is None:
                along += length
            else:
                assert old[where : where + length] == new[at : at + length]
            at += length
        assert at == start + size
    return along


@pytest.mark.parametrize(
    "size", [1, 2, 1023, PIECE_SIZE, PIECE_SIZE + 1, BLOCK_SIZE - 1, BLOCK_SIZE, 3 * BLOCK_SIZE + 7]
)
@pytest.mark.parametrize("at", [0, 1, 5 * PIECE_SIZE, 2 * BLOCK_SIZE + 777, len(OLD)])
def test_what_is_inserted_comes_along_and_next_to_nothing_else(at: int, size: int) -> None:
    new = OLD[:at] + random.Random(size).randbytes(size) + OLD[at:]
    assert crossing(OLD, new) <= size + 2 * PIECE_SIZE


@pytest.mark.parametrize("size", [1, PIECE_SIZE, BLOCK_SIZE, 3 * BLOCK_SIZE + 7])
@pytest.mark.parametrize("at", [0, 1, 5 * PIECE_SIZE, 2 * BLOCK_SIZE + 777])
def test_what_is_deleted_costs_next_to_nothing(at: int, size: int) -> None:
    assert crossing(OLD, OLD[:at] + OLD[at + size :]) <= 3 * PIECE_SIZE


def test_changes_everywhere() -> None:
    """A byte more, less or another, each 300 KB: what comes along are the pieces that they are in."""
    new, edits = bytearray(), 0
    for start in range(0, len(OLD), 300_000):
        piece = OLD[start : start + 300_000]
        new += (b"?" + piece, piece[1:], b"?" + piece[1:])[edits % 3]
        edits += 1
    assert crossing(OLD, bytes(new)) <= edits * 2 * PIECE_SIZE


def test_blocks_in_any_order() -> None:
    """Each finds out for itself where the streams before it are not done yet."""
    new = b"in front" + OLD
    index = indexed(OLD)
    starts = list(range(0, len(new), BLOCK_SIZE))
    random.Random(1).shuffle(starts)
    for start in starts:
        parts = parts_of(index, new, start)
        assert sum(size for size, where in parts if where is None) <= 2 * PIECE_SIZE
        assert parts or start + BLOCK_SIZE >= len(new)


def test_what_is_all_new_is_no_patch() -> None:
    assert all(not parts for _, parts in all_parts(indexed(OLD), random.Random(9).randbytes(3 * BLOCK_SIZE)))
    assert all(not parts for _, parts in all_parts(Pieces(PIECE_SIZE), OLD))


@pytest.mark.parametrize("filling", [b"\0", b"ab", b"-- \n"])
def test_what_is_the_same_everywhere_is_not_searched_for(filling: bytes) -> None:
    """Its beginning stands at every place."""
    plain = (filling * BLOCK_SIZE)[: 4 * BLOCK_SIZE]
    crossing(plain, b"?" + plain)
    new = plain[:BLOCK_SIZE] + OLD + plain
    assert crossing(OLD + plain, new) <= 3 * BLOCK_SIZE + 4 * PIECE_SIZE


def test_a_search_ends_though_it_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is all new is searched through a few times, and not for each of the pieces."""
    old, new = (random.Random(seed).randbytes(64 * BLOCK_SIZE) for seed in (1, 2))
    index = indexed(old)
    searched = 0
    search = patches._Search.next

    def counted(self: patches._Search, at: int, until: int, likely: Sequence[int]) -> tuple[int, int] | None:
        nonlocal searched
        before = self.searched
        found = search(self, at, until, likely)
        searched += self.searched - before
        return found

    monkeypatch.setattr(patches._Search, "next", counted)
    assert crossing(old, new, index) == len(new)
    assert searched <= patches._PATIENCE + 64 * (patches._PATIENCE_GAINED + BLOCK_SIZE)


def test_much_that_is_deleted_is_found_though_much_is_searched_in_vain() -> None:
    """With what comes before it all new, so that there is no patience left for a search of all at once."""
    old = random.Random(1).randbytes(120 * BLOCK_SIZE)
    new = random.Random(2).randbytes(40 * BLOCK_SIZE) + old[80 * BLOCK_SIZE + 5 :]
    assert crossing(old, new) <= 60 * BLOCK_SIZE


@pytest.mark.parametrize("pattern", [b"deadbeef", b"0123456789abcdef" * 3])
def test_what_is_found_everywhere_and_is_something_else_costs_no_more_patience(
    pattern: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece begins like all, and ends with a byte of its own."""
    pieces = [(pattern * PIECE_SIZE)[: PIECE_SIZE - 2] + struct.pack(">H", number) for number in range(8 * 64)]
    old, new = b"".join(pieces[: 4 * 64]), b"!" + b"".join(pieces[4 * 64 :])
    hashed = 0
    stands = patches._Search.stands

    def counted(self: patches._Search, piece: int, place: int) -> bool:
        nonlocal hashed
        hashed += 1
        return stands(self, piece, place)

    monkeypatch.setattr(patches._Search, "stands", counted)
    crossing(old, new)
    assert hashed * PIECE_SIZE <= patches._PATIENCE + 8 * (patches._PATIENCE_GAINED + 2 * BLOCK_SIZE)


def test_an_index_of_lies_makes_wrong_patches_and_nothing_worse() -> None:
    """The digests of the blocks find out."""
    lies = Pieces(PIECE_SIZE)
    whole = memoryview(OLD)
    for start in range(0, len(OLD) - PIECE_SIZE, PIECE_SIZE):
        lies.add(record(whole[:PIECE_SIZE]))
        lies.add(bytes(whole[start : start + ANCHOR_SIZE]) + bytes(RECORD_SIZE - ANCHOR_SIZE))
    for start, parts in all_parts(lies, OLD):
        assert not parts or sum(size for size, _ in parts) == min(BLOCK_SIZE, len(OLD) - start)


def test_the_size_of_pieces() -> None:
    assert piece_size(0) == piece_size(PIECE_SIZE**2) == PIECE_SIZE
    assert piece_size(1 << 30) == 32 << 10
    assert piece_size(40 << 30) == 256 << 10
    assert piece_size(64 << 30) * MAX_PIECES == 64 << 30
    assert piece_size(8 << 40) == BLOCK_SIZE


SIZE = 64  # of pieces, small ones; blocks of 1,000
runs = st.tuples(st.integers(0, 6000), st.integers(0, 3000))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 255), st.lists(st.one_of(runs, st.binary(min_size=1, max_size=200)), max_size=12), st.data())
def test_whatever_the_new_version_is_made_of(
    letters: int, made_of: list[tuple[int, int] | bytes], data: st.DataObject
) -> None:
    """Of the old one's runs in any order, some of them twice, and of new bytes; of few letters or many."""
    old = bytes(byte % letters for byte in random.Random(letters).randbytes(6000))
    new = b"".join(old[one[0] : one[0] + one[1]] if isinstance(one, tuple) else one for one in made_of)
    order = data.draw(st.permutations(range(0, len(new), 1000))) if new else []
    index = indexed(old, SIZE)
    for start in order:
        parts = parts_of(index, new, start, 1000)
        made, at = b"", start
        for size, where in parts:
            made += new[at : at + size] if where is None else old[where : where + size]
            at += size
        assert not parts or made == new[start : start + 1000]
