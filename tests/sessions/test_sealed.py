"""Sealed streams: the keys and records of docs/access.md, whole transfers over them, and what may become of them."""

from __future__ import annotations

import hmac
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from enchufe.access import ByCode, Code, Gate, LiveCode, dialing_context, listener_certificate, listening_context
from enchufe.access import knock as knocking
from enchufe.buffer import ReceiveBuffer
from enchufe.entry import BLOCK_SIZE
from enchufe.errors import BrokenError, DeadlineExceeded, EnchufeError, Refused, RemoteProtocolError
from enchufe.session import SendingSession
from enchufe.session.sealed import (
    STREAM_SIZE,
    Opener,
    Said,
    Sealed,
    Sealer,
    dialers_key,
    listeners_key,
    stream_id,
)
from enchufe.transfer import messages as m
from enchufe.transfer.message import Role, Type
from enchufe.transfer.receiver import Receiver
from enchufe.transports import unix
from enchufe.waiting import BlockingWaiter, drive
from tests.beside import Beside
from tests.sessions import encrypted
from tests.sessions.relay import Bend, Relay, Way, cut_at, flip_at
from tests.sessions.test_door import receiving, send
from tests.sessions.transfers import PATIENCE, Ends, Side, snapshot, visible

BIG = random.Random(5).randbytes(12 * BLOCK_SIZE + 4_321)
KEY = bytes(range(32))
dialing = pytest.mark.parametrize("sender_dials", [True, False], ids=["sender dials", "receiver dials"])


# Keys and records.


def test_the_key_schedule() -> None:
    """Made once by the `hmac` module, from RFC 5869 and the text of docs/access.md alone."""
    dialer, listener = b"\xaa" * 32, b"\xbb" * 32
    assert stream_id(KEY) == hkdf(KEY, b"", b"enchufe stream id", 16)
    key = hkdf(KEY, b"", b"enchufe stream key", 32)
    for stream in (1, 2, 258):
        number = stream.to_bytes(2, "big")
        assert dialers_key(KEY, stream, dialer) == hkdf(key, dialer, b"enchufe dialer" + number, 32)
        both = dialer + listener
        assert listeners_key(KEY, stream, both) == hkdf(key, both, b"enchufe listener" + number, 32)


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:

    first = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(first, info + b"\1", "sha256")[:size]


def records(*messages: bytes) -> list[bytes]:
    sealer = Sealer(KEY)
    return [bytes(record) for message in messages for record in sealer.seal([message])]


def opened(data: bytes) -> bytes:
    """All that comes of it, however it was cut on its way."""
    said = [b"".join(opened_in_turns(data, turn)) for turn in (sys.maxsize, 70_001)]
    assert said[0] == said[1]
    return said[0]


def opened_in_turns(data: bytes, turn: int) -> Iterator[bytes]:
    into, opener, taken = ReceiveBuffer(), Opener(KEY), 0
    while taken < len(data):
        space = opener.space(into)
        piece = data[taken : taken + min(turn, len(space))]
        space[: len(piece)] = piece
        opener.received(len(piece), into)
        taken += len(piece)
        yield into.take(len(into))
    opener.space(into)  # which looks at a header that came last


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 70_000, (1 << 20) + (64 << 10) + 1008, 3 << 20])
def test_what_is_sealed_is_opened(size: int) -> None:
    pieces = [b"a" * 5, BIG[:size], b"z", BIG[: size // 2]]
    data = b"".join(map(bytes, Sealer(KEY).seal(pieces)))
    assert opened(data) == b"".join(pieces)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one, two, three: two + one + three,
        lambda one, two, three: one + one + two,
        lambda one, two, three: one + three,
        lambda one, two, three: one + two[:1] + one[1:5] + two[5:] + three,
    ],
    ids=["reordered", "repeated", "dropped", "another's length"],
)
def test_records_out_of_their_place_do_not_open(spoil: Callable[[bytes, bytes, bytes], bytes]) -> None:
    with pytest.raises(BrokenError):
        opened(spoil(*records(b"first", b"the second", b"third")))


def test_no_flipped_bit_opens() -> None:
    (record,) = records(b"some data")
    for position in range(len(record)):
        for bit in range(8):
            flipped = bytearray(record)
            flipped[position] ^= 1 << bit
            with suppress(BrokenError):  # a length that grew may only wait for more
                assert opened(bytes(flipped)) == b""


def test_it_is_told_when_a_record_is_whole() -> None:
    """From then on nothing is late before the next one begins."""
    (record, after), into, opener = records(b"some data", b"more"), ReceiveBuffer(), Opener(KEY)
    data, told = record + after[:3], []
    for piece in (data[:5], data[5:20], data[20:]):
        opener.space(into)[: len(piece)] = piece
        told.append(opener.received(len(piece), into))
    assert told == [False, False, True]
    assert into.take(len(into)) == b"some data"


@pytest.mark.parametrize("size", [0, 15, (1 << 20) + (64 << 10) + (1 << 10) + 1, 0xFFFFFFFF])
def test_a_length_that_no_record_has_takes_no_memory(size: int) -> None:
    into, opener = ReceiveBuffer(), Opener(KEY)
    opener.space(into)[:] = b"\x4b" + size.to_bytes(4, "big")
    opener.received(5, into)
    with pytest.raises(BrokenError):
        opener.space(into)
    assert "of 0 bytes" in repr(into)


def test_a_record_that_is_longer_than_it_was_does_not_wait_for_pings_to_fill_it() -> None:
    waiter = BlockingWaiter()
    here, there = socket.socketpair()

    def ping() -> None:
        there.sendall(b"\x4b" + BLOCK_SIZE.to_bytes(4, "big"))
        for _ in range(1000):
            time.sleep(0.05)
            there.sendall(b"\0")

    with unix.transport(here, waiter) as transport, there:
        said = Said(stream_id(KEY), 1, bytes(32))
        sealed = drive(Sealed.answer(transport, KEY, said, waiter.now() + PATIENCE))
        pinging, into = Beside(ping), ReceiveBuffer()
        with pytest.raises(DeadlineExceeded):
            while drive(sealed.receive(into, 1, waiter.now() + 0.2)):
                assert not into
        transport.hang_up()
        with pytest.raises(BrokenPipeError):
            pinging.result()


def stream(secret: bytes, number: int) -> bytes:
    """STREAM, as it crosses."""
    body = stream_id(secret) + number.to_bytes(2, "big") + bytes(32)
    return bytes([64]) + len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(("secret", "number"), [(KEY, 1), (bytes(32), 1), (KEY, 2)])
def test_the_answer_to_a_stream_is_of_the_same_transfer_and_stream(secret: bytes, number: int) -> None:
    waiter, into = BlockingWaiter(), ReceiveBuffer()
    here, there = socket.socketpair()
    with unix.transport(here, waiter) as transport, there:
        sealed = drive(Sealed.dial(transport, KEY, 1, waiter.now() + PATIENCE))
        there.sendall(stream(secret, number))
        if (secret, number) == (KEY, 1):
            assert drive(sealed.receive(into, 1, waiter.now() + PATIENCE))
        else:
            with pytest.raises(BrokenError, match="not what the other side sent"):
                drive(sealed.receive(into, 1, waiter.now() + PATIENCE))


def test_who_only_sends_takes_the_answer_too_and_resets_nothing() -> None:
    waiter = BlockingWaiter()
    here, there = socket.socketpair()
    with there:
        with unix.transport(here, waiter) as transport:
            sealed = drive(Sealed.dial(transport, KEY, 1, waiter.now() + PATIENCE))
            there.sendall(stream(KEY, 1))
            drive(sealed.send([b"the last"], waiter.now() + PATIENCE))
        said = b""
        while piece := there.recv(65536):  # to an orderly end
            said += piece
    assert len(said) == STREAM_SIZE + 5 + len(b"the last") + 16


# Whole transfers.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "in").mkdir(parents=True)
    for number in range(200):
        (root / "in" / f"small {number}").write_bytes(BIG[: number * 20])
    (root / "big").write_bytes(BIG)
    return root


def arrived_well(ends: Ends, tree: Path, inbox: Path) -> None:
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert snapshot(inbox / tree.name) == snapshot(tree)


@pytest.mark.parametrize("streams", [1, 2, 4])
@dialing
def test_a_tree_goes_over_tls_and_sealed_streams(tree: Path, tmp_path: Path, streams: int, sender_dials: bool) -> None:
    seen: list[bytes] = []

    def note(_offset: int, piece: bytes) -> bytes:
        seen.append(piece)
        return piece

    with Relay(lambda _: note, expects=streams) as relay:
        ends = encrypted.send(tree, tmp_path / "inbox", relay=relay, streams=streams, sender_dials=sender_dials)
    arrived_well(ends, tree, tmp_path / "inbox")
    assert relay.streams == {(0, number) for number in range(streams)}
    wire = b"".join(seen)
    assert BIG[5_000:5_032] not in wire
    assert b"small 1" not in wire


@dialing
def test_every_stream_carries_its_part_and_nothing_goes_twice(tree: Path, tmp_path: Path, sender_dials: bool) -> None:
    carried = threading.Event()

    def note(offset: int, piece: bytes) -> bytes:
        if offset > BLOCK_SIZE:
            carried.set()
        return piece

    def wait(offset: int, piece: bytes) -> bytes:
        if offset > BLOCK_SIZE:
            carried.wait(PATIENCE)
        return piece

    def choose(way: Way) -> Bend | None:
        return (note if way.stream else wait) if way.there == sender_dials else None

    with Relay(choose, small=True) as relay:
        ends = encrypted.send(
            tree, tmp_path / "inbox", relay=relay, streams=2, sender_dials=sender_dials, compress="never"
        )
    arrived_well(ends, tree, tmp_path / "inbox")
    assert carried.is_set()
    assert ends.sender.receipt.sent_bytes == ends.sender.receipt.bytes


@dialing
def test_with_a_limit_and_pings(tree: Path, tmp_path: Path, sender_dials: bool) -> None:
    ends = encrypted.send(tree, tmp_path / "inbox", streams=3, limit=20e6, sender_dials=sender_dials)
    arrived_well(ends, tree, tmp_path / "inbox")


POSITIONS = [
    0,
    3,
    STREAM_SIZE - 1,
    STREAM_SIZE,
    STREAM_SIZE + 3,
    STREAM_SIZE + 60,
    STREAM_SIZE + 90_000,
    2 * BLOCK_SIZE,
]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("spoil", [cut_at, lambda position: flip_at(position, 4)], ids=["cut", "flipped"])
@dialing
def test_a_stream_that_is_cut_or_damaged_ends_alone(
    tree: Path, tmp_path: Path, position: int, spoil: Callable[[int], Bend], sender_dials: bool
) -> None:
    def choose(way: Way) -> Bend | None:
        return spoil(position) if way.stream == 1 and way.there == sender_dials else None

    with Relay(choose) as relay:
        ends = encrypted.send(tree, tmp_path / "inbox", relay=relay, streams=3, sender_dials=sender_dials)
    arrived_well(ends, tree, tmp_path / "inbox")


@pytest.mark.parametrize("spoil", [cut_at, lambda position: flip_at(position, 4)], ids=["cut", "flipped"])
@dialing
def test_every_stream_but_the_first_ends(
    tree: Path, tmp_path: Path, spoil: Callable[[int], Bend], sender_dials: bool
) -> None:
    def choose(way: Way) -> Bend | None:
        return spoil(STREAM_SIZE + way.stream * 700_000) if way.stream and way.there == sender_dials else None

    with Relay(choose) as relay:
        ends = encrypted.send(tree, tmp_path / "inbox", relay=relay, streams=4, sender_dials=sender_dials)
    arrived_well(ends, tree, tmp_path / "inbox")


@pytest.mark.parametrize("spoil", [cut_at, lambda position: flip_at(position, 4)], ids=["cut", "flipped"])
@dialing
def test_the_first_stream_ends_and_with_it_all(
    tree: Path, tmp_path: Path, spoil: Callable[[int], Bend], sender_dials: bool
) -> None:
    inbox = tmp_path / "inbox"
    with Relay(lambda way: spoil(20_000) if not way.stream and way.there == sender_dials else None) as relay:
        ends = encrypted.send(tree, inbox, relay=relay, streams=2, sender_dials=sender_dials)
    assert isinstance(ends.sender.end, EnchufeError)
    assert isinstance(ends.receiver.end, EnchufeError)
    assert visible(inbox) == []
    arrived_well(encrypted.send(tree, inbox, streams=2, sender_dials=sender_dials), tree, inbox)


def test_a_real_code_lets_in_and_its_secret_seals(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, code = listener_certificate(), Code.new("english")
    gate = Gate(certificate, code=LiveCode(code, time.monotonic))
    monkeypatch.setattr(encrypted, "contexts", lambda: (listening_context(certificate), dialing_context()))
    monkeypatch.setattr(encrypted, "admit", gate.admit)
    monkeypatch.setattr(
        encrypted, "agree", lambda transport, deadline, dialed: knocking(transport, ByCode(code), deadline)
    )
    arrived_well(encrypted.send(tree, tmp_path / "inbox", streams=3), tree, tmp_path / "inbox")


def test_who_stops_in_the_middle_of_tls_or_of_a_stream_is_gone_at_the_deadline() -> None:
    with transferless(Side()) as address:
        assert knock(address, b"\x16\x03\x01\x02") == b""
        assert knock(address, b"\x16") == b""
        assert knock(address, b"\x40\0\0\0\x32" + bytes(49)) == b""


# Who else comes.


def heard(sock: socket.socket) -> bytes:
    data = b""
    with suppress(ConnectionError):
        while piece := sock.recv(65536):
            data += piece
    return data


def knock(address: str, words: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        with suppress(ConnectionError):  # whoever is turned away may have said only half of it
            sock.sendall(words)
        return heard(sock)


def in_the_middle(tree: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch, words: Callable[[bytes], bytes]) -> bytes:
    """What somebody hears who dials while a transfer goes on; he says what `words` makes of what stream 1 has said.

    The second half of the transfer waits for that.
    """
    said = bytearray()
    answers: list[bytes] = []
    # Else stream 0 sends all there is until stream 1 has begun.
    monkeypatch.setattr(SendingSession, "_spared", property(lambda _: not answers))

    def record(_offset: int, piece: bytes) -> bytes:
        said.extend(piece)
        if len(said) > 3 * BLOCK_SIZE and not answers:
            answers.append(knock(relay.to, words(bytes(said))))
        return piece

    with Relay(lambda way: record if way.stream == 1 and way.there else None) as relay:
        ends = encrypted.send(tree, inbox, relay=relay, streams=2)
    arrived_well(ends, tree, inbox)
    (answer,) = answers
    return answer


def test_a_replayed_stream_brings_nothing(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = in_the_middle(tree, tmp_path / "inbox", monkeypatch, lambda said: said)
    assert len(answer) in (0, STREAM_SIZE)


def test_who_knows_not_whose_stream_it_is_gets_no_word(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while one more stream may come."""
    assert in_the_middle(tree, tmp_path / "inbox", monkeypatch, lambda said: said[:5] + bytes(STREAM_SIZE - 5)) == b""


@pytest.mark.parametrize(
    "words",
    [
        b"\x40" + (50).to_bytes(4, "big") + bytes(50),
        b"\x40" + (51).to_bytes(4, "big") + bytes(51),
        b"\x40\0",
        b"",
    ],
    ids=["a foreign id", "a wrong length", "half of it", "nothing"],
)
def test_who_knows_no_secret_gets_no_word(words: bytes) -> None:
    side = Side()
    with transferless(side, 0.5) as address:
        assert knock(address, words) == b""


def transferless(side: Side, timeout: float = 20.0) -> AbstractContextManager[str]:
    """A listener that nobody gets into."""
    return encrypted.served(side, lambda _: None, Receiver, timeout=timeout, patience=2.0)


def test_plain_text_is_refused_and_told_why() -> None:
    with transferless(Side()) as address:
        answer = knock(address, b"".join(m.frame(m.Hello(Role.SENDER, b"s" * 16, 1))))
    assert (answer[0], answer[5]) == (Type.ERROR, m.Code.REFUSED)
    assert b"leave out --plain" in answer


def test_who_dials_by_tls_learns_that_the_other_side_is_plain(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("good")
    with receiving(tmp_path / "inbox") as (_, address):
        with pytest.raises(RemoteProtocolError, match="speaks plain text") as caught:
            encrypted.dial(address)
        assert "--plain" in caught.value.hint
        send(tmp_path / "f", address)


def test_who_sends_in_plain_text_learns_that_the_other_side_encrypts(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("good")
    with transferless(Side()) as address:
        with pytest.raises(Refused, match="leave out --plain"):
            send(tmp_path / "f", address)
