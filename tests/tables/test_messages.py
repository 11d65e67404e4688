"""The transfer's messages and their bytes: one table, both directions; and what is none."""

from __future__ import annotations

import binascii
import struct
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from enchufe.buffer import ReceiveBuffer
from enchufe.entry import BLOCK_SIZE, LISTED, NO_LINK, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Listing, Reason
from enchufe.errors import RemoteProtocolError, VerificationError
from enchufe.transfer import messages as m
from enchufe.transfer.data import Batch, Block, Hole, Packed, Patch, Same
from enchufe.transfer.message import BATCH_FILES, CONTROL_SIZE, FILE_SIZE, Message, Role, Type
from enchufe.transfer.messages import frame, next_message
from enchufe.transfer.offers import ATTRIBUTES_SIZE, TARGET_SIZE, Offer, offered_size, pack_entry
from enchufe.transfer.patches import MAX_PARTS

D = bytes(range(32))
NO = b"\xff\xff\xff\xff"
ID = b"\0\0\0\1"

HELLO = b"enchufe\1\1\1" + b"\0\0\0\3" + b"s" * 16 + b"\0\0\0\0\0\0\1\0" + b"\0\2" + b"\0\x08" + b"\0\0\x40\0"
HELLO += b"o" * 16


# PACKED is checked as what is in it; HELLO and ERROR are for every version, and PING has nothing to check.
UNCHECKED = (Type.HELLO, Type.PING, Type.ERROR, Type.PACKED)
# Those of data have their check in front of the content.
WITH_CHECK = set(Type).difference(UNCHECKED, (Type.BLOCK, Type.BATCH, Type.SAME, Type.HOLE, Type.PATCH))


def checked(kind: bytes, fields: bytes) -> bytes:
    """The fields of a message, and what checks them."""
    return fields + struct.pack(">I", binascii.crc32(kind + fields))


def framed(kind: Type, body: bytes) -> bytes:
    if kind in WITH_CHECK:
        body = checked(bytes([kind]), body)
    return struct.pack(">BI", kind, len(body)) + body


# But for the check behind them.
BODIES: list[tuple[Message, bytes]] = [
    (m.Hello(Role.SENDER, b"s" * 16, 256, 2, 8, 16384, m.ZSTD | m.FOLDERS, b"o" * 16), b"\1\0\0\0\x3e" + HELLO),
    (
        m.Hello(Role.RECEIVER, lowest=1, highest=9),
        b"\1\0\0\0\x3e" + b"enchufe\1\x09\2" + bytes(4) + bytes(16) + bytes(8) + bytes(2) + b"\0\1" + bytes(20),
    ),
    (
        Offer([Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, 0, 0o755, -1), Entry(1, 0, b"f\n", Kind.FILE, 258, 0o644, 7)]),
        b"\2\0\0\0\x3f" + bytes(4)
        + b"\2\0" + NO + b"\1\xed" + bytes(8) + b"\xff" * 8 + b"\0\1\0\0d"
        + b"\1\0\0\0\0\0\1\xa4" + b"\0\0\0\0\0\0\1\2" + b"\0\0\0\0\0\0\0\7" + b"\0\2\0\0f\n",
    ),
    (
        Offer([Entry(9, NO_PARENT, b"l", Kind.SYMLINK, 0, 0o777, 0, b"../x")]),
        b"\2\0\0\0\x25" + b"\0\0\0\x09" + b"\3\0" + NO + b"\1\xff" + bytes(16) + b"\0\1\0\4l../x",
    ),
    (
        Offer([Entry(0, NO_PARENT, b"-", Kind.FILE, UNKNOWN_SIZE, 0, 0)]),
        b"\2\0\0\0\x21" + bytes(4) + b"\1\0" + NO + b"\0\0" + b"\xff" * 8 + bytes(8) + b"\0\1\0\0-",
    ),
    (
        Offer([Entry(7, NO_PARENT, b"s", Kind.FILE, FILE_SIZE, 0, 0, sparse=True, shared=True)]),
        b"\2\0\0\0\x21" + b"\0\0\0\7" + b"\1\x09" + NO + b"\0\0" + b"\x7f" + b"\xff" * 7 + bytes(8) + b"\0\1\0\0s",
    ),
    (
        Offer([Entry(8, 3, b"h", Kind.FILE, 1, 0, 0, linked=7, attributes=((b"user.a", b"xy"), (b"b", b"")))]),
        b"\2\0\0\0\x36" + b"\0\0\0\x08" + b"\1\6\0\0\0\3" + b"\0\0" + bytes(7) + b"\1" + bytes(8) + b"\0\1\0\0h"
        + b"\0\0\0\7" + b"\0\x0f" + b"\6\0\2user.axy" + b"\1\0\0b",
    ),
    (
        Offer([Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, 0, 0, 0, attributes=((b"a", b"\0"),))]),
        b"\2\0\0\0\x28" + bytes(4) + b"\2\4" + NO + b"\0\0" + bytes(16) + b"\0\1\0\0d" + b"\0\5\1\0\1a\0",
    ),
    (
        Offer([Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, 0, 0, 0, listing=Listing(2, 3, 258, D))]),
        b"\2\0\0\0\x51" + bytes(4) + b"\2\x10" + NO + b"\0\0" + bytes(16) + b"\0\1\0\0d"
        + b"\0\0\0\2" + b"\0\0\0\3" + b"\0\0\0\0\0\0\1\2" + D,
    ),
    (m.OfferEnd(3, 1 << 40, 1), b"\3\0\0\0\x10" + b"\0\0\0\3" + b"\0\0\1\0\0\0\0\0" + b"\0\0\0\1"),
    (
        m.Want([(0, 2, Answer.ALL), (2, 1, Answer.UNSAFE_LINK), (3, 1, Answer.SAME)]),
        b"\4\0\0\0\x1b" + b"\0\0\0\0\0\0\0\2\1" + b"\0\0\0\2\0\0\0\1\x10" + b"\0\0\0\3\0\0\0\1\6",
    ),
    (
        Block(1, 1 << 20, D, b"abc"),
        b"\5\0\0\0\x33" + checked(b"\5", ID + b"\0\0\0\0\0\x10\0\0" + D) + b"abc",
    ),
    (
        Batch([(4, D, b"xy"), (5, D, b"")]),
        b"\6\0\0\0\x58"
        + checked(b"\6", b"\0\2" + b"\0\0\0\4\0\0\0\2" + D + b"\0\0\0\5\0\0\0\0" + D) + b"xy",
    ),
    (m.FileEnd(1, 258, D), b"\7\0\0\0\x2c" + ID + b"\0\0\0\0\0\0\1\2" + D),
    (m.LeftOut(1, Reason.VANISHED), b"\x08\0\0\0\5" + ID + b"\3"),
    (m.LeftOut(1, Reason.AGAIN), b"\x08\0\0\0\5" + ID + b"\4"),
    (m.Progress(5, 6, []), b"\x09\0\0\0\x0c" + b"\0\0\0\0\0\0\0\5" + b"\0\0\0\6"),
    (
        m.Progress(5, 6, [1, 1 << 32]),
        b"\x09\0\0\0\x1c" + b"\0\0\0\0\0\0\0\5" + b"\0\0\0\6" + bytes(7) + b"\1" + b"\0\0\0\1\0\0\0\0",
    ),
    (m.Finish(D), b"\x0a\0\0\0\x20" + D),
    (m.Receipt(2, 258, D), b"\x0b\0\0\0\x2c" + b"\0\0\0\2" + b"\0\0\0\0\0\0\1\2" + D),
    (m.Ping(), b"\x0c\0\0\0\0"),
    (m.Error(m.Code.NO_SPACE, "ñ"), b"\x0d\0\0\0\3" + b"\3\xc3\xb1"),
    (m.Error(m.Code.INTERNAL, ""), b"\x0d\0\0\0\1" + b"\x09"),
    (m.Have(1, 2, False, D + D), b"\x0e\0\0\0\x49" + ID + b"\0\0\0\2\0" + D + D),
    (m.Have(1, 0, True, b""), b"\x0e\0\0\0\x09" + ID + b"\0\0\0\0\1"),
    (Same(1, 2, 3), b"\x0f\0\0\0\x10" + checked(b"\x0f", ID + b"\0\0\0\2\0\0\0\3")),
    (Hole(1, 2, 3), b"\x10\0\0\0\x10" + checked(b"\x10", ID + b"\0\0\0\2\0\0\0\3")),
    (m.Lost(1, 258), b"\x11\0\0\0\x0a" + b"\0\1" + b"\0\0\0\0\0\0\1\2"),
    (m.Again(1, 2, 3), b"\x12\0\0\0\x0c" + ID + b"\0\0\0\2\0\0\0\3"),
    (Packed(Type.BATCH, 258, b"(\xb5/\xfd"), b"\x13\0\0\0\x09" + b"\6\0\0\1\2" + b"(\xb5/\xfd"),
    (
        m.Index(1, 1 << 16, b"a" * 32 + b"d" * 16),
        b"\x14\0\0\0\x38" + ID + b"\0\1\0\0" + b"a" * 32 + b"d" * 16,
    ),
    (
        Patch(1, 1 << 20, D, [(3, None), (258, 1 << 32), (2, None)], b"abcde"),
        b"\x15\0\0\0\x5b"
        + checked(
            b"\x15",
            ID + b"\0\0\0\0\0\x10\0\0" + D + b"\0\3"
            + b"\0\0\0\3" + b"\xff" * 8 + b"\0\0\1\2" + b"\0\0\0\1\0\0\0\0" + b"\0\0\0\2" + b"\xff" * 8,
        )
        + b"abcde",
    ),
]  # fmt: skip
CASES = [(message, framed(Type(wire[0]), wire[5:])) for message, wire in BODIES]
IDS = [f"{type(message).__name__}{number}" for number, (message, _) in enumerate(CASES)]


def test_every_message_is_in_the_table() -> None:
    assert {message.type for message, _ in CASES} == set(Type)
    assert [int.from_bytes(wire[1:5]) for _, wire in BODIES] == [len(wire) - 5 for _, wire in BODIES]


@pytest.mark.parametrize(("message", "wire"), CASES, ids=IDS)
def test_packing(message: Message, wire: bytes) -> None:
    assert b"".join(frame(message)) == wire


@pytest.mark.parametrize(("message", "wire"), CASES, ids=IDS)
@pytest.mark.parametrize("trailing", [b"", b"\x0c\0\0\0\0", b"\xff"])
def test_unpacking_whole(message: Message, wire: bytes, trailing: bytes) -> None:
    buffer = ReceiveBuffer()
    buffer.append(wire + trailing)
    assert next_message(buffer) == message
    assert buffer.peek(9) == trailing


@pytest.mark.parametrize(("message", "wire"), CASES, ids=IDS)
def test_unpacking_byte_by_byte(message: Message, wire: bytes) -> None:
    buffer = ReceiveBuffer()
    for index in range(len(wire) - 1):
        buffer.append(wire[index : index + 1])
        lacking = next_message(buffer)
        assert isinstance(lacking, int)
        assert 0 < lacking <= len(wire) - index - 1
    buffer.append(wire[-1:])
    assert next_message(buffer) == message
    assert not len(buffer)


CHECKED = [(message, wire) for message, wire in CASES if message.type not in UNCHECKED]


@pytest.mark.parametrize(("message", "wire"), CHECKED, ids=lambda case: type(case).__name__)
def test_no_bit_of_what_is_no_content_changes_unnoticed(message: Message, wire: bytes) -> None:
    in_data = isinstance(message, (Block, Batch, Same, Hole, Patch))
    payload = len(b"".join(map(bytes, message.pack()[1:]))) if in_data else 0
    for position in range(5, len(wire) - payload):
        for bit in range(8):
            damaged = bytearray(wire)
            damaged[position] ^= 1 << bit
            with pytest.raises((VerificationError, RemoteProtocolError)):
                unpacked(bytes(damaged))


def test_an_answer_that_there_is_not_leaves_nothing_that_holds_the_buffer() -> None:
    """What did would crash Python 3.11, once its collector came by."""
    body = memoryview(b"\0\0\0\1\0\0\0\1\x63")
    with pytest.raises(RemoteProtocolError) as caught:
        m.Want.unpack(body)
    body.release()
    assert caught.value.__cause__ is not None


def test_a_run_is_not_taken_for_the_other_kind() -> None:
    with pytest.raises(VerificationError, match="damaged"):
        unpacked(b"\x10" + b"".join(frame(Same(1, 2, 3)))[1:])


@pytest.mark.parametrize(("message", "told"), [(m.Again(1, 2, 3), "an AGAIN was"), (Same(1, 2, 3), "a SAME was")])
def test_what_was_damaged_is_told(message: Message, told: str) -> None:
    wire = bytearray(b"".join(frame(message)))
    wire[-1] ^= 1
    with pytest.raises(VerificationError, match=told):
        unpacked(bytes(wire))


def test_a_big_message_goes_out_in_pieces_that_are_not_copied() -> None:
    payload = bytes(BLOCK_SIZE)
    pieces = frame(Block(0, 0, D, payload))
    assert pieces[-1] is payload


def unpacked(wire: bytes) -> Message | int:
    buffer = ReceiveBuffer()
    buffer.append(wire)
    return next_message(buffer)


# What the body of each type may have at the most, besides the check behind it: docs/protocol.md, "Messages".
LIMITS = {
    Type.HELLO: 4096,
    Type.OFFER: 65536,
    Type.OFFER_END: 16,
    Type.WANT: 65536,
    Type.BLOCK: 48 + (1 << 20),
    Type.BATCH: 65536 + (1 << 20),
    Type.FILE_END: 44,
    Type.LEFT_OUT: 5,
    Type.PROGRESS: 524,
    Type.FINISH: 32,
    Type.RECEIPT: 44,
    Type.PING: 0,
    Type.ERROR: 1024,
    Type.HAVE: 65536,
    Type.SAME: 16,
    Type.HOLE: 16,
    Type.LOST: 10,
    Type.AGAIN: 12,
    Type.PACKED: 65536 + (1 << 20),
    Type.INDEX: 65536,
    Type.PATCH: 3122 + (1 << 20),
}


@pytest.mark.parametrize("kind", Type)
@pytest.mark.parametrize("more", [1, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_before_the_body_is_kept(kind: Type, more: int) -> None:
    limit = LIMITS[kind] + (4 if kind in WITH_CHECK else 0)
    size = min(limit + more, 2**32 - 1)
    with pytest.raises(RemoteProtocolError, match=f"{kind.name} with {size} bytes"):
        unpacked(struct.pack(">BI", kind, size))
    lacking = unpacked(struct.pack(">BI", kind, limit)) if limit else 0
    assert lacking == limit


@pytest.mark.parametrize("number", [0, 22, 255, ord("G"), 0x16])
def test_an_unknown_type_is_refused(number: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"unknown type {number}"):
        unpacked(bytes([number]) + bytes(4))


INNER = (Type.BLOCK, Type.BATCH, Type.PATCH)


def patched(parts: list[tuple[int, int | None]], along: bytes = b"") -> bytes:
    """The body of a PATCH, whatever is in it."""
    table = b"".join(struct.pack(">IQ", size, 2**64 - 1 if where is None else where) for size, where in parts)
    return checked(b"\x15", bytes(44) + struct.pack(">H", len(parts)) + table) + along


MALFORMED: list[tuple[Type, bytes]] = [
    (Type.HELLO, HELLO[:-1]),
    (Type.HELLO, b"enchufa" + HELLO[7:]),
    (Type.HELLO, HELLO[:7] + b"\0\1" + HELLO[9:]),
    (Type.HELLO, HELLO[:7] + b"\2\1" + HELLO[9:]),
    (Type.HELLO, HELLO[:9] + b"\0" + HELLO[10:]),
    (Type.HELLO, HELLO[:9] + b"\3" + HELLO[10:]),
    (Type.HELLO, HELLO[:38] + b"\0\x40" + HELLO[40:]),
    (Type.HELLO, HELLO[:40] + b"\0\0" + HELLO[42:]),
    (Type.HELLO, HELLO[:40] + b"\0\x41" + HELLO[42:]),
    (Type.OFFER, b""),
    (Type.OFFER, bytes(4)),
    (Type.OFFER, bytes(16)),
    (Type.OFFER, bytes(4) + bytes(28)),
    (Type.OFFER_END, bytes(15)),
    (Type.WANT, b""),
    (Type.WANT, bytes(8)),
    (Type.WANT, bytes(8) + b"\0"),
    (Type.WANT, bytes(8) + b"\7"),
    (Type.WANT, bytes(8) + b"\x63"),
    (Type.WANT, bytes(8) + b"\1" + bytes(1)),
    (Type.BLOCK, bytes(43)),
    (Type.BLOCK, checked(b"\5", bytes(44))),
    (Type.BATCH, b""),
    (Type.BATCH, b"\0"),
    (Type.BATCH, b"\0\0"),
    (Type.BATCH, b"\xff\xff"),
    (Type.BATCH, b"\0\1" + bytes(43)),
    (Type.BATCH, checked(b"\6", b"\0\1" + b"\0\0\0\0\0\0\0\1" + bytes(32))),
    (Type.BATCH, checked(b"\6", b"\0\1" + b"\0\0\0\0\0\0\0\1" + bytes(32)) + bytes(2)),
    (Type.BATCH, checked(b"\6", b"\0\1" + b"\0\0\0\0\xff\xff\xff\xff" + bytes(32)) + bytes(1)),
    (Type.BATCH, struct.pack(">H", BATCH_FILES + 1) + bytes((BATCH_FILES + 1) * 40 + 4)),
    (Type.FILE_END, bytes(43)),
    (Type.LEFT_OUT, bytes(4)),
    (Type.LEFT_OUT, bytes(5)),
    (Type.LEFT_OUT, bytes(4) + b"\5"),
    (Type.PROGRESS, bytes(4)),  # as long as if a stream fewer than none were told of
    (Type.PROGRESS, bytes(11)),
    (Type.PROGRESS, bytes(13)),
    (Type.FINISH, bytes(31)),
    (Type.RECEIPT, bytes(43)),
    (Type.ERROR, b""),
    (Type.HAVE, bytes(8)),
    (Type.HAVE, bytes(8) + b"\2"),
    (Type.HAVE, bytes(9 + 31)),
    (Type.HAVE, bytes(9 + 33)),
    (Type.SAME, bytes(11)),
    (Type.HOLE, bytes(11)),
    (Type.LOST, bytes(9)),
    (Type.AGAIN, bytes(11)),
    (Type.PACKED, bytes(5)),
    (Type.PACKED, b"\5\0\0\0\1"),
    *((Type.PACKED, bytes([kind]) + b"\0\0\0\1x") for kind in (0, *Type, 255) if kind not in INNER),
    (Type.PACKED, b"\5" + struct.pack(">I", LIMITS[Type.BLOCK] + 1) + b"x"),
    (Type.PACKED, b"\6" + struct.pack(">I", LIMITS[Type.BATCH] + 1) + b"x"),
    (Type.INDEX, bytes(7)),
    (Type.INDEX, ID + b"\0\1\0\0"),
    (Type.INDEX, ID + b"\0\1\0\0" + bytes(47)),
    (Type.INDEX, ID + b"\0\1\0\0" + bytes(49)),
    *((Type.INDEX, ID + struct.pack(">I", size) + bytes(48)) for size in (0, 1, 1 << 13, 65537, 3 << 16, 1 << 21)),
    (Type.PATCH, bytes(45)),
    (Type.PATCH, patched([])),
    (Type.PATCH, patched([(1, None)], b"x")),
    (Type.PATCH, patched([(1, 0), (1, None)])),
    (Type.PATCH, patched([(1, 0), (1, None)], b"xy")),
    (Type.PATCH, patched([(1, 0)], b"x")),
    (Type.PATCH, patched([(0, 0)])),
    (Type.PATCH, patched([(1, 0), (0, None)])),
    (Type.PATCH, patched([(1 << 20, 0), (1, 0)])),
    (Type.PATCH, patched([(2**32 - 1, 0)])),
    (Type.PATCH, patched([(1, 2**63 - 1)])),
    (Type.PATCH, patched([(1, 0), (2, 2**64 - 2)])),
    (Type.PATCH, patched([(1, 0)] * (MAX_PARTS + 1))),
    (Type.PATCH, patched([(1, 0), (1, 1)])[:-16]),
]


@pytest.mark.parametrize(("kind", "body"), MALFORMED, ids=[f"{k.name}{n}" for n, (k, _) in enumerate(MALFORMED)])
def test_a_malformed_message_is_refused(kind: Type, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=f"malformed {kind.name}"):
        unpacked(framed(kind, body))


# Offers.

FILE = Entry(5, NO_PARENT, b"name", Kind.FILE, 1)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, b"\0"),
        (0, b"\4"),
        (1, b"\x20"),
        (1, b"\x80"),
        (6, b"\x10\0"),
        (8, b"\x80" + bytes(7)),
        (8, b"\xff" * 7 + b"\xfe"),
        (24, b"\xff\xff"),
        (26, b"\0\1"),
        (0, b"\2"),
        (0, b"\3"),
    ],
    ids=[
        "no kind", "a later kind", "a later flag", "a high flag", "mode", "size over off_t", "size next to unknown",
        "name longer than the body", "target of a file", "size of a directory", "symlink without target",
    ],
)  # fmt: skip
def test_a_nonsensical_entry_is_refused(position: int, value: bytes) -> None:
    body = bytearray(bytes(4) + pack_entry(FILE))
    body[4 + position : 4 + position + len(value)] = value
    with pytest.raises(RemoteProtocolError, match="malformed OFFER"):
        unpacked(framed(Type.OFFER, bytes(body)))


@pytest.mark.parametrize(("kind", "target"), [(Kind.FILE, b"t"), (Kind.DIRECTORY, b"t"), (Kind.SYMLINK, b"")])
def test_symlinks_have_a_target_and_nothing_else_has(kind: Kind, target: bytes) -> None:
    entry = Entry(5, NO_PARENT, b"n", kind, target=target)
    with pytest.raises(RemoteProtocolError, match="malformed OFFER"):
        unpacked(framed(Type.OFFER, b"\0\0\0\5" + pack_entry(entry)))


@pytest.mark.parametrize("flag", [1, 2, 8])
@pytest.mark.parametrize("kind", [Kind.DIRECTORY, Kind.SYMLINK])
def test_flags_of_files_are_for_files(flag: int, kind: Kind) -> None:
    entry = Entry(5, NO_PARENT, b"n", kind, target=b"t" if kind is Kind.SYMLINK else b"")
    body = bytearray(b"\0\0\0\5" + pack_entry(entry) + bytes(4))
    body[5] = flag
    with pytest.raises(RemoteProtocolError, match="malformed OFFER"):
        unpacked(framed(Type.OFFER, bytes(body)))


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.SYMLINK])
def test_only_directories_are_listed(kind: Kind) -> None:
    target = b"t" if kind is Kind.SYMLINK else b""
    entry = Entry(5, NO_PARENT, b"n", kind, target=target, listing=Listing(1, 0, 1, D))
    with pytest.raises(RemoteProtocolError, match="malformed OFFER"):
        unpacked(framed(Type.OFFER, b"\0\0\0\5" + pack_entry(entry)))


def offer_of(listing: Listing) -> bytes:
    return framed(Type.OFFER, bytes(4) + pack_entry(Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, listing=listing)))


@pytest.mark.parametrize("listing", [Listing(1, 0, 0, D), Listing(LISTED - 1, 1, FILE_SIZE, D), Listing(0, 1, 0, D)])
def test_a_listing_up_to_the_limits(listing: Listing) -> None:
    message = unpacked(offer_of(listing))
    assert isinstance(message, Offer)
    assert message.entries[0].listing == listing


@pytest.mark.parametrize(
    "listing",
    [
        Listing(0, 0, 0, D),
        Listing(LISTED, 1, 0, D),
        Listing(2**32 - 1, 2**32 - 1, 0, D),
        Listing(1, 0, FILE_SIZE + 1, D),
        Listing(1, 0, 2**64 - 1, D),
    ],
)
def test_a_nonsensical_listing_is_refused(listing: Listing) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed OFFER"):
        unpacked(offer_of(listing))


@pytest.mark.parametrize("missing", [1, 32, 48])
def test_half_a_listing_is_refused(missing: int) -> None:
    packed = pack_entry(Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, listing=Listing(1, 0, 1, D)))
    with pytest.raises(RemoteProtocolError, match="malformed OFFER"):
        unpacked(framed(Type.OFFER, bytes(4) + packed[:-missing]))


@pytest.mark.parametrize("target", [1, TARGET_SIZE])
def test_link_targets_up_to_the_limit(target: int) -> None:
    entry = Entry(0, NO_PARENT, b"l", Kind.SYMLINK, target=b"t" * target)
    assert unpacked(framed(Type.OFFER, bytes(4) + pack_entry(entry))) == Offer([entry])
    assert offered_size(entry) == len(pack_entry(entry))  # or an offer might be more than may be said at once
    entry.target = b"t" * (TARGET_SIZE + 1)
    with pytest.raises(RemoteProtocolError, match="malformed OFFER"):
        unpacked(framed(Type.OFFER, bytes(4) + pack_entry(entry)))


def extras(flags: int, packed: bytes) -> bytes:
    body = bytearray(b"\0\0\0\5" + pack_entry(FILE))
    body[5] = flags
    return framed(Type.OFFER, bytes(body) + packed)


@pytest.mark.parametrize(
    ("flags", "packed"),
    [
        (2, b""),
        (2, b"\0\0\0"),
        (2, b"\0\0\0\5"),
        (2, NO),
        (4, b""),
        (4, b"\0"),
        (4, b"\0\0"),
        (4, b"\0\1\0"),
        (4, b"\0\5\1\0\1a"),
        (4, b"\0\5\1\0\0a"),
        (4, b"\0\4\1\0\1a"),
        (4, b"\0\4\0\0\1a"),
        (4, b"\0\4\1\0\0\0"),
        (4, b"\0\4\2\0\0a"),
        (4, b"\0\6\1\0\0a\1\0"),
        (4, struct.pack(">HBH", ATTRIBUTES_SIZE + 1, 1, ATTRIBUTES_SIZE - 3) + b"a" + bytes(ATTRIBUTES_SIZE - 3)),
        (6, b"\0\0\0\1"),
    ],
    ids=[
        "no link", "half a link", "a link to itself", "a link to nothing", "no attributes", "half a size", "size 0",
        "half a header", "shorter than said", "whole and shorter than said", "a value longer than said", "no name",
        "NUL in a name", "a name longer than said", "a second half", "over the limit", "a link and no attributes",
    ],
)  # fmt: skip
def test_nonsensical_extras_are_refused(flags: int, packed: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed OFFER"):
        unpacked(extras(flags, packed))


def test_attributes_up_to_the_limit() -> None:
    entry = Entry(0, NO_PARENT, b"f", Kind.FILE, attributes=((b"a", bytes(ATTRIBUTES_SIZE - 4)),))
    assert unpacked(framed(Type.OFFER, bytes(4) + pack_entry(entry))) == Offer([entry])


names = st.binary(min_size=1, max_size=40)
entries = st.builds(
    Entry,
    id=st.just(9),
    parent=st.integers(0, 2**32 - 1),
    name=names,
    kind=st.just(Kind.FILE),
    size=st.integers(0, FILE_SIZE) | st.just(UNKNOWN_SIZE),
    mode=st.integers(0, 0o7777) | st.just(0o7777),
    mtime_ns=st.integers(-(2**63), 2**63 - 1),
    sparse=st.booleans(),
    shared=st.booleans(),
    linked=st.just(NO_LINK) | st.integers(0, 8),
    attributes=st.lists(
        st.tuples(names.filter(lambda name: b"\0" not in name), st.binary(max_size=50)), max_size=5
    ).map(tuple),
)


folders = st.builds(
    Entry,
    id=st.just(9),
    parent=st.integers(0, 2**32 - 1),
    name=names,
    kind=st.just(Kind.DIRECTORY),
    listing=st.none()
    | st.builds(
        Listing,
        st.integers(1, LISTED // 2),
        st.integers(0, LISTED // 2),
        st.integers(0, FILE_SIZE),
        st.binary(min_size=32, max_size=32),
    ),
)


@given(st.lists(entries | folders, min_size=1, max_size=5))
def test_any_entries_cross(offered: list[Entry]) -> None:
    for number, entry in enumerate(offered, 9):
        entry.id = number
    wire = b"".join(frame(Offer(offered)))
    assert unpacked(wire) == Offer(offered)
    assert len(wire) == 9 + sum(map(offered_size, offered)) + 4


# What is packed: its size is what it says, or it is refused before it takes more memory than that.

SMALL = Block(1, 0, D, b"abc" * 1000)
BODY = b"".join(SMALL.pack())


def compressed(body: bytes, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=sized).compress(body)


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(
    "inner", [SMALL, Batch([(4, D, b"xy"), (5, D, b"")]), Patch(1, 0, D, [(3, None), (5, 0)], b"abc")]
)
def test_what_was_packed_is_opened(inner: Block | Batch | Patch, sized: bool) -> None:
    body = b"".join(inner.pack())
    message = unpacked(b"".join(frame(Packed(inner.type, len(body), compressed(body, sized=sized)))))
    assert isinstance(message, Packed)
    assert message.opened() == inner


def zstd_frame(content: int) -> bytes:
    """A frame that says it holds so many bytes, and holds none: magic, 8 bytes of size, one last empty block."""
    return b"\x28\xb5\x2f\xfd\xe0" + content.to_bytes(8, "little") + b"\1\0\0"


@pytest.mark.parametrize(
    ("size", "data"),
    [
        (len(BODY), b"not zstd"),
        (len(BODY), BODY),
        (len(BODY), compressed(BODY)[:-1]),
        (len(BODY), compressed(BODY) + b"x"),
        (len(BODY), compressed(BODY) + compressed(BODY)),
        (len(BODY), compressed(BODY)[:-9] + bytes(9)),
        (len(BODY) - 1, compressed(BODY)),
        (len(BODY) + 1, compressed(BODY)),
        (len(BODY) - 1, compressed(BODY, sized=False)),
        (len(BODY) + 1, compressed(BODY, sized=False)),
        (0, compressed(BODY)),
        (0, compressed(BODY, sized=False)),
        (0, compressed(b"")),
        (100, compressed(bytes(64 << 20))),
        (100, compressed(bytes(64 << 20), sized=False)),
        (0, compressed(bytes(64 << 20))),
        (100, zstd_frame(2**40)),
        (0, zstd_frame(2**40)),
        (100, zstd_frame(2**64 - 1)),
        (100, zstd_frame(100)),
        (10, b"\x50\x2a\x4d\x18\1\0\0\0a"),
    ],
    ids=[
        "not zstd", "not packed", "cut", "trailing", "twice", "damaged", "size too low", "size too high",
        "unsized, too low", "unsized, too high", "size 0", "unsized, size 0", "nothing",
        "bomb", "unsized bomb", "bomb of size 0", "claims 1 TiB", "size 0 claims 1 TiB", "claims 2**64-1",
        "claims and is short", "skippable frame",
    ],
)  # fmt: skip
def test_what_is_packed_wrong_is_refused_and_takes_no_memory(size: int, data: bytes) -> None:
    message = Packed(Type.BLOCK, size, data)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="malformed"):
            message.opened()
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", [b"", checked(b"\5", bytes(44)), b"\xff\xff"])
@pytest.mark.parametrize("kind", INNER)
def test_what_is_inside_must_be_a_message(kind: Type, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed"):
        Packed(kind, len(body), compressed(body)).opened()


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 200), st.booleans(), st.integers(0, 2**16))
def test_any_bytes_in_packed_are_opened_or_refused(data: bytes, size: int, honest: bool, flip: int) -> None:
    if honest:
        damaged = bytearray(compressed(BODY[:200]))
        damaged[flip % len(damaged)] ^= 1 << flip % 8
        data = bytes(damaged)
    message = Packed(Type.BLOCK, size, data)
    try:
        opened = message.opened()
    except (RemoteProtocolError, VerificationError):
        return
    assert sum(map(len, opened.pack())) == size


@given(st.binary(max_size=200), st.sampled_from(Type))
def test_any_body_is_read_or_refused(body: bytes, kind: Type) -> None:
    try:
        message = unpacked(framed(kind, body))
    except (RemoteProtocolError, VerificationError):
        return
    assert isinstance(message, Message)
    if not isinstance(message, (m.Hello, m.Error)):  # of which a later version may say more
        assert b"".join(frame(message)) == framed(kind, body)


def test_an_error_of_a_later_version_is_an_error() -> None:
    assert unpacked(framed(Type.ERROR, b"\xc8later\xff")) == m.Error(m.Code.INTERNAL, "later\ufffd")


def test_a_long_error_is_cut() -> None:
    assert len(b"".join(m.Error(m.Code.STORE, "ñ" * 2000).pack())) == LIMITS[Type.ERROR]


def test_a_hello_of_a_later_version_may_be_longer() -> None:
    message = unpacked(framed(Type.HELLO, HELLO + b"what comes later"))
    assert message == CASES[0][0]


def test_control_messages_fit_their_limit() -> None:
    digests = bytes(32 * m.HAVE_DIGESTS)
    assert CONTROL_SIZE - 32 < len(b"".join(m.Have(1, 0, True, digests).pack())) <= CONTROL_SIZE
