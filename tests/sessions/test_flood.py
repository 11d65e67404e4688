"""Slow, silent and many: each is gone at its deadline, with and without TLS, and a transfer goes on meanwhile."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from enchufe import events
from enchufe.session import Door, ReceivingSession
from enchufe.session.base import Options
from enchufe.store import LocalStore
from enchufe.transfer import messages as m
from enchufe.transfer.message import Role
from enchufe.transfer.receiver import Receiver
from enchufe.transports import Listener, parse_address
from tests.sessions import encrypted
from tests.sessions.test_door import dial, receiving, send
from tests.sessions.transfers import PATIENCE, Side
from tests.until import until

TIMEOUT: Final = 3.0  # seconds that whoever comes has, also for a handshake where that is what he is here for
LATE: Final = 15.0  # seconds more: one would do on a machine that does nothing else
ENOUGH: Final = 400  # bytes of whatever is dribbled, ten a second: far beyond the deadline
MIB: Final = 1 << 20

HELLO: Final = b"".join(map(bytes, m.frame(m.Hello(Role.SENDER, b"y" * 16, 1))))


@contextmanager
def door(*, tls: bool) -> Iterator[tuple[Door[Receiver], str]]:
    context, admit = (encrypted.contexts()[0], encrypted.admit) if tls else (None, None)
    with Listener(parse_address("127.0.0.1:0")) as listener:
        with Door(listener, Receiver, TIMEOUT, context=context, admit=admit) as opened:
            yield opened, listener.addresses[0]


class Attacker:
    """One connection that never gets to its point.

    Args:
        attack: what it dribbles: nothing, a HELLO, a STREAM, a handshake; after one what access takes, then a HELLO.
        source: the address that it comes from.
    """

    def __init__(self, address: str, attack: str, source: str) -> None:
        self._raw = dial(address, source=source)
        self._since = time.monotonic()
        self._sock: socket.socket = self._raw
        if attack in ("access silent", "access", "encrypted hello"):
            self._sock = encrypted.contexts()[1].wrap_socket(self._raw)
        if attack == "encrypted hello":
            self._sock.sendall(bytes(encrypted.NONCE))
            assert self._sock.recv(encrypted.NONCE)
        said = {"handshake": client_hello(), "hello": HELLO, "encrypted hello": HELLO, "access": b"n" * encrypted.NONCE}
        said["stream"] = b"\x40\0\0\0\x32" + bytes(50)
        # All of it but its end.
        self._rest = said.get(attack, b"")[:-1]

    def seconds(self) -> float:
        """Dribble until the other side ends it: how long it bore that."""
        self._sock.settimeout(0.1)
        with self._sock, suppress(ConnectionError, ssl.SSLError, BrokenPipeError):
            while time.monotonic() < self._since + TIMEOUT + LATE:
                if self._rest:
                    self._sock.send(self._rest[:1])
                    self._rest = self._rest[1:]
                try:
                    if not self._sock.recv(4096):
                        break
                except TimeoutError:
                    continue
        return time.monotonic() - self._since


def client_hello() -> bytes:
    """What a TLS handshake begins with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        encrypted.contexts()[1].wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


PLAIN = ["silent", "hello"]
ENCRYPTED = ["silent", "handshake", "access silent", "access", "encrypted hello", "stream", "hello"]


@pytest.mark.parametrize(
    ("attack", "tls"), [*((attack, False) for attack in PLAIN), *((attack, True) for attack in ENCRYPTED)]
)
def test_gone_at_the_deadline(attack: str, tls: bool) -> None:
    """Whatever they were at, however much they go on saying."""
    borne: list[float] = []
    with door(tls=tls) as (opened, address):
        attackers = [Attacker(address, attack, f"127.0.0.{number + 2}") for number in range(8)]
        threads = [threading.Thread(target=lambda one=one: borne.append(one.seconds())) for one in attackers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(borne) == len(attackers)
        assert max(borne) < TIMEOUT + LATE
        until(lambda: not opened._guests and not opened._crowd._here)  # every place was given back
        assert opened.next(0) is None


class Flood:
    """Connections from many addresses, each held for a while, some hundreds a second."""

    def __init__(self, address: str, addresses: int = 8) -> None:
        self._address = address
        self._sources = [f"127.0.1.{number}" for number in range(1, addresses + 1)]
        self._over = threading.Event()
        self.count = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        held: list[socket.socket] = []
        host, _, port = self._address.rpartition(":")
        while not self._over.is_set():
            sock = socket.socket()
            sock.setblocking(False)
            sock.bind((self._sources[self.count % len(self._sources)], 0))
            sock.connect_ex((host, int(port)))
            held.append(sock)
            self.count += 1
            if len(held) > 200:
                held.pop(0).close()
            self._over.wait(0.004)
        for sock in held:
            sock.close()

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE)


def test_a_transfer_goes_on_under_a_flood(tmp_path: Path) -> None:
    """Whoever has something and tries again comes in, and is not held up then."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(64 * MIB))
    with receiving(tmp_path / "inbox") as (_, address):
        with Flood(address) as flood:
            until(lambda: flood.count >= 200)
            send(big, address, retry=PATIENCE)
            assert flood.count > 200
    assert (tmp_path / "inbox/big").read_bytes() == big.read_bytes()


def test_an_encrypted_one_gets_its_streams(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(64 * MIB))
    side = Side()
    store = LocalStore(tmp_path / "inbox")

    attached: list[int] = []

    class Counting(ReceivingSession):
        def attach(self, greeted: Any) -> bool:
            taken = super().attach(greeted)
            if taken:
                attached.append(greeted.hello.stream)
            return taken

    def make(greeted: Any) -> ReceivingSession:
        return Counting(greeted, store.begin, Options(timeout=20.0), side.tell)

    from enchufe.session import SendingSession  # noqa: PLC0415 (beside its use)
    from enchufe.store import Source  # noqa: PLC0415

    with encrypted.served(side, make, Receiver) as address, ExitStack() as stack:
        admitted = encrypted.dial(address)
        stack.enter_context(Flood(address))
        source = stack.enter_context(_closing(Source([big])))
        options = Options(
            dial=lambda: encrypted.dial_plain(address), secret=admitted.secret, epoch=1, streams=4, timeout=20.0
        )
        with admitted.transport:
            sending = SendingSession(admitted.transport, source, options, lambda _event: None)
            ended = encrypted.ended(sending)
        assert isinstance(ended, events.Receipt), ended
        assert attached  # one that is not let in is a stream less
    assert isinstance(side.end, events.Receipt)
    assert (tmp_path / "inbox/big").read_bytes() == big.read_bytes()


@contextmanager
def _closing(source: Any) -> Iterator[Any]:
    try:
        yield source
    finally:
        source.close()
