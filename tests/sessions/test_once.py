"""What can be sent or shown once only: standard input and output, and a text that nobody wants twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

import enchufe
from enchufe import events
from enchufe.errors import ClosedError, StoreError
from enchufe.files import _into_pipe
from enchufe.store import PipeSource
from tests.beside import Beside
from tests.sessions.relay import Relay
from tests.sessions.test_receipts import End, transfer
from tests.sessions.transfers import Side
from tests.test_receiving import a_file
from tests.test_resume import digest
from tests.until import until

CONTENT = os.urandom(2_500_000)


@contextmanager
def standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Standard input has the content, and standard output is this file."""
    (tmp_path / "in").write_bytes(CONTENT)
    with (tmp_path / "in").open() as given, (tmp_path / "out").open("w") as taken, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", given)
        patched.setattr(sys, "stdout", taken)
        yield tmp_path / "out"


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "encrypted"])
@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
@pytest.mark.parametrize("into", ["folder", "pipe"])
def test_a_receipt_for_a_pipe_that_is_lost_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool, plain: bool, into: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    heard = Side()

    def cut(event: events.Event) -> None:
        heard.tell(event)
        if isinstance(event, events.Landed):
            relay.cut()

    inbox = Path("-") if into == "pipe" else tmp_path / "inbox"
    with Relay() as relay, standard(tmp_path, monkeypatch) as out:
        sender, receiver, _ = transfer(Path("-"), inbox, relay, sends=sends, plain=plain, told=cut)
    assert isinstance(sender, events.Receipt), sender
    assert isinstance(receiver, events.Receipt), receiver
    assert sender.bytes == receiver.bytes == len(CONTENT)
    assert sender.digest == receiver.digest
    assert len(heard.of(events.Connected)) == 2
    assert (out if into == "pipe" else inbox / "stdin").read_bytes() == CONTENT


@pytest.mark.parametrize("into", ["folder", "pipe"])
def test_a_pipe_that_is_cut_before_anything_was_read_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: str
) -> None:
    heard = Side()
    entered = threading.Event()
    inbox = Path("-") if into == "pipe" else tmp_path / "inbox"
    walk = PipeSource.walk

    def slow_walk(source: PipeSource) -> Iterator[enchufe.entry.Entry]:
        yield from walk(source)
        if not entered.is_set():  # nothing is wanted before all of the offer was said
            relay.cut()
            entered.set()

    monkeypatch.setattr(PipeSource, "walk", slow_walk)
    with Relay() as relay, standard(tmp_path, monkeypatch) as out:
        sender, receiver, _ = transfer(Path("-"), inbox, relay, sends=True, plain=True, told=heard.tell)
    assert isinstance(sender, events.Receipt), sender
    assert isinstance(receiver, events.Receipt), receiver
    assert (out if into == "pipe" else inbox / "stdin").read_bytes() == CONTENT


def test_nothing_comes_behind_what_somebody_still_waits_to_write() -> None:
    """Whoever reads is slow, and the one who waits was left behind."""
    reader, writer = os.pipe()
    begin, again = _into_pipe(writer)
    first = begin(b"")
    entry = a_file(0, b"file", 1 << 20)
    first.admit(entry)
    data = bytes(1 << 20)
    assert again()
    waiting = Beside(partial(first.write, entry, 0, data, digest(data)))
    until(lambda: not again())
    first.suspend()
    with pytest.raises(StoreError, match="of another transfer are in the output already"):
        begin(b"")
    got = 0
    while got < len(data):
        got += len(os.read(reader, 1 << 16))
    waiting.result()
    os.close(reader)
    os.close(writer)


def test_who_has_not_begun_to_write_when_it_is_over_does_not() -> None:
    reader, writer = os.pipe()
    begin, again = _into_pipe(writer)
    entry = a_file(0, b"file", 3)
    for end in ("suspend", "abandon"):
        first = begin(b"")
        first.admit(entry)
        getattr(first, end)()
        with pytest.raises(ClosedError):
            first.write(entry, 0, b"abc", digest(b"abc"))
    assert again()
    os.close(writer)
    assert os.read(reader, 9) == b""
    os.close(reader)


def test_a_text_comes_once_though_its_receiver_is_another_by_then(tmp_path: Path) -> None:
    """The first one is gone behind its commit; what is sent to the next is known to be here."""
    inbox = tmp_path / "inbox"
    listens = threading.Event()

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Listening):
            relay.to = event.address
            listens.set()
        if isinstance(event, events.Landed) and not gone.is_set():
            gone.set()
            relay.to = ""
            relay.cut()

    gone = threading.Event()

    def receive(retry: float) -> End:
        return enchufe.receive_files(inbox, listen="127.0.0.1:0", plain=True, retry=retry, on_event=tell)

    with Relay() as relay:
        first = Beside(partial(receive, 0.0))
        assert listens.wait(20)
        sender = Beside(lambda: enchufe.send_files(text="hola", to=relay.address, plain=True, retry=30.0))
        assert isinstance(first.result(), events.Receipt)
        second = Beside(partial(receive, 30.0))
        assert isinstance(sender.result(), events.Receipt)
        assert isinstance(second.result(), events.Receipt)
    assert [(path.name, path.read_text()) for path in inbox.iterdir() if path.is_file()] == [("text.txt", "hola")]


@pytest.mark.parametrize("what", [["-"], ["--text", "hola"]], ids=["pipe", "text"])
def test_two_that_send_at_once_do_not_end_each_other(tmp_path: Path, what: list[str]) -> None:
    heard = Side()
    connected = threading.Event()
    ask = threading.Event()

    def tell(event: events.Event) -> None:
        heard.tell(event)
        if isinstance(event, events.Connected):
            connected.set()

    def asked(_: object) -> bool:
        return ask.wait(20)

    receiver = Beside(
        lambda: enchufe.receive_files(
            tmp_path / "inbox", listen="127.0.0.1:0", plain=True, ask=asked, on_event=tell, retry=5.0
        )
    )
    until(lambda: heard.of(events.Listening))
    (listening,) = heard.of(events.Listening)
    send = [sys.executable, "-m", "enchufe", "send", *what, "--to", listening.address, "--plain"]
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                subprocess.Popen([*send, "--retry", retry], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
            )
            for retry in ("30", "0")
            if retry == "30" or connected.wait(20)
        )
        _, err = second.communicate(b"second", timeout=40)
        assert second.returncode == 4, err
        assert b"busy" in err
        ask.set()
        _, err = first.communicate(b"first", timeout=40)
        assert first.returncode == 0, err
    assert isinstance(receiver.result(), events.Receipt)
    assert len(heard.of(events.Connected)) == 1


def test_who_waits_for_its_receipt_to_be_heard_shows_no_new_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code was used up by the one that it waits for, and nobody else is let in."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "file").write_bytes(b"content")
    heard = Side()

    def cut(event: events.Event) -> None:
        heard.tell(event)
        if isinstance(event, events.Landed):
            relay.to = "127.0.0.1:1"
            relay.cut()

    with Relay() as relay:
        _, receiver, _ = transfer(
            tmp_path / "file", tmp_path / "inbox", relay, sends=True, plain=False, told=cut, retry=2.5
        )
    assert isinstance(receiver, events.Receipt)
    assert len(heard.of(events.Code)) == 1


def test_who_interrupts_it_hears_that_a_part_is_in_the_output() -> None:
    """Not that nothing half-done is visible."""
    receive = [sys.executable, "-m", "enchufe", "receive", "-o", "-", "--plain", "--listen", "127.0.0.1:0"]
    send = [sys.executable, "-m", "enchufe", "send", "-", "--plain", "--retry", "0", "--to"]
    with ExitStack() as stack:
        receiver = stack.enter_context(subprocess.Popen(receive, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        stack.callback(receiver.kill)
        assert receiver.stdout is not None
        assert receiver.stderr is not None
        address = receiver.stderr.readline().split()[2].rstrip(b",")
        with subprocess.Popen([*send, address], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as sender:
            assert sender.stdin is not None
            sender.stdin.write(CONTENT[: (1 << 20) + 1])  # a block, which goes, and what the pipe holds
            sender.stdin.flush()
            assert receiver.stdout.read(1) == CONTENT[:1]
            receiver.send_signal(signal.SIGINT)
            _, told = receiver.communicate(timeout=40)
            assert receiver.returncode == 130
            assert sender.wait(40) == 4
    assert b"interrupted\n" in told
    assert b"What is in the output may be a part of it" in told
