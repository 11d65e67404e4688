"""Who gets in where somebody listens: one transfer at a time, the newest attempt at it, nobody who says nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from enchufe import events, files, meeting
from enchufe.errors import BrokenError, BusyError, EnchufeError
from enchufe.session import Door, Options, ReceivingSession
from enchufe.store import LocalStore
from enchufe.transfer import messages as m
from enchufe.transfer.message import Role, Type
from enchufe.transfer.receiver import Receiver
from enchufe.transports import Listener, Transport
from enchufe.waiting import Waiter, drive
from tests.sessions.relay import HELLO_SIZE
from tests.sessions.transfers import HERE, PATIENCE, Side
from tests.until import until

ANSWER = 5  # bytes before an ERROR's code


@contextmanager
def receiving(inbox: Path, timeout: float = 20.0) -> Iterator[tuple[Side, str]]:
    """A receiver that listens; it is waited for in the end."""
    side = Side()

    def run() -> None:
        try:
            side.end = files.receive_files(inbox, listen="127.0.0.1:0", plain=True, timeout=timeout, on_event=side.tell)
        except EnchufeError as error:
            side.end = error

    thread = threading.Thread(target=run)
    thread.start()
    yield side, side.wait_for(events.Listening).address
    thread.join(PATIENCE)
    assert not thread.is_alive()


def dial(address: str, *said: m.Hello, source: str = "127.0.0.1") -> socket.socket:
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=PATIENCE, source_address=(source, 0))
    for hello in said:
        sock.sendall(b"".join(m.frame(hello)))
    return sock


def heard(sock: socket.socket, size: int = 1 << 20) -> bytes:
    """What comes until there are so many bytes, or the end."""
    data = b""
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return data


def session_of(path: Path) -> bytes:
    """What `send_files` calls a transfer of this path."""
    return meeting.identity_of(os.path.realpath(os.fsencode(path)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "f").write_text("good")
    return tmp_path / "f"


def send(file: Path, address: str, retry: float = 0.0, on_event: Callable[[events.Event], object] = id) -> None:
    files.send_files([file], to=address, plain=True, retry=retry, timeout=20.0, on_event=on_event)


def test_a_newer_attempt_fences_a_half_open_one_at_once(file: Path, tmp_path: Path) -> None:
    """The older one's connection looks well, and nobody is there: nobody waits for its timeout."""
    with receiving(tmp_path / "inbox", timeout=3600.0) as (side, address):
        with dial(address, m.Hello(Role.SENDER, session_of(file), epoch=1)) as old:
            assert heard(old, HELLO_SIZE)[0] == Type.HELLO
            send(file, address)
            with suppress(ConnectionError):  # reset: there may be nobody to tell
                heard(old)
    assert (tmp_path / "inbox" / "f").read_text() == "good"
    assert ["newer" in failed.message for failed in side.of(events.Failed)] == [True]


@contextmanager
def sending_slowly(path: Path, receiver: Side, address: str, retry: float) -> Iterator[Side]:
    """A sender that is in the middle of it; it is waited for in the end."""
    path.write_bytes(os.urandom(3 << 20))
    side = Side()

    def run() -> None:
        try:
            side.end = files.send_files([path], to=address, plain=True, retry=retry, limit=1.5e6, on_event=side.tell)
        except EnchufeError as error:
            side.end = error

    thread = threading.Thread(target=run)
    thread.start()
    receiver.wait_for(events.Connected)
    side.wait_for(events.Progress)
    yield side
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_of_two_that_come_again_after_each_cut_one_goes_on(tmp_path: Path) -> None:
    """The same command run twice: whoever came first is told, and does not end the other when it comes again."""
    path, second = tmp_path / "f", Side()
    with receiving(tmp_path / "inbox") as (receiver, address), sending_slowly(path, receiver, address, 2.0) as first:
        send(path, address, retry=PATIENCE, on_event=second.tell)
    assert not second.of(events.Retrying)
    assert "taken over" in first.of(events.Retrying)[0].message
    assert isinstance(first.end, BrokenError)
    assert (tmp_path / "inbox" / "f").read_bytes() == path.read_bytes()


def test_whoever_was_taken_over_goes_on_where_the_newer_one_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with receiving(tmp_path / "inbox") as (receiver, address):
        with sending_slowly(path, receiver, address, PATIENCE) as first:
            newer = m.Hello(Role.SENDER, session_of(path), epoch=time.time_ns())
            with dial(address, newer) as sock:
                until(lambda: len(first.of(events.Retrying)) >= 4)  # it comes again and again, and ends nobody
                assert heard(sock, HELLO_SIZE)[0] == Type.HELLO
                sock.setblocking(False)
                with suppress(BlockingIOError):
                    assert sock.recv(1)[0] == Type.PING
    assert isinstance(first.end, events.Receipt)
    assert (tmp_path / "inbox" / "f").read_bytes() == path.read_bytes()


def test_a_newer_attempt_comes_in_before_the_session_of_the_older_begins(tmp_path: Path) -> None:
    with Listener(HERE) as listener, Door(listener, Receiver, PATIENCE) as door:
        with dial(listener.addresses[0], m.Hello(Role.SENDER, b"s" * 16, epoch=1)):
            older = door.next(PATIENCE)
            assert older is not None
            with dial(listener.addresses[0], m.Hello(Role.SENDER, b"s" * 16, epoch=2)):
                newer = door.next(PATIENCE)
                assert newer is not None
                session = ReceivingSession(older, LocalStore(tmp_path / "inbox").begin, Options(timeout=PATIENCE), id)
                door.entered(session)
                with older.transport, newer.transport, pytest.raises(BrokenError, match="newer"):
                    drive(session.complete())


def test_whoever_comes_while_the_door_closes_is_closed_too() -> None:
    came: list[Transport] = []

    class Slow(Listener):
        def try_accept(self, waiter: Waiter) -> Transport | None:
            transport = super().try_accept(waiter)
            if transport is not None:
                came.append(transport)
                both.wait(PATIENCE)
                time.sleep(0.2)  # by now it is closing
            return transport

    both = threading.Barrier(2)
    with Slow(HERE) as listener:
        with Door(listener, Receiver, PATIENCE), dial(listener.addresses[0]):
            both.wait(PATIENCE)
        assert [transport.fileno() for transport in came] == [-1]


def test_whoever_is_heard_when_the_door_closes_ends_at_once() -> None:
    with Listener(HERE) as listener:
        with dial(listener.addresses[0]) as sock:
            with Door(listener, Receiver, PATIENCE):
                sock.sendall(b"".join(m.frame(m.Hello(Role.SENDER, b"s" * 16)))[:9])
                until(hearing)
            assert not hearing()
            assert heard(sock) == b""


def hearing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "enchufe guest"]


def test_an_older_attempt_is_refused(file: Path, tmp_path: Path) -> None:
    with receiving(tmp_path / "inbox") as (_, address):
        with dial(address, m.Hello(Role.SENDER, b"s" * 16, epoch=5)) as new:
            assert heard(new, HELLO_SIZE)[0] == Type.HELLO
            for epoch in (4, 5):
                with dial(address, m.Hello(Role.SENDER, b"s" * 16, epoch=epoch)) as old:
                    answer = heard(old)
                    assert (answer[0], answer[ANSWER]) == (Type.ERROR, m.Code.BUSY)
        send(file, address, retry=PATIENCE)
    assert (tmp_path / "inbox" / "f").read_text() == "good"


def test_another_transfer_is_told_busy_and_gets_in_by_its_own_retries(file: Path, tmp_path: Path) -> None:
    with receiving(tmp_path / "inbox") as (_, address):
        with dial(address, m.Hello(Role.SENDER, b"other" + bytes(11), epoch=1)) as inside:
            assert heard(inside, HELLO_SIZE)[0] == Type.HELLO
            with pytest.raises(BusyError, match="another transfer"):
                send(file, address)
            told: list[events.Event] = []

            def note(event: events.Event) -> None:
                told.append(event)
                if isinstance(event, events.Retrying):
                    inside.close()

            send(file, address, retry=PATIENCE, on_event=note)
    assert any(isinstance(event, events.Retrying) and "busy" in event.message for event in told)
    assert (tmp_path / "inbox" / "f").read_text() == "good"


def test_guests_that_say_nothing_are_gone_after_their_deadline(file: Path, tmp_path: Path) -> None:
    with receiving(tmp_path / "inbox", timeout=2.0) as (_, address):
        guests = [dial(address) for _ in range(20)]
        for guest in guests:
            with guest:
                answer = heard(guest)
                assert answer[:1] in (b"", bytes([Type.ERROR]))
        send(file, address)
    assert (tmp_path / "inbox" / "f").read_text() == "good"


def test_guests_that_say_nothing_keep_nobody_out(file: Path, tmp_path: Path) -> None:
    with receiving(tmp_path / "inbox", timeout=3600.0) as (_, address):
        guests = [dial(address, source=f"127.0.0.{2 + number % 2}") for number in range(20)]
        send(file, address)
    for guest in guests:
        guest.close()
    assert (tmp_path / "inbox" / "f").read_text() == "good"


def test_who_says_nothing_costs_no_thread(file: Path, tmp_path: Path) -> None:
    """Neither while he is there nor when he goes."""
    begun: list[str] = []
    run = threading.Thread.start

    def start(self: threading.Thread) -> None:
        begun.append(self.name)
        run(self)

    with pytest.MonkeyPatch.context() as patch, receiving(tmp_path / "inbox") as (_, address):
        patch.setattr(threading.Thread, "start", start)
        guests = [dial(address) for _ in range(16)]
        for guest in guests[::2]:
            guest.close()
        send(file, address, retry=PATIENCE)
        for guest in guests:
            guest.close()
    assert (tmp_path / "inbox" / "f").read_text() == "good"
    assert 1 <= begun.count("enchufe guest") <= 3


@pytest.mark.parametrize(
    "hello",
    [
        m.Hello(Role.SENDER, b"x" * 16, 1, stream=1),
        m.Hello(Role.SENDER, b"s" * 16, 2, stream=1),
        m.Hello(Role.SENDER, b"s" * 16, 1, stream=2),
        m.Hello(Role.RECEIVER, b"s" * 16, 1, stream=1),
    ],
    ids=["another session", "another epoch", "more than agreed", "another role"],
)
def test_a_stream_of_something_else_is_not_let_in(file: Path, tmp_path: Path, hello: m.Hello) -> None:
    with receiving(tmp_path / "inbox") as (_, address):
        with dial(address, m.Hello(Role.SENDER, b"s" * 16, 1, streams=2)) as first:
            assert heard(first, HELLO_SIZE)[0] == Type.HELLO
            with dial(address, hello) as stranger:
                answer = heard(stranger)
                assert answer[:1] in (b"", bytes([Type.ERROR]))
        send(file, address, retry=PATIENCE)
    assert (tmp_path / "inbox" / "f").read_text() == "good"


@pytest.mark.parametrize(
    ("words", "told"),
    [(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown type"), (b"\1\0\0\0\x2e" + bytes(46), "malformed HELLO")],
)
def test_a_foreign_peer_is_told_and_turned_away(file: Path, tmp_path: Path, words: bytes, told: str) -> None:
    with receiving(tmp_path / "inbox") as (_, address):
        with dial(address) as foreign:
            foreign.sendall(words)
            answer = heard(foreign)
            assert (answer[0], answer[ANSWER]) == (Type.ERROR, m.Code.PROTOCOL)
            assert told in answer[ANSWER + 1 :].decode()
        send(file, address)
    assert (tmp_path / "inbox" / "f").read_text() == "good"
