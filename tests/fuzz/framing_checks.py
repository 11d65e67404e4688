"""What must hold of every decoder, whatever bytes come and however they are cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from enchufe.buffer import ReceiveBuffer
from enchufe.connection import Connection
from enchufe.errors import RemoteProtocolError
from enchufe.framing import Decoder, Framing, Lines, UntilClose
from enchufe.waiting import BlockingWaiter, drive
from tests.fuzz.any_framing import Subject, any_framing, any_messages, any_stream, carries, has_one_form, header, skips
from tests.fuzz.choices import Choices
from tests.fuzz.counting import CountingBuffer

WAITER: Final = BlockingWaiter()


@dataclass
class Outcome:
    """All that a stream came to: its messages, and the fault that ended it, if one did."""

    messages: list[bytes] = field(default_factory=list)
    fault: str = ""


def told(error: RemoteProtocolError) -> str:
    """The fault without what depends on how much has come: of a size nobody knows yet, or of bytes quoted."""
    text = str(error)
    if found := re.search(r"over max_size of \d+$|ended inside a message, \d+ bytes into it$", text):
        return found[0]
    return "malformed"


def check_framing(data: bytes) -> None:
    """One framing, one stream, cut in every way the fuzzer likes."""
    choices = Choices(data)
    subject = any_framing(choices)
    cuts = list(choices.some(8)) or [255]
    most, renew, size = choices.one([None, None, 1, 2, 3]), choices.flag(), 1 + choices.byte()
    if choices.byte() % 4 == 0:
        check_known(subject, any_messages(choices, subject.wide), cuts)
        return
    check_stream(subject.framing, any_stream(choices, subject), cuts, most=most, renew=renew, size=size)


def check_stream(
    framing: Framing, wire: bytes, cuts: Sequence[int], *, most: int | None = None, renew: bool = False, size: int = 64
) -> None:
    """The same messages and the same fault whole, byte by byte, in pieces of these sizes, and over a connection."""
    whole = decoded(framing, [wire])
    pieces = cut(wire, cuts)
    assert decoded(framing, [wire], most=1) == whole, "one at a time, other messages came"
    assert decoded(framing, cut(wire, [1]), size=size) == whole, "byte by byte, other messages came"
    assert decoded(framing, pieces, most=most, renew=renew, size=size) == whole, "in pieces, other messages came"
    assert received(framing, pieces) == whole, "over a connection, other messages came"
    check_round_trip(framing, wire, whole)
    if found := re.search(r"inside a message, (\d+) bytes", whole.fault):
        # Without those bytes, the stream is whole.
        assert decoded(framing, [wire[: -int(found[1])]]) == Outcome(whole.messages), "the cut is told elsewhere"


def check_known(subject: Subject, messages: list[bytes], cuts: Sequence[int]) -> None:
    """Of messages that are known those come that are not too big, up to the first that is not to be skipped."""
    framing = subject.framing
    if isinstance(framing, UntilClose):
        messages = [b"".join(messages)]
    expected = Outcome()
    for message in messages:
        if carries(framing, message):
            expected.messages.append(message)
        elif not skips(framing, message):
            expected.fault = "over max_size"
            break
    wire = b"".join(piece for message in messages for piece in subject.wide.encode(message))
    if isinstance(framing, Lines) and framing.last_line and messages and messages[-1]:
        # The last one needs no end.
        wire = wire[:-1]
    for pieces in ([wire], cut(wire, cuts)):
        outcome = decoded(framing, pieces)
        assert outcome.messages == expected.messages, "other messages came than were sent"
        assert outcome.fault.startswith(expected.fault), "what is too big was not told"
        assert bool(outcome.fault) == bool(expected.fault), "a fault is told where none is"


def check_round_trip(framing: Framing, wire: bytes, whole: Outcome) -> None:
    """What was decoded can be encoded, and comes out the same; as it came, where there is but one form of it."""
    messages = whole.messages
    if isinstance(framing, Lines):
        # Read from `\r\r\n`; `\r\n` would be another line.
        messages = [message for message in messages if not message.endswith(b"\r")]
    again = b"".join(piece for message in messages for piece in framing.encode(message))
    if has_one_form(framing):
        assert wire.startswith(again), "what was read is not what came"
        assert whole.fault or wire == again, "more came than was read"
    # An empty stream is one empty message there, and a skipped one none.
    if messages or not isinstance(framing, UntilClose):
        assert decoded(framing, [again]) == Outcome(messages), "encoded again, they are other messages"


def cut(wire: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`wire` in pieces of these sizes, round and round; 0 stands for 300, which is over the narrowest batch."""
    pieces: list[bytes] = []
    at = 0
    while at < len(wire):
        size = sizes[len(pieces) % len(sizes)] or 300
        pieces.append(wire[at : at + size])
        at += size
    return pieces


def decoded(
    framing: Framing, pieces: Sequence[bytes], *, most: int | None = None, renew: bool = False, size: int = 64
) -> Outcome:
    """What a decoder makes of a stream that comes in these pieces and ends; its memory and its work are watched.

    Args:
        framing: whose decoder.
        pieces: one for each read.
        most: as `Decoder.decode` has it.
        renew: behind every batch a new decoder goes on.
        size: bytes of the buffer at first.
    """
    buffer, decoder = CountingBuffer(size), framing.decoder()
    bound = framing.max_size + header(framing)
    outcome = Outcome()
    calls = 0
    due = 0  # how many bytes must have come before the message in hand can be whole, where the decoder has told
    for piece in [*pieces, None]:
        at_end = piece is None
        buffer.append(piece or b"")
        before = len(outcome.messages)
        try:
            while True:
                calls += 1
                batch = decoder.decode(buffer, at_end, most)
                assert most is None or len(batch) <= most
                if not batch:
                    break
                outcome.messages += batch
                assert not decoder.skipping
                # UntilClose has but one message, and a new decoder would find another, empty one.
                if renew and not isinstance(framing, UntilClose):
                    decoder = framing.decoder()
        except RemoteProtocolError as error:
            outcome.fault = told(error)
            assert error.hint
        buffer.check_linear(calls)
        if outcome.fault:
            # What came in the last read is still there; but of what is too big nothing was gathered.
            assert len(buffer) <= bound + len(piece or b""), "more is held than a message, its header and a read"
            held = len(buffer)
            for _ in range(2):
                assert fault_of(decoder, buffer, at_end, most) == outcome.fault, "the fault is not told again"
                assert len(buffer) == held, "something was taken with the fault"
            return outcome
        assert len(buffer) <= bound, "more is held than a message and its header"
        got = len(outcome.messages) > before
        assert got == (buffer.came >= due) or not due, "what a message lacked was told wrong"
        assert not due or got or decoder.lacking == due - buffer.came, "what a message lacked was told otherwise"
        due = buffer.came + decoder.lacking if decoder.lacking else 0
        assert not due or len(buffer) + decoder.lacking <= bound, "room is asked for beyond the largest message"
    assert not decoder.skipping
    assert not len(buffer), "bytes are left over at the end"
    return outcome


def fault_of(decoder: Decoder, buffer: ReceiveBuffer, at_end: bool, most: int | None) -> str:
    """What a decoder finds wrong; nothing, where it does not."""
    try:
        decoder.decode(buffer, at_end, most)
    except RemoteProtocolError as error:
        return told(error)
    return ""


class Stream:
    """The receiving half of a transport, out of pieces; nothing is ever lost of it."""

    waiter = WAITER
    bytes_received = 0

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in reversed(pieces) if piece]

    async def receive(self, size: int, deadline: float | None) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop()
        if len(piece) > size:
            self._pieces.append(piece[size:])
        return piece[:size]

    def has_taken(self, _since: int) -> bool:
        return False

    async def receive_into(self, space: memoryview, deadline: float | None) -> int:
        piece = await self.receive(len(space), deadline)
        space[: len(piece)] = piece
        return len(piece)


def received(framing: Framing, pieces: Sequence[bytes]) -> Outcome:
    """What a connection makes of a stream: it has a fast lane beside the decoder."""
    connection = Connection(cast(Any, Stream(pieces)), framing)
    outcome = Outcome()
    try:
        while (message := drive(connection.receive())) is not None:
            outcome.messages.append(message)
    except RemoteProtocolError as error:
        outcome.fault = told(error)
    assert connection.received == len(outcome.messages)
    return outcome
