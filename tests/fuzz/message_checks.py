"""What must hold of the transfer protocol's messages, whatever bytes come and however they are cut."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from enchufe.entry import NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Listing, Reason
from enchufe.errors import RemoteProtocolError
from enchufe.transfer import messages as m
from enchufe.transfer.data import Batch, Block, Hole, Packed, Patch, Same
from enchufe.transfer.message import CONTROL_SIZE, Message, Role, Type, check
from enchufe.transfer.messages import Error, Hello, frame, next_message
from enchufe.transfer.offers import Offer
from enchufe.transfer.patches import PIECE_SIZE, RECORD_SIZE
from tests.fuzz.any_framing import damaged
from tests.fuzz.choices import Choices
from tests.fuzz.counting import CountingBuffer
from tests.fuzz.framing_checks import cut

HEADER = struct.Struct(">BI")
LONGEST = HEADER.size + Batch.limit
LENGTHS = [0, 0, 0, 0, 1, -1, CONTROL_SIZE, 1 << 31]


DIGEST = bytes(range(32))
MESSAGES: list[Message] = [
    m.Hello(Role.SENDER, session=b"s" * 16, epoch=1),
    Offer([Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, 0, 0o755, -1), Entry(1, 0, b"f", Kind.FILE, 258, 0o644, 7)]),
    Offer([Entry(9, NO_PARENT, b"l", Kind.SYMLINK, 0, 0o777, 0, b"../x")]),
    Offer([Entry(0, NO_PARENT, b"-", Kind.FILE, UNKNOWN_SIZE, 0, 0)]),
    Offer([Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, 0, 0o755, 7, listing=Listing(2, 1, 258, DIGEST))]),
    m.OfferEnd(3, 1 << 40, 1),
    m.Want([(0, 2, Answer.ALL), (2, 1, Answer.UNSAFE_LINK), (3, 1, Answer.SAME)]),
    Block(1, 1 << 20, DIGEST, b"abc"),
    Batch([(4, DIGEST, b"xy"), (5, DIGEST, b"")]),
    m.FileEnd(1, 258, DIGEST),
    m.LeftOut(1, Reason.VANISHED),
    m.Progress(5, 6),
    m.Finish(DIGEST),
    m.Receipt(2, 258, DIGEST),
    m.Ping(),
    m.Error(m.Code.NO_SPACE, "ñ"),
    m.Have(4, 7, True, 2 * DIGEST),
    Same(1, 2, 3),
    Hole(1, 2, 3),
    m.Lost(3, 1 << 40),
    m.Again(1, 2, 3),
    Packed(Type.BLOCK, 47, b"no zstd"),
    m.Index(1, PIECE_SIZE, 2 * bytes(range(RECORD_SIZE))),
    Patch(1, 1 << 20, DIGEST, [(3, None), (258, 1 << 32)], b"abc"),
]


WITH_CHECK = {message.type for message in MESSAGES if message.has_check}


def check_messages(data: bytes) -> None:
    """One stream of the protocol, cut in every way the fuzzer likes."""
    choices = Choices(data)
    cuts = list(choices.some(8)) or [255]
    wire = choices.rest() if choices.flag() else frames(choices)
    whole = unpacked([wire])
    assert unpacked(cut(wire, [1])) == whole
    assert unpacked(cut(wire, cuts)) == whole


def frames(choices: Choices) -> bytes:
    """Frames of real messages, some of them damaged, and frames whose bodies are the fuzzer's bytes."""
    pieces = []
    while choices.left():
        if choices.flag():
            message, how = choices.one(MESSAGES), choices.byte() % 3
            whole = b"".join(message.pack())
            whole = damaged(choices, whole) if how == 1 else whole + choices.some(9) if how == 2 else whole
            whole = checked(choices, message.type, whole)
            pieces.append(HEADER.pack(message.type, len(whole)) + whole)
            continue
        kind, body = Type(1 + choices.byte() % len(Type)), choices.some(120)
        body = checked(choices, kind, body)
        pieces.append(HEADER.pack(kind, max(0, len(body) + choices.one(LENGTHS))) + body)
    return b"".join(pieces)


def checked(choices: Choices, kind: Type, body: bytes) -> bytes:
    """A body with the check behind it, where there is one; now and then without."""
    return body + check(kind, body) if kind in WITH_CHECK and choices.byte() % 8 else body


def unpacked(pieces: Sequence[bytes]) -> tuple[list[bytes], str, int]:
    """The frames of all messages, packed again; the fault that ended the stream; how many bytes are left of it."""
    buffer = CountingBuffer(64)
    packed: list[bytes] = []
    due = 0  # so many bytes must have come before there is anything more to tell
    for piece in pieces:
        buffer.append(piece)
        while True:
            held = len(buffer)
            try:
                message = next_message(buffer)
            except RemoteProtocolError as error:
                assert len(buffer) == held, "something was taken with the fault"
                return packed, str(error), 0
            if isinstance(message, int):
                assert len(buffer) == held
                assert message > 0
                assert held + message <= LONGEST
                assert buffer.came >= due or buffer.came + message == due
                due = buffer.came + message
                break
            assert buffer.came >= due, "a message came before it was whole"
            assert buffer.steps <= 8 * (buffer.came + len(packed) + 1)
            packed.append(again(message, wire_of(buffer, held)))
    assert buffer.moved <= 4 * buffer.came + 64
    return packed, "", len(buffer)


def wire_of(buffer: CountingBuffer, held: int) -> bytes:
    """The frame that was just taken from the front of a buffer that held so many bytes."""
    taken = held - len(buffer)
    end = buffer.mark()
    buffer.rewind(end - taken)
    wire = buffer.peek(taken)
    buffer.skip(taken)
    return wire


def again(message: Message, wire: bytes) -> bytes:
    """The frame of `message`, which came as `wire`: what may be said in one way only is said so again."""
    packed = b"".join(frame(message))
    if isinstance(message, Error):
        # Its text may be no UTF-8, of which only the meaning is kept, and that may be longer.
        assert len(packed) <= HEADER.size + Error.limit
    elif isinstance(message, Hello):
        # A later version may say more, which is not understood.
        assert wire[HEADER.size :].startswith(packed[HEADER.size :])
    else:
        assert packed == wire
    buffer = CountingBuffer(64)
    buffer.append(packed)
    twice = next_message(buffer)
    assert type(twice) is type(message)
    assert isinstance(message, Error) or twice == message
    return packed
