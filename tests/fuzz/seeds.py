"""Where fuzzing begins: inputs that lead every check beyond its first refusal."""

from __future__ import annotations

import random

from enchufe.entry import NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Reason
from enchufe.transfer import messages as m
from tests.fuzz.check import CHECKS
from tests.fuzz.framing_checks import check_framing
from tests.fuzz.message_checks import check_messages

DIGEST = bytes(range(32))
MESSAGES: list[m.Message] = [
    m.Hello(m.Role.SENDER, session=b"s" * 16, epoch=1),
    m.Offer([Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, 0, 0o755, -1), Entry(1, 0, b"f", Kind.FILE, 258, 0o644, 7)]),
    m.Offer([Entry(9, NO_PARENT, b"l", Kind.SYMLINK, 0, 0o777, 0, b"../x")]),
    m.Offer([Entry(0, NO_PARENT, b"-", Kind.FILE, UNKNOWN_SIZE, 0, 0)]),
    m.OfferEnd(3, 1 << 40, 1),
    m.Want([(0, 2, Answer.ALL), (2, 1, Answer.UNSAFE_LINK)]),
    m.Block(1, 1 << 20, DIGEST, b"abc"),
    m.Batch([(4, DIGEST, b"xy"), (5, DIGEST, b"")]),
    m.FileEnd(1, 258, DIGEST),
    m.LeftOut(1, Reason.VANISHED),
    m.Progress(5, 6),
    m.Finish(DIGEST),
    m.Receipt(2, 258, DIGEST),
    m.Ping(),
    m.Error(m.Code.NO_SPACE, "ñ"),
]


def seeds() -> list[bytes]:
    """The same ones each time."""
    chance = random.Random(1)
    frames = [b"".join(m.frame(message)) for message in MESSAGES]
    # No cuts, and the rest as it is.
    whole = [bytes([CHECKS.index(check_messages), 0, 1]) + wire for wire in [*frames, b"".join(frames)]]
    streams = [
        bytes([CHECKS.index(check_framing), kind]) + chance.randbytes(size) for kind in range(6) for size in (20, 200)
    ]
    return [*whole, *streams, *(bytes([door]) + chance.randbytes(20) for door in range(len(CHECKS)))]
