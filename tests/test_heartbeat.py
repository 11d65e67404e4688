"""A heartbeat: never inside a message, never waited for, and only silence ends what it watches over."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest

from enchufe import framing
from enchufe.buffer import Buffer
from enchufe.errors import BrokenError, DeadlineExceeded
from enchufe.heartbeat import BeatingConnection, Heartbeat
from enchufe.transports import Transport
from enchufe.waiting import READ, WRITE, BlockingWaiter, Waitable, drive
from tests.framed import framed

PREFIXED = framing.LengthPrefixed(4)
BEAT = Heartbeat(b"", every=1, patience=3)
BIG = b"x" * 3_000_000

Step = Callable[[], object]
"""What happens while somebody waits; where it returns a false value, the deadline passes."""


class Scripted(BlockingWaiter):
    """A clock that stands still until a deadline passes, and a script of what happens while somebody waits."""

    blocks = False

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0
        self.steps: dict[int, Step] = {}

    def now(self) -> float:
        return self.clock

    async def wait_one(self, thing: Waitable, interest: int, deadline: float | None = None) -> None:
        if not self.steps[interest]():
            assert deadline is not None, "it would wait for ever"
            self.clock = deadline
            raise DeadlineExceeded("nothing happened")


class Narrow(Transport):
    """Takes so many bytes and then none."""

    room: int | None = None

    def try_send(self, pieces: Sequence[Buffer]) -> int:
        if self.room is None:
            return super().try_send(pieces)
        data = b"".join(pieces)[: self.room]
        self.room -= len(data)
        return super().try_send([data]) if data else 0


class Talk:
    """A connection with a heartbeat, and the other end of it in our hand."""

    def __init__(self, heartbeat: Heartbeat = BEAT) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.waiter = Scripted()
        self.transport = Narrow(ours, self.waiter, name="narrow", local="", peer="the peer")
        self.connection = BeatingConnection(self.transport, PREFIXED, heartbeat=heartbeat)

    def say(self, *messages: bytes) -> int:
        return self.theirs.send(framed(*messages))

    def heard(self, most: int = 1 << 20) -> bytes:
        try:
            return self.theirs.recv(most)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.connection.close()
        self.theirs.close()


@pytest.fixture
def talk() -> Iterator[Talk]:
    with closing(Talk()) as talk:
        yield talk


def idly(times: int, then: Step) -> Step:
    """So many deadlines pass, and then that happens."""
    left = [times]

    def step() -> object:
        left[0] -= 1
        return then() if left[0] < 0 else None

    return step


def test_no_beat_goes_into_a_message_of_another_task(talk: Talk) -> None:
    heard: list[bytes] = []

    def meanwhile() -> object:
        if not heard:  # the other task, which waits for an answer
            talk.waiter.steps[READ] = idly(2, lambda: talk.say(b"answer"))
            assert drive(talk.connection.receive()) == b"answer"
        heard.append(talk.heard())
        return heard[-1]

    talk.waiter.steps[WRITE] = meanwhile
    drive(talk.connection.send(BIG))
    while heard[-1]:
        heard.append(talk.heard())
    assert b"".join(heard) == framed(BIG)
    talk.waiter.steps[READ] = idly(2, lambda: talk.say(b"answer"))
    drive(talk.connection.receive())
    assert talk.heard() == framed(b"") * 2, "and nobody hears of it any more"
    assert talk.connection.sent == 1


@pytest.mark.parametrize("room", [0, 1, 3])
def test_what_is_left_of_a_beat_goes_before_the_next_message(talk: Talk, room: int) -> None:
    """And nobody who receives waits for it: there is no step for that."""
    talk.transport.room = room
    talk.waiter.steps[READ] = idly(2, lambda: talk.say(b"answer"))
    assert drive(talk.connection.receive()) == b"answer"
    talk.transport.room = None
    drive(talk.connection.send(b"question"))
    assert talk.heard() == framed(b"", b"question")


def test_one_who_receives_without_a_pause_beats(talk: Talk) -> None:
    talk.waiter.steps[READ] = lambda: True  # there always is something
    for _ in range(5):
        talk.say(b"message")
        assert drive(talk.connection.receive()) == b"message"
        talk.waiter.clock += 0.6
    assert talk.heard() == framed(b"") * 2


def sending_while(talk: Talk, lives: Callable[[], object], times: int) -> int:
    """Send what does not fit, and no room is made, while the other side `lives` so many times: how often we looked."""
    looks = 0

    def patience_is_over() -> None:
        nonlocal looks
        looks += 1
        if looks <= times:
            lives()

    talk.waiter.steps[WRITE] = patience_is_over
    with pytest.raises(BrokenError, match="no sign of life for 3 s"):
        drive(talk.connection.send(BIG))
    return looks


def test_whoever_takes_some_of_a_message_is_alive(talk: Talk) -> None:
    # It is never so much that the kernel says that there is room: we try again when it does.
    assert sending_while(talk, lambda: talk.heard(40_000), 2) == 3
    assert talk.waiter.clock == 9


def test_whoever_says_something_is_alive(talk: Talk) -> None:
    assert sending_while(talk, lambda: talk.say(b""), 5) == 6


@pytest.mark.parametrize("patience", [3, 3.5, 1.1])
def test_silence_is_found_when_patience_is_over_and_not_later(patience: float) -> None:
    """Counted from the last byte, or from when we began to listen."""
    with closing(Talk(Heartbeat(b"", every=1, patience=patience))) as talk:
        talk.say(b"first", b"second")
        assert drive(talk.connection.receive()) == b"first"
        assert drive(talk.connection.receive()) == b"second"
        begun = talk.waiter.clock = 10.25
        talk.waiter.steps[READ] = lambda: None
        with pytest.raises(BrokenError, match="no sign of life"):
            drive(talk.connection.receive())
        assert talk.waiter.clock == begun + patience


def test_silence_in_the_middle_of_a_message_is_found_as_soon(talk: Talk) -> None:
    def a_piece_at(*moments: float) -> Step:
        left = list(moments)

        def step() -> object:
            if not left:
                return None
            talk.waiter.clock = left.pop(0)
            return talk.theirs.send(framed(bytes(100))[:5])

        return step

    talk.waiter.steps[READ] = a_piece_at(0.3, 0.6, 0.75)
    with pytest.raises(BrokenError, match="no sign of life"):
        drive(talk.connection.receive())
    assert talk.waiter.clock == 3.75


def test_a_limit_of_ones_own_holds_for_a_send_all_the_same(talk: Talk) -> None:
    talk.connection.timeout = 5
    talk.waiter.steps[WRITE] = lambda: talk.say(b"") and None
    with pytest.raises(DeadlineExceeded):
        drive(talk.connection.send(BIG))
    assert talk.waiter.clock == 5
