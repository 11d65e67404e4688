"""Failures of one side: the other is told, in words that give nothing away, and nothing half-done shows."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enchufe import events
from enchufe.errors import BrokenError, DeadlineExceeded, EnchufeError, LocalProtocolError, Refused, StoreError
from enchufe.session import Options, ReceivingSession, SendingSession, hello_of, receiving
from enchufe.session.carrier import Plain
from enchufe.store import LocalStore, Receiving, Source
from enchufe.transfer import messages as m
from enchufe.transfer.message import Role
from enchufe.transfer.offers import Offer
from enchufe.transfer.receiver import Receiver
from enchufe.transports import Transport
from enchufe.waiting import BlockingWaiter, drive
from tests.sessions.transfers import Ends, transfer, visible


def transport(sock: socket.socket, peer: str = "there") -> Transport:
    return Transport(sock, BlockingWaiter(), name="unix", local="here", peer=peer)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "in" / "ner").mkdir(parents=True)
    (root / "in" / "small").write_bytes(b"hola")
    (root / "empty").write_bytes(b"")
    (root / "in" / "ner" / "big").write_bytes(bytes(range(256)) * 6000)  # a block and a half
    (root / "link").symlink_to("in/small")
    return root


def send(tree: Path, begin: Callable[[bytes], Receiving], **how: Any) -> Ends:
    return transfer(lambda: Source([tree]), begin, **how)


def greeting(**how: Any) -> bytes:
    return b"".join(m.frame(m.Hello(Role.RECEIVER, window=100, **how)))


def dialed(one: Transport, tree: Path, timeout: float = 20.0) -> SendingSession:
    """A sender over a connection that it dialed, to be told things by hand."""

    def never() -> Transport:
        raise AssertionError("one stream is enough")

    return SendingSession(one, Source([tree]), Options(dial=never, streams=1, timeout=timeout), id)


class FailingDelivery:
    """A delivery that fails where it is told to; the rest is a real one's."""

    def __init__(self, real: Any, where: str, error: Exception) -> None:
        self._real, self._where, self._error = real, where, error

    def __getattr__(self, name: str) -> Any:
        if name != self._where:
            return getattr(self._real, name)

        def fail(*_arguments: Any, **_options: Any) -> None:
            raise self._error

        return fail


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("where", ["admit", "write", "write_whole", "complete", "commit"])
@pytest.mark.parametrize(
    ("error", "there"),
    [(StoreError("secret path"), Refused), (LocalProtocolError("a bug"), BrokenError), (Refused("no"), Refused)],
)
def test_a_failing_receiver_tells_its_sender(
    tree: Path, tmp_path: Path, where: str, error: EnchufeError, there: type[EnchufeError], streams: int
) -> None:
    store = LocalStore(tmp_path / "inbox")
    begin: Any = lambda _: FailingDelivery(store.begin(), where, error)  # noqa: E731
    ends = send(tree, begin, streams=streams)
    assert ends.receiver.end is error
    assert isinstance(ends.sender.error, there)
    assert "secret" not in str(ends.sender.error)
    assert visible(tmp_path / "inbox") == []


@pytest.mark.parametrize("slow", ["begin", "commit"])
def test_a_slow_disk_keeps_the_heartbeat(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """To look at what is left here, and to have all on disk, may take longer than the sender's patience."""
    monkeypatch.setattr("enchufe.link.PING_AFTER", 0.1)
    slept = threading.Event()
    store = LocalStore(tmp_path / "inbox")

    class Slow(FailingDelivery):
        def commit(self, *, remember: bool = False) -> None:
            if slow == "commit":
                slept.wait(6.0)
            self._real.commit(remember=remember)

    def begin(_origin: bytes) -> Any:
        if slow == "begin":
            slept.wait(6.0)
        return Slow(store.begin(), "", ValueError())

    ends = send(tree, begin, timeout=4.0)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest


def test_an_interruption_while_the_store_is_opened_leaves_it_closed(tmp_path: Path) -> None:
    """Nothing stays open, and nothing is left in the folder."""
    near, far = socket.socketpair()
    store = LocalStore(tmp_path / "inbox")
    begun = threading.Event()

    def begin(_origin: bytes) -> Receiving:
        delivery = store.begin()
        begun.set()
        signal.raise_signal(signal.SIGINT)
        return delivery

    def never() -> Transport:
        raise AssertionError("one stream is enough")

    with far, transport(near) as one, pytest.raises(KeyboardInterrupt):
        far.sendall(b"".join(m.frame(m.Hello(Role.SENDER, window=0))))
        drive(ReceivingSession(one, begin, Options(dial=never, streams=1), id).complete())
    assert begun.is_set()
    assert list((tmp_path / "inbox").iterdir()) == []


def test_a_silent_peer_is_given_up(tree: Path) -> None:
    near, far = socket.socketpair()
    with far, transport(near) as one, pytest.raises(DeadlineExceeded, match="did not say who it is"):
        drive(dialed(one, tree, 0.3).complete())


def test_a_peer_that_falls_silent_is_given_up(tree: Path) -> None:
    near, far = socket.socketpair()
    with far, transport(near) as one:
        far.sendall(greeting())
        with pytest.raises(DeadlineExceeded, match="sign of life"):
            drive(dialed(one, tree, 0.3).complete())


def test_the_last_words_of_a_peer_that_reset_us_are_heard(tree: Path) -> None:
    """An ERROR that came before the reset says more than the reset."""
    near, far = socket.socketpair()
    with transport(near) as one:
        far.sendall(greeting())
        far.sendall(b"".join(m.frame(m.Error(m.Code.NO_SPACE, ""))))
        far.close()
        with pytest.raises(Refused, match="disk is full"):
            drive(dialed(one, tree).complete())


def test_an_interruption_in_a_send_cuts_rather_than_say_nonsense(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the kernel took bytes that we did not count, any byte more would be read as something else."""
    try_send = Transport.try_send
    sends = [0]

    def interrupted(one: Transport, pieces: Any) -> int:
        count = try_send(one, pieces)
        sends[0] += one.peer == "receiver"
        if sends[0] == 3 and one.peer == "receiver":
            raise KeyboardInterrupt
        return count

    monkeypatch.setattr(Transport, "try_send", interrupted)
    near, far = socket.socketpair()
    errors: list[EnchufeError] = []

    def receive() -> None:
        with transport(far) as one:
            try:
                greeted = drive(hello_of(Plain(one), Receiver(), one.waiter.now() + 20))
                session = ReceivingSession(greeted, LocalStore(tmp_path / "inbox").begin, Options(), id)
                drive(session.complete())
            except EnchufeError as error:
                errors.append(error)

    receiving = threading.Thread(target=receive)
    receiving.start()
    with transport(near, "receiver") as sending, pytest.raises(KeyboardInterrupt):
        drive(dialed(sending, tree).complete())
    receiving.join(20)
    assert [type(error) for error in errors] == [BrokenError]


def test_an_error_behind_much_to_do_is_told_though_its_sender_is_gone(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(SendingSession):
        async def run(self) -> events.Receipt:
            await self.greet()
            for entry in self.source.walk():
                self.say(Offer([entry]))
            await self.link.farewell(m.Error(m.Code.NO_SPACE, ""))
            raise StoreError("it has told why")

    monkeypatch.setattr(receiving, "_TURN", 0.0)
    ends = transfer(lambda: Source([tree]), LocalStore(tmp_path / "inbox").begin, sending=Failing, streams=1)
    assert isinstance(ends.receiver.error, Refused)
    assert "disk is full" in str(ends.receiver.error)
