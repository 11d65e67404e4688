"""Both machines talk through memory: no socket, no clock, no disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enchufe.buffer import ReceiveBuffer
from enchufe.entry import BLOCK_SIZE, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Reason
from enchufe.errors import EnchufeError, LocalProtocolError, RemoteProtocolError, StoreError
from enchufe.transfer import sender
from enchufe.transfer.data import Batch, Block, Hole, Packed
from enchufe.transfer.digests import ZERO_BLOCK, block_digest
from enchufe.transfer.message import BATCH_FILES, Type
from enchufe.transfer.messages import WINDOW, Again, Progress, Want, next_message
from enchufe.transfer.offers import Offer
from enchufe.transfer.patches import PIECE_SIZE
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.states import State
from tests.pairs.pair import Pair, block_of, content, file, wire

B = BLOCK_SIZE


def files(pair: Pair) -> list[Entry]:
    """An entry for each content, in their order."""
    return [file(number, len(data)) for number, data in pair.contents.items() if isinstance(data, bytes)]


@pytest.mark.parametrize(
    ("answers", "runs"),
    [
        ({}, []),
        ({0: Answer.SKIP}, [(0, 1, Answer.SKIP)]),
        ({4: Answer.ALL, 5: Answer.ALL, 6: Answer.SKIP}, [(4, 2, Answer.ALL), (6, 1, Answer.SKIP)]),
        ({1: Answer.ALL, 3: Answer.ALL}, [(1, 1, Answer.ALL), (3, 1, Answer.ALL)]),  # 2 is answered by somebody else
    ],
)
def test_answers_are_said_in_runs_of_one_answer_without_a_gap(
    answers: dict[int, Answer], runs: list[tuple[int, int, Answer]]
) -> None:
    said = Receiver().answer((file(number, 1), answer) for number, answer in answers.items())
    assert list(said.runs) == runs


@pytest.mark.parametrize("sender_dials", [True, False])
@pytest.mark.parametrize("chunk", [1 << 21, 4093])
@pytest.mark.parametrize("packs", [True, False])
def test_a_tree_crosses(chunk: int, sender_dials: bool, packs: bool) -> None:
    sizes = {1: 0, 2: 5, 4: 2 * B + 4, 5: B, 6: B - 1}
    pair = Pair(
        {number: content(size) for number, size in sizes.items()}, chunk=chunk, sender_dials=sender_dials, packs=packs
    )
    pair.offer(
        Entry(0, NO_PARENT, b"d", Kind.DIRECTORY),
        *(file(number, sizes[number], 0) for number in (1, 2)),
        Entry(3, 0, b"l", Kind.SYMLINK, 0, 0o777, 0, b"f2"),
        *(file(number, sizes[number], 0) for number in (4, 5, 6)),
    )
    pair.done()
    assert len(pair.arrived) == 5
    if not packs:
        assert pair.sender.sent_bytes == sum(sizes.values())
    assert pair.receiver.received_bytes == pair.receiver.stored_bytes == sum(sizes.values())


def test_no_more_counts_as_sent_than_files_hold() -> None:
    """What is told of 200 empty ones shrinks, and is no content all the same."""
    pair = Pair(dict.fromkeys(range(200), b""), packs=True)
    pair.offer(*(file(number, 0) for number in range(200)))
    pair.done()
    assert len(pair.arrived) == 200
    assert pair.sender.sent_bytes == 0


def test_a_folder_may_be_offered_after_files() -> None:
    pair = Pair({0: content(3), 1: content(4), 3: content(5)})
    pair.offer(file(0, 3), file(1, 4), Entry(2, NO_PARENT, b"d", Kind.DIRECTORY), file(3, 5, 2))
    pair.done()
    assert pair.arrived == pair.contents


@pytest.mark.parametrize("sizes", [[B], [900, 900]])
def test_what_was_compressed_counts_as_sent_as_it_crosses(sizes: list[int]) -> None:
    pair = Pair({number: content(size) for number, size in enumerate(sizes)}, packs=True)
    wanted(pair, *files(pair))
    assert pair.work()
    buffer = ReceiveBuffer()
    buffer.append(pair.streams[0][-1])
    packed = next_message(buffer)
    assert isinstance(packed, Packed)
    assert pair.sender.sent_bytes == len(packed.data) < sum(sizes)
    pair.done()


@pytest.mark.parametrize("size", [0, 1, B - 1, B, 2 * B, 2 * B + 4])
def test_a_pipe_crosses(size: int) -> None:
    pair = Pair({0: content(size)}, streams=2)
    pair.offer(file(0, UNKNOWN_SIZE))
    pair.settle()
    pair.done()
    assert pair.arrived == pair.contents


def test_a_pipe_is_for_stream_0_alone_and_one_block_at_a_time() -> None:
    pair = Pair({0: content(3 * B)}, streams=2)
    pair.offer(file(0, UNKNOWN_SIZE), end=False)
    pair.take()
    pair.hear()
    assert pair.sender.take(1, small=True) is None
    assert pair.sender.take(0, small=True) is not None
    assert pair.sender.take(0, small=True) is None


@pytest.mark.parametrize("size", [0, 5, B, B + 5])
def test_there_is_no_work_on_a_pipe_that_has_ended(size: int) -> None:
    pair = Pair({0: content(size)})
    pair.offer(file(0, UNKNOWN_SIZE), end=False)
    pair.take()
    pair.hear()
    for _ in range(size // B + 1):
        assert pair.sender.has_work
        assert pair.work()
    assert not pair.sender.has_work
    pair.end_offer()
    pair.done()


def test_nothing_at_all_crosses() -> None:
    pair = Pair()
    pair.offer()
    pair.done()


def test_skipped_and_refused_are_in_both_books() -> None:
    answers = {0: Answer.SKIP, 1: Answer.UNWANTED, 3: Answer.UNWANTED}
    pair = Pair({number: content(3) for number in range(3)}, answers=answers)
    pair.offer(*files(pair), file(3, UNKNOWN_SIZE))
    pair.done()
    assert pair.sender.unwanted_bytes == 6  # and of the last nobody knows
    assert list(pair.arrived) == [2]
    assert pair.sender.skipped == 1
    assert [(entry.id, answer) for entry, answer in pair.sender.refused] == [
        (1, Answer.UNWANTED),
        (3, Answer.UNWANTED),
    ]


@pytest.mark.parametrize("answer", [answer for answer in Answer if answer.refusal])
@pytest.mark.parametrize("kind", Kind)
def test_any_entry_may_be_refused(answer: Answer, kind: Kind) -> None:
    pair = Pair(answers={0: answer})
    pair.offer(Entry(0, NO_PARENT, b"x", kind, target=b"y" if kind is Kind.SYMLINK else b""))
    pair.done()
    assert list(pair.sender.refused) == [(pair.entries[0], answer)]


# Streams: any block on any of them, in any order.


def wanted(pair: Pair, *entries: Entry) -> None:
    """All are offered and wanted, and nothing is sent yet."""
    pair.offer(*entries)
    while pair.streams[0]:
        pair.take()
    while pair.back:
        pair.hear()


def test_blocks_arrive_after_the_end_of_their_file_was_told() -> None:
    pair = Pair({0: content(3 * B)}, streams=4)
    wanted(pair, *files(pair))
    for stream in (1, 2, 3):
        assert pair.work(stream)
    pair.ends()
    pair.take()
    assert pair.said[Type.FILE_END] == 1
    for stream in (2, 3, 1):
        assert not pair.arrived
        pair.take(stream)
        pair.complete()
    pair.done()


def test_small_files_arrive_after_everything_is_said_to_be_sent() -> None:
    pair = Pair({0: content(5)}, streams=2)
    wanted(pair, *files(pair))
    assert pair.work(1)
    pair.say(pair.sender.finish())
    pair.take()
    assert pair.receiver.state is State.FINISHING
    assert not pair.receiver.finished
    pair.take(1)
    pair.done()


def test_what_a_stream_has_lost_is_sent_again_and_nothing_else() -> None:
    pair = Pair({0: content(6 * B), 1: content(7), 2: content(8)}, streams=2)
    wanted(pair, *files(pair))
    for _ in range(4):
        assert pair.work(1)
    pair.take(1)
    pair.take(1)
    pair.lose(1)
    pair.done()
    assert pair.said[Type.BLOCK] == 8
    assert pair.receiver.received_bytes == 6 * B + 15


def test_a_file_is_not_at_its_end_while_a_block_that_was_lost_is_read_again() -> None:
    """It may be found to be another by then, and what has ended cannot be left out."""
    pair = Pair({0: content(B)}, streams=2)
    wanted(pair, *files(pair))
    sender = pair.sender
    assert pair.work(1)
    assert sender.whole
    pair.lose(1)
    pair.hear()
    work = sender.take(0, small=True)
    assert work is not None
    assert sender.next_whole() is None
    sender.give_back(work)
    pair.done()


def test_what_was_lost_comes_again_though_the_receiver_has_more_to_tell() -> None:
    data = content(3 * B)
    pair = Pair({0: data}, answers={0: Answer.DELTA}, old={0: content(3 * B, seed=9)}, streams=2)
    wanted(pair, *files(pair))
    for _ in range(2):
        pair.tell_own()
        pair.hear()
        assert pair.work(1)
    pair.lose(1)
    pair.hear()
    assert [pair.work(), pair.work(), pair.work()] == [True, True, False]
    pair.done()
    assert pair.said[Type.BLOCK] == 5


def test_small_files_that_were_lost_come_again_without_being_counted_twice() -> None:
    pair = Pair({number: content(number) for number in range(5)}, streams=2)
    wanted(pair, *files(pair))
    assert pair.work(1)
    assert pair.sender.files == 5
    pair.say(pair.sender.finish())
    pair.lose(1)
    pair.done()
    assert pair.said[Type.BATCH] == 2


def test_what_progress_has_told_taken_is_not_kept_for_a_stream() -> None:
    pair = Pair({0: content(4 * B)}, streams=2)
    wanted(pair, *files(pair))
    for _ in range(3):
        pair.work(1)
    pair.take(1)
    pair.take(1)
    assert pair.progress() == Progress(2 * B, 0, [0, 2])
    pair.hear()
    assert len(pair.sender._streams[1].frames) == 1
    pair.lose(1)
    pair.done()


def test_work_for_a_stream_that_is_lost_is_given_back() -> None:
    pair = Pair({0: content(2 * B), 1: content(9)}, streams=2)
    wanted(pair, *files(pair))
    block, small = pair.sender.take(1, small=True), pair.sender.take(0, small=True)
    assert isinstance(block, tuple)
    assert isinstance(small, list)
    pair.lose(1)
    pair.hear()
    piece = content(2 * B)[:B]
    with pytest.raises(EnchufeError, match="lost"):
        pair.sender.say_blocks(1, block[0], 0, block_digest(piece), Block(0, 0, block_digest(piece), piece))
    with pytest.raises(EnchufeError, match="lost"):
        pair.sender.say_batch(1, small, [block_digest(content(9))], Batch([(1, bytes(32), content(9))]))
    pair.sender.give_back(block)
    pair.sender.give_back(small)
    pair.done()


def test_what_is_sent_on_a_dead_stream_before_that_is_known_comes_on_another() -> None:
    pair = Pair({0: content(2 * B)}, streams=2)
    wanted(pair, *files(pair))
    pair.dead.add(1)
    assert pair.work(1)
    assert not pair.streams[1]
    pair.lose(1)
    pair.done()


@pytest.mark.parametrize("size", [5, B + 1])
def test_a_file_that_is_another_when_it_must_be_sent_again_ends_it(size: int) -> None:
    pair = Pair({0: content(size)}, streams=2)
    wanted(pair, *files(pair))
    pair.work(1)
    pair.lose(1)
    pair.contents[0] = content(size, seed=7)
    pair.hear()
    with pytest.raises(StoreError, match="'f0' changed after"):
        while pair.work(0):
            pass


def test_a_batch_holds_a_mebibyte_and_1024_files_at_the_most() -> None:
    pair = Pair({0: content(B - 1), 1: content(1), 2: content(1)})
    wanted(pair, *files(pair))
    work = pair.sender.take(0, small=True)
    assert isinstance(work, list)
    assert [entry.id for entry, _ in work] == [0, 1]


# Resuming.


@pytest.mark.parametrize("size", [3 * B, 3 * B + 5])
@pytest.mark.parametrize("kept", [(), (0,), (1,), (0, 2), (1, 2), (0, 1, 2)])
def test_the_rest_of_a_file(size: int, kept: tuple[int, ...]) -> None:
    data = content(size)
    pair = Pair({0: data}, answers={0: Answer.REST}, kept={0: {number: block_of(data, number) for number in kept}})
    pair.offer(*files(pair))
    pair.done()
    assert pair.said[Type.BLOCK] == -(-size // B) - len(kept)
    held = sum(len(block_of(data, number)) for number in kept)
    assert pair.sender.held_bytes == pair.receiver.held_bytes == held
    assert pair.sender.missing_bytes == pair.receiver.received_bytes == size - held


@pytest.mark.parametrize(("size", "has"), [(0, False), (5, True), (5, False), (B, True)])
def test_the_rest_of_a_small_file(size: int, has: bool) -> None:
    data = content(size)
    pair = Pair({0: data}, answers={0: Answer.REST}, kept={0: {0: data} if has else {}})
    pair.offer(*files(pair))
    pair.done()
    assert pair.said[Type.BLOCK] == (size > 0 and not has)
    assert pair.said[Type.BATCH] == 0


def test_a_damaged_block_behind_what_is_not_here_comes_again() -> None:
    pair = Pair({0: content(4 * B)}, answers={0: Answer.REST}, kept={0: {2: bytes(B)}})
    pair.offer(*files(pair))
    pair.done()
    assert pair.again == {(0, 2): 1}


def test_damaged_blocks_come_again_even_after_the_finish() -> None:
    data = content(4 * B + 1)
    kept = {number: block_of(data, number) for number in range(5)}
    kept[1] = kept[2] = bytes(B)
    kept[4] = b"?"
    pair = Pair({0: data}, answers={0: Answer.REST}, kept={0: kept})
    pair.offer(*files(pair))
    while not pair.sender.all_sent:
        next(able for able in pair.possible() if able != pair.check)()
    pair.say(pair.sender.finish())
    while pair.streams[0]:
        pair.take()
    assert pair.receiver.state is State.FINISHING
    pair.done()
    assert pair.again == {(0, 1): 1, (0, 2): 1, (0, 4): 1}
    assert [said for said in pair.heard if isinstance(said, Again)] == [Again(0, 1, 2), Again(0, 4, 1)]
    assert pair.said[Type.BLOCK] == 3


def test_a_rest_whose_entry_is_left_out_before_it_is_read_again() -> None:
    data = content(2 * B)
    pair = Pair({0: data}, answers={0: Answer.REST}, kept={0: {0: bytes(B)}})
    wanted(pair, *files(pair))
    pair.leave_out(pair.entries[0], Reason.VANISHED)
    pair.check()  # says AGAIN, while LEFT_OUT is on its way
    assert pair.back
    pair.done()
    assert pair.dropped == [0]
    assert pair.receiver.stored_bytes == 0


def test_what_is_found_damaged_of_a_file_that_was_left_out_is_not_counted_nor_asked_for() -> None:
    data = content(2 * B)
    pair = Pair({0: data}, answers={0: Answer.REST}, kept={0: {0: bytes(B)}})
    wanted(pair, *files(pair))
    assert pair.sender.missing_bytes == B
    pair.leave_out(pair.entries[0], Reason.VANISHED)
    assert pair.sender.missing_bytes == 0
    pair.take()
    assert pair.receiver.dropping == 1
    pair.check()  # finds it damaged, and it is gone
    assert pair.receiver.stored_bytes == 0
    assert not pair.back
    pair.done()
    assert pair.dropped == [0]


def test_it_is_not_finished_while_somebody_is_at_work_on_what_was_left_out_or_it_is_not_removed() -> None:
    """Else it would be committed with what is still being written, or is to go."""
    data = content(2 * B)
    pair = Pair({0: data}, answers={0: Answer.REST}, kept={0: {0: block_of(data, 0)}})
    wanted(pair, *files(pair))
    receiver = pair.receiver
    pair.leave_out(pair.entries[0], Reason.VANISHED)
    pair.take()
    pair.say(pair.sender.finish())
    pair.take()
    assert receiver.state is State.FINISHING
    assert not receiver.finished
    pair.check()
    assert receiver.dropped
    assert not receiver.finished
    pair.drop()
    assert receiver.finished
    pair.done()


def test_it_is_not_finished_before_the_sender_says_so() -> None:
    pair = Pair({0: content(5)})
    wanted(pair, *files(pair))
    pair.work()
    pair.take()
    assert not pair.receiver.lacks_data
    assert not pair.receiver.finished
    pair.say(pair.sender.finish())
    pair.take()
    assert pair.receiver.finished
    pair.done()


# Deltas.


def test_a_delta_sends_what_differs() -> None:
    new, old = content(4 * B + 3), bytearray(content(5 * B))
    old[B] ^= 1
    pair = Pair({0: new}, answers={0: Answer.DELTA}, old={0: bytes(old)})
    pair.offer(*files(pair))
    pair.done()
    assert (pair.said[Type.SAME], pair.said[Type.BLOCK]) == (3, 2)
    assert pair.receiver.received_bytes == B + 3


def test_a_delta_waits_for_the_digest_of_each_block_and_its_end_for_the_last() -> None:
    data = content(2 * B)
    pair = Pair({0: data}, answers={0: Answer.DELTA}, old={0: data})
    wanted(pair, *files(pair))
    for _ in range(2):
        assert not pair.work()
        pair.tell_own()
        pair.hear()
        assert pair.work()
    pair.ends()
    assert not pair.said[Type.FILE_END]
    pair.tell_own()
    pair.hear()
    pair.done()


def test_a_delta_of_an_old_version_of_nothing() -> None:
    pair = Pair({0: content(B), 1: b""}, answers={0: Answer.DELTA, 1: Answer.DELTA}, old={0: b"", 1: content(B)})
    pair.offer(*files(pair))
    pair.done()


def test_a_block_that_is_not_the_same_any_more_comes_in_whole() -> None:
    data = content(3 * B)
    pair = Pair({0: data}, answers={0: Answer.DELTA}, old={0: data}, gone=[(0, 1)])
    pair.offer(*files(pair))
    pair.done()
    assert (pair.said[Type.SAME], pair.said[Type.BLOCK]) == (3, 1)


def test_a_delta_whose_last_block_is_damaged_is_not_whole_before_it_came() -> None:
    data = content(B)
    pair = Pair({0: data}, answers={0: Answer.DELTA}, old={0: data}, gone=[(0, 0)], streams=2)
    wanted(pair, *files(pair))
    while pair.told:
        pair.tell_own()
        pair.hear()
    assert pair.work(1)
    pair.ends()
    pair.take()  # the end comes before the block
    pair.take(1)
    assert not pair.receiver.whole
    pair.done()


def test_what_is_here_of_a_file_that_was_left_out_may_still_be_told() -> None:
    data = content(2 * B)
    pair = Pair({0: data}, answers={0: Answer.DELTA}, old={0: data})
    wanted(pair, *files(pair))
    pair.leave_out(pair.entries[0], Reason.UNREADABLE)
    pair.take()
    assert pair.receiver.tell_pieces(0, 1) == 0
    pair.tell_own()
    pair.say(pair.sender.finish())
    pair.take()
    pair.tell_own()
    pair.done()


@pytest.mark.parametrize("answer", [Answer.REST, Answer.DELTA])
def test_what_was_left_out_is_not_kept_for_what_may_still_be_told_of_it(answer: Answer) -> None:
    data, count = content(2 * B), 20
    there = dict.fromkeys(range(count), data)
    pair = Pair(
        there,
        answers=dict.fromkeys(there, answer),
        kept={number: {0: bytes(B)} for number in there} if answer is Answer.REST else {},
        old=there,
        pieces=PIECE_SIZE,
    )
    wanted(pair, *files(pair))
    for entry in pair.entries:
        pair.leave_out(entry, Reason.UNREADABLE)
    assert not pair.sender._going
    while pair.checks:
        pair.check()  # says AGAIN, while LEFT_OUT is on its way
    while pair.told:
        pair.tell_own()
    pair.done()
    assert pair.dropped == list(range(count))
    assert not pair.sender._going


def steps(function: Callable[[], object]) -> int:
    """How many lines are run by it."""
    count, before = 0, sys.gettrace()

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("answer", [Answer.ALL, Answer.REST, Answer.DELTA])
def test_what_cannot_be_taken_now_costs_nothing(answer: Answer) -> None:
    """There may be a quarter of a million files that others are to send, or of which the receiver has more to tell."""
    costs = []
    for count in (20, 200):
        pair = Pair()
        pair.say(Offer([file(number, 3 * B) for number in range(count)]))
        pair.sender.receive_data(wire(Want([(0, count, answer)])))
        pair.sender.next_event()
        blocks = answer is not Answer.ALL
        costs.append(steps(lambda: pair.sender.take(0, small=True, blocks=blocks)))  # noqa: B023 (called at once)
    assert costs[0] == costs[1]


def moved(size: int, seed: int = 1) -> bytes:
    """Bytes that are nowhere the same."""
    return Random(seed).randbytes(size)


def test_a_block_that_moved_is_patched() -> None:
    old = moved(4 * B)
    new = b"in front" + old[: 3 * B]
    pair = Pair({0: new}, answers={0: Answer.DELTA}, old={0: old}, pieces=PIECE_SIZE)
    pair.offer(*files(pair))
    pair.done()
    assert (pair.said[Type.PATCH], pair.said[Type.BLOCK]) == (4, 0)
    assert pair.receiver.received_bytes == 8


@pytest.mark.parametrize("packs", [False, True])
def test_a_patch_that_does_not_fit_any_more_comes_in_whole_and_so_do_all_after_it(packs: bool) -> None:
    old = moved(4 * B)
    new = b"in front" + old[: 3 * B]
    pair = Pair({0: new}, answers={0: Answer.DELTA}, old={0: old}, pieces=PIECE_SIZE, gone=[(0, 0)], packs=packs)
    wanted(pair, *files(pair))
    while pair.told:
        pair.tell_own()
        pair.hear()
    assert pair.work()
    pair.take()
    pair.hear()
    pair.done()
    assert (pair.said[Type.PATCH], pair.said[Type.BLOCK]) == (1, 4)
    assert pair.again == {(0, 0): 1}


def test_patches_of_a_lost_stream_are_said_again() -> None:
    old = moved(4 * B)
    new = b"in front" + old[: 3 * B]
    pair = Pair({0: new}, answers={0: Answer.DELTA}, old={0: old}, pieces=PIECE_SIZE, streams=2)
    wanted(pair, *files(pair))
    while pair.told:
        pair.tell_own()
        pair.hear()
    while pair.work(1):
        pass
    pair.lose(1)
    pair.hear()
    pair.done()
    assert (pair.said[Type.PATCH], pair.said[Type.BLOCK]) == (8, 0)


def test_what_was_told_of_old_versions_is_forgotten_with_their_files() -> None:
    old = moved(2 * B)
    contents: dict[int, bytes | Reason] = {0: old + b"!", 1: old + b"?", 2: Reason.VANISHED}
    pair = Pair(
        contents, answers=dict.fromkeys(contents, Answer.DELTA), old=dict.fromkeys(contents, old), pieces=PIECE_SIZE
    )
    wanted(pair, file(0, 2 * B + 1), file(1, 2 * B + 1), file(2, 2 * B))
    while pair.told:
        pair.tell_own()
        pair.hear()
    assert pair.sender._pieces == pair.receiver._pieces == 3 * 2 * B // PIECE_SIZE
    while pair.work():
        pass
    pair.ends()
    assert pair.sender._pieces == 0
    remembered = list(pair.sender._going.values())
    assert len(remembered) == 2
    assert not any(going.index for going in remembered)
    pair.done()
    assert pair.sender._pieces == pair.receiver._pieces == 0


# Holes.


def test_holes_are_said_and_not_sent() -> None:
    data = bytes(2 * B) + content(B) + bytes(2 * B)
    pair = Pair({0: data + b"end", 1: bytes(B)})
    pair.offer(file(0, len(data) + 3, sparse=True), file(1, B))
    pair.done()
    assert (pair.said[Type.HOLE], pair.said[Type.BLOCK]) == (2, 3)


def test_a_hole_is_said_around_what_is_there() -> None:
    pair = Pair({0: bytes(6 * B)}, answers={0: Answer.REST}, kept={0: {3: bytes(B)}})
    pair.offer(file(0, 6 * B, sparse=True))
    pair.done()
    assert pair.said[Type.HOLE] == 2
    assert pair.taken == {(0, number): 1 for number in (0, 1, 2, 4, 5)}


def test_no_block_of_a_hole_is_taken_by_two_streams() -> None:
    """Who is first to take the next block has it, whether as part of a hole or alone."""
    pair = Pair({0: bytes(4 * B)}, streams=3)
    wanted(pair, file(0, 4 * B, sparse=True))
    sender = pair.sender
    first, second = sender.take(1, small=True), sender.take(2, small=True)
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    going = first[0]
    assert (first[1], second[1]) == (0, 1)
    assert going.extend(0, 4) == 1
    assert going.extend(1, 3) == 3
    assert sender.take(1, small=True) is None
    sender.give_back(first)
    sender.give_back((going, 1, 3))
    pair.done()


def test_a_hole_in_a_delta_does_not_lead_past_what_was_told() -> None:
    pair = Pair({0: bytes(3 * B)}, answers={0: Answer.DELTA}, old={0: content(3 * B)}, streams=2)
    wanted(pair, file(0, 3 * B, sparse=True))
    for _ in range(2):
        pair.tell_own()
        pair.hear()
    work = pair.sender.take(1, small=True)
    assert isinstance(work, tuple)
    assert work[0].extend(0, 2) == 2
    assert pair.sender.take(0, small=True) is None
    pair.sender.give_back((work[0], 0, 2))
    pair.done()


def test_a_block_that_was_lost_comes_again_with_the_hole_that_it_begins() -> None:
    pair = Pair({0: bytes(4 * B)}, streams=2)
    wanted(pair, file(0, 4 * B, sparse=True))
    work = pair.sender.take(1, small=True)
    assert isinstance(work, tuple)
    pair.sender.say_blocks(1, work[0], 0, ZERO_BLOCK, Hole(0, 0, 1))
    pair.lose(1)
    pair.hear()
    assert pair.work()
    assert pair.said[Type.HOLE] == 1
    pair.done()
    assert pair.said[Type.HOLE] == 1


def test_a_hole_that_was_lost_is_said_again() -> None:
    pair = Pair({0: bytes(5 * B)}, streams=2)
    wanted(pair, file(0, 5 * B, sparse=True))
    pair.work(1)
    pair.lose(1)
    pair.done()


# Hard links.


def linked(pair: Pair, number: int, to: int) -> Entry:
    data = pair.contents[number] = pair.contents[to]
    pair.answers[number] = Answer.LINK
    assert isinstance(data, bytes)
    return file(number, len(data), linked=to)


@pytest.mark.parametrize("size", [0, 5, 2 * B])
def test_links_arrive_with_the_file_they_link_to(size: int) -> None:
    pair = Pair({0: content(size)}, streams=2)
    wanted(pair, file(0, size, shared=True), linked(pair, 1, 0), linked(pair, 2, 0))
    while pair.work(1):
        pass
    pair.ends()  # all three, before the content arrives
    while pair.streams[0]:
        pair.take()
    assert not pair.arrived
    pair.done()
    assert pair.said[Type.FILE_END] == 2 + (size >= B)


@pytest.mark.parametrize("size", [5, 2 * B])
def test_a_link_to_what_has_arrived_long_ago(size: int) -> None:
    pair = Pair({0: content(size)})
    pair.offer(file(0, size, shared=True), end=False)
    pair.settle()
    assert pair.arrived
    pair.offer(linked(pair, 1, 0))
    pair.done()
    assert len(pair.arrived) == 2


@pytest.mark.parametrize("size", [5, B])
def test_a_link_to_what_is_left_out_is_left_out(size: int) -> None:
    pair = Pair({0: content(size)})
    link = linked(pair, 1, 0)
    pair.contents[0] = Reason.VANISHED
    pair.offer(file(0, size, shared=True), link)
    pair.done()
    assert pair.dropped == [0, 1]


def test_a_link_offered_after_its_file_was_left_out() -> None:
    pair = Pair({0: content(5)})
    pair.offer(file(0, 5, shared=True), end=False)
    while pair.streams[0]:
        pair.take()
    while pair.back:
        pair.hear()
    link = linked(pair, 1, 0)
    pair.contents[0] = Reason.CHANGED
    pair.work()
    pair.offer(link)
    pair.done()
    assert pair.dropped == [0, 1]


def test_a_file_with_other_names_may_be_sent_for_each() -> None:
    pair = Pair({0: content(5)})
    entries = (file(0, 5, shared=True), linked(pair, 1, 0))
    pair.answers = {0: Answer.SKIP}
    pair.offer(*entries)
    pair.done()
    assert list(pair.arrived) == [1]


# Left out.


def test_what_is_left_out_is_dropped_once_nobody_is_at_work_on_it() -> None:
    pair = Pair({0: content(4 * B)}, streams=2)
    wanted(pair, *files(pair))
    pair.work(0)
    pair.take(0)
    pair.work(1)
    pair.work(1)
    frames = pair.streams[1]
    late = Block(0, 3 * B, bytes(32), bytes(B))
    busy = pair.receiver.claim_block(late)
    assert busy is not None
    pair.leave_out(pair.entries[0], Reason.CHANGED)
    pair.take()
    assert not pair.receiver.dropped
    pair.receiver.stored(busy, B)
    assert [entry.id for entry in pair.receiver.dropped] == [0]
    assert pair.receiver.stored_bytes == 0
    assert len(frames) == 2
    pair.take(1)  # what still comes is of no use, and no fault
    assert pair.receiver.stored_bytes == 0
    pair.lose(1)  # nor is it sent again
    pair.done()
    assert pair.said[Type.BLOCK] == 3
    assert not pair.arrived


def test_a_small_file_cannot_be_left_out_while_it_is_written() -> None:
    """Else it might be there and not counted. Before it came it can, and what still comes of it goes nowhere."""
    pair = Pair({0: content(5), 1: content(6)})
    wanted(pair, *files(pair))
    assert pair.sender.take(0, small=True)
    pair.leave_out(pair.entries[1], Reason.CHANGED)
    pair.take()
    assert pair.receiver.claim_batch(Batch([(1, bytes(32), content(6))])) == []
    assert pair.receiver.claim_batch(Batch([(0, block_digest(content(5)), content(5))]))
    pair.leave_out(pair.entries[0], Reason.CHANGED)
    with pytest.raises(RemoteProtocolError, match="left out entry 0, which is not on its way"):
        pair.take()


def test_nothing_is_said_of_a_file_that_was_left_out_meanwhile() -> None:
    pair = Pair({0: content(2 * B)}, streams=2)
    wanted(pair, *files(pair))
    work = pair.sender.take(1, small=True)
    assert isinstance(work, tuple)
    pair.leave_out(pair.entries[0], Reason.CHANGED)
    piece = content(B)
    block = Block(0, 0, block_digest(piece), piece)
    assert pair.sender.say_blocks(1, work[0], 0, block.digest, block) == []
    pair.sender.give_back(work)
    assert not pair.sender.has_work
    pair.done()


@pytest.mark.parametrize("size", [5, 2 * B])
def test_a_file_that_changed_is_offered_again_after_the_end_of_the_offer(size: int) -> None:
    pair = Pair({0: content(4), 1: content(size)})
    entries = files(pair)
    pair.contents[1] = Reason.AGAIN
    wanted(pair, *entries)
    pair.done()
    assert pair.arrived == {0: content(4), 2: content(size, seed=99)}
    assert pair.receiver.left_out is not None
    assert pair.receiver.left_out.id == 1
    assert pair.sender.missing_bytes == pair.receiver.received_bytes == 4 + size
    assert pair.dropped == [1]


def test_what_is_offered_again_waits_until_its_name_is_free() -> None:
    data = content(2 * B)
    pair = Pair({0: data}, answers={0: Answer.REST}, kept={0: {0: block_of(data, 0)}})
    wanted(pair, *files(pair))
    pair.contents[0] = Reason.AGAIN
    pair.work()
    pair.offer_some()
    while pair.streams[0]:
        pair.take()
    assert pair.receiver.dropping == 1
    assert pair.offers
    pair.contents[0] = data  # what was kept of it
    pair.check()
    assert pair.receiver.dropping == 0
    pair.done()
    assert list(pair.arrived) == [1]


# Progress and the window.


def test_progress_opens_the_window_again() -> None:
    pair = Pair(dict.fromkeys(range(WINDOW + 1), b""))
    entries = files(pair)
    pair.waiting += entries
    while pair.sender.room > 0:
        pair.offer_some()
    with pytest.raises(LocalProtocolError, match="window"):
        pair.sender.send(Offer([entries[WINDOW]]))
    while pair.streams[0]:
        pair.take()
    while pair.back:
        pair.hear()
    assert pair.work()
    pair.take()
    assert pair.progress() == Progress(0, BATCH_FILES, [1])
    pair.hear()
    assert pair.sender.room == BATCH_FILES
    pair.offer_some()
    pair.end_offer()
    pair.done()


def test_progress_is_told_late_or_after_much() -> None:
    pair = Pair({0: content(20 * B)})
    wanted(pair, *files(pair))
    receiver = pair.receiver
    assert receiver.progress(100.0) is None
    for _ in range(16):
        assert receiver.progress(0.0) is None
        pair.work()
        pair.take()
    assert receiver.progress(0.0) == Progress(16 * B, 0, [16])
    pair.work()
    pair.take()
    assert receiver.progress(0.05) is None
    assert receiver.progress(0.1) == Progress(17 * B, 0, [17])


def test_progress_is_told_after_many_entries_though_it_is_not_late() -> None:
    pair = Pair(answers=dict.fromkeys(range(1024), Answer.SKIP))
    receiver = pair.receiver
    pair.get(wire(Offer([file(number, 1) for number in range(1023)])))
    assert receiver.progress(0.0) is None
    assert not receiver.pressing
    pair.get(wire(Offer([file(1023, 1)])))
    assert receiver.pressing
    assert receiver.progress(0.0) == Progress(0, 1024, [0])
    assert not receiver.pressing


def test_what_is_to_be_completed_or_removed_is_pressing_and_so_is_the_finish() -> None:
    pair = Pair({0: content(B), 1: content(B)})
    wanted(pair, *files(pair))
    receiver = pair.receiver
    assert not receiver.pressing
    pair.work()
    pair.ends()
    pair.take()
    assert not receiver.pressing
    pair.take()
    assert receiver.pressing
    pair.complete()
    assert not receiver.pressing
    pair.leave_out(pair.entries[1], Reason.CHANGED)
    pair.take()
    assert receiver.pressing
    pair.drop()
    assert not receiver.pressing
    pair.say(pair.sender.finish())
    pair.take()
    assert receiver.pressing
    pair.done()


def test_progress_is_told_soon_where_little_more_can_be_offered() -> None:
    """Or what does not come would hold up what does."""
    pair = Pair({number: content(1) for number in range(40)}, window=32)
    pair.waiting += files(pair)
    pair.offer_some()
    assert pair.sender.room == 0
    pair.take()
    pair.hear()
    pair.work()
    assert pair.receiver.progress(0.006) is None
    pair.take()
    assert pair.receiver.progress(0.004) is None
    assert pair.receiver.progress(0.006) == Progress(32, 32, [1])


def test_small_windows_do() -> None:
    pair = Pair({number: content(number) for number in range(20)}, window=3)
    pair.waiting += files(pair)
    pair.offer_some()
    pair.settle()
    pair.end_offer()
    pair.done()
    assert len(pair.arrived) == 20


# Folders that are listed.


def test_a_folder_that_is_the_same_is_one_entry_and_all_in_it_is_skipped() -> None:
    pair = Pair(answers={1: Answer.SAME}, inside={1: [3, 0, 5]})
    pair.offer(Entry(0, NO_PARENT, b"d", Kind.DIRECTORY), pair.folder(1, 0), end=False)
    assert not pair.may_end
    pair.settle()
    pair.end_offer()
    pair.done()
    for books in (pair.sender, pair.receiver):
        assert (books.skipped, books.same_entries, books.same_bytes, books.files) == (3, 3, 8, 0)
    assert pair.receiver.total is not None
    assert (pair.receiver.total.entries, pair.receiver.total.size) == (5, 8)
    assert pair.receiver.offered == 2
    assert pair.sender.unwanted_bytes == pair.receiver.unwanted_bytes == 0
    assert pair.said[Type.OFFER] == 1


@pytest.mark.parametrize("answer", [Answer.ALL, Answer.IN_THE_WAY, Answer.PARENT, Answer.SKIP])
def test_what_is_in_a_folder_that_is_not_the_same_is_offered(answer: Answer) -> None:
    inside = dict.fromkeys((2, 3), Answer.ALL if answer is Answer.ALL else Answer.PARENT)
    pair = Pair(answers={0: answer, 1: Answer.SAME, **inside}, inside={0: [3, 7], 1: [9]})
    pair.offer(pair.folder(0), pair.folder(1), end=False)
    pair.settle()
    assert [(entry.id, entry.parent) for entry in pair.entries] == [(0, NO_PARENT), (1, NO_PARENT), (2, 0), (3, 0)]
    pair.end_offer()
    pair.done()
    assert pair.receiver.skipped == 1
    assert set(pair.arrived) == ({2, 3} if answer is Answer.ALL else set())
    assert pair.receiver.total is not None
    assert (pair.receiver.total.entries, pair.receiver.total.size) == (5, 19)


def test_folders_are_offered_in_one_that_is_listed_before_its_answer_and_after() -> None:
    pair = Pair({3: b"abc"}, answers={0: Answer.SAME}, inside={0: [1]})
    pair.offer(pair.folder(0), Entry(1, 0, b"before", Kind.DIRECTORY), end=False)
    pair.settle()
    pair.offer(Entry(2, 0, b"after", Kind.DIRECTORY), file(3, 3, 2))
    pair.done()
    assert pair.arrived == {3: b"abc"}


def test_the_tree_digest_covers_listings() -> None:
    receipts = []
    for sizes in ([1, 2], [2, 1]):
        pair = Pair(answers={0: Answer.SAME}, inside={0: sizes})
        pair.offer(pair.folder(0), end=False)
        pair.settle()
        pair.end_offer()
        pair.done()
        receipts.append(pair.receiver.receipt().digest)
    assert receipts[0] != receipts[1]


# Whatever comes together, in whatever order.

SIZES = [0, 1, 100, B - 1, B, B + 1, 2 * B, 3 * B + 7]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Pair, list[Entry]]:
    """Files of all kinds, and a receiver that has all kinds of them."""
    contents: dict[int, bytes | Reason] = {}
    answers: dict[int, Answer] = {}
    kept: dict[int, dict[int, bytes]] = {}
    old: dict[int, bytes] = {}
    gone: list[tuple[int, int]] = []
    entries: list[Entry] = []
    shared: list[int] = []
    inside: dict[int, list[int]] = {}
    for number in range(draw(st.integers(0, 7))):
        size = draw(st.sampled_from(SIZES))
        data = content(size, number + 1)
        entry = file(number, size)
        blocks = range(-(-size // B))
        which = draw(
            st.sampled_from(
                [
                    "all",
                    "all",
                    "pipe",
                    "sparse",
                    "skip",
                    "refused",
                    "rest",
                    "delta",
                    "moved",
                    "shared",
                    "link",
                    "left out",
                    "listed",
                ]
            )
        )
        if which == "listed":
            inside[number] = draw(st.lists(st.sampled_from([0, 1, 100]), min_size=1, max_size=5))
            answers[number] = draw(st.sampled_from([Answer.SAME, Answer.SAME, Answer.ALL]))
            entries.append(Entry(number, NO_PARENT, b"listed", Kind.DIRECTORY))
            continue
        if which == "pipe":
            entry.size = UNKNOWN_SIZE
        elif which == "sparse":
            entry.sparse = True
            data = b"".join(block_of(data, n) if draw(st.booleans()) else bytes(B) for n in blocks)[:size]
        elif which in ("skip", "refused"):
            answers[number] = Answer.SKIP if which == "skip" else Answer.CANNOT_STORE
        elif which == "rest":
            answers[number] = Answer.REST
            here = draw(st.sets(st.sampled_from(blocks))) if size else set()
            damaged = draw(st.sets(st.sampled_from(sorted(here)))) if here else set()
            kept[number] = {n: bytes(len(block_of(data, n))) if n in damaged else block_of(data, n) for n in here}
        elif which == "delta":
            answers[number] = Answer.DELTA
            changed = [draw(st.booleans()) for _ in range(draw(st.integers(0, 5)))]
            old[number] = b"".join(
                bytes(B) if one else content(5 * B, number + 1)[n * B :][:B] for n, one in enumerate(changed)
            )
            gone += [(number, n) for n in blocks if draw(st.booleans())]
        elif which == "moved":
            answers[number] = Answer.DELTA
            data = moved(size, number)
            stop, start = draw(st.integers(0, size)), draw(st.integers(0, size))
            old[number] = data[:stop] + b"more" + data[start:]
            gone += [(number, n) for n in blocks if draw(st.booleans())]
        elif which == "shared":
            entry.shared = True
            shared.append(number)
        elif which == "link" and shared:
            entry.linked = draw(st.sampled_from(shared))
            answers[number] = Answer.LINK
            there = contents[entry.linked]
            assert isinstance(there, bytes)
            data, entry.size = there, len(there)
        contents[number] = data
        entries.append(entry)
        if which == "left out":
            contents[number] = draw(st.sampled_from([Reason.CHANGED, Reason.AGAIN]))
    pair = Pair(
        contents,
        answers=answers,
        kept=kept,
        old=old,
        gone=gone,
        pieces=draw(st.sampled_from([0, PIECE_SIZE, B])),
        streams=draw(st.integers(1, 4)),
        chunk=draw(st.sampled_from([65_537, 1 << 21])),
        window=draw(st.sampled_from([1, 2, WINDOW])),
        packs=draw(st.booleans()),
        sender_dials=draw(st.booleans()),
        inside=inside,
    )
    return pair, [pair.folder(entry.id) if entry.id in inside else entry for entry in entries]


@settings(max_examples=150, deadline=None)
@given(pairs(), st.integers(0, 2**32), st.integers(0, 3), st.integers(0, 40))
def test_everything_arrives_in_any_order(made: tuple[Pair, list[Entry]], seed: int, losses: int, first: int) -> None:
    pair, entries = made
    random = Random(seed)
    pair.waiting += entries
    fresh = len(pair.streams)
    ended = False
    for step in range(5_000):
        able = pair.possible()
        if pair.may_end and not ended:
            able = [*able, pair.end_offer]
        if not able:
            break
        action = random.choice(able)
        ended |= action == pair.end_offer
        action()
        assert pair.receiver.stored_bytes >= 0
        if losses and step >= first and len(pair.streams) > 1 and pair.receiver.state is not State.DONE:
            losses -= 1
            first = step + random.randrange(20)
            pair.lose(random.choice([number for number in pair.streams if number]))
            if random.random() < 0.5:
                pair.streams[fresh] = type(pair.streams[0])()
                fresh += 1
    pair.done()
    assert pair.receiver.same_entries == sum(
        len(sizes) for number, sizes in pair.inside.items() if pair.answers[number] is Answer.SAME
    )
    sent = {e.id for e in entries} - {e for e, a in pair.answers.items() if a is Answer.SKIP or a.refusal}
    assert set(pair.arrived) == {
        number
        for number, data in pair.contents.items()
        if isinstance(data, bytes) and number in sent | set(range(len(entries), 99))
    }


def test_blocks_are_for_streams_that_may_have_them() -> None:
    pair = Pair({0: content(B), 1: content(9)})
    wanted(pair, *files(pair))
    small = pair.sender.take(0, small=True, blocks=False)
    assert isinstance(small, list)
    assert pair.sender.take(0, small=True, blocks=False) is None
    pair.sender.give_back(small)
    pair.done()


@pytest.mark.parametrize("answer", [Answer.ALL, Answer.DELTA])
def test_there_is_no_work_while_all_that_may_be_sent_is_in_hand(answer: Answer) -> None:
    """Whoever has nothing else to do looks again as long as there seems to be some."""
    data = content(2 * B)
    pair = Pair({0: data}, answers={0: answer}, old={0: content(B, seed=9)})
    wanted(pair, *files(pair))
    sender = pair.sender
    assert not sender.pressing
    if answer is Answer.DELTA:
        assert not sender.has_work
        pair.tell_own()  # of the first block
        pair.hear()
        assert sender.has_work
        assert pair.work()
        assert not sender.has_work
        pair.tell_own()  # that there is no other
        pair.hear()
    else:
        assert pair.work()
    assert sender.has_work
    assert not sender.pressing  # there is no end to be told while a block is not said
    last = sender.take(0, small=True)
    assert last is not None
    assert not sender.has_work
    sender.give_back(last)
    assert sender.has_work
    pair.done()


@pytest.mark.parametrize("size", [9, B])
def test_what_another_stream_has_made_possible_to_say_is_pressing(size: int) -> None:
    """The end of a file, of a link to it, and of everything."""
    pair = Pair({0: content(size), 1: content(size)}, answers={1: Answer.LINK}, streams=2)
    pair.offer(file(0, size, shared=True), linked(pair, 1, 0))
    while pair.streams[0] or pair.back:
        pair.take() if pair.streams[0] else pair.hear()
    sender = pair.sender
    assert not sender.pressing
    assert pair.work(1)
    if size == B:
        assert sender.pressing
        going = sender.next_whole()
        assert going is not None
        pair.say(sender.file_end(going))
    assert sender.pressing
    link = sender.link_end()
    assert link is not None
    pair.say(link)
    assert sender.all_sent
    assert sender.pressing
    pair.done()


def test_small_files_are_for_streams_that_may_have_them() -> None:
    pair = Pair({0: content(9), 1: content(B)}, streams=2)
    wanted(pair, *files(pair))
    block = pair.sender.take(1, small=False)
    assert isinstance(block, tuple)
    assert pair.sender.take(1, small=False) is None
    small = pair.sender.take(1, small=True)
    assert isinstance(small, list)
    pair.sender.give_back(block)
    pair.sender.give_back(small)
    pair.done()


def test_nothing_is_remembered_of_what_was_sent_whole() -> None:
    """The receiver cannot find it damaged, so there is no end to how much of that may be offered at once."""
    pair = Pair({0: content(2 * B), 1: content(9)})
    wanted(pair, *files(pair))
    while pair.work():
        pass
    pair.ends()
    assert not pair.sender._going
    assert pair.sender._remembered == 0
    pair.done()


@pytest.mark.parametrize("seed", range(20))
def test_little_is_remembered_of_what_was_there(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """There may be a million files that a cut transfer has left, each of which may be found damaged."""
    monkeypatch.setattr(sender, "_REMEMBERED", 5 * (sender._REMEMBERED_FILE + 1))
    random = Random(seed)
    contents = {number: content(number + 1, seed=number) for number in range(200)}
    kept = {number: {0: data if random.random() < 0.9 else data[:-1]} for number, data in contents.items()}
    pair = Pair(contents, answers=dict.fromkeys(contents, Answer.REST), kept=kept, window=16)
    pair.offer(*files(pair), end=False)
    most = 0
    while able := pair.possible():
        random.choice(able)()
        most = max(most, len(pair.sender._going))
    assert pair.again
    assert most <= 5 + 16
    assert not pair.sender._counted
    pair.end_offer()
    pair.done()
