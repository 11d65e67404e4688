"""A relay between a dialer and a listener: it knows which stream a connection is, and cuts, flips or slows it."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from enchufe.transfer import messages as m
from enchufe.transfer.message import Role
from tests.until import until

HELLO_SIZE: Final = sum(map(len, m.frame(m.Hello(Role.SENDER))))
HEARD_SIZE: Final = sum(map(len, m.frame(m.Finish(bytes(32)))))  # of what a sender says last, with the receipt in hand
_HEADER: Final = 5
_PIECE: Final = 65536
_FREE: Final = 1 << 18  # bytes that go one way on any connection before all are there that are expected
_NOTICED: Final = 60.0  # seconds until whoever is cut off has noticed, at the most

Bend = Callable[[int, bytes], bytes | None]
"""What becomes of a piece that begins at an offset of one direction; a shorter one, or None, ends the connection."""


@dataclass(frozen=True)
class Way:
    """One direction of one connection.

    Attributes:
        attempt: from 0 on: how many connections of stream 0 came before.
        stream: its number.
        there: from the dialer to the listener.
    """

    attempt: int
    stream: int
    there: bool


Choose = Callable[[Way], Bend | None]


def straight(_way: Way) -> Bend | None:
    """All goes as it is."""
    return None


def cut_at(position: int) -> Bend:
    """The connection ends after so many bytes of this direction."""
    return lambda offset, piece: piece[: max(0, position - offset)] if position < offset + len(piece) else piece


def flip_at(position: int, bits: int) -> Bend:
    def bend(offset: int, piece: bytes) -> bytes:
        if not offset <= position < offset + len(piece):
            return piece
        flipped = bytearray(piece)
        flipped[position - offset] ^= bits
        return bytes(flipped)

    return bend


def slow(rate: float) -> Bend:
    """So many bytes a second."""

    def bend(_offset: int, piece: bytes) -> bytes:
        time.sleep(len(piece) / rate)
        return piece

    return bend


class Relay:
    """Accepts on `address` from `with` on, and dials `to` for each connection; where that is empty, nobody is there.

    Args:
        choose: what to do to each direction of each connection.
        small: whether its buffers are to be small, so that both sides see how slow it is.
        expects: how many connections are to be there before much goes over any: all may be over before the last comes.

    Attributes:
        counts: bytes that came, by direction.
    """

    def __init__(self, choose: Choose = straight, *, small: bool = False, expects: int = 0) -> None:
        self.to = ""
        self.counts: Counter[Way] = Counter()
        self._choose = choose
        self._small = small
        self._expects = expects
        self._here = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        if small:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._attempts = 0
        self._firsts: list[tuple[socket.socket, socket.socket]] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(60)
        stay = [thread for thread in self._threads if thread.is_alive()]
        for sock in self._sockets:
            sock.close()
        assert not stay, f"its connections do not end: {stay}"

    def cut(self) -> None:
        """End every connection that there is, at once."""
        with self._lock:
            _shut(self._sockets)

    def passing(self, way: Way, size: int, sink: socket.socket) -> None:
        """So many bytes are about to go on to `sink`; an OSError ends the connection instead."""

    @property
    def streams(self) -> set[tuple[int, int]]:
        """Attempt and stream of every connection that there was."""
        return {(way.attempt, way.stream) for way in self.counts}

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    self._sockets.append(near)
                self._start(self._greet, near)

    def _start(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments)
        with self._lock:
            self._threads.append(thread)
        thread.start()
        return thread

    def _greet(self, near: socket.socket) -> None:
        """Find out which stream it is by what its dialer says first."""
        hello = b""
        with suppress(OSError):
            while len(hello) < HELLO_SIZE and (piece := near.recv(HELLO_SIZE - len(hello))):
                hello += piece
        host, _, port = self.to.rpartition(":")
        if len(hello) < HELLO_SIZE or not port:
            near.close()
            return
        stream = _stream_of(hello)
        try:
            far = socket.create_connection((host, int(port)))
        except OSError:
            near.close()
            return
        if self._small:
            for sock in (near, far):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)
        with self._lock:
            self._sockets.append(far)
            self._here += 1
            attempt = self._attempts - (stream > 0)
            self._attempts += not stream
            if not stream:
                self._firsts.append((near, far))
        back = self._start(self._pump, far, near, Way(attempt, stream, there=False), b"")
        self._pump(near, far, Way(attempt, stream, there=True), hello)
        back.join()
        # Over bytes that nobody read this is a reset: whoever still sends learns at once.
        near.close()
        far.close()

    def _pump(self, source: socket.socket, sink: socket.socket, way: Way, piece: bytes) -> None:
        bend = self._choose(way)
        offset = 0
        self.counts[way] = 0
        with suppress(OSError):
            while piece or (piece := source.recv(_PIECE)):
                bent = bend(offset, piece) if bend else piece
                if offset >= _FREE:
                    until(lambda: self._here >= self._expects)
                self.passing(way, len(bent or b""), sink)
                sink.sendall(bent or b"")
                if bent is None or len(bent) < len(piece):
                    break
                offset += len(piece)
                self.counts[way] = offset
                piece = b""
            else:
                sink.shutdown(socket.SHUT_WR)
                return
        _shut((source, sink))


def _stream_of(first: bytes) -> int:
    if first[0] == 0x16:  # TLS
        return 0
    if first[0] == 0x40:  # STREAM, after its header and id
        return int.from_bytes(first[21:23], "big")
    return m.Hello.unpack(memoryview(first)[_HEADER:]).stream


def _shut(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class CuttingRelay(Relay):
    """Cuts stream 0 before so many bytes of data go over all streams of an attempt together.

    All may have been said by then, and be on its way over the others: they wait until somebody has noticed the cut.

    Args:
        limits: bytes for each attempt; those that come later are left alone.
        there: whether data goes from the dialer to the listener.
        kept: is true once enough of what has gone is kept: sockets may hold all of it, and lose it by the cut.
    """

    def __init__(self, *limits: int, there: bool, kept: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self._limits = limits
        self._there = there
        self._kept = kept
        self._gone: Counter[int] = Counter()
        self._cut: set[int] = set()
        self._counting = threading.Lock()  # nothing goes on while stream 0 is being cut

    def passing(self, way: Way, size: int, sink: socket.socket) -> None:
        """Count it, and cut."""
        if way.there != self._there or way.attempt >= len(self._limits):
            return
        with self._counting:
            self._gone[way.attempt] += size
            if self._gone[way.attempt] < self._limits[way.attempt]:
                return
            if way.attempt not in self._cut:  # once it is, what was kept may be taken on, or done with
                until(self._kept)
                self._cut.add(way.attempt)
            _shut(self._firsts[way.attempt])
        if way.stream:
            _wait_until_closed(sink)


def _wait_until_closed(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    assert poll.poll(_NOTICED * 1000), "nobody has noticed the cut"
