"""Frames that come slowly: one whose length grew on its way, and those of whoever sends no faster."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import pytest

from enchufe.buffer import ReceiveBuffer
from enchufe.errors import BrokenError, DeadlineExceeded
from enchufe.link import PING_AFTER, Link
from enchufe.pace import LEAST_LIMIT
from enchufe.session.carrier import Plain
from enchufe.store.memory import MemoryStore
from enchufe.testing import SimNetwork
from enchufe.testing.turns import SimWaiter, Turns
from enchufe.transfer import messages as m
from enchufe.transfer.message import Message, Role, Type
from enchufe.transfer.offers import Offer
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Sender
from enchufe.transports import Transport
from enchufe.waiting import drive
from tests.simulation.blocks import small_blocks
from tests.simulation.transfers import Transfer

TIMEOUT = 30.0
LONG = 5 * TIMEOUT

T = TypeVar("T")
Listening = Coroutine[Any, Any, T]
Said = Iterable[tuple[bytes, float]]  # what is said, and for how many seconds there is nothing after that


def framed(message: Message) -> bytes:
    return b"".join(m.frame(message))


HELLO = framed(m.Hello(Role.SENDER))
PING = framed(m.Ping())
STORE = MemoryStore()
for number in range(100):
    STORE.add(f"{number}", b"")
OFFERED = framed(Offer(list(STORE.source().walk())))


def pings(seconds: float) -> Said:
    return [(PING, PING_AFTER)] * int(seconds / PING_AFTER)


def hear(said: Said, listen: Callable[[Turns, Transport], Listening[T]]) -> tuple[T | DeadlineExceeded, float]:
    """What came of listening to that, and after how many seconds."""
    turns = Turns(SimNetwork(1))

    def say() -> None:
        with turns.dial("there:1", SimWaiter(turns)) as transport, suppress(BrokenError):
            for words, pause in said:
                drive(transport.send([words]))
                turns.sleep(pause)

    def script() -> T | DeadlineExceeded:
        with turns.listen("there:1") as listener:
            turns.start("says", say)
            transport = drive(listener.accept(SimWaiter(turns)))
            assert transport is not None
            with transport:
                try:
                    return drive(listen(turns, transport))
                except DeadlineExceeded as error:
                    return error

    with turns.in_place():
        return turns.run(script), turns.now()


def a_link(transport: Transport) -> Link:
    link = Link(transport, Receiver(), timeout=TIMEOUT)
    link.say(m.Hello(Role.RECEIVER, window=100))
    return link


async def next_of(link: Link) -> Message:
    while (message := link.machine.next_event()) is None:
        await link.exchange()
    return message


async def on_stream_0(_turns: Turns, transport: Transport) -> Type:
    link = a_link(transport)
    await next_of(link)
    return (await next_of(link)).type


async def on_another(_turns: Turns, transport: Transport) -> Type:
    carrier, buffer = Plain(transport), ReceiveBuffer()
    while isinstance(message := m.next_message(buffer), int) or message.type in (Type.HELLO, Type.PING):
        if isinstance(message, int):
            await carrier.receive(buffer, message, transport.waiter.now() + TIMEOUT)
    return message.type


streams = pytest.mark.parametrize("listen", [on_stream_0, on_another])


@streams
@pytest.mark.parametrize("came", [5, 60])
def test_a_frame_that_is_longer_than_it_was_does_not_wait_for_pings_to_fill_it(
    listen: Callable[[Turns, Transport], Listening[Type]], came: int
) -> None:
    grown = bytes([Type.OFFER]) + (1 << 14).to_bytes(4, "big") + OFFERED[5:]
    ended, seconds = hear([(HELLO, 0.0), *pings(100), (grown[:came], 0.0), *pings(2000)], listen)
    assert isinstance(ended, DeadlineExceeded)
    assert TIMEOUT < seconds - 100 < 3 * TIMEOUT


@streams
def test_a_frame_that_comes_on_is_waited_for(listen: Callable[[Turns, Transport], Listening[Type]]) -> None:
    """As slowly as it can with a limit, and after it has stopped for nearly a timeout."""
    share = int(LEAST_LIMIT / m.STREAMS)
    slowly = [(OFFERED[at : at + share], 1.0) for at in range(0, len(OFFERED), share)]
    slowly[60] = (slowly[60][0], TIMEOUT - 5)
    ended, seconds = hear([(HELLO, 0.0), *slowly], listen)
    assert ended is Type.OFFER
    assert seconds > LONG


@pytest.mark.parametrize("busy", [False, True])
def test_a_quiet_link_outlasts_a_timeout_of_a_second(*, busy: bool) -> None:
    """Whatever the other side's is: both ping that often."""
    turns = Turns(SimNetwork(1))

    async def stay(link: Link) -> None:
        while turns.now() < LONG:
            await link.exchange(LONG)
            while link.machine.next_event() is not None:
                pass

    async def work(link: Link) -> None:
        """What it hears meanwhile makes it no later with what it says."""
        while link.machine.peer is None:
            await link.exchange()
            link.machine.next_event()
        await link.beside(lambda: turns.sleep(LONG))

    def dial() -> None:
        with turns.dial("there:1", SimWaiter(turns)) as transport:
            link = Link(transport, Sender(), timeout=TIMEOUT)
            link.say(m.Hello(Role.SENDER))
            drive(work(link) if busy else stay(link))

    def script() -> None:
        with turns.listen("there:1") as listener:
            turns.start("dials", dial)
            transport = drive(listener.accept(SimWaiter(turns)))
            assert transport is not None
            with transport:
                link = Link(transport, Receiver(), timeout=1.0)
                link.say(m.Hello(Role.RECEIVER, window=1))
                drive(stay(link))

    with turns.in_place():
        turns.run(script)
    assert turns.now() >= LONG


HALF = len(OFFERED) // 2


def test_frames_that_nobody_has_looked_at_are_not_late() -> None:
    """Whoever has much to do may have whole ones behind the one at hand, while the other side has nothing to say."""

    async def listen(turns: Turns, transport: Transport) -> list[Type]:
        link = a_link(transport)
        told = [(await next_of(link)).type, (await next_of(link)).type]
        until = turns.now() + LONG
        while turns.now() < until:
            await link.exchange(until)
        return [*told, (await next_of(link)).type]

    end = framed(m.OfferEnd(100, 0, 0))
    said = [(HELLO + OFFERED[:HALF], 1.0), (OFFERED[HALF:] + end, 0.0), *pings(2 * LONG)]
    assert hear(said, listen)[0] == [Type.HELLO, Type.OFFER, Type.OFFER_END]


def test_what_came_beside_something_else_is_not_late() -> None:
    async def listen(turns: Turns, transport: Transport) -> Type:
        link = a_link(transport)
        await next_of(link)
        turns.sleep(0.5)
        await link.exchange()
        assert link.machine.next_event() is None
        await link.beside(lambda: turns.sleep(LONG))
        until = turns.now() + 0.5
        while turns.now() < until:
            await link.exchange(until)
        return (await next_of(link)).type

    said = [(HELLO, 0.1), (OFFERED[:HALF], 5.0), (OFFERED[HALF:-40], 1.0), (OFFERED[-40:], 1.0), *pings(2 * LONG)]
    assert hear(said, listen)[0] is Type.OFFER


@pytest.fixture
def _small() -> Iterator[None]:
    with small_blocks():
        yield


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("number", [1, 8])
def test_the_lowest_limit_goes_through(number: int) -> None:
    """Each stream gets what it would be one of 64; a block lasts for more than two timeouts."""
    tree = MemoryStore()
    tree.add("big", bytes(range(256)) * 4 * 2 * number + b"more")
    transfer = Transfer(1, rivals=1, tree=tree)
    transfer.streams, transfer.limit = number, LEAST_LIMIT / m.STREAMS * number
    transfer.compress, transfer.slow_disk = "never", 0.0
    transfer.run()
    ((_, session),) = transfer.sources
    assert session.machine.sent_bytes == 2 * number * 1024 + 4
    assert transfer.network.clock() > 4 * TIMEOUT
