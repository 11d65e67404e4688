"""Whole transfers of files that are there in another version, in which much has moved."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchufe import events
from enchufe.entry import BLOCK_SIZE, Entry
from enchufe.errors import BrokenError
from enchufe.session import ReceivingSession, receiving
from enchufe.store import LocalStore, Source, delta
from enchufe.store.delivery import Delivery
from enchufe.transfer import receiver as books
from enchufe.transfer import sender as senders_books
from enchufe.transfer.messages import ZSTD
from enchufe.transfer.patches import PIECE_SIZE
from enchufe.transports import tcp
from tests.sessions import encrypted
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import Bend, CuttingRelay, Relay, Way, cut_at
from tests.sessions.transfers import Ends, transfer

OLD = random.Random(4).randbytes(12 * BLOCK_SIZE + 4_321)
NEW = b"in front" + OLD[: 5 * BLOCK_SIZE] + b"between" + OLD[5 * BLOCK_SIZE + 100_000 :] + b"behind"
FEW = 6 * PIECE_SIZE  # bytes that cross of it, at the most

dialing = pytest.mark.parametrize("sender_dials", [True, False], ids=["sender dials", "receiver dials"])


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each had a machine of its own."""
    monkeypatch.setattr(tcp, "is_one_machine", lambda _: False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/file").write_bytes(OLD)
    (tmp_path / "file").write_bytes(NEW)
    return tmp_path / "file"


def update(file: Path, **options: object) -> Ends:
    store = LocalStore(file.with_name("inbox"), if_exists="update")
    return transfer(lambda: Source([file]), store.begin, **{"compress": "never", **options})  # type: ignore[arg-type]


def check(ends: Ends, file: Path) -> None:
    inbox = file.with_name("inbox")
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert (inbox / "file").read_bytes() == file.read_bytes()
    assert os.listdir(inbox) == ["file"]


def arrived(ends: Ends, file: Path) -> int:
    """Bytes that crossed."""
    check(ends, file)
    assert ends.sender.receipt.sent_bytes == ends.receiver.receipt.sent_bytes
    return ends.sender.receipt.sent_bytes


@pytest.mark.parametrize("streams", [1, 4])
@dialing
def test_what_moved_does_not_cross_again(file: Path, streams: int, sender_dials: bool) -> None:
    assert arrived(update(file, streams=streams, sender_dials=sender_dials), file) <= FEW


@pytest.mark.parametrize(
    "new",
    [OLD[4 * BLOCK_SIZE + 5 :], OLD[: 3 * BLOCK_SIZE - 9], b"?" * BLOCK_SIZE + OLD, OLD + OLD, OLD[::-1] + OLD],
    ids=["its end", "its beginning", "a block in front", "twice", "much in front"],
)
def test_versions_of_other_lengths(file: Path, new: bytes) -> None:
    file.write_bytes(new)
    # Of blocks that are looked at together each has to find out for itself.
    assert arrived(update(file), file) <= max(0, len(new) - len(OLD)) + FEW + 2 * BLOCK_SIZE


def test_on_one_machine_blocks_alone_are_compared(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "is_one_machine", lambda _: True)
    assert arrived(update(file), file) > len(NEW) // 2


def test_encrypted(file: Path) -> None:
    store = LocalStore(file.with_name("inbox"), if_exists="update")
    assert arrived(encrypted.send(file, store, streams=3, compress="never"), file) <= FEW


def test_with_somebody_who_knows_no_patches(file: Path) -> None:
    class Older(ReceivingSession):
        features = ZSTD  # type: ignore[assignment, unused-ignore]

    assert arrived(update(file, receiving=Older), file) > len(NEW) // 2


def test_what_comes_along_is_compressed(file: Path) -> None:
    file.write_bytes(OLD[:BLOCK_SIZE] + b"-- \n" * 500_000 + OLD[BLOCK_SIZE:])
    with Relay() as relay:
        ends = update(file, compress="always", relay=relay)
    check(ends, file)
    assert ends.receiver.receipt.sent_bytes > 1_900_000
    assert sum(count for way, count in relay.counts.items() if way.there) < 200_000


@dialing
def test_streams_that_die(file: Path, sender_dials: bool) -> None:
    def choose(way: Way) -> Bend | None:
        return cut_at(300 * way.stream) if way.stream and way.there == sender_dials else None

    with Relay(choose) as relay:
        check(update(file, streams=4, sender_dials=sender_dials, relay=relay), file)


def test_after_a_cut_what_was_put_together_is_kept(file: Path) -> None:
    """And what was not crosses as if there were no other version."""
    inbox = file.with_name("inbox")
    file.write_bytes(NEW + OLD[::-1])
    with CuttingRelay(3 * BLOCK_SIZE, there=True, kept=lambda: kept_bytes(inbox) >= 8 * BLOCK_SIZE) as relay:
        ends = update(file, relay=relay, streams=1)
    assert isinstance(ends.sender.error, BrokenError)
    kept = kept_bytes(inbox)
    assert kept >= 8 * BLOCK_SIZE
    assert arrived(update(file), file) == file.stat().st_size - kept


@pytest.mark.parametrize("change", ["overwritten", "shorter", "gone", "a folder"])
def test_the_version_that_is_here_changes(file: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """After it was told of: what does not fit any more is sent as it is."""
    old = file.with_name("inbox") / "file"
    own = Delivery.own

    def then_changed(self: Delivery, entry: Entry, pieces: int = 0) -> Iterator[tuple[bytes, bytes]]:
        told = list(own(self, entry, pieces))
        if change == "overwritten":
            old.write_bytes(OLD[: 7 * BLOCK_SIZE] + OLD[7 * BLOCK_SIZE :][::-1])
        elif change == "shorter":
            os.truncate(old, 7 * BLOCK_SIZE)
        else:
            old.unlink()
            if change == "a folder":
                old.mkdir()
        yield from told

    monkeypatch.setattr(Delivery, "own", then_changed)
    ends = update(file, streams=3)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    (landed,) = ends.receiver.of(events.Landed)
    assert file.with_name("inbox").joinpath(os.fsdecode(landed.path[0])).read_bytes() == NEW
    assert ends.sender.receipt.sent_bytes >= 4 * BLOCK_SIZE


def test_more_pieces_than_anybody_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is beyond, blocks alone are told of."""
    monkeypatch.setattr(books, "MAX_PIECES", 150)
    monkeypatch.setattr(senders_books, "MAX_PIECES", 150)
    tree, inbox = tmp_path / "tree", tmp_path / "inbox"
    (inbox / "tree").mkdir(parents=True)
    tree.mkdir()
    for number in range(6):
        (inbox / "tree" / f"{number}").write_bytes(OLD[: 4 * BLOCK_SIZE])
        (tree / f"{number}").write_bytes(b"%d" % number + OLD[: 4 * BLOCK_SIZE])
    store = LocalStore(inbox, if_exists="update")
    ends = transfer(lambda: Source([tree]), store.begin, compress="never", streams=2)
    for number in range(6):
        assert (inbox / "tree" / f"{number}").read_bytes() == (tree / f"{number}").read_bytes()
    assert ends.sender.receipt.sent_bytes <= 6 * 4 * BLOCK_SIZE - 2 * BLOCK_SIZE


def test_who_came_by_a_token_is_not_told_how_anything_begins(file: Path) -> None:
    class Quota:
        most: int | None = None

        def expect(self, total: int) -> None:
            pass

        def spend(self, size: int) -> None:
            pass

        def settle(self, *, finished: bool) -> None:
            pass

    assert arrived(update(file, allowance=Quota()), file) > len(NEW) // 2


def test_there_are_no_gaps_in_what_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there was no room for some of it, and there is for what comes after that."""
    told: list[int] = []
    tell = books.Receiver.tell_pieces

    def once_less(self: books.Receiver, number: int, count: int) -> int:
        told.append(tell(self, number, count - 1 if not told else count))
        return told[-1]

    monkeypatch.setattr(books.Receiver, "tell_pieces", once_less)
    monkeypatch.setattr(delta, "_TOGETHER", 1)
    ends = update(file, streams=1)
    assert told[0] == BLOCK_SIZE // PIECE_SIZE - 1
    assert not any(told[1:])
    check(ends, file)


def test_a_version_that_is_much_longer_is_told_of_in_part(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "_LONGER", BLOCK_SIZE)
    told: list[int] = []
    tell = books.Receiver.tell_pieces

    def noted(self: books.Receiver, number: int, count: int) -> int:
        told.append(tell(self, number, count))
        return told[-1]

    monkeypatch.setattr(books.Receiver, "tell_pieces", noted)
    file.write_bytes(NEW[: 2 * BLOCK_SIZE])
    assert arrived(update(file), file) <= FEW
    assert sum(told) == 5 * BLOCK_SIZE // PIECE_SIZE


def test_who_reads_nothing_is_told_no_more_than_fits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on as soon as he does."""
    monkeypatch.setattr(receiving, "_QUEUED", 0)
    monkeypatch.setattr(receiving, "_POSTED", 0)
    monkeypatch.setattr(delta, "_TOGETHER", 1)
    # Nor is more known than of the block that is to be sent.
    assert arrived(update(file, streams=1), file) <= 4 * BLOCK_SIZE
