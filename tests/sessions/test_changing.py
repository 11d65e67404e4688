"""Sources that change: while they are sent, between two attempts, and those that cannot be read."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from enchufe import events
from enchufe.entry import BLOCK_SIZE, Entry
from enchufe.store import LocalStore, SendingFile, Source
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import CuttingRelay
from tests.sessions.transfers import Ends, Side, send, snapshot, transfer

BIG = random.Random(3).randbytes(8 * BLOCK_SIZE + 99)

streams = pytest.mark.parametrize("streams", [1, 2, 5])


class Restless(Source):
    """A source of which one file changes whenever somebody has begun to read it, so many times."""

    def __init__(self, tree: Path, restless: Path, times: int) -> None:
        super().__init__([tree])
        self._restless = restless
        self._changes = times

    def _change(self, entry: Entry) -> None:
        if self._changes and entry.name == os.fsencode(self._restless.name):
            self._changes -= 1
            data = bytes([65 + self._changes]) * self._restless.stat().st_size
            self._restless.write_bytes(data)
            os.utime(self._restless, ns=(1, 10**18 + self._changes))

    def open(self, entry: Entry) -> SendingFile:  # type: ignore[override]
        file = super().open(entry)
        self._change(entry)
        return file

    def read_whole(self, entry: Entry) -> bytes:
        self._change(entry)
        return super().read_whole(entry)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "big").write_bytes(BIG)
    (root / "small").write_bytes(b"small")
    (root / "other").write_bytes(BIG[: 3 * BLOCK_SIZE])
    return root


def restless(tree: Path, name: str, times: int, inbox: Path, streams: int) -> Ends:
    source = Restless(tree, tree / name, times)
    return transfer(lambda: source, LocalStore(inbox).begin, streams=streams)


def left_out(side: Side) -> list[tuple[bytes, str | None]]:
    return [(file.path[-1], file.reason) for file in side.of(events.File) if file.action == "left out"]


@streams
@pytest.mark.parametrize("name", ["big", "small"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_changes_while_it_is_sent_is_sent_again(
    tree: Path, tmp_path: Path, name: str, times: int, streams: int
) -> None:
    ends = restless(tree, name, times, tmp_path / "inbox", streams)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert ends.sender.receipt.left_out == ends.receiver.receipt.left_out == 0
    assert ends.sender.receipt.files == 3
    assert snapshot(tmp_path / "inbox" / "tree") == snapshot(tree)
    for side in (ends.sender, ends.receiver):
        last = side.of(events.Progress)[-1]
        assert last.bytes == last.total == len(BIG) + 5 + 3 * BLOCK_SIZE


@streams
@pytest.mark.parametrize("name", ["big", "small"])
def test_a_file_that_keeps_changing_is_left_out_and_told(tree: Path, tmp_path: Path, name: str, streams: int) -> None:
    ends = restless(tree, name, 3, tmp_path / "inbox", streams)
    for side in (ends.sender, ends.receiver):
        assert left_out(side) == [(name.encode(), "it changed while it was read")]
        assert side.receipt.left_out == 1
        assert side.receipt.files == 2
    expected = snapshot(tree)
    del expected[name.encode()]
    assert snapshot(tmp_path / "inbox" / "tree") == expected


class Losing(Restless):
    """Something of the file that changes cannot be offered with it when it is offered again."""

    def again(self, entry: Entry) -> Entry | None:
        self.left_out.add(entry.parent, entry.name, "its extended attributes: gone")
        return super().again(entry)


@streams
@pytest.mark.parametrize("name", ["big", "small"])
def test_what_is_lost_of_a_file_when_it_is_offered_again_is_told(
    tree: Path, tmp_path: Path, name: str, streams: int
) -> None:
    source = Losing(tree, tree / name, 1)
    ends = transfer(lambda: source, LocalStore(tmp_path / "inbox").begin, streams=streams)
    assert left_out(ends.sender) == [(name.encode(), "its extended attributes: gone")]
    assert ends.sender.receipt.left_out == 1
    assert snapshot(tmp_path / "inbox" / "tree") == snapshot(tree)


@streams
def test_a_file_that_vanishes_is_left_out_and_told(tree: Path, tmp_path: Path, streams: int) -> None:
    class Vanishing(Source):
        def open(self, entry: Entry) -> SendingFile:  # type: ignore[override]
            if entry.name == b"big":
                (tree / "big").unlink(missing_ok=True)
            return super().open(entry)

    ends = transfer(lambda: Vanishing([tree]), LocalStore(tmp_path / "inbox").begin, streams=streams)
    for side in (ends.sender, ends.receiver):
        assert left_out(side) == [(b"big", "it vanished")]
        last = side.of(events.Progress)[-1]
        assert last.bytes == last.total == 5 + 3 * BLOCK_SIZE
    assert snapshot(tmp_path / "inbox" / "tree") == snapshot(tree)


def test_a_source_that_changed_between_attempts_starts_over_and_says_so(tree: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    with CuttingRelay(10 * BLOCK_SIZE, there=True, kept=lambda: kept_bytes(inbox) > 0) as relay:
        assert isinstance(send(tree, inbox, relay=relay, streams=1).sender.end, Exception)
    assert kept_bytes(inbox) > 0
    (tree / "big").write_bytes(BIG[::-1])
    ends = send(tree, inbox, streams=1, each_file=False)
    over = [file for file in ends.receiver.of(events.File) if file.action == "started over"]
    assert [file.path for file in over] == [(b"tree", b"big")]
    assert over[0].reason
    assert ends.sender.receipt.sent_bytes >= len(BIG)
    assert ends.receiver.receipt.left_out == 0
    assert snapshot(inbox / "tree") == snapshot(tree)
    assert os.listdir(inbox) == ["tree"]


def test_what_did_not_change_between_attempts_goes_on_and_says_nothing(tree: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    with CuttingRelay(10 * BLOCK_SIZE, there=True, kept=lambda: kept_bytes(inbox) > 0) as relay:
        assert isinstance(send(tree, inbox, relay=relay, streams=1).sender.end, Exception)
    ends = send(tree, inbox, streams=1, each_file=False)
    assert not ends.receiver.of(events.File)
    assert ends.sender.receipt.sent_bytes < len(BIG)
