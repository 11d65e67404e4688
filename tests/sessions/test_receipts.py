"""A receipt that is lost is said again: nobody hears of a failure where all has arrived, and nothing is sent twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import enchufe
from enchufe import events
from enchufe.access.certificate import lasting
from enchufe.access.links import Link
from enchufe.access.tokens import Tokens
from enchufe.session import SendingSession
from enchufe.session.receiving import ReceivingSession
from enchufe.store import Delivery
from enchufe.transfer import messages as m
from enchufe.transfer.message import Message, Role
from enchufe.transfer.sender import Sender
from enchufe.transports import TcpAddress
from tests.beside import Beside
from tests.sessions.relay import Bend, Relay, Way, cut_at
from tests.sessions.transfers import Side, visible
from tests.until import until

PATIENCE = 120.0
RETRY = 3.0  # seconds: enough to come back in, on a busy machine too
End = events.Receipt | enchufe.EnchufeError


def said(*messages: Message) -> bytes:
    return b"".join(piece for message in messages for piece in m.frame(message))


FINISH = m.Finish(Sender().receipt().digest)


def nothing(epoch: int = 1, features: int = m.HEARD) -> bytes:
    """All that a sender of nothing says, until it has the receipt."""
    return said(m.Hello(Role.SENDER, b"s" * 16, epoch, 0, 1, features=features), m.OfferEnd(0, 0, 0), FINISH)


def send_nothing(sock: socket.socket, epoch: int) -> None:
    """To the end, and the word that the receipt was heard."""
    sock.sendall(nothing(epoch))
    heard = b""
    while said(Sender().receipt()) not in heard:
        heard += sock.recv(1 << 16)
    sock.sendall(said(FINISH))


def transfer(
    tree: Path,
    inbox: Path,
    relay: Relay,
    *,
    sends: bool,
    plain: bool,
    told: Callable[[events.Event], object],
    retry: float = 30.0,
    token: bytes | None = None,
) -> tuple[End, End, Side]:
    """How it ended for the sender and the receiver, which tells its events, and what the sender was told."""
    codes: list[str] = []
    listening = threading.Event()
    sent = Side()

    def listened(event: events.Event) -> None:
        if isinstance(event, events.Listening):
            relay.to = event.address
        elif isinstance(event, events.Code):
            codes.append(event.code)
        if relay.to and (plain or codes):
            listening.set()

    def receive(**where: Any) -> End:
        def tell(event: events.Event) -> None:
            told(event)
            listened(event)

        try:
            return enchufe.receive_files(inbox, plain=plain, announce=False, retry=retry, on_event=tell, **where)
        except enchufe.EnchufeError as error:
            return error

    def send(**where: Any) -> End:
        def tell(event: events.Event) -> None:
            sent.tell(event)
            listened(event)

        try:
            return enchufe.send_files([tree], plain=plain, announce=False, retry=retry, on_event=tell, **where)
        except enchufe.EnchufeError as error:
            return error

    listens = Beside(partial(receive if sends else send, listen="127.0.0.1:0", tokens=token is not None))
    assert listening.wait(PATIENCE)
    link = None if token is None else str(Link((TcpAddress("127.0.0.1", 9),), lasting().sha256, token=token))
    there = {"to" if sends else "source": relay.address, "code": None if plain else link or codes[0]}
    dialed = (send if sends else receive)(**there)
    other = listens.result()
    return (dialed, other, sent) if sends else (other, dialed, sent)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(os.urandom(3_000_000))
    os.mkfifo(root / "pipe")  # left out
    return root


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "encrypted"])
@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_a_receipt_that_is_lost_is_said_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool, plain: bool, times: int
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    inbox = tmp_path / "inbox"
    heard = Side()

    def cut(event: events.Event) -> None:
        heard.tell(event)
        about_to_say = isinstance(event, (events.Landed, events.Connected)) and bool(heard.of(events.Landed))
        if about_to_say and len(heard.of(events.Connected)) <= times:
            relay.cut()

    with Relay() as relay:
        sender, receiver, sent = transfer(tree, inbox, relay, sends=sends, plain=plain, told=cut)
    assert os.listdir(inbox) == ["tree"]
    assert (inbox / "tree/file").read_bytes() == (tree / "file").read_bytes()
    assert isinstance(sender, events.Receipt)
    assert isinstance(receiver, events.Receipt)
    for receipt in (sender, receiver):
        assert (receipt.files, receipt.bytes, receipt.left_out) == (1, 3_000_000, 1)
    assert sender.digest == receiver.digest
    assert receiver.sent_bytes == 3_000_000
    assert len(sent.of(events.Receipt)) == len(heard.of(events.Receipt)) == 1
    assert len(heard.of(events.Connected)) == times + 1


def test_what_was_cut_on_its_way_to_standard_output_is_not_begun_again_behind_it(tmp_path: Path) -> None:
    content = os.urandom(2_000_000)
    (tmp_path / "file").write_bytes(content)
    most = threading.Event()

    def cut_at_the_end(offset: int, piece: bytes) -> bytes:
        """Before FINISH, once, and when some of it is out."""
        if most.is_set() or offset + len(piece) < len(content):
            return piece
        until(lambda: (tmp_path / "out").stat().st_size > 0)
        most.set()
        return b""

    command = [sys.executable, "-m", "enchufe", "receive", "--listen", "127.0.0.1:0", "-o", "-", "--plain"]
    with (
        Relay(lambda way: cut_at_the_end if way.there and not way.stream else None) as relay,
        (tmp_path / "out").open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True) as receiver,
    ):
        assert receiver.stderr is not None
        relay.to = receiver.stderr.readline().split()[2].strip(",")
        with pytest.raises(enchufe.EnchufeError):
            enchufe.send_files([tmp_path / "file"], to=relay.address, plain=True, streams=1, retry=5.0)
        _, err = receiver.communicate(timeout=PATIENCE)
    assert receiver.returncode == 6, err
    assert "are in the output already" in err
    assert content.startswith((tmp_path / "out").read_bytes())


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_a_receiver_whose_receipt_nobody_hears_has_it_all_the_same(tree: Path, tmp_path: Path, *, sends: bool) -> None:
    gone = threading.Event()

    def cut(event: events.Event) -> None:
        if isinstance(event, events.Landed):
            relay.to = "127.0.0.1:1"  # nobody is there
            relay.cut()
            gone.set()

    with Relay() as relay:
        sender, receiver, _ = transfer(tree, tmp_path / "inbox", relay, sends=sends, plain=True, told=cut, retry=0.5)
    assert gone.is_set()
    assert isinstance(receiver, events.Receipt)
    assert isinstance(sender, enchufe.EnchufeError)


def test_whoever_sends_the_same_anew_sends_nothing_twice(tree: Path, tmp_path: Path) -> None:
    """He has never said that all was sent, having been killed perhaps: what is here is known."""
    inbox = tmp_path / "inbox"
    landed = threading.Event()
    with Relay() as relay:

        def told(event: events.Event) -> None:
            if isinstance(event, events.Listening):
                relay.to = event.address
            elif isinstance(event, events.Landed) and not landed.is_set():
                landed.set()
                relay.cut()

        receiver = Beside(lambda: enchufe.receive_files(inbox, listen="127.0.0.1:0", plain=True, on_event=told))
        until(lambda: relay.to)
        with pytest.raises(enchufe.errors.BrokenError):
            enchufe.send_files([tree], to=relay.address, plain=True, retry=0)
        assert landed.is_set()
        again = enchufe.send_files([tree], to=relay.address, plain=True, retry=0)
        assert (again.files, again.skipped, again.sent_bytes, again.left_out) == (0, 1, 0, 1)
        assert receiver.result().files == 1
    assert os.listdir(inbox) == ["tree"]


def receiver_of(inbox: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "enchufe", "receive", "--yes", "-o", str(inbox), "--plain", "--json", *more],
        env={**os.environ, "XDG_STATE_HOME": str(inbox.parent / "state")},
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("survives", [True, False], ids=["sender stays", "sender is killed too"])
def test_a_receiver_that_is_killed_over_its_receipt_gets_nothing_twice(
    tree: Path, tmp_path: Path, *, survives: bool
) -> None:
    inbox = tmp_path / "inbox"
    over = threading.Event()

    def hold_back(_offset: int, piece: bytes) -> bytes | None:
        if all(name == ".enchufe" for name in os.listdir(inbox)):
            return piece
        over.wait(PATIENCE)
        return None

    def send(retry: float) -> events.Receipt:
        return enchufe.send_files([tree], to=relay.address, plain=True, retry=retry)

    with Relay(lambda way: None if way.there or over.is_set() else hold_back) as relay:
        with receiver_of(inbox, "--listen", "127.0.0.1:0") as first:
            assert first.stdout is not None
            told = map(json.loads, first.stdout)
            relay.to = next(told)["address"]
            sender = Beside(partial(send, 30.0 if survives else 0.0))
            assert next(event for event in told if event["event"] == "landed")
            first.kill()
        relay.to = "127.0.0.1:1"  # nobody is there
        over.set()
        relay.cut()
        if not survives:
            with pytest.raises(enchufe.errors.BrokenError):
                sender.result()
        with receiver_of(inbox, "--listen", "127.0.0.1:0") as second:
            assert second.stdout is not None
            told = map(json.loads, second.stdout)
            relay.to = next(told)["address"]
            receipt = sender.result() if survives else send(0.0)
            assert (receipt.files, receipt.skipped, receipt.sent_bytes) == (0, 1, 0)
            assert second.wait(PATIENCE) == 7  # the pipe was left out
    assert os.listdir(inbox) == ["tree"]


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_a_token_that_is_used_up_by_it_lets_in_for_the_receipt(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    token, _ = Tokens().new(scope=["drop" if sends else "read"], quota=3_000_000)
    landed = threading.Event()

    def cut(event: events.Event) -> None:
        if isinstance(event, events.Landed):
            landed.set()
            relay.cut()

    with Relay() as relay:
        ends = transfer(tree, tmp_path / "inbox", relay, sends=sends, plain=False, told=cut, token=token.seed)
    assert landed.is_set()
    assert [type(end) for end in ends[:2]] == [events.Receipt, events.Receipt]
    (record,) = Tokens().all()
    assert (record.used, record.unfinished) == (3_000_000, ())


def test_pings_hold_nobody_who_has_it_all(tmp_path: Path) -> None:
    """A sender that never says that it has heard the receipt, and never goes."""
    address: list[str] = []

    def told(event: events.Event) -> None:
        if isinstance(event, events.Listening):
            address.append(event.address)

    def receive() -> events.Receipt:
        return enchufe.receive_files(
            tmp_path / "inbox", listen="127.0.0.1:0", plain=True, timeout=1.0, retry=0, on_event=told
        )

    receiver = Beside(receive)
    until(lambda: address)
    host, _, port = address[0].rpartition(":")
    ping = said(m.Ping())
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(nothing())

        def is_let_go() -> bool:
            try:
                sock.sendall(ping)
            except OSError:
                return True
            return False

        until(is_let_go)
    assert receiver.result().files == 0


def test_whoever_goes_without_a_word_when_he_has_the_receipt_is_not_waited_for(tmp_path: Path) -> None:
    """As senders did that came before the word for that."""
    heard = Side()
    receiver = Beside(
        lambda: enchufe.receive_files(tmp_path / "inbox", listen="127.0.0.1:0", plain=True, on_event=heard.tell)
    )
    until(lambda: heard.of(events.Listening))
    host, _, port = heard.of(events.Listening)[0].address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(nothing(features=0))
        sock.shutdown(socket.SHUT_WR)
        assert receiver.result().files == 0
    assert not heard.of(events.Failed)


def test_nothing_is_noted_for_whoever_never_says_that_he_has_heard(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enchufe.session.sending.HEARD", 0)
    inbox = tmp_path / "inbox"
    for _ in range(2):
        with Relay() as relay:
            sender, receiver, _ = transfer(tree, inbox, relay, sends=True, plain=True, told=lambda _: None)
            assert isinstance(sender, events.Receipt)
            assert isinstance(receiver, events.Receipt)
    assert sorted(os.listdir(inbox)) == ["tree", "tree (1)"]


def test_who_dials_to_have_a_receipt_heard_ends_nothing_of_whoever_sends_there_by_now(
    tree: Path, tmp_path: Path
) -> None:
    senders: list[Beside] = []
    looked = threading.Event()
    count = 0

    def send(retry: float) -> events.Receipt:
        def told(event: events.Event) -> None:
            nonlocal count
            if isinstance(event, events.Listening):
                relay.to = event.address
                count += 1
            elif isinstance(event, events.Looked):
                looked.set()

        return enchufe.send_files([tree], listen="127.0.0.1:0", plain=True, retry=retry, on_event=told)

    def cut(event: events.Event) -> None:
        if isinstance(event, events.Landed):
            relay.cut()
            senders.append(Beside(partial(send, 30.0)))
            until(lambda: count == 2)

    with Relay() as relay:
        first = Beside(partial(send, 0.0))
        until(lambda: count == 1)
        receipt = enchufe.receive_files(tmp_path / "inbox", source=relay.address, plain=True, on_event=cut)
        assert receipt.files == 1
        with pytest.raises(enchufe.errors.BrokenError):
            first.result()
        assert looked.wait(PATIENCE)
        assert enchufe.receive_files(tmp_path / "other", source=relay.address, plain=True).files == 1
        assert senders[0].result().files == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_a_receiver_that_stays_hears_that_all_is_here(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "enchufe", "receive", "--yes", "-o", "inbox", "--plain", "--json"]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
    ) as receiver:
        assert receiver.stdout is not None
        told = map(json.loads, receiver.stdout)
        host, _, port = next(told)["address"].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
            sock.sendall(nothing())
            sock.shutdown(socket.SHUT_WR)
            assert next(event for event in told if event["event"] == "receipt")
            assert next(told)["event"] == "error"
        receiver.send_signal(number)
        (last,) = told
        assert receiver.wait(PATIENCE) == 130
    assert (last["kind"], last["hint"]) == ("interrupted", "All of it is here; the other side may not have heard so.")


INTERRUPTED_WITH_THE_RECEIPT = """
import signal
from enchufe import events
from enchufe.cli.main import main
from enchufe.cli.show import JsonLines
show = JsonLines.show
def shown(screen, event):
    show(screen, event)
    if isinstance(event, events.Receipt):
        signal.raise_signal(signal.SIGINT)
JsonLines.show = shown
main()
"""


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_who_interrupts_a_sender_that_has_the_receipt_hears_so_and_sends_nothing_twice(
    tmp_path: Path, *, sends: bool
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    heard = Side()
    receive = partial(enchufe.receive_files, tmp_path / "inbox", plain=True, retry=1.0, on_event=heard.tell)

    def listening() -> tuple[Beside, str]:
        before = len(heard.of(events.Listening))
        receiver = Beside(partial(receive, listen="127.0.0.1:0"))
        until(lambda: len(heard.of(events.Listening)) > before)
        return receiver, heard.of(events.Listening)[-1].address

    where = ["--listen", "127.0.0.1:0"]
    if sends:
        receiver, address = listening()
        where = ["--to", address]
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_WITH_THE_RECEIPT, "send", "file", "--plain", "--json", *where],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    ) as sender:
        assert sender.stdout is not None
        told = map(json.loads, sender.stdout)
        if not sends:
            receiver = Beside(partial(receive, source=next(told)["address"]))
        *_, receipt, last = told
        assert sender.wait(PATIENCE) == 130
    assert receipt["event"] == "receipt"
    assert (last["kind"], last["hint"]) == ("interrupted", "What was sent has arrived.")
    assert receiver.result().files == 1
    receiver, address = listening()
    assert enchufe.send_files([tmp_path / "file"], to=address, plain=True).skipped == 1
    receiver.result()
    assert visible(tmp_path / "inbox") == ["file"]


@pytest.mark.parametrize("fails", [False, True], ids=["all is well", "the disk fails"])
@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_a_link_that_is_cut_while_all_is_put_on_disk_is_made_again_meanwhile(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool, fails: bool
) -> None:
    """To put it there takes longer than either side would wait for the other to come back, or to say who it is."""
    commit = Delivery.commit
    back = threading.Event()
    connected = 0

    def told(event: events.Event) -> None:
        nonlocal connected
        if isinstance(event, events.Connected):
            connected += 1
            if connected == 2:
                back.set()

    def slow(delivery: Delivery, *, remember: bool) -> None:
        relay.cut()
        assert back.wait(PATIENCE)
        threading.Event().wait(RETRY + 1.0)  # and both sides stay
        if fails:
            raise enchufe.errors.StoreError("the disk is gone")
        commit(delivery, remember=remember)

    monkeypatch.setattr(Delivery, "commit", slow)
    with Relay() as relay:
        ends = transfer(tree, tmp_path / "inbox", relay, sends=sends, plain=True, told=told, retry=RETRY)
    sender, receiver, _ = ends
    assert connected == 2
    if fails:
        assert isinstance(receiver, enchufe.errors.StoreError)
        assert isinstance(sender, enchufe.errors.Refused)
    else:
        assert isinstance(receiver, events.Receipt)
        assert isinstance(sender, events.Receipt)
        assert sender.digest == receiver.digest
        assert os.listdir(tmp_path / "inbox") == ["tree"]


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_a_sender_that_is_ended_while_all_is_put_on_disk_ends_nothing_of_it(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool
) -> None:
    commit = Delivery.commit
    committing = threading.Event()
    failed = threading.Event()
    landed = threading.Event()

    def slow(delivery: Delivery, *, remember: bool) -> None:
        committing.set()
        assert failed.wait(PATIENCE)
        commit(delivery, remember=remember)

    monkeypatch.setattr(Delivery, "commit", slow)
    exchange = SendingSession.say_posted

    def end(session: SendingSession) -> None:
        exchange(session)
        if committing.is_set() and not failed.is_set():
            failed.set()
            raise enchufe.errors.Refused("somebody here wants no more of it")

    monkeypatch.setattr(SendingSession, "say_posted", end)

    def told(event: events.Event) -> None:
        if isinstance(event, events.Landed):
            landed.set()

    with Relay() as relay:
        sender, receiver, _ = transfer(tree, tmp_path / "inbox", relay, sends=sends, plain=True, told=told, retry=1.0)
    assert isinstance(sender, enchufe.errors.Refused)
    assert isinstance(receiver, events.Receipt)
    assert landed.is_set()
    assert sorted(os.listdir(tmp_path / "inbox")) == [".enchufe", "tree"]  # he may not know


def test_others_who_come_while_a_receiver_stays_hear_that_it_is_busy(tree: Path, tmp_path: Path) -> None:
    address: list[str] = []
    stays = threading.Event()

    def told(event: events.Event) -> None:
        if isinstance(event, events.Listening):
            address.append(event.address)
        elif isinstance(event, events.Failed):
            stays.set()

    receiver = Beside(
        lambda: enchufe.receive_files(tmp_path / "inbox", listen="127.0.0.1:0", plain=True, on_event=told)
    )
    until(lambda: address)
    host, _, port = address[0].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(nothing())
        sock.shutdown(socket.SHUT_WR)
        assert stays.wait(PATIENCE)
    for _ in range(2):
        with pytest.raises(enchufe.errors.BusyError):
            enchufe.send_files([tree], to=address[0], plain=True, retry=0)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:  # the same again, from the start
        send_nothing(sock, epoch=2)
        assert receiver.result().files == 0


def test_a_receipt_is_told_before_the_other_side_has_it(tree: Path, tmp_path: Path) -> None:
    """On a link that dies without a word that would else take as long as a timeout."""
    landed, told = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Landed):
            landed.set()
        elif isinstance(event, events.Receipt):
            told.set()

    def hold_back(_offset: int, piece: bytes) -> bytes:
        if landed.is_set():
            in_time.append(told.wait(20))
        return piece

    with Relay(lambda way: None if way.there else hold_back) as relay:
        transfer(tree, tmp_path / "inbox", relay, sends=True, plain=True, told=tell)
    assert in_time
    assert all(in_time)


@pytest.mark.parametrize("committing", [False, True], ids=["when all is on disk", "while it is put there"])
def test_whoever_comes_again_before_his_old_link_is_known_to_be_dead_does_not_wait_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, committing: bool
) -> None:
    commit = Delivery.commit
    back, reached = threading.Event(), threading.Event()
    connected = 0
    address: list[str] = []

    def told(event: events.Event) -> None:
        nonlocal connected
        if isinstance(event, events.Listening):
            address.append(event.address)
        elif isinstance(event, events.Connected):
            connected += 1
            if connected == 2:
                back.set()
        elif isinstance(event, events.Receipt):
            reached.set()

    def slow(delivery: Delivery, *, remember: bool) -> None:
        reached.set()
        assert back.wait(PATIENCE)
        commit(delivery, remember=remember)

    if committing:
        monkeypatch.setattr(Delivery, "commit", slow)
    receiver = Beside(
        lambda: enchufe.receive_files(
            tmp_path / "inbox", listen="127.0.0.1:0", plain=True, timeout=10 * PATIENCE, on_event=told
        )
    )
    until(lambda: address)
    host, _, port = address[0].rpartition(":")
    there = host, int(port)
    with socket.create_connection(there, timeout=PATIENCE) as old, socket.socket() as new:
        old.sendall(nothing())
        assert reached.wait(PATIENCE)
        new.settimeout(PATIENCE)
        new.connect(there)
        send_nothing(new, epoch=2)
        assert receiver.result().files == 0


def test_of_two_that_come_again_for_the_receipt_the_newer_does_not_wait_for_the_older(tmp_path: Path) -> None:
    heard = Side()
    receiver = Beside(
        lambda: enchufe.receive_files(
            tmp_path / "inbox", listen="127.0.0.1:0", plain=True, timeout=10 * PATIENCE, on_event=heard.tell
        )
    )
    until(lambda: heard.of(events.Listening))
    host, _, port = heard.of(events.Listening)[0].address.rpartition(":")
    with ExitStack() as stack:
        for epoch in (1, 2):  # their links are dead, and nobody knows yet
            old = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
            old.sendall(nothing(epoch))
            until(lambda: len(heard.of(events.Connected)) == epoch)  # noqa: B023 (at once)
        new = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
        send_nothing(new, epoch=3)
        assert receiver.result().files == 0


def test_who_is_started_again_while_all_is_put_on_disk_sends_nothing_twice(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Delivery.commit
    begun, back = threading.Event(), threading.Event()
    inbox = tmp_path / "inbox"
    relay = Relay()

    def told(event: events.Event) -> None:
        if isinstance(event, events.Listening):
            relay.to = event.address
        elif isinstance(event, events.Connected) and begun.is_set():
            back.set()

    def slow(delivery: Delivery, *, remember: bool) -> None:
        if not begun.is_set():
            begun.set()
            relay.cut()
            assert back.wait(PATIENCE)
            threading.Event().wait(1.0)  # in which all would be received once more
        commit(delivery, remember=remember)

    monkeypatch.setattr(Delivery, "commit", slow)
    with relay:
        receiver = Beside(lambda: enchufe.receive_files(inbox, listen="127.0.0.1:0", plain=True, on_event=told))
        until(lambda: relay.to)
        with pytest.raises(enchufe.errors.BrokenError):
            enchufe.send_files([tree], to=relay.address, plain=True, retry=0)
        again = enchufe.send_files([tree], to=relay.address, plain=True, retry=0)
        assert (again.skipped, again.sent_bytes) == (1, 0)
        assert receiver.result().files == 1
    assert os.listdir(inbox) == ["tree"]


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_who_interrupts_a_receiver_while_all_is_put_on_disk_has_its_sender_hear_that_it_is_there(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool
) -> None:
    commit, say_posted = Delivery.commit, ReceivingSession.say_posted
    begun, interrupted = threading.Event(), threading.Event()

    def slow(delivery: Delivery, *, remember: bool) -> None:
        begun.set()
        assert interrupted.wait(PATIENCE)
        commit(delivery, remember=remember)

    def interrupt(session: ReceivingSession) -> None:
        if begun.is_set() and not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        say_posted(session)

    def receive(*arguments: Any, **more: Any) -> End:
        with pytest.raises(KeyboardInterrupt):
            receive_files(*arguments, **more)
        return enchufe.EnchufeError("interrupted")

    receive_files = enchufe.receive_files
    monkeypatch.setattr(Delivery, "commit", slow)
    monkeypatch.setattr(ReceivingSession, "say_posted", interrupt)
    monkeypatch.setattr(enchufe, "receive_files", receive)
    inbox = tmp_path / "inbox"
    with Relay() as relay:
        sender, _, _ = transfer(tree, inbox, relay, sends=sends, plain=True, told=lambda _: None)
    assert isinstance(sender, events.Receipt)
    assert os.listdir(inbox) == ["tree"]


@pytest.mark.parametrize("fails", [False, True], ids=["all is well", "the disk fails"])
@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_who_interrupts_a_receiver_that_waits_for_its_sender_leaves_nothing_half_done(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool, fails: bool
) -> None:
    """The link is cut while all is put on disk, and nobody comes again."""
    commit = Delivery.commit
    interrupted = threading.Event()
    ended: list[bool] = []

    def slow(delivery: Delivery, *, remember: bool) -> None:
        relay.cut()
        relay.to = "127.0.0.1:9"
        assert interrupted.wait(PATIENCE)
        threading.Event().wait(0.5)  # in which the receiver would end, if it did not wait
        commit(delivery, remember=remember)
        ended.append(True)
        if fails:
            raise enchufe.errors.StoreError("the disk is gone")

    def told(event: events.Event) -> None:
        if isinstance(event, (events.Failed, events.Retrying)):
            interrupted.set()
            raise KeyboardInterrupt

    def receive(*arguments: Any, **more: Any) -> End:
        with pytest.raises(KeyboardInterrupt):
            receive_files(*arguments, **more)
        assert ended
        return enchufe.EnchufeError("interrupted")

    receive_files = enchufe.receive_files
    monkeypatch.setattr(Delivery, "commit", slow)
    monkeypatch.setattr(enchufe, "receive_files", receive)
    with Relay() as relay:
        _, receiver, _ = transfer(tree, tmp_path / "inbox", relay, sends=sends, plain=True, told=told, retry=1.0)
    assert str(receiver) == "interrupted"
    assert (tmp_path / "inbox" / "tree").exists()


def test_what_is_sent_anew_after_an_unheard_receipt_and_is_cut_is_told_and_waited_for(
    tree: Path, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    heard = Side()

    def told(event: events.Event) -> None:
        heard.tell(event)
        if isinstance(event, events.Listening):
            relay.to = event.address
        elif isinstance(event, events.Landed) and not heard.of(events.Failed):
            relay.cut()

    def choose(way: Way) -> Bend | None:
        return cut_at(2_000_000) if (way.attempt, way.stream, way.there) == (1, 0, True) else None

    def send() -> events.Receipt:
        return enchufe.send_files([tree], to=relay.address, plain=True, streams=1, compress="never", retry=0)

    with Relay(choose) as relay:
        receiver = Beside(lambda: enchufe.receive_files(inbox, listen="127.0.0.1:0", plain=True, on_event=told))
        until(lambda: relay.to)
        with pytest.raises(enchufe.errors.BrokenError):
            send()
        until(lambda: len(heard.of(events.Failed)) == 1)
        (tree / "more").write_bytes(os.urandom(3_000_000))
        with pytest.raises(enchufe.errors.BrokenError):
            send()
        until(lambda: len(heard.of(events.Failed)) == 2)
        last = send()
        assert (last.files, last.skipped) == (1, 1)
        assert last.sent_bytes < 3_000_000
        receiver.result()
    assert os.listdir(inbox) == ["tree"]
    assert sorted(os.listdir(inbox / "tree")) == ["file", "more"]


def test_what_is_sent_anew_after_an_unheard_receipt_is_waited_for_until_it_is_on_disk(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Delivery.commit
    inbox = tmp_path / "inbox"
    heard = Side()
    gone = threading.Event()

    def told(event: events.Event) -> None:
        heard.tell(event)
        if isinstance(event, events.Listening):
            relay.to = event.address
        elif isinstance(event, events.Landed) and not heard.of(events.Failed):
            relay.cut()

    def slow(delivery: Delivery, *, remember: bool) -> None:
        if heard.of(events.Failed):
            relay.cut()
            assert gone.wait(PATIENCE)
        commit(delivery, remember=remember)

    def send() -> None:
        with pytest.raises(enchufe.errors.BrokenError):
            enchufe.send_files([tree], to=relay.address, plain=True, retry=0)

    monkeypatch.setattr(Delivery, "commit", slow)
    with Relay() as relay:
        receiver = Beside(
            lambda: enchufe.receive_files(inbox, listen="127.0.0.1:0", plain=True, retry=5.0, on_event=told)
        )
        until(lambda: relay.to)
        send()
        until(lambda: heard.of(events.Failed))
        (tree / "more").write_bytes(b"more")
        send()
        gone.set()
        assert receiver.result().skipped == 1
    assert sorted(os.listdir(inbox / "tree")) == ["file", "more"]
