"""A byte changed in an encrypted exchange: `python -m tests.crash.secured_flips --all`, for every byte of 1 MiB.

All of it counts: TLS handshake, access, stream 0 inside TLS, and a sealed stream. Nothing else than was sent may be
taken, shown or receipted. A sealed stream that is harmed ends, and what was on it goes another way.

A code takes time to prove, so that a bit of what follows is changed where the dialer came in by a token: nothing there
depends on how it did.
"""

from __future__ import annotations

import random
import ssl
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
from tests.crash.flipping import Flip, ended, places, search
from tests.crash.wire import Harm, attempt

SIZES: Final = (300, 0, 5, 40_000, BLOCK_SIZE + 1000)  # the last is sent in blocks, which the sealed stream carries
BEGINNING: Final = 4096  # bytes in either direction: no fewer than TLS and access take before the transfer
OFTEN: Final = 16  # of so many, one is followed by an attempt that nobody harms


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


def run(flip: Flip) -> str:
    harm = flip.harm
    by_code = harm.connection == 0 and harm.at < BEGINNING
    first = {"streams": 2, "entrance": Entrance(by_code=by_code), "all_streams": True}
    again = {"streams": 2, "entrance": Entrance(by_code=False)} if harm.at % OFTEN == 0 else None
    return ended(flip, source(), first, again)


def points() -> list[Flip]:
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
        # One bit of each byte, another one for each.
        chosen += [
            Flip(Harm(outward, at, 1 << (at * 5 + connection) % 8, connection), sender_dials)
            for connection, outward, at in places((there, back) for there, back in lengths)
        ]
    return chosen


if __name__ == "__main__":
    search(__doc__, points, run)
