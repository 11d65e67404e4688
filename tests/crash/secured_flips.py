"""A byte changed in an encrypted exchange: `python -m tests.crash.secured_flips --all`, for every byte of 1 MiB.

All of it counts: TLS handshake, access, stream 0 inside TLS, and a sealed stream. Nothing else than was sent may be
taken, shown or receipted. A sealed stream that is harmed ends, and what was on it goes another way.

A code takes time to prove, so that a bit of what follows is changed where the dialer came in by a token: nothing there
depends on how it did.
"""

from __future__ import annotations

import random
import ssl
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Final

from enchufe import events
from enchufe.access import Admitted, ByCode, ByToken, dialing_context, knock, listening_context
from enchufe.entry import BLOCK_SIZE
from enchufe.store.memory import MemoryStore
from enchufe.transports import Transport, tls
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import drive
from tests.access.meeting import CERTIFICATE, House, soon
from tests.crash.everything import search
from tests.crash.flips import told
from tests.crash.wire import Harm, attempt

PATIENCE: Final = 4.0  # seconds: a length that is told too big has its receiver wait for bytes that pings bring
TOGETHER: Final = 64
SIZES: Final = (300, 0, 5, 40_000, BLOCK_SIZE + 1000)  # the last is sent in blocks, which the sealed stream carries
BEGINNING: Final = 4096  # bytes in either direction: no fewer than TLS and access take before the transfer
OFTEN: Final = 16  # of so many, one is followed by an attempt that nobody harms


@dataclass(frozen=True)
class Point:
    """One byte of one connection, of what the dialer says or hears."""

    connection: int
    outward: bool
    at: int
    sender_dials: bool

    @property
    def mask(self) -> int:
        """One bit of it, another one for each byte."""
        return 1 << (self.at * 5 + self.connection) % 8


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return listening_context(CERTIFICATE), dialing_context()


class Entrance:
    """Of somebody who has a code and gives out tokens, for a dialer who has both."""

    def __init__(self, *, by_code: bool) -> None:
        self.context, self._dialing = contexts()
        self._house = House(introductions=False)
        self._by_code = by_code

    async def admit(self, transport: TlsTransport, deadline: float) -> Admitted:
        return await self._house.gate.admit(transport, deadline)

    def enter(self, transport: Transport) -> Admitted:
        house = self._house
        inside = tls.over(transport, self._dialing, server_side=False)
        proof = ByCode(house.code) if self._by_code else ByToken(house.token)
        try:
            drive(inside.handshake(soon()))
            return drive(knock(inside, proof, soon(), certificate=CERTIFICATE.sha256))
        except BaseException:
            inside.close()
            raise


@cache
def content() -> dict[str, bytes]:
    rng = random.Random(8)
    return {f"tree/{number}": rng.randbytes(size) for number, size in enumerate(SIZES)}


def source() -> MemoryStore:
    store = MemoryStore()
    for name, data in content().items():
        store.add(name, data, mode=0o640, mtime_ns=10**18)
    return store


def run(point: Point) -> str:
    try:
        return _run(point)
    except BaseException as error:
        error.add_note(f"flip at {point}")
        raise


def _run(point: Point) -> str:
    sent, store = source(), MemoryStore()
    harm = Harm(point.outward, point.at, point.mask, point.connection)
    entrance = Entrance(by_code=point.connection == 0 and point.at < BEGINNING)
    first = attempt(
        sent,
        store,
        harm,
        sender_dials=point.sender_dials,
        streams=2,
        patience=PATIENCE,
        entrance=entrance,
        all_streams=True,
    )
    done = isinstance(first.receiver, events.Receipt)
    assert done or not isinstance(first.sender, events.Receipt), "a receipt came from nowhere"
    if done:
        assert told(store) == told(sent), "what arrived is not what was sent"
        if not isinstance(first.sender, events.Receipt):
            return "receipt not believed"
        return "went another way" if point.connection else "no harm"
    assert not store.nodes, "something half-done is visible"
    if point.at % OFTEN == 0:
        second = attempt(
            sent, store, sender_dials=point.sender_dials, epoch=2, entrance=Entrance(by_code=False), streams=2
        )
        assert isinstance(second.sender, events.Receipt), second
        assert told(store) == told(sent)
    return "stuck" if first.stuck else "refused"


def points() -> list[Point]:
    """Every byte of every connection, as long as they are by any way in."""
    chosen = []
    for sender_dials in (True, False):
        lengths: list[list[int]] = [[0, 0], [0, 0]]
        for by_code in (True, False):
            done = attempt(
                source(),
                MemoryStore(),
                sender_dials=sender_dials,
                streams=2,
                entrance=Entrance(by_code=by_code),
                all_streams=True,
            )
            assert isinstance(done.sender, events.Receipt), done
            for length, crossed in zip(lengths, done.connections, strict=True):
                length[:] = map(max, length, crossed)
        chosen += [
            Point(connection, outward, at, sender_dials)
            for connection, crossed in enumerate(lengths)
            for outward, most in zip((True, False), crossed, strict=True)
            for at in range(most)
        ]
    return chosen


def runs(points: list[Point]) -> Counter[str]:
    return Counter(map(run, points))


def main() -> None:
    search(__doc__, lambda _: points(), runs, "flips: {}; nothing was taken", default=2000, together=TOGETHER)


if __name__ == "__main__":
    main()
