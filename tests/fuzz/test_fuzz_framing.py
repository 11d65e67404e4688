"""The fuzz checks under Hypothesis, as many as CI has time for; and that they find what they are for."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enchufe.buffer import ReceiveBuffer
from enchufe.connection import Connection
from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.framing import (
    Decoder,
    Delimited,
    Framing,
    LengthPrefixed,
    Lines,
    Netstring,
    TooBig,
    Typed,
    UntilClose,
)
from enchufe.framing.base import Split, truncated
from enchufe.transfer.message import Message
from enchufe.transfer.messages import Ping
from enchufe.transports import parse_address
from enchufe.waiting import drive
from tests.fuzz import run
from tests.fuzz.check import CHECKS, check
from tests.fuzz.framing_checks import Stream, check_framing, check_stream
from tests.fuzz.message_checks import MESSAGES, check_messages
from tests.fuzz.seeds import seeds
from tests.fuzz.text_checks import check_address_text, check_framing_text

DOORS = [check_messages, check_framing_text, check_address_text, check_framing]
inputs = st.binary(max_size=400) | st.lists(st.binary(max_size=40), max_size=20).map(b"".join)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@settings(max_examples=500)
@given(data=inputs)
def test_anything(door: Callable[[bytes], None], data: bytes) -> None:
    door(data)


@pytest.mark.parametrize("data", seeds(), ids=lambda data: data[:12].hex())
def test_the_seeds(data: bytes) -> None:
    check(data)


def test_every_check_has_a_door() -> None:
    assert set(CHECKS) == set(DOORS)


class Enough(Exception):
    """The driver did what it was to do."""


def tried(seed: int) -> list[bytes]:
    """The first inputs that the plain driver tries."""
    inputs: list[bytes] = []

    def checked(data: bytes) -> None:
        inputs.append(data)
        check(data)
        if len(inputs) == 200:
            raise Enough

    with pytest.raises(Enough):
        run.plainly(checked, 3600, seed)
    return inputs


def test_the_plain_driver_runs_from_a_seed() -> None:
    assert tried(1) == tried(1)
    assert tried(1) != tried(2)


def test_a_failing_input_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(data: bytes) -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        run.reporting(fails)(b"\1\2")
    assert "python -m tests.fuzz.run --input 0102" in capsys.readouterr().err
    run.main(["--input", "0102"])
    assert "nothing failed" in capsys.readouterr().out


class Broken(Decoder):
    """Lines that end with a line feed, decoded well but for one thing."""

    def __init__(self, framing: BrokenLines) -> None:
        super().__init__()
        self._framing = framing
        self._searched = 0

    def decode(self, buffer: ReceiveBuffer, at_end: bool = False, most: int | None = None) -> list[bytes]:
        fault, limit = self._framing.fault, self._framing.max_size
        if fault == "copies":
            buffer.peek(len(buffer))
        end = buffer.find(b"\n", 0 if fault == "searches" else self._searched)
        self._searched = len(buffer) if end < 0 else 0
        if end > limit or (end < 0 and len(buffer) > limit and fault != "hoards"):
            if fault == "drops":
                buffer.skip(len(buffer))
            if fault == "raises":
                raise ValueError
            raise RemoteProtocolError(f"the peer sent a message, over max_size of {limit}", hint="Send less.")
        if end < 0:
            if at_end and len(buffer):
                if fault != "swallows":
                    raise truncated(len(buffer))
                buffer.skip(len(buffer))
            self.lacking = {"boasts": 2 * limit, "guesses": 3}.get(fault, 0) if len(buffer) else 0
            return []
        self.lacking = 0
        message = bytes(buffer.view(0, end))
        buffer.skip(end + 1)
        if fault == "forgets" and len(buffer) > 2:
            buffer.skip(1)
        return [message.replace(b"u", b"o") if fault == "rewrites" else message]


class BrokenLines(Delimited):
    """A framing that hands those out."""

    def __init__(self, fault: str) -> None:
        super().__init__(b"\n", 3000)
        self.fault = fault

    def decoder(self) -> Any:
        return Broken(self)

    def splitter(self) -> Split:
        return (lambda data: ([data] if data else [], len(data))) if self.fault == "splits" else Framing.splitter(self)


SHORT, LONG = b"uno\ndos\ntres\n", b"x" * 2900 + b"\n"
TOO_LONG = b"x" * 4000
# What is wrong, where that shows, and what is said of it.
FAULTS = {
    "searches": (LONG, "bytes were searched again and again"),
    "copies": (LONG, "bytes were copied again and again"),
    "hoards": (TOO_LONG, "more is held than a message"),
    "boasts": (SHORT, "room is asked for beyond the largest message"),
    "guesses": (SHORT, "what a message lacked was told otherwise"),
    "drops": (TOO_LONG, "the fault is not told again"),
    "forgets": (SHORT, "byte by byte, other messages came"),
    "rewrites": (SHORT, "what was read is not what came"),
    "swallows": (SHORT[:-1], "more came than was read"),
    "splits": (SHORT, "over a connection, other messages came"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_decoder_is_found(fault: str) -> None:
    wire, says = FAULTS[fault]
    check_stream(BrokenLines(""), wire, [5])
    with pytest.raises(AssertionError, match=says):
        check_stream(BrokenLines(fault), wire, [5])


def test_an_exception_of_a_decoder_is_found() -> None:
    with pytest.raises(ValueError):
        check_stream(BrokenLines("raises"), TOO_LONG, [5])


MIB = 1 << 20
READ = bytes(64 * 1024)
LIMIT = 64 * 1024
# What a connection may take: its message twice (in the buffer and copied out), a read, and small things.
CEILING = 4 * LIMIT + 2 * len(READ) + 64 * 1024

Make = Callable[[int, TooBig], Framing]
DECLARED = (64 * MIB).to_bytes(4, "big")
# A framing, and a head that says that 64 MiB follow.
HOSTILE: dict[str, tuple[Make, bytes]] = {
    "binary": (lambda size, policy: LengthPrefixed(max_size=size, on_too_big=policy), DECLARED),
    "offset": (lambda size, policy: LengthPrefixed(offset=3, max_size=size, on_too_big=policy), b"abc" + DECLARED),
    "digits": (lambda size, policy: LengthPrefixed(8, prefix="digits", max_size=size, on_too_big=policy), b"67108864"),
    "varint": (
        lambda size, policy: LengthPrefixed(prefix="varint", max_size=size, on_too_big=policy),
        b"\x80\x80\x80\x20",
    ),
    "netstring": (lambda size, policy: Netstring(size, on_too_big=policy), b"67108864:"),
    "typed": (
        lambda size, policy: Typed({b"A": Typed({b"B": LengthPrefixed(max_size=size, on_too_big=policy)})}),
        b"AB" + DECLARED,
    ),
    "delimited": (lambda size, policy: Delimited(b"\r\n", size, on_too_big=policy), b"\r"),
    "lines": (lambda size, policy: Lines(size, on_too_big=policy), b"\r"),
    "until close": (lambda size, policy: UntilClose(size, on_too_big=policy), b""),
}


class Endless(Stream):
    """64 MiB behind a head, none of which is ever in memory but one read."""

    def __init__(self, head: bytes, reads: int = 64 * MIB // len(READ)) -> None:
        self._come = self._all(head, reads)

    @staticmethod
    def _all(head: bytes, reads: int) -> Iterator[memoryview]:
        yield memoryview(head)
        for _ in range(reads):
            yield memoryview(READ)

    async def receive(self, size: int, deadline: float | None) -> bytes:
        piece = next(self._come, None)
        return bytes(piece[:size]) if piece else b""


def peak(connection: Connection) -> int:
    """The most bytes of memory that receiving everything takes, whatever comes of it."""
    tracemalloc.start()
    try:
        while drive(connection.receive()) is not None:
            pass
    except RemoteProtocolError:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


@pytest.mark.parametrize("policy", ["close", "skip"])
@pytest.mark.parametrize("name", HOSTILE)
def test_64_mib_declared_and_sent_take_no_memory(name: str, policy: TooBig) -> None:
    make, head = HOSTILE[name]
    assert peak(Connection(cast(Any, Endless(head)), make(LIMIT, policy))) <= CEILING


@pytest.mark.parametrize("name", HOSTILE)
def test_64_mib_allowed_and_declared_take_memory_only_as_they_come(name: str) -> None:
    # As many bytes come as are in one read, and then the end.
    make, head = HOSTILE[name]
    assert peak(Connection(cast(Any, Endless(head, 1)), make(128 * MIB, "close"))) <= MIB + CEILING


def test_the_ceiling_can_be_passed() -> None:
    make, head = HOSTILE["binary"]
    assert peak(Connection(cast(Any, Endless(head)), make(128 * MIB, "close"))) > 64 * MIB


@pytest.mark.parametrize("text", [":" + "1" * 5000, "unix:/\ud800", "shm:/\ud800"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        parse_address(text)


def test_every_message_is_reached_by_what_is_right_and_by_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the fuzzer would find nothing behind a check that it cannot guess."""
    taken: set[type[Message]] = set()
    refused: set[type[Message]] = set()

    def watched(kind: type[Message]) -> Callable[[memoryview], Message]:
        unpack = kind.unpack

        def watching(body: memoryview) -> Message:
            try:
                message = unpack(body)
            except RemoteProtocolError:
                refused.add(kind)
                raise
            taken.add(kind)
            return message

        return watching

    kinds = {type(message) for message in MESSAGES}
    for kind in kinds:
        monkeypatch.setattr(kind, "unpack", watched(kind))
    chance = random.Random(3)
    for _ in range(10_000):
        check_messages(chance.randbytes(200))
    assert taken == kinds
    assert refused == kinds - {Ping}  # of which its length is all that can be wrong
