"""Conversations under a seed: real clients and the real events engine on a simulated network, against a plain model."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from unittest import mock

from enchufe import Connection, connection, framing
from enchufe.engines import events
from enchufe.engines.loop import Task
from enchufe.errors import BrokenError, DeadlineExceeded, EnchufeError, RemoteProtocolError
from enchufe.framing.base import Framing
from enchufe.server import Acceptor, ServerOptions
from enchufe.testing import Fault, SimNetwork
from enchufe.waiting import READ, Doorbell, Waiter

ADDRESS = "server:1"
PATIENCE = 10_000.0  # simulated seconds: a pipe of one byte takes its time


@dataclass
class Client:
    """What one client does, and what became of it."""

    messages: list[bytes]
    fault: Fault | None = None
    fault_back: Fault | None = None
    pipelined: bool = True
    answers: list[bytes] = field(default_factory=list)
    ended: bool = False
    error: EnchufeError | None = None


def a_framing(chance: random.Random) -> Framing:
    return chance.choice(
        [
            framing.Lines(),
            framing.Delimited(b"\r\n.\r\n"),
            framing.FixedLength(chance.choice((1, 5, 300))),
            framing.Netstring(),
            framing.LengthPrefixed(chance.choice((2, 4, 8))),
            framing.LengthPrefixed(4, byteorder="little", offset=2, adjustment=-6),
            framing.LengthPrefixed(5, prefix="digits"),
            framing.LengthPrefixed(prefix="varint"),
            framing.Typed({b"A": 8, b"B": framing.LengthPrefixed(2)}),
        ]
    )


def a_message(chance: random.Random, kind: Framing) -> bytes:
    if isinstance(kind, framing.FixedLength):
        return chance.randbytes(kind.size)
    size = chance.choice((0, 1, 3, 10, 64, 300, 3000))
    if isinstance(kind, framing.Delimited):
        return chance.choice((b"a", b"x y", b"...")) * (size // 3)
    data = chance.randbytes(size)
    if isinstance(kind, framing.Typed):
        return b"A" + data[:8].ljust(8) if chance.random() < 0.5 else b"B" + data
    return data.rjust(6) if isinstance(kind, framing.LengthPrefixed) and kind.offset else data


def a_fault(chance: random.Random, clients: int) -> Fault | None:
    if chance.random() < 0.5:
        return None
    kind = chance.choice(("reset", "stall", "vanish"))
    return Fault(kind, chance.choice((0, 1, 5, 70, 1000, 5000)), chance.choice((0.5, 20.0)) / clients)


class Conversation:
    """Some clients and an echoing server, all of it from one seed."""

    def __init__(self, seed: int) -> None:
        self.network = SimNetwork(seed)
        chance = self.network.random
        self.framing = a_framing(chance)
        count = chance.randint(1, 3)
        self.clients = [
            Client(
                [a_message(chance, self.framing) for _ in range(chance.choice((0, 1, 2, 10, 40)))],
                a_fault(chance, count),
                a_fault(chance, count),
                chance.random() < 0.7,
            )
            for _ in range(count)
        ]
        self.echoed: dict[str, list[bytes]] = {}
        self.loop = self.network.loop()
        # The drain comes while they talk, or when all is said.
        self.stop_after = chance.choice((None, None, 0.0, 0.01, 0.2))
        options = ServerOptions(
            framing=self.framing,
            max_connections=chance.choice((None, 1, 2)),
            idle_timeout=chance.choice((None, PATIENCE / 2)),
            gathers=chance.random() < 0.8,
            drain=chance.choice((0.0, 5.0)) if self.stop_after is not None else 5.0,
        )
        self.drain = options.drain
        self.server = events.Engine(self.echo, Acceptor([self.network.listen(ADDRESS)], options))

    async def echo(self, connection: Connection) -> None:
        echoed = self.echoed.setdefault(connection.peer, [])
        async for message in connection:
            await connection.send(message)
            echoed.append(message)

    def run(self) -> None:
        """Talk to the end; AssertionError where what came of it is not what the model says."""
        self.loop.run(self._main())
        self.loop.close()
        for client in self.clients:
            self._check(client)

    async def _main(self) -> None:
        loop = self.loop
        bell = Doorbell()
        serving = loop.spawn(self.server.serve(loop), lambda *_: bell.ring())
        tasks = [loop.spawn(self._talk(client), lambda *_: bell.ring()) for client in self.clients]
        if self.stop_after is not None:
            await self._sleep(loop, self.stop_after)
            self.server.stop()
        await self._ended(tasks, bell)
        self.server.stop()
        await self._ended([serving], bell)
        loop.forget(bell)
        bell.close()
        for task in (serving, *tasks):
            if task.error is not None:
                raise task.error

    async def _ended(self, tasks: list[Task], bell: Doorbell) -> None:
        while not all(task.done for task in tasks):
            await self.loop.wait_one(bell, READ)
            bell.clear()

    @staticmethod
    async def _sleep(waiter: Waiter, seconds: float) -> None:
        with contextlib.suppress(DeadlineExceeded):
            await waiter.wait([], waiter.now() + seconds)

    async def _talk(self, client: Client) -> None:
        loop = self.loop
        try:
            transport = self.network.connect(ADDRESS, loop, there=client.fault, back=client.fault_back)
        except ConnectionRefusedError:
            client.error = BrokenError("nobody listens any more")
            return
        connection = Connection(transport, self.framing, timeout=PATIENCE)
        sending = None
        try:
            if client.pipelined:
                sending = loop.spawn(self._send_all(connection, client), lambda *_: None)
                async for answer in connection:
                    client.answers.append(answer)
            else:
                for message in client.messages:
                    client.answers.append(await connection.ask(message))
                await connection.end()
                assert await connection.receive() is None
            client.ended = True
        except EnchufeError as error:
            client.error = error
        finally:
            connection.close()
            while sending is not None and not sending.done:
                await loop.pause()

    async def _send_all(self, connection: Connection, client: Client) -> None:
        with contextlib.suppress(EnchufeError):  # the receiving half tells
            for message in client.messages:
                await connection.send(message)
            await connection.end()

    def _check(self, client: Client) -> None:
        sent, answers = client.messages, client.answers
        faults = [fault for one in self.clients for fault in (one.fault, one.fault_back) if fault]
        stopped = self.stop_after is not None
        assert answers == sent[: len(answers)], "an answer that was never asked for, or out of its order"
        if client.error is not None:
            allowed = (BrokenError, DeadlineExceeded, RemoteProtocolError)
            assert isinstance(client.error, allowed), f"not a fault of the world: {client.error!r}"
            # Where only so many are let in, another's fault may keep this one out.
            assert faults or stopped, f"nothing went wrong, and yet: {client.error!r}"
        elif not stopped:
            assert answers == sent, "a clean end, and answers are missing"
        if stopped and self.drain and not faults and client.ended:
            lost = answers and not any(answers == echoed for echoed in self.echoed.values())
            assert not lost, "the drain lost an answer"


def run(seed: int) -> None:
    """One conversation, some of them with turns and halves that a few messages fill.

    Raises:
        AssertionError: it went otherwise than the model says; names the seed.
    """
    turn, halved = random.Random(~seed).choice(((256, 64), (4, 4), (3, 2), (1, 2)))
    try:
        with mock.patch.multiple(connection, _TURN=turn, _HALVED=halved):
            Conversation(seed).run()
    except BaseException as error:
        error.add_note(f"replay it with: python -m tests.simulation.run --from {seed} --seeds 1")
        raise
