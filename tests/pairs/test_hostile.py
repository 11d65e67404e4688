"""What a peer must not get away with: the books set up by a good one, then one lie."""

from __future__ import annotations

import tracemalloc
from struct import pack

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from enchufe.entry import BLOCK_SIZE, MAX_DEPTH, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Listing, Reason
from enchufe.errors import (
    BrokenError,
    EnchufeError,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    VerificationError,
)
from enchufe.transfer import messages as m
from enchufe.transfer import receiver as receivers
from enchufe.transfer.data import Batch, Block, Hole, Packed, Patch, Same
from enchufe.transfer.digests import FileDigest, Outcome, TreeDigest, block_digest
from enchufe.transfer.machine import Looked, VersionError
from enchufe.transfer.message import FILE_BLOCKS, FILE_SIZE, RUN_BLOCKS, Message, Role
from enchufe.transfer.messages import WINDOW
from enchufe.transfer.offers import Offer, pack_entry
from enchufe.transfer.patches import MAX_PIECES, PIECE_SIZE, RECORD_SIZE
from enchufe.transfer.receiver import MAX_BLOCKS, Receiver, TreeMismatch, haves
from enchufe.transfer.sender import MAX_WINDOW, Sender
from enchufe.transfer.states import State
from tests.pairs.pair import Pair, content, file, join, wire

B = BLOCK_SIZE
D = bytes(32)
RECORD = bytes(RECORD_SIZE)
BIG = 3 * B + 4  # bytes

# The receiver's side. Offered are: 0 small, 1 in blocks, 2 skipped, 3 to be continued, 4 changed, 5 sparse, 6 a pipe,
# 7 with other names, 8 a link to it, 9 left out, 10 a folder.
SMALL, BLOCKS, SKIPPED, REST, DELTA, SPARSE, PIPE, SHARED, LINK, GONE, FOLDER = range(11)


def offered() -> Pair:
    old = content(2 * B, seed=50)
    pair = Pair(
        {REST: content(BIG), DELTA: content(BIG)},
        answers={SKIPPED: Answer.SKIP, REST: Answer.REST, DELTA: Answer.DELTA, LINK: Answer.LINK},
        kept={REST: {0: content(B)}},
        old={DELTA: old},
        pieces=PIECE_SIZE,
    )
    entries = [
        file(SMALL, 3),
        file(BLOCKS, BIG),
        file(SKIPPED, 1),
        file(REST, BIG),
        file(DELTA, BIG),
        file(SPARSE, BIG, sparse=True),
        file(PIPE, UNKNOWN_SIZE, sparse=True),
        file(SHARED, 3, shared=True),
        file(LINK, 3, linked=SHARED),
        file(GONE, BIG),
        Entry(FOLDER, NO_PARENT, b"d", Kind.DIRECTORY),
    ]
    pair.get(wire(Offer(entries)))
    while pair.told:
        pair.tell_own()
    pair.get(wire(m.LeftOut(GONE, Reason.AGAIN)))
    return pair


def block(number: int, offset: int, size: int, fill: bytes = b"\0") -> Block:
    payload = fill * size
    return Block(number, offset, block_digest(payload), payload)


def patch(number: int, offset: int, *parts: tuple[int, int | None]) -> Patch:
    along = bytes(sum(size for size, where in parts if where is None))
    return Patch(number, offset, D, parts, along)


def packed(message: Block | Batch) -> Packed:
    body = join(message.pack())
    return Packed(message.type, len(body), zstandard.ZstdCompressor().compress(body))


LIES_TO_A_RECEIVER: list[tuple[str, list[Message]]] = [
    ("in place of 11", [Offer([file(12, 1)])]),
    ("in place of 11", [Offer([file(1, 1)])]),
    ("was not offered", [Offer([file(11, 1, parent=77)])]),
    ("was not offered", [Offer([file(11, 1, parent=SMALL)])]),
    ("was not offered", [Offer([file(11, 1, parent=BLOCKS)])]),
    ("was not offered", [Offer([file(11, 1, parent=11)])]),
    ("was not offered for that", [Offer([file(11, 3, linked=SMALL)])]),
    ("was not offered for that", [Offer([file(11, 3, linked=FOLDER)])]),
    ("after the end of its offer", [m.OfferEnd(11, 6 * BIG - BIG + 10, 0), Offer([file(11, 1)])]),
    ("not on its way", [block(77, 0, 1)]),
    ("not on its way", [block(SKIPPED, 0, 1)]),
    ("not on its way", [block(FOLDER, 0, 1)]),
    ("not on its way", [Batch([(77, D, b"")])]),
    ("not on its way", [Same(77, 0, 1)]),
    ("not on its way", [Hole(SKIPPED, 0, 1)]),
    ("where it belongs", [block(SMALL, 0, 3)]),
    ("where it belongs", [block(SHARED, 0, 3)]),
    ("where it belongs", [block(LINK, 0, 3)]),
    ("where it belongs", [block(BLOCKS, 1, B)]),
    ("where it belongs", [block(BLOCKS, B - 1, B)]),
    ("where it belongs", [block(BLOCKS, 0, B - 1)]),
    ("where it belongs", [block(BLOCKS, 3 * B, 3)]),
    ("where it belongs", [block(BLOCKS, 3 * B, 5)]),
    ("where it belongs", [block(BLOCKS, 4 * B, 1)]),
    ("where it belongs", [block(BLOCKS, 2**63, 1)]),
    ("where it belongs", [block(BLOCKS, B, B), block(BLOCKS, B, B)]),
    ("where it belongs", [block(REST, 0, B)]),
    ("where it belongs", [packed(block(BLOCKS, 0, B - 1))]),
    ("where it belongs", [block(PIPE, B, B)]),
    ("where it belongs", [block(PIPE, 1, B)]),
    ("where it belongs", [block(PIPE, 0, B), block(PIPE, 0, B)]),
    ("where it belongs", [block(PIPE, 0, 5), block(PIPE, 5, 5)]),
    ("where they belong", [Hole(SPARSE, 0, 0)]),
    ("where they belong", [Hole(SPARSE, 0, 4)]),
    ("where they belong", [Hole(SPARSE, 3, 1)]),
    ("where they belong", [Hole(SPARSE, 1, 1), Hole(SPARSE, 0, 2)]),
    ("where they belong", [block(SPARSE, 0, B), Hole(SPARSE, 0, 1)]),
    ("where they belong", [Hole(SPARSE, 0, 2**32 - 1)]),
    ("where they belong", [Hole(BLOCKS, 0, 1)]),
    ("where they belong", [Hole(PIPE, 0, 1)]),
    ("where they belong", [Same(PIPE, 0, 1)]),
    ("where they belong", [Same(DELTA, 0, 0)]),
    ("where they belong", [Same(DELTA, 0, 3)]),
    ("where they belong", [Same(DELTA, 2, 1)]),
    ("where they belong", [Same(DELTA, 2**32 - 1, 2**32 - 1)]),
    ("where they belong", [Same(DELTA, 0, 1), Same(DELTA, 0, 1)]),
    ("where they belong", [Same(REST, 0, 1)]),
    ("where they belong", [Same(BLOCKS, 0, 1)]),
    ("not on its way", [patch(77, 0, (B, 0))]),
    ("not on its way", [patch(SKIPPED, 0, (1, 0))]),
    ("patch of entry 1 is not where it belongs", [patch(BLOCKS, 0, (B, 0))]),
    ("patch of entry 3 is not where it belongs", [patch(REST, B, (B, 0))]),
    ("patch of entry 5 is not where it belongs", [patch(SPARSE, 0, (B, 0))]),
    ("patch of entry 6 is not where it belongs", [patch(PIPE, 0, (B, 0))]),
    ("patch of entry 0 is not where it belongs", [patch(SMALL, 0, (3, 0))]),
    ("patch of entry 4 is not where it belongs", [patch(DELTA, 1, (B, 0))]),
    ("patch of entry 4 is not where it belongs", [patch(DELTA, 0, (B - 1, 0))]),
    ("patch of entry 4 is not where it belongs", [patch(DELTA, 3 * B, (5, 0))]),
    ("patch of entry 4 is not where it belongs", [patch(DELTA, 4 * B, (1, 0))]),
    ("patch of entry 4 is not where it belongs", [patch(DELTA, 2**63, (1, 0))]),
    ("patch of entry 4 is not where it belongs", [Same(DELTA, 0, 1), patch(DELTA, 0, (B, 0))]),
    ("not belong", [Batch([(SMALL, D, b"12")])]),
    ("not belong", [Batch([(BLOCKS, D, bytes(9))])]),
    ("not belong", [Batch([(REST, D, bytes(9))])]),
    ("not belong", [Batch([(LINK, D, b"123")])]),
    ("not belong", [Batch([(PIPE, D, b"123")])]),
    ("not belong", [Batch([(SMALL, D, b"123"), (SMALL, D, b"123")])]),
    ("not on its way", [Batch([(SMALL, block_digest(b"123"), b"123")]), Batch([(SMALL, D, b"123")])]),
    ("end like that", [m.FileEnd(77, 3, D)]),
    ("end like that", [m.FileEnd(SKIPPED, 1, D)]),
    ("end like that", [m.FileEnd(GONE, BIG, D)]),
    ("end like that", [m.FileEnd(SMALL, 3, D)]),
    ("end like that", [m.FileEnd(BLOCKS, BIG - 1, D)]),
    ("end like that", [m.FileEnd(BLOCKS, BIG, D), m.FileEnd(BLOCKS, BIG, D)]),
    ("ended at 3 bytes, 0", [m.FileEnd(PIPE, 3, D)]),
    ("ended at 3 bytes, 5", [block(PIPE, 0, 5), m.FileEnd(PIPE, 3, D)]),
    ("where it belongs", [block(PIPE, 0, B), m.FileEnd(PIPE, B, block(PIPE, 0, B).digest), block(PIPE, B, 1)]),
    ("not on its way", [m.LeftOut(77, Reason.CHANGED)]),
    ("not on its way", [m.LeftOut(SKIPPED, Reason.CHANGED)]),
    ("not on its way", [m.LeftOut(GONE, Reason.CHANGED)]),
    ("not on its way", [m.FileEnd(BLOCKS, BIG, D), m.LeftOut(BLOCKS, Reason.CHANGED)]),
    ("ended a link to it", [m.FileEnd(LINK, 3, D), m.LeftOut(SHARED, Reason.CHANGED)]),
    ("one that does not come", [m.LeftOut(SHARED, Reason.CHANGED), m.FileEnd(LINK, 3, D)]),
    ("not the same as", [Batch([(SHARED, block_digest(b"123"), b"123")]), m.FileEnd(LINK, 3, D)]),
    ("not the same as", [m.FileEnd(LINK, 3, D), Batch([(SHARED, block_digest(b"123"), b"123")])]),
    ("add up", [m.OfferEnd(10, 5 * BIG + 10, 0)]),
    ("add up", [m.OfferEnd(11, 5 * BIG + 11, 0)]),
    ("FINISH while", [m.Finish(D)]),
    ("HELLO while", [m.Hello(Role.SENDER)]),
    ("WANT while", [m.Want([(0, 1, Answer.ALL)])]),
    ("RECEIPT while", [m.Receipt(0, 0, D)]),
    ("sends, says that it only looked", [m.Error(m.Code.LOOKED, "")]),
]
IDS = [f"{said[-1].type.name}{number}" for number, (_, said) in enumerate(LIES_TO_A_RECEIVER)]


@pytest.mark.parametrize(("told", "said"), LIES_TO_A_RECEIVER, ids=IDS)
def test_a_lying_sender_is_found(told: str, said: list[Message]) -> None:
    pair = offered()
    for message in said[:-1]:
        pair.get(wire(message))
    with pytest.raises(RemoteProtocolError, match=told):
        pair.get(wire(said[-1]))
    assert pair.receiver.stored_bytes >= 0


LATE: list[Message] = [
    block(GONE, 0, B),
    packed(block(GONE, 0, B)),
    block(GONE, 2**63, 1),
    patch(GONE, 0, (B, 0)),
    Same(GONE, 0, 1),
    Hole(GONE, 0, 2**32 - 1),
    Batch([(GONE, D, b"123")]),
]


@pytest.mark.parametrize("said", LATE, ids=lambda said: said.type.name)
def test_what_comes_of_a_file_that_was_left_out_is_of_no_use_and_no_lie(said: Message) -> None:
    """It may have been on its way on another stream."""
    pair = offered()
    before = (pair.receiver.stored_bytes, pair.receiver.received_bytes, pair.receiver.files)
    pair.get(wire(said), stream=3)
    assert (pair.receiver.stored_bytes, pair.receiver.received_bytes, pair.receiver.files) == before
    assert GONE not in pair.here


def test_a_patch_of_the_only_piece_that_was_told_of_is_where_it_belongs() -> None:
    old = content(PIECE_SIZE, seed=50)
    pair = Pair(answers={0: Answer.DELTA}, old={0: old}, pieces=PIECE_SIZE)
    pair.get(wire(Offer([file(0, B)])))
    while pair.told:
        pair.tell_own()
    new = bytes(B - PIECE_SIZE)
    pair.get(wire(Patch(0, 0, block_digest(old + new), ((PIECE_SIZE, 0), (len(new), None)), new)))
    assert pair.here[0][0] == old + new


@pytest.mark.parametrize("said", [m.Ping(), m.FileEnd(BLOCKS, BIG, D), Offer([file(11, 1)]), m.Finish(D)], ids=repr)
def test_only_data_goes_on_other_streams(said: Message) -> None:
    pair = offered()
    pair.get(wire(block(BLOCKS, 0, B)), stream=3)
    with pytest.raises(RemoteProtocolError, match="a stream for data"):
        pair.get(wire(said), stream=3)


def ended() -> Pair:
    """The offer is over, with a file in blocks and a small one wanted."""
    pair = Pair()
    pair.get(wire(Offer([file(0, B), file(1, 3)])))
    pair.get(wire(m.OfferEnd(2, B + 3, 0)))
    return pair


def test_finishing_before_a_file_has_its_end_is_found() -> None:
    pair = ended()
    with pytest.raises(RemoteProtocolError, match="before everything"):
        pair.get(wire(m.Finish(D)))


def test_finishing_before_everything_is_answered_is_found() -> None:
    receiver = Pair().receiver
    receiver.receive_data(wire(Offer([file(0, 3)])) + wire(m.OfferEnd(1, 3, 0)) + wire(m.Finish(D)))
    assert receiver.next_event()
    assert receiver.next_event()
    with pytest.raises(RemoteProtocolError, match="before everything"):
        receiver.next_event()


def test_finishing_without_what_was_to_come_again_is_found() -> None:
    pair = ended()
    pair.get(wire(m.LeftOut(0, Reason.AGAIN)))
    with pytest.raises(RemoteProtocolError, match="before everything"):
        pair.get(wire(m.Finish(D)))


@pytest.mark.parametrize("entry", [file(2, B), file(2, B, parent=3), Entry(2, NO_PARENT, b"f1", Kind.FILE, 1)])
def test_what_is_offered_after_the_end_must_be_what_was_left_out_to_come_again(entry: Entry) -> None:
    pair = ended()
    pair.get(wire(m.LeftOut(0, Reason.AGAIN)))
    with pytest.raises(RemoteProtocolError, match=r"after the end of its offer|not offered"):
        pair.get(wire(Offer([entry])))


def test_a_pipe_does_not_come_in_place_of_a_file() -> None:
    """What is offered again is counted by how much it has grown, which of a pipe nobody knows."""
    pair = ended()
    pair.get(wire(m.LeftOut(0, Reason.AGAIN)))
    with pytest.raises(RemoteProtocolError, match="another thing than what was to come again"):
        pair.get(wire(Offer([Entry(2, NO_PARENT, b"f0", Kind.FILE, UNKNOWN_SIZE)])))


@pytest.mark.parametrize(("size", "grown"), [(B + 5, 5), (B, 0), (B - 5, 0)])
def test_by_how_much_a_file_that_comes_again_has_grown(size: int, grown: int) -> None:
    pair = ended()
    pair.get(wire(m.LeftOut(0, Reason.AGAIN)))
    pair.get(wire(Offer([Entry(2, NO_PARENT, b"f0", Kind.FILE, size)])))
    assert pair.receiver.grown == {2: grown}


def test_what_comes_again_comes_once() -> None:
    pair = ended()
    pair.get(wire(m.LeftOut(0, Reason.AGAIN)))
    again = Entry(2, NO_PARENT, b"f0", Kind.FILE, B)
    pair.get(wire(Offer([again])))
    again.id = 3
    with pytest.raises(RemoteProtocolError, match="after the end of its offer"):
        pair.get(wire(Offer([again])))


def test_data_after_everything_has_arrived_is_found() -> None:
    pair = Pair({0: b"123"})
    pair.offer(file(0, 3))
    while pair.receiver.state is not State.FINISHING:
        pair.possible()[0]()
    late: list[Message] = [block(0, 0, 3), Batch([(0, D, b"123")]), Same(0, 0, 1), Hole(0, 0, 1)]
    late.append(patch(0, 0, (3, 0)))
    for message in late:
        with pytest.raises(RemoteProtocolError, match="not on its way"):
            pair.get(wire(message))


def test_what_was_left_out_may_come_after_the_finish() -> None:
    """It was on its way on another stream, and is of no use."""
    pair = ended()
    for number in (0, 1):
        pair.get(wire(m.LeftOut(number, Reason.CHANGED)))
    pair.get(wire(m.Finish(D)))
    for message in (block(0, 0, B), Batch([(1, D, b"123")])):
        pair.get(wire(message), stream=3)
    assert pair.receiver.taken == 2
    assert pair.receiver.received_bytes == 0


def test_other_digests_are_found() -> None:
    pair = Pair()
    pair.get(wire(Offer([Entry(0, NO_PARENT, b"d", Kind.DIRECTORY)])) + wire(m.OfferEnd(1, 0, 0)))
    pair.get(wire(m.Finish(D)))
    with pytest.raises(TreeMismatch, match="tree"):
        _ = pair.receiver.finished
    pair = ended()
    pair.get(wire(block(0, 0, B)))
    with pytest.raises(TreeMismatch, match="digests differ"):
        pair.get(wire(m.FileEnd(0, B, D)))
    pair = ended()
    pair.get(wire(m.FileEnd(0, B, D)))
    with pytest.raises(TreeMismatch, match="digests differ"):
        pair.get(wire(block(0, 0, B)))


# Limits.


def test_more_entries_at_once_than_the_window_are_refused() -> None:
    receiver = Pair().receiver
    entries = [file(number, 1) for number in range(WINDOW + 1)]
    for start in range(0, WINDOW, 256):
        receiver.receive_data(wire(Offer(entries[start : start + 256])))
        assert receiver.next_event()
    receiver.receive_data(wire(Offer(entries[WINDOW:])))
    with pytest.raises(RemoteProtocolError, match=f"more than {WINDOW} entries at once"):
        receiver.next_event()


# Listed folders: 0 was answered as the same, 1 not, 2 waits for its answer.


def listing() -> Pair:
    pair = Pair(answers={0: Answer.SAME}, inside={0: [3], 1: [3], 2: [3]})
    pair.get(wire(Offer([pair.folder(0), pair.folder(1)])))
    pair.receiver.receive_data(wire(Offer([pair.folder(2)])))
    pair.receiver.next_event()
    return pair


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("listed, and not asked for", Offer([file(3, 3, 0)])),
        ("listed, and not asked for", Offer([Entry(3, 0, b"l", Kind.SYMLINK, target=b"t")])),
        ("listed, and not asked for", Offer([file(3, 3, 2)])),
        ("listed, and not asked for", Offer([Entry(3, 2, b"l", Kind.SYMLINK, target=b"t")])),
        ("before all listed folders were answered", m.OfferEnd(4, 3, 0)),
        ("does not add up", m.OfferEnd(3, 3, 0)),
        ("does not add up", m.OfferEnd(4, 0, 0)),
    ],
)
def test_a_lie_about_a_listed_folder_is_found(told: str, said: Message) -> None:
    pair = listing()
    with pytest.raises(RemoteProtocolError, match=told):
        pair.get(wire(said))


def test_what_was_asked_for_may_be_offered_in_a_listed_folder() -> None:
    pair = listing()
    pair.get(wire(Offer([file(3, 3, 1)])))
    pair.tell(pair.receiver.answer([(pair.folder(2), Answer.ALL)]))
    pair.get(wire(Offer([file(4, 3, 2)])))


def test_a_listed_folder_that_nobody_agreed_to_is_found() -> None:
    pair = Pair(inside={0: [3]}, features=0)
    with pytest.raises(RemoteProtocolError, match="entry 0 is listed, and must not be"):
        pair.get(wire(Offer([pair.folder(0)])))
    with pytest.raises(LocalProtocolError, match="nobody has agreed"):
        pair.sender.send(Offer([pair.folder(0)]))


def test_a_listed_folder_after_the_end_of_the_offer_is_found() -> None:
    pair = Pair({0: content(BIG)}, inside={1: [3]})
    pair.get(wire(Offer([file(0, BIG)])))
    pair.get(wire(m.LeftOut(0, Reason.AGAIN)))
    pair.get(wire(m.OfferEnd(1, BIG, 0)))
    folder = pair.folder(1)
    folder.name = b"f0"
    with pytest.raises(RemoteProtocolError, match="entry 1 is another thing than what was to come again"):
        pair.get(wire(Offer([folder])))


def test_what_is_listed_counts_among_the_entries() -> None:
    receiver = Receiver(max_entries=10)
    pair = Pair(answers={0: Answer.SAME}, inside={0: [1] * 4, 1: [1] * 4, 2: [1] * 3})
    receiver.peer, receiver._features, receiver.state = pair.receiver.peer, m.FOLDERS, State.OFFERING
    receiver._got(Offer([pair.folder(0)]))
    receiver.send(m.Want([(0, 1, Answer.SAME)]))
    with pytest.raises(Refused, match="more than 10 entries"):
        receiver._got(Offer([Entry(1, NO_PARENT, b"d", Kind.DIRECTORY, listing=Listing(5, 0, 5, D))]))
    receiver._got(Offer([file(1, 1), pair.folder(2)]))
    receiver.send(m.Want([(1, 1, Answer.ALL), (2, 1, Answer.SAME)]))
    with pytest.raises(Refused, match="more than 10 entries"):
        receiver._got(Offer([file(3, 1)]))


@pytest.mark.parametrize("number", [1, 2], ids=["a file", "a folder"])
def test_a_receiver_that_has_the_same_of_what_was_not_listed_is_found(number: int) -> None:
    pair = Pair(inside={0: [3]})
    pair.say(Offer([pair.folder(0), file(1, 3), Entry(2, NO_PARENT, b"d", Kind.DIRECTORY)]))
    pair.sender.receive_data(wire(m.Want([(number, 1, Answer.SAME)])))
    with pytest.raises(RemoteProtocolError, match=f"the same as in entry {number}, which was not listed"):
        pair.sender.next_event()
    with pytest.raises(LocalProtocolError, match="cannot be the same"):
        pair.receiver._got(Offer([pair.folder(0), file(1, 3), Entry(2, NO_PARENT, b"d", Kind.DIRECTORY)]))
        pair.receiver.send(m.Want([(number, 1, Answer.SAME)]))


@pytest.mark.parametrize("answer", [Answer.REST, Answer.DELTA, Answer.LINK])
def test_a_receiver_that_has_blocks_of_a_listed_folder_is_found(answer: Answer) -> None:
    pair = Pair(inside={0: [3]})
    pair.say(Offer([pair.folder(0)]))
    pair.sender.receive_data(wire(m.Want([(0, 1, answer)])))
    with pytest.raises(RemoteProtocolError, match="which is no file"):
        pair.sender.next_event()


def test_a_sender_does_not_let_us_end_an_offer_with_folders_that_wait() -> None:
    pair = Pair(inside={0: [3]})
    pair.offer(pair.folder(0), end=False)
    with pytest.raises(LocalProtocolError, match="there are listed folders"):
        pair.sender.send(m.OfferEnd(1, 0, 0))
    pair.sender.receive_data(wire(m.Want([(0, 1, Answer.ALL)])))
    pair.sender.next_event()
    with pytest.raises(LocalProtocolError, match="there are listed folders"):
        pair.sender.send(m.OfferEnd(1, 0, 0))
    pair.look_inside()
    pair.offer_some()
    pair.end_offer()


def test_more_entries_than_the_receiver_takes_are_refused() -> None:
    pair = Pair()
    pair.receiver._max_entries = 2
    with pytest.raises(Refused, match="more than 2"):
        pair.get(wire(Offer([file(number, 1) for number in range(3)])))


@pytest.mark.parametrize("kind", Kind)
def test_more_folders_above_one_another_than_the_limit_are_refused(kind: Kind) -> None:
    pair = Pair()
    deep = [Entry(n, n - 1 if n else NO_PARENT, b"d", Kind.DIRECTORY) for n in range(MAX_DEPTH + 1)]
    pair.get(wire(Offer(deep)))
    target = b"t" if kind is Kind.SYMLINK else b""
    with pytest.raises(RemoteProtocolError, match="deep"):
        pair.get(wire(Offer([Entry(MAX_DEPTH + 1, MAX_DEPTH, b"x", kind, target=target)])))


def test_more_files_with_several_names_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "MAX_SHARED", 3)
    pair = Pair()
    pair.get(wire(Offer([file(number, 1, shared=True) for number in range(3)])))
    with pytest.raises(Refused, match="several names"):
        pair.get(wire(Offer([file(3, 1, shared=True)])))


HUGE = FILE_BLOCKS * B


@pytest.mark.parametrize("count", [RUN_BLOCKS + 1, 2**20, 2**32 - 1])
@pytest.mark.parametrize("size", [HUGE, FILE_SIZE])
def test_a_hole_of_any_length_takes_no_memory(count: int, size: int) -> None:
    pair = Pair()
    pair.get(wire(Offer([file(0, size, sparse=True)])))
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="where they belong"):
            pair.get(wire(Hole(0, 0, count)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("said", [block(2, FILE_SIZE // B * B, B - 1), block(2, MAX_BLOCKS * B, B)])
def test_a_block_far_ahead_of_a_file_that_is_too_big_takes_no_memory(said: Block) -> None:
    pair = Pair()
    pair.get(wire(Offer([file(0, 1), file(1, 1), file(2, FILE_SIZE)])))
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="blocks of files that are not complete"):
            pair.get(wire(said))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_holes_in_many_files_take_no_more_memory_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "MAX_BLOCKS", 4 * RUN_BLOCKS)
    pair = Pair()
    pair.get(wire(Offer([file(number, HUGE, sparse=True) for number in range(5)])))
    for number in range(4):
        pair.get(wire(Hole(number, 0, RUN_BLOCKS)))
    with pytest.raises(Refused, match="not complete"):
        pair.get(wire(Hole(4, 0, 1)))
    pair.get(wire(m.LeftOut(0, Reason.CHANGED)))
    pair.get(wire(Hole(4, 0, RUN_BLOCKS)))
    with pytest.raises(Refused, match="not complete"):
        pair.get(wire(Hole(3, RUN_BLOCKS, 1)))


def test_books_are_closed_with_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "MAX_BLOCKS", 2)
    pair = Pair({number: content(2 * B, number) for number in range(3)})
    for number in range(3):
        pair.offer(file(number, 2 * B), end=False)
        pair.settle()
    pair.end_offer()
    pair.done()


def test_a_pipe_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "FILE_BLOCKS", 2)
    pair = offered()
    pair.get(wire(block(PIPE, 0, B)))
    pair.get(wire(block(PIPE, B, B)))
    with pytest.raises(RemoteProtocolError, match="where it belongs"):
        pair.get(wire(block(PIPE, 2 * B, 1)))


# The sender's side. Offered are: 0 small and said, 1 in blocks, 2 to be continued, 3 changed, 4 skipped, 5 small,
# 6 a pipe, 7 with other names, 8 too big, 9 a folder, 10 a link, 11 in blocks and left out, 12 not answered, 13 a link.
FINE = m.Want(
    [
        (0, 2, Answer.ALL),
        (2, 1, Answer.REST),
        (3, 1, Answer.DELTA),
        (4, 1, Answer.SKIP),
        (5, 1, Answer.ALL),
    ]
)


def sending() -> Sender:
    sender = Sender()
    sender.send(m.Hello(Role.SENDER, features=m.PATCHES))
    heard(sender, m.Hello(Role.RECEIVER, window=99, features=m.PATCHES))
    sender.send(
        Offer(
            [
                file(0, 3),
                file(1, BIG),
                file(2, BIG),
                file(3, BIG),
                file(4, 3),
                file(5, 3),
                file(6, UNKNOWN_SIZE),
                file(7, 3, shared=True),
                file(8, HUGE + 1, sparse=True),
                Entry(9, NO_PARENT, b"d", Kind.DIRECTORY),
                file(10, 3, linked=7),
                file(11, BIG),
                file(12, 3),
                file(13, 3, linked=12),
            ]
        )
    )
    heard(sender, FINE)
    small = sender.take(0, small=True)
    assert isinstance(small, list)
    sender.give_back(small[1:])
    sender.say_batch(0, small[:1], [D], Batch([(0, D, b"abc")]))
    large = sender.take(1, small=True)
    assert isinstance(large, tuple)
    sender.say_blocks(1, large[0], 0, D, Block(1, 0, D, bytes(B)))
    heard(sender, m.Want([(11, 1, Answer.REST)]))
    sender.send(m.LeftOut(11, Reason.CHANGED))
    return sender


def heard(sender: Sender, *messages: Message) -> None:
    for message in messages:
        sender.receive_data(wire(message))
        sender.next_event()


LIES_TO_A_SENDER: list[tuple[str, list[Message]]] = [
    ("not offered", [m.Want([(6, 0, Answer.ALL)])]),
    ("not offered", [m.Want([(6, 2**32 - 1, Answer.ALL)])]),
    ("twice or before", [m.Want([(0, 1, Answer.ALL)])]),
    ("twice or before", [m.Want([(6, 1, Answer.ALL), (6, 1, Answer.ALL)])]),
    ("twice or before", [m.Want([(4, 1, Answer.SKIP)])]),
    ("twice or before", [m.Want([(14, 1, Answer.ALL)])]),
    ("twice or before", [m.Want([(2**32 - 1, 2, Answer.ALL)])]),
    ("is no file", [m.Want([(9, 1, Answer.REST)])]),
    ("is no file", [m.Want([(9, 1, Answer.DELTA)])]),
    ("is no file", [m.Want([(9, 1, Answer.LINK)])]),
    ("nobody knows the size", [m.Want([(6, 1, Answer.REST)])]),
    ("nobody knows the size", [m.Want([(6, 1, Answer.DELTA)])]),
    ("bigger than any file", [m.Want([(8, 1, Answer.ALL)])]),
    ("bigger than any file", [m.Want([(8, 1, Answer.REST)])]),
    ("did not take", [m.Want([(12, 1, Answer.LINK)])]),
    ("did not take", [m.Want([(7, 1, Answer.SKIP), (10, 1, Answer.LINK)])]),
    ("did not take", [m.Want([(13, 1, Answer.LINK), (12, 1, Answer.SKIP)])]),
    ("did not take", [m.Want([(13, 1, Answer.LINK), (12, 1, Answer.TOO_BIG)])]),
    ("did not say so", [m.Have(0, 0, True, D)]),
    ("did not say so", [m.Have(1, 0, True, D)]),
    ("did not say so", [m.Have(4, 0, True, D)]),
    ("did not say so", [m.Have(12, 0, True, D)]),
    ("did not say so", [m.Have(77, 0, True, D)]),
    ("did not say so", [m.Have(2, 0, True, D), m.Have(2, 1, True, D)]),
    ("did not say so", [m.Have(2, 0, True, D), m.Have(2, 0, False, b"")]),
    ("did not say so", [m.Have(3, 0, True, D), m.Have(3, 1, False, D)]),
    ("than there are", [m.Have(2, 4, False, D)]),
    ("than there are", [m.Have(2, 2**32 - 1, False, D)]),
    ("than there are", [m.Have(2, 0, False, D * 5)]),
    ("than there are", [m.Have(3, 0, False, D * 5)]),
    ("not add up", [m.Have(2, 0, False, D), m.Have(2, 0, True, D)]),
    ("not add up", [m.Have(3, 1, False, D)]),
    ("not add up", [m.Have(3, 0, False, D), m.Have(3, 0, False, D)]),
    ("not add up", [m.Have(3, 0, False, D), m.Have(3, 2, True, b"")]),
    ("more than it was offered, or less", [m.Progress(0, 15)]),
    ("more than it was offered, or less", [m.Progress(0, 2), m.Progress(0, 1)]),
    ("stored more than it was offered", [m.Progress(HUGE * 2, 0)]),
    ("more than it was sent", [m.Progress(0, 0, [2])]),
    ("more than it was sent", [m.Progress(0, 0, [0, 2])]),
    ("more than it was sent", [m.Progress(0, 0, [1]), m.Progress(0, 0, [0])]),
    ("more than it was sent", [m.Progress(0, 0, [0, 2**64 - 1])]),
    ("stream 2, which had none", [m.Progress(0, 0, [0, 0, 1])]),
    ("lost stream 0", [m.Lost(0, 0)]),
    ("lost stream 1 twice", [m.Lost(1, 0), m.Lost(1, 0)]),
    ("lost stream 2 twice", [m.Lost(2, 0), m.Lost(2, 0)]),
    ("never was", [m.Lost(64, 0)]),
    ("never was", [m.Lost(65535, 0)]),
    ("more than it was sent", [m.Lost(1, 2)]),
    ("more than it was sent", [m.Lost(2, 1)]),
    ("more than it was sent", [m.Progress(0, 0, [0, 1]), m.Lost(1, 0)]),
    ("never had", [m.Again(0, 0, 1)]),
    ("never had", [m.Again(1, 0, 1)]),
    ("never had", [m.Again(77, 0, 1)]),
    ("never had", [m.Again(2, 0, 1)]),
    ("never had", [m.Have(2, 0, True, D), m.Again(2, 0, 2)]),
    ("never had", [m.Have(2, 0, True, D), m.Again(2, 1, 1)]),
    ("never had", [m.Have(2, 0, True, D), m.Again(2, 0, 0)]),
    ("never had", [m.Have(2, 1, True, D), m.Again(2, 0, 1)]),
    ("never had", [m.Have(2, 1, True, D), m.Again(2, 0, 2)]),
    ("never had", [m.Have(2, 0, True, D), m.Again(2, 0, 2**32 - 1)]),
    ("never had", [m.Have(2, 0, True, D), m.Again(2, 0, 1), m.Again(2, 0, 1)]),
    ("never had", [m.Have(3, 0, True, D), m.Again(3, 0, 1)]),
    ("has none", [m.Index(1, PIECE_SIZE, RECORD)]),
    ("has none", [m.Index(2, PIECE_SIZE, RECORD)]),
    ("has none", [m.Index(4, PIECE_SIZE, RECORD)]),
    ("has none", [m.Index(77, PIECE_SIZE, RECORD)]),
    ("has none", [m.Have(3, 0, True, b""), m.Index(3, PIECE_SIZE, RECORD)]),
    ("not all of one size", [m.Index(3, PIECE_SIZE, RECORD), m.Index(3, 2 * PIECE_SIZE, RECORD)]),
    ("pieces at once", [m.Index(3, PIECE_SIZE, RECORD * m.INDEX_PIECES)] * (MAX_PIECES // m.INDEX_PIECES + 1)),
    ("a receipt for what nobody has sent", [m.Receipt(0, 0, D)]),
    ("OFFER while", [Offer([file(0, 1)])]),
    ("HELLO while", [m.Hello(Role.RECEIVER, window=5)]),
]
SENDER_IDS = [f"{said[-1].type.name}{number}" for number, (_, said) in enumerate(LIES_TO_A_SENDER)]


@pytest.mark.parametrize(("told", "said"), LIES_TO_A_SENDER, ids=SENDER_IDS)
def test_a_lying_receiver_is_found(told: str, said: list[Message]) -> None:
    sender = sending()
    heard(sender, *said[:-1])
    with pytest.raises(RemoteProtocolError, match=told):
        heard(sender, said[-1])


def test_what_a_receiver_may_say_of_what_was_left_out() -> None:
    sender = sending()
    heard(sender, m.Have(11, 0, True, D), m.Again(11, 0, 1))
    while (work := sender.take(1, small=True)) is not None and not isinstance(work, list):
        assert work[0].entry.id != 11


def test_a_block_that_was_compressed_is_not_to_be_had_again() -> None:
    """Only what the receiver makes of its own may turn out to be another: else it could ask for the same for ever."""
    sender = sending()
    work = sender.take(1, small=False)
    assert isinstance(work, tuple)
    going, first, _ = work
    said = block(going.entry.id, first * B, B)
    sender.say_blocks(1, going, first, said.digest, packed(said))
    with pytest.raises(RemoteProtocolError, match="never had"):
        heard(sender, m.Again(going.entry.id, first, 1))


def test_asking_again_and_again_takes_no_memory() -> None:
    sender = sending()
    heard(sender, m.Have(2, 0, True, D * 4))
    heard(sender, m.Again(2, 0, 4))
    going = sender._going[2]
    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match="never had"):
            heard(sender, m.Again(2, 0, 4))
        sender.buffer.release()
    assert going._again is not None
    assert len(going._again) == 4


def test_a_window_of_nothing_is_refused_and_a_huge_one_not_used() -> None:
    sender = Sender()
    sender.send(m.Hello(Role.SENDER))
    with pytest.raises(RemoteProtocolError, match="window is 0"):
        heard(sender, m.Hello(Role.RECEIVER))
    sender = Sender()
    sender.send(m.Hello(Role.SENDER))
    heard(sender, m.Hello(Role.RECEIVER, window=2**32 - 1))
    assert sender.room == MAX_WINDOW


@pytest.mark.parametrize("part", ["files", "size", "digest"])
def test_a_receipt_for_something_else_is_found(part: str) -> None:
    pair = Pair({0: b"abc", 1: content(B + 1), 2: b"abc"}, answers={2: Answer.LINK})
    pair.offer(file(0, 3, shared=True), file(1, B + 1), file(2, 3, linked=0))
    while pair.receiver.state is not State.FINISHING:
        pair.possible()[0]()
    while pair.back:
        pair.hear()
    receipt = pair.receiver.receipt()
    assert (receipt.files, receipt.size) == (3, B + 7)
    wrong = {"files": receipt.files - 1, "size": receipt.size + 3, "digest": D}
    setattr(receipt, part, wrong[part])
    with pytest.raises(VerificationError, match="receipt"):
        heard(pair.sender, receipt)


# Greeting and ending.


@pytest.mark.parametrize(
    ("hello", "fault"),
    [
        (m.Hello(Role.RECEIVER, window=5), RemoteProtocolError),
        (m.Hello(Role.SENDER, lowest=2, highest=3), VersionError),
    ],
)
def test_a_hello_that_does_not_fit(hello: m.Hello, fault: type[EnchufeError]) -> None:
    receiver = Receiver()
    receiver.receive_data(wire(hello))
    with pytest.raises(fault):
        receiver.next_event()


def test_a_later_version_that_still_speaks_ours_is_welcome() -> None:
    receiver = Receiver()
    hello = join(m.Hello(Role.SENDER, lowest=1, highest=9, features=0xFF).pack()) + b"what comes later"
    receiver.receive_data(b"\1\0\0\0" + bytes([len(hello)]) + hello)
    assert isinstance(receiver.next_event(), m.Hello)


def test_an_end_before_the_end_is_an_error() -> None:
    pair = Pair()
    for machine in (pair.sender, pair.receiver):
        with pytest.raises(BrokenError, match="went away"):
            machine.end_of_stream()


def test_an_end_in_the_middle_of_a_message_is_an_error_even_when_all_is_done() -> None:
    pair = Pair()
    pair.offer()
    pair.done()
    pair.receiver.receive_data(wire(m.Ping())[:2])
    with pytest.raises(BrokenError, match="went away"):
        pair.receiver.end_of_stream()


@pytest.mark.parametrize("code", m.Code)
def test_every_error_of_the_peer_becomes_one_of_ours(code: m.Code) -> None:
    pair = Pair()
    pair.tell(m.Error(code, "\x1b[31mred"))
    with pytest.raises(EnchufeError) as caught:
        pair.hear()
    assert "\x1b" not in str(caught.value)
    assert pair.sender.state is State.FAILED


def test_only_who_receives_may_only_look() -> None:
    """A sender waits on for another after it; a receiver to which it is said would end well, and have nothing."""
    pair = Pair()
    pair.tell(m.Error(m.Code.LOOKED, "seen"))
    with pytest.raises(Looked):
        pair.hear()
    pair = Pair()
    with pytest.raises(RemoteProtocolError, match="only looked"):
        pair.get(wire(m.Error(m.Code.LOOKED, "seen")))
    assert pair.receiver.state is State.FAILED


# What we must not do ourselves.


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("place", Offer([file(15, 3)])),
        ("window", Offer([file(14 + number, 3) for number in range(90)])),
        ("not on its way", m.FileEnd(0, 3, D)),
        ("not on its way", m.LeftOut(4, Reason.CHANGED)),
        ("not on its way", m.LeftOut(11, Reason.CHANGED)),
        ("FINISH", m.Finish(D)),
        ("say_blocks", block(1, B, B)),
        ("say_blocks", Batch([(5, D, b"123")])),
    ],
)
def test_a_sender_does_not_let_us_break_the_protocol(told: str, said: Message) -> None:
    with pytest.raises(LocalProtocolError, match=told):
        sending().send(said)


def test_a_sender_does_not_let_us_finish_early() -> None:
    sender = sending()
    sender.send(m.OfferEnd(14, 0, 0))
    with pytest.raises(LocalProtocolError, match="not everything is sent"):
        sender.send(m.Finish(D))


def test_a_sender_does_not_let_us_say_data_after_the_finish() -> None:
    pair = Pair({0: b"abc", 1: content(B)})
    pair.offer(file(0, 3), file(1, B), end=False)
    while pair.streams[0] or pair.back:
        pair.take() if pair.streams[0] else pair.hear()
    large = pair.sender.take(1, small=False)
    assert isinstance(large, tuple)
    pair.sender.give_back(large)
    pair.end_offer()
    pair.done()
    with pytest.raises(LocalProtocolError, match="BATCH while"):
        pair.sender.say_batch(0, [(pair.entries[0], D)], [D], Batch([(0, D, b"abc")]))
    with pytest.raises(LocalProtocolError, match="BLOCK while"):
        pair.sender.say_blocks(0, large[0], 0, D, block(1, 0, B))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("no answer coming", m.Want([(0, 1, Answer.ALL)])),
        ("no answer coming", m.Want([(77, 1, Answer.ALL)])),
        ("here twice", m.Have(REST, 0, False, D)),
        ("here twice", m.Have(SMALL, 0, True, D)),
    ],
)
def test_a_receiver_does_not_let_us_break_the_protocol(told: str, said: Message) -> None:
    with pytest.raises(LocalProtocolError, match=told):
        offered().receiver.send(said)


# Any bytes, and the digests of any blocks.

ANY: list[Message] = [said for _, lies in LIES_TO_A_RECEIVER for said in lies]
ANY_BACK: list[Message] = [said for _, lies in LIES_TO_A_SENDER for said in lies]


def damaged(data: st.DataObject, honest: list[Message]) -> bytearray:
    messages = data.draw(st.lists(st.sampled_from(range(len(honest))), max_size=6))
    stream = bytearray(b"".join(wire(honest[number]) for number in messages) or data.draw(st.binary(max_size=200)))
    for _ in range(data.draw(st.integers(0, 2)) if stream else 0):
        stream[data.draw(st.integers(0, min(99, len(stream) - 1)))] ^= data.draw(st.integers(1, 255))
    return stream


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """A flipped, cut or foreign stream ends in an error of ours or in asking for more, never in another."""
    pair = offered()
    try:
        pair.get(bytes(damaged(data, ANY)))
        pair.complete()
    except EnchufeError:
        pass
    assert pair.receiver.stored_bytes >= 0
    assert pair.receiver._booked >= 0


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_answers_are_read_or_refused(data: st.DataObject) -> None:
    sender = sending()
    sender.receive_data(bytes(damaged(data, ANY_BACK)))
    try:
        while sender.next_event() is not None:
            pass
        while sender.take(0, small=True) is not None:
            pass
    except EnchufeError:
        pass


@pytest.mark.parametrize("together", [2, 3, 4096])
@given(added=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=8), data=st.data())
def test_the_digests_of_a_file_in_any_order(together: int, added: list[tuple[int, int]], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("enchufe.transfer.digests._TOGETHER", together)
        _in_any_order(added, data)


def _in_any_order(added: list[tuple[int, int]], data: st.DataObject) -> None:
    digests, there = FileDigest(), dict[int, bytes]()
    for first, count in added:
        run = [bytes([first + n + 1]) * 32 for n in range(count)]
        fits = not any(first + n in there for n in range(count))
        assert digests.add(first, b"".join(run)) is fits
        if fits:
            there.update(enumerate(run, first))
        elif data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(there)))
            digests.remove(gone)
            del there[gone]
    for block_number in range(18):
        assert (block_number in digests) is (block_number in there)
        assert digests.is_same(block_number, bytes([block_number + 1]) * 32) is (block_number in there)
        assert not digests.is_same(block_number, bytes(32))
        missing = next(n for n in range(block_number, 99) if n not in there)
        assert digests.missing(block_number) == missing
    if there and sorted(there) == list(range(len(there))) and digests.span == len(there):
        whole = b"".join(there[n] for n in sorted(there))
        assert digests.root() == (whole if len(there) == 1 else blake3(whole).digest())


@pytest.mark.parametrize("removed", [0, 2, 5])
def test_a_block_that_is_removed_comes_again_as_it_was(removed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are in the root by then; of the others anything is taken, and the root tells."""
    monkeypatch.setattr("enchufe.transfer.digests._TOGETHER", 4)
    told = FileDigest()
    run = [bytes([n + 1]) * 32 for n in range(6)]
    assert told.add(0, b"".join(run[:5]))
    assert told.add(5, run[5])
    right = told.root()
    told.remove(removed)
    assert not told.is_same(removed, run[removed])
    assert told.missing(0) == removed
    if removed < 5:
        assert not told.add(removed, bytes(32))
        assert removed not in told
    assert told.add(removed, run[removed])
    assert told.root() == right == blake3(b"".join(run)).digest()


def test_what_is_kept_of_the_blocks_of_a_big_file() -> None:
    tracemalloc.start()
    try:
        told = FileDigest()
        for first in range(0, 1 << 20, 8192):
            assert told.add(first, bytes(8192 * 32))
        assert tracemalloc.get_traced_memory()[0] < 11 << 20  # and up to an eighth more than it uses, by bytearrays
    finally:
        tracemalloc.stop()


def test_the_tree_digest_is_of_every_entry_in_whatever_order_they_are_settled() -> None:
    """As docs/protocol.md tells it, FINISH: no entry's fate, size or root is left out of it, and few are kept."""
    entries = [file(number, number) for number in range(1000)]
    records = [
        pack(">IB", number, Outcome.ARRIVED) + pack_entry(entry) + pack(">Q32s", number, block_digest(entry.name))
        if number % 3
        else pack(">IB", number, Outcome.REFUSED) + pack_entry(entry) + bytes(40)
        for number, entry in enumerate(entries)
    ]
    for order in (entries, entries[::-1], entries[1::2] + entries[::2]):
        tree = TreeDigest()
        for entry in order:
            if entry.id % 3:
                tree.add(entry, Outcome.ARRIVED, entry.size, block_digest(entry.name))
            else:
                tree.add(entry, Outcome.REFUSED)
            assert order is not entries or len(tree._pending) + len(tree._early) < 256
        assert tree.digest() == blake3(b"".join(records)).digest()


def test_what_is_here_is_told_in_as_many_messages_as_it_takes() -> None:
    many = m.HAVE_DIGESTS
    told = b"".join(block_digest(b"%d" % number) for number in range(2 * many + 1))
    step = many * len(D)
    assert list(haves(7, [(5, told), (3 * many, D)])) == [
        m.Have(7, 5, False, told[:step]),
        m.Have(7, 5 + many, False, told[step : 2 * step]),
        m.Have(7, 5 + 2 * many, False, told[2 * step :]),
        m.Have(7, 3 * many, True, D),
    ]
    assert list(haves(7, [])) == [m.Have(7, 0, True, b"")]
