"""Whole trees over one stream and several, whoever dials: what arrives, and that both sides hold the same receipt."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from enchufe import events
from enchufe.entry import BLOCK_SIZE, MAX_DEPTH, Entry, Kind
from enchufe.session import sending
from enchufe.store import LocalStore, Source, TextSource
from enchufe.store.memory import MemoryStore, Node
from tests.sessions.relay import Relay
from tests.sessions.transfers import Ends, attributes_of, send, snapshot, transfer

ODD = [b"with space", b" ", b"new\nline", "ñandú".encode(), b"\xff\xfe invalid", b"x" * 255, b"-rf", b"back\\slash"]
BIG = random.Random(1).randbytes(9 * BLOCK_SIZE + 12_345)

streams = pytest.mark.parametrize("streams", [1, 2, 5])
dialing = pytest.mark.parametrize("sender_dials", [True, False], ids=["sender dials", "receiver dials"])


def check_told(ends: Ends, total: int) -> None:
    """Both hold the same receipt, and were told the truth on the way."""
    sent, received = ends.sender.receipt, ends.receiver.receipt
    assert (sent.digest, sent.files, sent.bytes, sent.left_out) == (
        received.digest,
        received.files,
        received.bytes,
        received.left_out,
    )
    assert sent.bytes == total
    for side in (ends.sender, ends.receiver):
        kinds = [type(event) for event in side.told]
        assert kinds.index(events.Connected) < kinds.index(events.Offered) < kinds.index(events.Receipt)
        assert kinds[-1] is events.Receipt
        told = [progress.bytes for progress in side.of(events.Progress)]
        assert told == sorted(told)
        assert told[-1] == side.of(events.Progress)[-1].total == total
        assert side.of(events.Offered)[0].bytes == total
        assert len(side.of(events.File)) == sent.files + sent.skipped + sent.left_out


def odd_tree(root: Path) -> Path:
    """One of everything that a file system has."""
    inner = root / "in" / "ner"
    inner.mkdir(parents=True)
    (root / "empty folder").mkdir()
    (root / "empty").touch()
    (root / "big").write_bytes(BIG)
    (inner / "block").write_bytes(BIG[:BLOCK_SIZE])
    (inner / "nearly a block").write_bytes(BIG[: BLOCK_SIZE - 1])
    top = os.fsencode(root)
    for number, name in enumerate(ODD):
        with open(os.path.join(top, name), "wb") as file:
            file.write(name * number)
    (root / "link").symlink_to("in/ner/block")
    (root / "dangling").symlink_to("nowhere")
    os.link(root / "big", inner / "big too")
    os.link(root / "in" / "ner" / "nearly a block", root / "another name")
    os.link(root / "empty", root / "empty too")
    for mode in (0o000, 0o444, 0o755):
        (root / f"{mode:o}").write_text("x")
        (root / f"{mode:o}").chmod(mode)
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, ns=(1, 10**18 + number), follow_symlinks=False)
    (root / "empty folder").chmod(0o711)
    return root


@streams
@dialing
def test_a_tree_with_one_of_everything(place: Path, streams: int, sender_dials: bool) -> None:
    tree = odd_tree(place / "tree")
    with Relay(expects=streams) as relay:
        ends = send(tree, place / "inbox", streams=streams, sender_dials=sender_dials, relay=relay)
    assert snapshot(place / "inbox" / "tree") == snapshot(tree)
    assert os.listdir(place / "inbox") == ["tree"]
    check_told(ends, ends.sender.receipt.bytes)
    assert relay.streams == {(0, stream) for stream in range(streams)}
    # A file with several names crosses once.
    assert ends.sender.receipt.sent_bytes <= ends.receiver.receipt.sent_bytes < ends.sender.receipt.bytes


@streams
@dialing
def test_memory_into_memory(streams: int, sender_dials: bool) -> None:
    store, inbox = MemoryStore(), MemoryStore()
    for number in range(3000):
        store.add(f"d/{number % 7}/f{number}", BIG[: number % 5000], mtime_ns=number)
    store.add("d/big", BIG)
    store.add("big too", BIG[: 3 * BLOCK_SIZE], mode=0o600)
    store.nodes[b"d", b"same"] = store.nodes[b"d", b"big"]
    store.nodes[b"d", b"link"] = Node(Kind.SYMLINK, target=b"big", mode=0o777)
    ends = transfer(store.source, inbox.begin, streams=streams, sender_dials=sender_dials)
    assert inbox.nodes == store.nodes
    assert inbox.nodes[b"d", b"same"].data is inbox.nodes[b"d", b"big"].data
    check_told(ends, sum(map(len, store.contents().values())))


@streams
def test_memory_onto_a_disk_and_back(tmp_path: Path, streams: int) -> None:
    store, back = MemoryStore(), MemoryStore()
    for number in range(500):
        store.add(f"d/f{number:03}", BIG[: number * 10], mtime_ns=number)
    store.add("d/zz", BIG)
    transfer(store.source, LocalStore(tmp_path).begin, streams=streams).receiver.receipt  # noqa: B018 (raises)
    transfer(lambda: Source([tmp_path / "d"]), back.begin, streams=streams).receiver.receipt  # noqa: B018
    assert back.contents() == store.contents()


@pytest.mark.parametrize("data", [b"", b"x", BIG[:BLOCK_SIZE], BIG[: BLOCK_SIZE + 1]], ids=len)
@dialing
def test_one_file(tmp_path: Path, data: bytes, sender_dials: bool) -> None:
    (tmp_path / "f").write_bytes(data)
    ends = send(tmp_path / "f", tmp_path / "inbox", sender_dials=sender_dials)
    assert (tmp_path / "inbox" / "f").read_bytes() == data
    check_told(ends, len(data))
    assert ends.sender.receipt.sent_bytes == len(data)


def test_an_empty_folder_and_a_folder_of_empty_files(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "nothing").mkdir()
    for number in range(2000):
        (tmp_path / "nothing" / f"{number}").touch()
    for name in ("none", "nothing"):
        ends = send(tmp_path / name, tmp_path / "inbox", streams=5)
        assert snapshot(tmp_path / "inbox" / name) == snapshot(tmp_path / name)
        assert ends.sender.receipt.bytes == ends.receiver.receipt.bytes == 0


@streams
def test_a_sparse_file_stays_sparse_and_its_holes_do_not_cross(place: Path, streams: int) -> None:
    sparse = place / "sparse"
    with sparse.open("wb") as file:
        file.truncate(64 * BLOCK_SIZE + 5)
        os.pwrite(file.fileno(), b"head", 3)
        os.pwrite(file.fileno(), BIG[:BLOCK_SIZE], 20 * BLOCK_SIZE + 4096)  # over the edge of a block
        os.pwrite(file.fileno(), b"t", 64 * BLOCK_SIZE + 4)
    if sparse.stat().st_blocks * 512 >= 32 * BLOCK_SIZE:
        pytest.skip("this file system has no holes")
    ends = send(sparse, place / "inbox", streams=streams)
    landed = place / "inbox" / "sparse"
    assert landed.read_bytes() == sparse.read_bytes()
    assert landed.stat().st_mtime_ns == sparse.stat().st_mtime_ns
    assert landed.stat().st_blocks <= sparse.stat().st_blocks + 64
    assert ends.sender.receipt.sent_bytes <= 5 * BLOCK_SIZE
    assert ends.sender.receipt.bytes == ends.receiver.receipt.bytes == 64 * BLOCK_SIZE + 5


def test_a_sparse_file_that_is_all_hole(place: Path) -> None:
    with (place / "hole").open("wb") as file:
        file.truncate(10 * BLOCK_SIZE)
    ends = send(place / "hole", place / "inbox", streams=2)
    assert (place / "inbox" / "hole").stat().st_size == 10 * BLOCK_SIZE
    assert (place / "inbox" / "hole").stat().st_blocks == (place / "hole").stat().st_blocks
    assert ends.sender.receipt.sent_bytes == 0


@streams
def test_extended_attributes_of_files_and_folders(place: Path, streams: int) -> None:
    tree = place / "tree"
    (tree / "in").mkdir(parents=True)
    (tree / "small").write_text("x")
    (tree / "big").write_bytes(BIG)
    (tree / "read only").write_text("x")
    try:
        for number, path in enumerate((tree, tree / "in", tree / "small", tree / "big", tree / "read only")):
            os.setxattr(path, "user.number", b"%d" % number)
            os.setxattr(path, "user.empty", b"")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    (tree / "read only").chmod(0o444)
    os.utime(tree / "small", ns=(1, 10**18))
    send(tree, place / "inbox", streams=streams).receiver.receipt  # noqa: B018 (raises)
    assert snapshot(place / "inbox" / "tree") == snapshot(tree)
    assert attributes_of(os.fsencode(place / "inbox" / "tree")) == (("user.empty", b""), ("user.number", b"0"))


@dialing
def test_a_text(tmp_path: Path, sender_dials: bool) -> None:
    store = LocalStore(tmp_path)
    ends = transfer(lambda: TextSource("¡hola!\n", "note"), store.begin, sender_dials=sender_dials)
    assert (tmp_path / "note").read_text() == "¡hola!\n"
    check_told(ends, len("¡hola!\n".encode()))


def test_the_deepest_file_that_a_source_offers_is_taken(tmp_path: Path) -> None:
    here = tree = tmp_path / "tree"
    tree.mkdir()
    for _ in range(MAX_DEPTH):
        here = Path(os.path.join(here, "d"))
        here.mkdir()
        (here / "f").touch()
    ends = send(tree, tmp_path / "inbox")
    assert ends.sender.receipt.files == MAX_DEPTH - 1
    left_out = [file for file in ends.sender.of(events.File) if file.action == "left out"]
    assert [len(file.path) for file in left_out] == [MAX_DEPTH + 1]


def test_a_disk_on_which_it_takes_long_to_look_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found leaves: a network file system may take longer for many than the other side waits for a word."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(200):
        (tree / f"{number}").touch()
    offers: list[int] = []
    whole = sending.SendingSession._next_entries

    def counted(session: sending.SendingSession) -> list[Entry]:
        entries = whole(session)
        offers.append(len(entries))
        return entries

    monkeypatch.setattr(sending.SendingSession, "_next_entries", counted)
    monkeypatch.setattr(sending, "_WALKING", 0.0)
    check_told(send(tree, tmp_path / "inbox", each_file=True), 0)
    assert sum(offers) == 201
    assert max(offers) <= 16
