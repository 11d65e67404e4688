"""A byte changed in an encrypted exchange: `python -m tests.crash.secured_flips --all`, for every byte of 1 MiB.

All of it counts: TLS handshake, access, stream 0 inside TLS, and a sealed stream. Nothing else than was sent may be
taken, shown or receipted, and nobody may hang. A sealed stream that is harmed ends, and what was on it goes another
way: whole exchanges show that, by both ends of the stream and by some bytes in its middle. Every byte of its records is
changed where that is decided, at an Opener (stretches.py).

A code takes time to prove, so that of an exchange whose dialer came in by one only the beginning is changed, and all of
one whose dialer has a token: nothing that follows depends on how it came in.
"""

from __future__ import annotations

import random
import ssl
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any, Final

from enchufe import events
from enchufe.access import Admitted, ByCode, ByToken, dialing_context, knock, listening_context
from enchufe.entry import BLOCK_SIZE
from enchufe.session.sealed import STREAM_SIZE
from enchufe.store.memory import MemoryStore
from enchufe.transports import Transport, tls
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import drive
from tests.access.meeting import CERTIFICATE, WAITER, House
from tests.crash.flipping import Flip, ended, places, search
from tests.crash.stretches import Direction, Stretch, directions, stretches, unopened
from tests.crash.wire import Harm, Outcome, attempt

SIZES: Final = (300, 0, 5, 40_000, BLOCK_SIZE + 1000)  # the last is sent in blocks, which the sealed stream carries
BEGINNING: Final = 4096  # bytes in either direction: no fewer than TLS and access take before the transfer
OFTEN: Final = 16  # of so many, one is followed by an attempt that nobody harms
EDGE: Final = 4096  # bytes at either end of a sealed stream that are changed in whole exchanges, as in TLS all are
SELDOM: Final = 256  # of so many between, one is, too
TIMEOUT: Final = 5.0  # seconds: a length that grew has whoever reads wait
PATIENCE: Final = 30.0  # seconds after which it hangs


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return listening_context(CERTIFICATE), dialing_context()


class Entrance:
    """Of somebody who has a code and gives out tokens, for a dialer who has both.

    Attributes:
        secret: what both agreed on, once somebody came in.
    """

    secret: bytes

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
            deadline = WAITER.now() + TIMEOUT
            drive(inside.handshake(deadline))
            admitted = drive(knock(inside, proof, deadline, certificate=CERTIFICATE.sha256))
        except BaseException:
            inside.close()
            raise
        self.secret = admitted.secret
        return admitted


@cache
def content() -> dict[str, bytes]:
    rng = random.Random(8)
    return {f"tree/{number}": rng.randbytes(size) for number, size in enumerate(SIZES)}


def source() -> MemoryStore:
    store = MemoryStore()
    for name, data in content().items():
        store.add(name, data, mode=0o640, mtime_ns=10**18)
    return store


def mask(connection: int, at: int) -> int:
    """One bit of each byte, another one for each."""
    return 1 << (at * 5 + connection) % 8


def exchange(*, sender_dials: bool, entrance: Entrance) -> Outcome:
    done = attempt(source(), MemoryStore(), sender_dials=sender_dials, streams=2, entrance=entrance, all_streams=True)
    assert isinstance(done.sender, events.Receipt), done.sender
    return done


def sealed(*, sender_dials: bool) -> tuple[Direction, Direction]:
    """What was said and heard on the sealed stream of an exchange that did not end before that had begun."""
    for _ in range(50):
        entrance = Entrance(by_code=False)
        done = exchange(sender_dials=sender_dials, entrance=entrance)
        if all(len(said) >= STREAM_SIZE for said in done.connections[1]):
            return directions(done.connections[1], entrance.secret)
    raise AssertionError("no exchange has lasted for as long")


@dataclass(frozen=True, slots=True)
class SecuredFlip(Flip):
    """A flip, and whether the dialer comes in by a code or by a token."""

    by_code: bool


def run(point: SecuredFlip | Stretch) -> Counter[str]:
    if isinstance(point, Stretch):
        return Counter({"not opened": unopened(point, partial(mask, 1))})
    usual: dict[str, Any] = {"streams": 2, "entrance": Entrance(by_code=point.by_code), "all_streams": True}
    first = {**usual, "timeout": TIMEOUT, "patience": PATIENCE}
    again = {"streams": 2, "entrance": Entrance(by_code=False)} if point.harm.at % OFTEN == 0 else None
    return Counter([ended(point, source(), first, again)])


def flips() -> list[SecuredFlip]:
    """Every byte of every connection, whoever sends; but in the middle of the sealed stream only some."""
    chosen = []
    for sender_dials, by_code in product((True, False), repeat=2):
        done = exchange(sender_dials=sender_dials, entrance=Entrance(by_code=by_code))
        lengths = [(len(out), len(back)) for out, back in done.connections]
        for connection, outward, at in places(lengths):
            left = lengths[connection][not outward] - at
            middle = connection == 1 and min(at, left) > EDGE and at % SELDOM
            if not middle and (not by_code or (connection == 0 and at < BEGINNING)):
                harm = Harm(outward, at, mask(connection, at), connection)
                chosen.append(SecuredFlip(harm, sender_dials, by_code))
    return chosen


def openings() -> list[Stretch]:
    """Every byte of the sealed stream's records, whoever sends."""
    return [
        stretch
        for sender_dials in (True, False)
        for direction in sealed(sender_dials=sender_dials)
        for stretch in stretches(direction)
    ]


def points() -> list[SecuredFlip | Stretch]:
    return [*flips(), *openings()]


if __name__ == "__main__":
    search(__doc__, points, run)
