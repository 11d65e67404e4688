"""Peers that are killed, stopped, silent, slow, or too many: what the other side makes of it, and who is unharmed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from enchufe import events
from enchufe.cli import exits
from enchufe.errors import BrokenError, DeadlineExceeded
from enchufe.store.memory import MemoryStore
from enchufe.transfer.message import Role
from enchufe.transfer.messages import Hello, frame
from tests.crash import cuts, trees
from tests.crash.peers import LONG, Ended, Peer, Receiving, send
from tests.crash.wire import Harm, attempt

TIMEOUT: Final = 2.0  # seconds without a sign of life
SLOW: Final = "3MB/s"  # so that there is something left to be sent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    trees.make(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


def started(peer: Peer) -> None:
    """Something has crossed, and not all."""
    while (told := peer.until("progress")) is not None and not told["bytes"]:
        pass
    assert told is not None


@contextmanager
def sending(root: Path, to: str, *more: str) -> Iterator[Peer]:
    peer = Peer("send", root, "--to", to, "--streams", "2", "--limit", SLOW, *more)
    try:
        yield peer
    finally:
        with suppress(ProcessLookupError):
            os.kill(peer.pid, signal.SIGCONT)
        peer.kill()
        peer.end()


@contextmanager
def receiving(inbox: Path, *more: str, prefix: tuple[str, ...] = ()) -> Iterator[tuple[Peer, str]]:
    peer = Peer("receive", "-o", inbox, "--listen", "127.0.0.1:0", *more, prefix=prefix)
    try:
        address = peer.address()
        assert address is not None
        yield peer, address
    finally:
        with suppress(ProcessLookupError):
            os.kill(peer.pid, signal.SIGCONT)
        peer.kill()
        peer.end()


def test_a_killed_sender_is_told_of(root: Path, inbox: Path) -> None:
    other = Receiving(inbox)
    with sending(root, other.address()) as peer:
        started(peer)
        peer.kill()
        assert other.failures.get(timeout=LONG).kind == "broken"
    assert trees.shown(inbox) == []
    assert isinstance(send(root, other.address()), events.Receipt)
    assert isinstance(other.end(), events.Receipt)
    trees.check_receipted(inbox, trees.seen(root), root)


def test_a_reset_is_told_of(root: Path, inbox: Path) -> None:
    """As a killed peer's kernel sends it, where something was left unread."""
    other = Receiving(inbox)
    host, port = other.address().rsplit(":", 1)
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"".join(frame(Hello(Role.SENDER, b"x" * 16, 1))))
        assert sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert other.failures.get(timeout=LONG).kind == "broken"
    assert isinstance(send(root, other.address()), events.Receipt)
    other.end()


def test_a_stopped_sender_is_found_and_goes_on_later(root: Path, inbox: Path) -> None:
    """Its kernel still answers; only that it says nothing gives it away."""
    other = Receiving(inbox, timeout=TIMEOUT)
    with sending(root, other.address()) as peer:
        started(peer)
        os.kill(peer.pid, signal.SIGSTOP)
        assert other.failures.get(timeout=LONG).kind == "deadline_exceeded"
        assert trees.shown(inbox) == []
        os.kill(peer.pid, signal.SIGCONT)
        assert peer.end() == exits.DONE, peer.told
    assert isinstance(other.end(), events.Receipt)
    trees.check_receipted(inbox, trees.seen(root), root)


def test_a_stopped_receiver_is_found(root: Path, inbox: Path) -> None:
    with receiving(inbox) as (peer, address):

        def stop(event: events.Event) -> None:
            if isinstance(event, events.Progress) and event.bytes:
                os.kill(peer.pid, signal.SIGSTOP)

        ended = send(root, address, streams=2, timeout=TIMEOUT, limit=3e6, on_event=stop)
        assert isinstance(ended, DeadlineExceeded), repr(ended)
        os.kill(peer.pid, signal.SIGCONT)
        assert isinstance(send(root, address), events.Receipt)
        assert peer.end() == exits.DONE
    trees.check_receipted(inbox, trees.seen(root), root)


@pytest.mark.parametrize("at", [0, 10, 70, 5000, 70_000])
@pytest.mark.parametrize("sender_dials", [True, False])
def test_a_pulled_cable_is_found_by_both(at: int, sender_dials: bool) -> None:
    """Nothing crosses any more, and nobody is told: each side finds that the other one says nothing."""
    sent, store = cuts.source("new"), MemoryStore()
    harm = Harm(sender_dials, at, silent=True)
    done = attempt(sent, store, harm, sender_dials=sender_dials, timeout=1.0)
    assert not done.stuck
    assert isinstance(done.sender, (DeadlineExceeded, BrokenError)), done
    assert isinstance(done.receiver, (DeadlineExceeded, BrokenError)), done
    assert isinstance(done.sender, DeadlineExceeded) or isinstance(done.receiver, DeadlineExceeded)
    assert not store.nodes
    assert isinstance(attempt(sent, store, sender_dials=sender_dials, epoch=2).sender, events.Receipt)
    assert store.contents() == sent.contents()


def test_many_attempts_at_once_have_one_winner(root: Path, inbox: Path) -> None:
    """The newest one; the older ones are told to go, whatever they had done."""
    other = Receiving(inbox)
    ended: list[Ended] = []
    threads = [threading.Thread(target=lambda: ended.append(send(root, other.address()))) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert isinstance(other.end(), events.Receipt)
    assert sum(isinstance(each, events.Receipt) for each in ended) == 1, ended
    assert len(ended) == len(threads)
    trees.check_receipted(inbox, trees.seen(root), root)
    trees.check_swept(inbox)


FEW: Final = ("prlimit", "--nofile=64")  # descriptors of a process
prlimited = pytest.mark.skipif(shutil.which("prlimit") is None, reason="no prlimit (util-linux) here")


@prlimited
def test_with_few_descriptors(root: Path, inbox: Path) -> None:
    for number in range(50):
        (root / f"folder{number}").mkdir()
        (root / f"folder{number}" / "file").write_bytes(b"%d" % number)
    sent = trees.seen(root)
    with receiving(inbox, prefix=FEW) as (other, address):
        peer = Peer("send", root, "--to", address, "--streams", "8", prefix=FEW)
        assert peer.end() == exits.DONE, peer.told
        assert other.end() == exits.DONE, other.told
    trees.check_receipted(inbox, sent, root)


def test_with_few_descriptors_and_many_folders(root: Path, inbox: Path) -> None:
    """So many that other processes read and write, which get descriptors of the folders."""
    for number in range(1500):
        (root / f"folder{number}").mkdir()
        (root / f"folder{number}" / "file").write_bytes(b"%d" % number)
    with receiving(inbox, prefix=FEW) as (other, address):
        peer = Peer("send", root, "--to", address, prefix=FEW)
        assert peer.end() == exits.DONE, peer.told
        assert other.end() == exits.DONE, other.told
    trees.check_receipted(inbox, trees.seen(root), root)


def dial(address: str, source: int = 1) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), LONG, (f"127.0.0.{source}", 0))


def gone(sock: socket.socket) -> bool:
    """Whether the other side ends it; what it may say before is dropped."""
    sock.settimeout(LONG)
    try:
        while sock.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@prlimited
def test_idlers_with_few_descriptors(root: Path, inbox: Path) -> None:
    """They do not take what a transfer needs; when some are gone, whoever has something and tries again comes in."""
    with ExitStack() as stack:
        peer, address = stack.enter_context(receiving(inbox, "--timeout", str(TIMEOUT), prefix=FEW))
        before, since = processor(peer.pid), time.monotonic()
        idlers = [stack.enter_context(dial(address, 2 + number % 8)) for number in range(80)]
        ended = send(root, address, retry=LONG)
        assert isinstance(ended, events.Receipt), repr(ended)
        used = processor(peer.pid) - before if peer.receipt is None else 0.0
        assert used < 0.5 * (time.monotonic() - since), "it spins"
        assert all(map(gone, idlers))
        assert peer.end() == exits.DONE, peer.told
    trees.check_receipted(inbox, trees.seen(root), root)


def processor(pid: int) -> float:
    """Seconds of processor time that a process has used; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_dribblers_are_dropped(root: Path, inbox: Path) -> None:
    """One byte a second of a HELLO that never ends, from more than may say HELLO at once."""
    hello = b"".join(map(bytes, frame(Hello(Role.SENDER, b"y" * 16, 1))))
    other = Receiving(inbox, timeout=TIMEOUT)
    over = threading.Event()
    with ExitStack() as stack:
        socks = [stack.enter_context(dial(other.address(), 2 + number % 8)) for number in range(80)]

        def dribble() -> None:
            for byte in hello[:-1]:
                for sock in socks:
                    with suppress(OSError):
                        sock.send(bytes([byte]))
                if over.wait(1.0):
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            assert isinstance(send(root, other.address(), retry=LONG), events.Receipt)
            assert all(map(gone, socks))
        finally:
            over.set()
            thread.join()
    assert isinstance(other.end(), events.Receipt)
    trees.check_receipted(inbox, trees.seen(root), root)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="nobody says what is open here")
def test_a_sender_leaves_nothing_open(root: Path, inbox: Path) -> None:
    """A program that sends one tree after the other keeps none of their folders."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        other = Receiving(inbox)
        assert isinstance(send(root, other.address()), events.Receipt)
        assert isinstance(other.end(), events.Receipt)
    assert len(os.listdir("/proc/self/fd")) <= before + 2, "descriptors stay"  # interpreters open some once
