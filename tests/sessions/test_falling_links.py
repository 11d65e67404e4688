"""Hard links to a name that is not sent after all: the other names are as good, and come."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enchufe import events
from enchufe.entry import BLOCK_SIZE, Entry
from enchufe.store import LocalStore, SendingFile, Source
from tests.sessions.transfers import Ends, Side, snapshot, transfer

DATA = random.Random(5).randbytes(2 * BLOCK_SIZE + 5)
NAMES = ("a", "b", "c", "d")

streams = pytest.mark.parametrize("streams", [1, 3])
sizes = pytest.mark.parametrize("size", [0, 5_000, len(DATA)])


class Shaky(Source):
    """Before a name is read for the first time, something happens to it."""

    def __init__(self, tree: Path, happens: dict[str, Callable[[Path], object]]) -> None:
        super().__init__([tree])
        self._tree = tree
        self._happens = dict(happens)

    def _happen(self, entry: Entry) -> None:
        name = entry.name.decode()
        if name in self._happens:
            self._happens.pop(name)(self._tree / name)

    def open(self, entry: Entry) -> SendingFile:  # type: ignore[override]
        self._happen(entry)
        return super().open(entry)

    def read_whole(self, entry: Entry) -> bytes:
        self._happen(entry)
        return super().read_whole(entry)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[int], Path]:
    def made(size: int) -> Path:
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "a").write_bytes(DATA[:size])
        for name in NAMES[1:]:
            (tree / name).hardlink_to(tree / "a")
        return tree

    return made


def sent(tree: Path, streams: int, **happens: Callable[[Path], object]) -> Ends:
    source = Shaky(tree, happens)
    ends = transfer(lambda: source, LocalStore(tree.parent / "inbox").begin, streams=streams)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    return ends


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def left_out(ends: Ends) -> list[tuple[str, str | None]]:
    def told(side: Side) -> Iterator[tuple[str, str | None]]:
        for file in side.of(events.File):
            if file.action == "left out":
                yield file.path[-1].decode(), file.reason

    assert list(told(ends.sender)) == list(told(ends.receiver))
    return list(told(ends.sender))


@streams
@sizes
def test_links_to_a_name_that_vanished_are_sent(make: Callable[[int], Path], size: int, streams: int) -> None:
    tree = make(size)
    ends = sent(tree, streams, a=Path.unlink)
    assert left_out(ends) == [("a", "it vanished")]
    assert ends.sender.receipt.sent_bytes == size  # and are linked to each other
    assert snapshot(tree.parent / "inbox" / "tree") == snapshot(tree)


@streams
@sizes
def test_links_to_a_file_that_changed_are_sent_as_it_is_now(
    make: Callable[[int], Path], size: int, streams: int
) -> None:
    tree = make(size)
    assert left_out(sent(tree, streams, a=append)) == []
    assert snapshot(tree.parent / "inbox" / "tree") == snapshot(tree)


@streams
@sizes
def test_the_next_name_may_be_gone_too(make: Callable[[int], Path], size: int, streams: int) -> None:
    tree = make(size)

    def both(path: Path) -> None:
        path.unlink()
        (tree / "b").unlink()

    assert left_out(sent(tree, streams, a=both)) == [("a", "it vanished"), ("b", "it vanished")]
    assert snapshot(tree.parent / "inbox" / "tree") == snapshot(tree)


@streams
@sizes
def test_what_was_offered_again_may_vanish_too(make: Callable[[int], Path], size: int, streams: int) -> None:
    tree = make(size)
    looked: list[Path] = []

    def second(path: Path) -> None:
        """It is looked at once, offered again, and gone when it is to be read."""
        looked.append(path)
        if len(looked) == 2:
            path.unlink()
        else:
            source._happens[path.name] = second

    source = Shaky(tree, {"a": Path.unlink, "b": second})
    ends = transfer(lambda: source, LocalStore(tree.parent / "inbox").begin, streams=streams)
    assert left_out(ends) == [("a", "it vanished"), ("b", "it vanished")]
    assert snapshot(tree.parent / "inbox" / "tree") == snapshot(tree)
    assert (tree.parent / "inbox" / "tree" / "c").samefile(tree.parent / "inbox" / "tree" / "d")


@streams
def test_links_to_a_file_that_keeps_changing_are_left_out_with_it(make: Callable[[int], Path], streams: int) -> None:
    tree = make(5_000)

    def change(path: Path) -> None:
        append(path)
        source._happens["a"] = change

    source = Shaky(tree, {"a": change})
    ends = transfer(lambda: source, LocalStore(tree.parent / "inbox").begin, streams=streams)
    changed = "it changed while it was read"
    assert left_out(ends) == [(name, changed) for name in NAMES]
