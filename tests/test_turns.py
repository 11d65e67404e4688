"""Messages in hand: handed out by turns and by halves, and the replies that are held back meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest

from enchufe import framing
from enchufe.buffer import Buffer
from enchufe.connection import _HALVED, _HELD, _IDLE, _TOGETHER, _TURN, Connection
from enchufe.errors import LocalProtocolError
from enchufe.transports import unix
from enchufe.waiting import BlockingWaiter, Waitable, drive
from tests.framed import framed

PREFIXED = framing.LengthPrefixed(4)


class Idle(BlockingWaiter):
    """Says that so many seconds passed idly whenever it is asked, and counts the turns that the others are given."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.passed = 0.0
        self.pauses = 0

    def idle(self) -> float:
        self.passed += self.seconds
        return self.passed

    async def pause(self) -> None:
        self.pauses += 1


class Talk:
    """A connection that gathers, over a socket, with the other end of it in our hand."""

    def __init__(self, idle: float = 0.0, kind: framing.Framing = PREFIXED) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.waiter = Idle(idle)
        self.connection = Connection(unix.transport(ours, self.waiter), kind, gathers=True)

    def say(self, *messages: bytes) -> None:
        self.theirs.send(framed(*messages))

    def heard(self) -> bytes:
        try:
            return self.theirs.recv(1 << 20)
        except BlockingIOError:
            return b""

    def answer(self, count: int, reply: Callable[[bytes], bytes] = bytes) -> list[bytes]:
        """Answer so many messages, and say after each what has gone out meanwhile."""
        out = []
        for _ in range(count):
            message = drive(self.connection.receive())
            out.append(self.heard())  # to receive was what sent it
            assert message is not None
            drive(self.connection.send(reply(message)))
            out[-1] += self.heard()
        return out

    def close(self) -> None:
        self.connection.close()
        self.theirs.close()


@pytest.fixture
def talk() -> Iterator[Talk]:
    with closing(Talk()) as talk:
        yield talk


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%05d" % number for number in range(first, first + count)]


def test_replies_go_out_together(talk: Talk) -> None:
    talk.say(*numbered(_HALVED))
    assert talk.answer(_HALVED) == [b""] * (_HALVED - 1) + [b""]
    drive(talk.connection.flush())
    assert talk.heard() == framed(*numbered(_HALVED))
    assert (talk.connection.received, talk.connection.sent) == (_HALVED, _HALVED)


@pytest.mark.parametrize("idle", [0.0, _IDLE, 2 * _IDLE])
def test_many_that_came_to_an_idle_one_are_answered_in_halves(idle: float) -> None:
    with closing(Talk(idle)) as talk:
        halves = idle > _IDLE
        for start in (0, 1000, 2000):
            messages = numbered(_HALVED, start)
            talk.say(*messages)
            out = talk.answer(_HALVED)
            half = _HALVED // 2 if halves and start else 0  # whoever had not so many before may get no more
            wanted = [b""] * _HALVED
            if half:
                wanted[half] = framed(*messages[:half])
            assert out == wanted
            drive(talk.connection.flush())
            assert talk.heard() == framed(*messages[half:])


def test_few_are_not_halved() -> None:
    with closing(Talk(2 * _IDLE)) as talk:
        for start in (0, 1000, 2000):
            talk.say(*numbered(_HALVED - 1, start))
            assert not any(talk.answer(_HALVED - 1))
            drive(talk.connection.flush())
            assert talk.heard() == framed(*numbered(_HALVED - 1, start))


@pytest.mark.parametrize("idle", [0.0, 2 * _IDLE])
def test_the_others_have_their_turn(idle: float) -> None:
    with closing(Talk(idle)) as talk:
        count = 3 * _TURN + 7
        messages = [b"%d" % (number % 10) for number in range(count)]  # few bytes, so that they come at once
        for _ in range(2):
            talk.say(*messages)
            before = talk.waiter.pauses
            assert b"".join(talk.answer(count)) == framed(*messages[: 3 * _TURN])
            assert talk.waiter.pauses - before == 3
            drive(talk.connection.flush())
            assert talk.heard() == framed(*messages[3 * _TURN :])


@pytest.mark.parametrize("handed_out", [1, _HALVED // 2, _HALVED - 1, _TURN, _TURN + 1])
def test_another_framing_goes_on_behind_what_was_handed_out(handed_out: int) -> None:
    with closing(Talk(2 * _IDLE)) as talk:
        count = _HALVED if handed_out < _HALVED else 2 * _TURN
        talk.say(*numbered(_HALVED))
        talk.answer(_HALVED)
        drive(talk.connection.flush())
        talk.heard()
        talk.say(*numbered(count))
        out = b"".join(talk.answer(handed_out))
        talk.connection.reframe(framing.FixedLength(9))
        # What was held back is framed as it was when it was said.
        drive(talk.connection.send(b"otherwise"))
        drive(talk.connection.flush())
        assert out + talk.heard() == framed(*numbered(handed_out)) + b"otherwise"
        rest = [drive(talk.connection.receive()) for _ in range(count - handed_out)]
        assert rest == [framed(one) for one in numbered(count)[handed_out:]]
        assert talk.connection.received == _HALVED + count


def test_small_and_big_replies_keep_their_order(talk: Talk) -> None:
    replies: list[bytes | bytearray] = [b"a", b"", bytearray(b"b"), b"c" * 300, b"d", b"e" * 20_000, b"f", b"gg"]
    talk.say(*numbered(len(replies) + 1))
    for reply in replies:
        drive(talk.connection.receive())
        drive(talk.connection.send(reply))
    replies[2] = bytearray(b"x")  # ours again once it was said
    drive(talk.connection.flush())
    assert talk.heard() == framed(b"a", b"", b"b", *map(bytes, replies[3:]))
    assert talk.connection.sent == len(replies)


@pytest.mark.parametrize("gathered", [False, True])
def test_many_at_once(talk: Talk, gathered: bool) -> None:
    if gathered:
        talk.say(*numbered(2))
        drive(talk.connection.receive())
    alike, small = numbered(3), [b"", b"a", b"bb"]
    for several in (alike, small, [*small, b"c" * 300], [bytearray(b"d"), b"e"], [], [b"f"]):
        drive(talk.connection.send(*several))
    drive(talk.connection.flush())
    assert talk.heard() == framed(*alike, *small, *small, b"c" * 300, b"d", b"e", b"f")
    assert talk.connection.sent == 13
    with pytest.raises(LocalProtocolError):
        drive(talk.connection.send(b"bytes", "no bytes", 5))  # type: ignore[arg-type]
    assert talk.connection.sent == 13


@pytest.mark.parametrize("kind", [PREFIXED, framing.LengthPrefixed(2), framing.Lines(), framing.Netstring()])
@pytest.mark.parametrize("size", [6, 300, 17_000, 40_000])
def test_what_was_said_is_ours_again(kind: framing.Framing, size: int) -> None:
    with closing(Talk(kind=kind)) as talk:
        talk.theirs.send(b"".join(piece for _ in range(3) for piece in kind.encode(b"ask")))
        drive(talk.connection.receive())
        message = bytearray(b"b" * size)
        wanted = b"".join(kind.encode(bytes(message)))
        drive(talk.connection.send(message))
        message[:] = b"a" * size
        drive(talk.connection.flush())
        assert talk.heard() == wanted


def test_a_framing_that_derives_from_another_keeps_its_word() -> None:
    class Loud(framing.LengthPrefixed):
        def encode(self, message: Buffer) -> Sequence[Buffer]:
            return super().encode(bytes(message).upper())

    with closing(Talk(kind=Loud(4))) as talk:
        talk.say(*numbered(4))
        for _ in range(3):
            drive(talk.connection.receive())
            drive(talk.connection.send(b"reply"))
        drive(talk.connection.flush())
        assert talk.heard() == framed(b"REPLY") * 3


def test_nothing_goes_between_what_is_being_flushed() -> None:
    """One task flushes what was held back, and waits for room; another sends meanwhile."""
    big = b"x" * 3_000_000
    heard: list[bytes] = []

    class Meanwhile(Idle):
        async def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> None:
            if not heard:
                drive(ends.connection.send(b"urgent"))
            heard.append(ends.heard())

    with closing(Talk()) as ends:
        ends.connection.transport.waiter = Meanwhile(0.0)
        ends.say(*numbered(2))
        drive(ends.connection.receive())
        drive(ends.connection.send(big))
        while heard[-1]:
            heard.append(ends.heard())
    assert b"".join(heard) == framed(big, b"urgent")


@pytest.mark.parametrize("size", [0, 1, 255, 256, 5000])
def test_no_more_is_held_back_than_that(size: int, talk: Talk) -> None:
    talk.say(*numbered(2))
    drive(talk.connection.receive())
    said = 0
    while not (heard := talk.heard()):
        drive(talk.connection.send(bytes(size)))
        said += 1
        assert said <= _TOGETHER or said * (4 + size) < _HELD + 4 + size
    assert heard == framed(bytes(size)) * said


def test_what_cannot_be_sent_leaves_the_others() -> None:
    small = framing.LengthPrefixed(1, max_size=200)
    with closing(Talk(kind=small)) as talk:
        talk.theirs.send(b"\1a\1b")
        drive(talk.connection.receive())
        drive(talk.connection.send(b"x"))
        with pytest.raises(LocalProtocolError):
            drive(talk.connection.send(bytes(201)))
        with pytest.raises(LocalProtocolError):
            drive(talk.connection.send("no bytes"))  # type: ignore[arg-type]
        drive(talk.connection.send(b"y"))
        drive(talk.connection.flush())
        assert talk.heard() == b"\1x\1y"
        assert talk.connection.sent == 2
