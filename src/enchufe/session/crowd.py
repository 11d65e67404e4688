"""Crowd: how many may be at the door who have not been let in yet, from one address and in all, and who of a flood.

Under a flood some are dropped before all places are taken, more the fewer are left: so nobody who holds on to the last
ones keeps out whoever tries again. That is OpenSSH's MaxStartups start:rate:full (sshd_config(5), drop_connection() in
sshd.c), after the random early detection of Floyd and Jacobson (1993).
"""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from enchufe.dataclass import dataclass
from enchufe.transfer.messages import STREAMS

# Of all places: as many are taken by one address at the most; from so many on some are dropped, at first this share.
_ADDRESS_PART: Final = 4
_START_PART: Final = 2
_START_RATE: Final = 0.3

# Whoever comes or is dropped costs a few system calls; whoever says something a thread, and maybe a handshake. So many
# a second of each, and so many at once: a transfer that goes on keeps its speed.
_COMING: Final = (500.0, 200.0)
_HEARING: Final = (50.0, 64.0)
_REST: Final = 0.05  # seconds to leave them waiting then, so that they are many at a time; long enough for one at least

_NETWORK: Final = 8  # bytes of a v6 address that one subscriber has: a /64 (RFC 6177)
_MAPPED: Final = bytes(10) + b"\xff\xff"  # a v4 address in v6


@dataclass(frozen=True, slots=True)
class Place:
    """One at the door.

    Attributes:
        network: where he comes from; empty where nobody can tell.
        expected: whether he may well be one more stream of the transfer that goes on.
    """

    network: bytes
    expected: bool


class _Bucket:
    """So many a second, and after a while without any so many at once.

    Args:
        rate: a second. burst: at once.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._filled = now

    def take(self, now: float) -> float:
        """Take one: 0 where there is one, else seconds to wait."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1:
            return _REST
        self._tokens -= 1
        return 0.0


class Crowd:
    """Those at the door. Any thread may call it.

    Who comes from where the transfer that is inside came from has places of his own, since its streams come so: nobody
    else's flood keeps them out. Whoever is let in, or proves to be one of its streams, is at the door no more.

    Args:
        most: places.
        now: the time.
        draw: a number from 0 to 1, 1 excluded, by chance; None: `random.random`.
    """

    def __init__(self, most: int, now: float, draw: Callable[[], float] | None = None) -> None:
        self._most = most
        self._of_one = max(1, most // _ADDRESS_PART)
        self._start = max(1, most // _START_PART)
        self._draw = draw or random.random
        self._inside = b""
        self._here: Counter[bytes] = Counter()
        self._expected = 0
        self._lock = threading.Lock()
        self._coming = _Bucket(*_COMING, now)
        self._hearing = _Bucket(*_HEARING, now)

    def enter(self, peer: str) -> Place | None:
        """A place for who has dialed from `peer`, or None: he is to be dropped at once. `leave` gives it back."""
        network = network_of(peer)
        with self._lock:
            if network and network == self._inside and self._expected < min(STREAMS, self._most):
                self._expected += 1
                return Place(network, expected=True)
            if network and self._here[network] >= self._of_one:
                return None
            if self._is_unlucky(self._here.total()):
                return None
            self._here[network] += 1
            return Place(network, expected=False)

    def leave(self, place: Place) -> None:
        """He is let in, or gone."""
        with self._lock:
            if place.expected:
                self._expected -= 1
                return
            self._here[place.network] -= 1
            if not self._here[place.network]:
                del self._here[place.network]

    def expect(self, peer: str | None) -> None:
        """The transfer that is inside has come from `peer`; None: there is none."""
        with self._lock:
            self._inside = b"" if peer is None else network_of(peer)

    def pause(self, now: float) -> float:
        """Count one who has come: seconds to wait before the next is looked at, so that the rest goes on."""
        with self._lock:
            return self._coming.take(now)

    def turn(self, place: Place, now: float) -> float:
        """Whether one who says something is heard now: then it is 0, else seconds to wait."""
        with self._lock:
            return 0.0 if place.expected else self._hearing.take(now)

    def _is_unlucky(self, here: int) -> bool:
        if here < self._start:
            return False
        if here >= self._most:
            return True
        full = (here - self._start) / (self._most - self._start)
        return self._draw() < _START_RATE + (1 - _START_RATE) * full


def network_of(peer: str) -> bytes:
    """What a transport's peer shares with whoever can be the same: its v4 address, its /64; empty where it has none."""
    host, _, _ = peer.rpartition(":")
    with suppress(OSError):
        if not host.startswith("["):
            return socket.inet_pton(socket.AF_INET, host)
        packed = socket.inet_pton(socket.AF_INET6, host.strip("[]").partition("%")[0])
        return packed[len(_MAPPED) :] if packed.startswith(_MAPPED) else packed[:_NETWORK]
    return b""
