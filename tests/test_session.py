"""Whole transfers over real sockets, with a wire between them that cuts, flips or stalls at an exact byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from enchufe import events, session
from enchufe.errors import BrokenError, DeadlineExceeded, EnchufeError, LocalProtocolError, Refused, StoreError
from enchufe.session import Options
from enchufe.store import LocalStore, Source
from enchufe.transfer import messages as m
from enchufe.transports import Transport
from enchufe.waiting import BlockingWaiter, drive

Bend = Callable[[int, bytes], bytes | None]
"""What a wire makes of a chunk that begins at an offset; None cuts it there."""


class Ends:
    """What became of both sides: a receipt or an error."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}

    def of(self, side: str) -> Any:
        return self.results[side]


def transport(sock: socket.socket) -> Transport:
    return Transport(sock, BlockingWaiter(), name="unix", local="here", peer="there")


@contextmanager
def wire(bend_there: Bend | None, bend_back: Bend | None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets joined by a wire that bends what goes over it."""
    if bend_there is None and bend_back is None:
        yield socket.socketpair()
        return
    near, near_end = socket.socketpair()
    far_end, far = socket.socketpair()
    pumps = [
        threading.Thread(target=pump, args=(near_end, far_end, bend_there)),
        threading.Thread(target=pump, args=(far_end, near_end, bend_back)),
    ]
    for thread in pumps:
        thread.start()
    try:
        yield near, far
    finally:
        for sock in (near, far):
            sock.close()
        for thread in pumps:
            thread.join(20)
        near_end.close()
        far_end.close()


def pump(source: socket.socket, sink: socket.socket, bend: Bend | None) -> None:
    offset = 0
    with suppress(OSError):
        while chunk := source.recv(65536):
            bent = bend(offset, chunk) if bend else chunk
            if bent is None:
                break
            offset += len(chunk)
            sink.sendall(bent)
            if len(bent) < len(chunk):
                break
        else:
            sink.shutdown(socket.SHUT_WR)
            return
    for sock in (source, sink):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def transfer(
    tree: Path, inbox: Path, *, there: Bend | None = None, back: Bend | None = None, timeout: float = 20.0
) -> Ends:
    """Send `tree` into `inbox` over a wire."""
    ends = Ends()

    def note(side: str, run: Callable[[], events.Receipt]) -> None:
        try:
            ends.results[side] = run()
        except EnchufeError as error:
            ends.results[side] = error

    def ignore(_event: events.Event) -> None:
        pass

    with wire(there, back) as (near, far):
        source, store = Source([tree]), LocalStore(inbox)

        def send() -> events.Receipt:
            with transport(near) as one:
                return drive(session.send(one, source, Options(dials=True, timeout=timeout), ignore))

        def receive() -> events.Receipt:
            with transport(far) as one:
                return drive(session.receive(one, store.begin, Options(dials=False, timeout=timeout), ignore))

        receiving = threading.Thread(target=note, args=("receiver", receive))
        receiving.start()
        note("sender", send)
        receiving.join(60)
        assert not receiving.is_alive()
        source.close()
    return ends


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "in" / "ner").mkdir(parents=True)
    (root / "in" / "small").write_bytes(b"hola")
    (root / "empty").write_bytes(b"")
    (root / "in" / "ner" / "big").write_bytes(bytes(range(256)) * 6000)  # a block and a half
    (root / "link").symlink_to("in/small")
    return root


def contents(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (info.st_mode, info.st_mtime_ns, content)
    return found


def test_a_tree_arrives_and_both_hold_the_same_receipt(tree: Path, tmp_path: Path) -> None:
    ends = transfer(tree, tmp_path / "inbox")
    assert contents(tmp_path / "inbox" / "tree") == contents(tree)
    assert [path.name for path in (tmp_path / "inbox").iterdir()] == ["tree"]
    sent, received = ends.of("sender"), ends.of("receiver")
    assert sent.digest == received.digest
    assert (
        (sent.files, sent.bytes, sent.left_out)
        == (received.files, received.bytes, received.left_out)
        == (3, 1536004, 0)
    )


def wire_length(tree: Path, tmp_path: Path) -> int:
    """How many bytes the sender says for `tree`."""
    seen = [0]

    def count(offset: int, chunk: bytes) -> bytes:
        seen[0] = offset + len(chunk)
        return chunk

    transfer(tree, tmp_path / "measure", there=count)
    return seen[0]


def cut_at(position: int) -> Bend:
    return lambda offset, chunk: chunk[: max(0, position - offset)]


def test_cut_anywhere_nothing_half_done_is_visible_and_both_are_told(tree: Path, tmp_path: Path) -> None:
    length = wire_length(tree, tmp_path)
    inbox = tmp_path / "inbox"
    early, late = range(0, 500, 23), range(length - 100, length, 9)
    for position in (*early, length // 3, length // 2, *late):
        ends = transfer(tree, inbox, there=cut_at(position))
        assert isinstance(ends.of("sender"), BrokenError), position
        assert isinstance(ends.of("receiver"), BrokenError), position
        assert not inbox.exists() or list(inbox.iterdir()) == [], position
    transfer(tree, inbox)
    assert contents(inbox / "tree") == contents(tree)


def test_cut_on_the_way_back_the_receiver_has_all_or_nothing(tree: Path, tmp_path: Path) -> None:
    for position in range(0, 200, 7):
        inbox = tmp_path / f"inbox{position}"
        ends = transfer(tree, inbox, back=cut_at(position))
        if isinstance(ends.of("receiver"), events.Receipt):
            assert contents(inbox / "tree") == contents(tree)
        else:
            assert isinstance(ends.of("receiver"), BrokenError), position
            assert not inbox.exists() or list(inbox.iterdir()) == [], position
        if isinstance(ends.of("sender"), events.Receipt):
            assert isinstance(ends.of("receiver"), events.Receipt)


def flip_at(position: int, bits: int) -> Bend:
    def bend(offset: int, chunk: bytes) -> bytes:
        if not offset <= position < offset + len(chunk):
            return chunk
        flipped = bytearray(chunk)
        flipped[position - offset] ^= bits
        return bytes(flipped)

    return bend


def test_a_flipped_byte_is_never_accepted(tree: Path, tmp_path: Path) -> None:
    length = wire_length(tree, tmp_path)
    # The HELLO is left out: its session id says nothing yet that anybody holds against another thing.
    hello = 45
    positions = [*range(hello, 420, 5), *range(420, length - 90, length // 40), *range(length - 90, length, 3)]
    for number, position in enumerate(positions):
        inbox = tmp_path / f"inbox{number}"
        ends = transfer(tree, inbox, there=flip_at(position, 1 << number % 8), timeout=2.0)
        assert not isinstance(ends.of("sender"), events.Receipt), position
        assert isinstance(ends.of("sender"), EnchufeError), position
        assert isinstance(ends.of("receiver"), EnchufeError), position
        assert not inbox.exists() or list(inbox.iterdir()) == [], position


def test_a_silent_peer_is_given_up(tree: Path, tmp_path: Path) -> None:
    near, far = socket.socketpair()
    with far, transport(near) as one:
        source = Source([tree])
        with pytest.raises(DeadlineExceeded, match="did not say who it is"):
            drive(session.send(one, source, Options(dials=True, timeout=0.3), lambda _event: None))
        source.close()


def test_a_peer_that_falls_silent_is_given_up(tree: Path) -> None:
    near, far = socket.socketpair()
    with far, transport(near) as one:
        far.sendall(b"".join(m.frame(m.Hello(m.Role.RECEIVER, window=100))))
        source = Source([tree])
        with pytest.raises(DeadlineExceeded, match="sign of life"):
            drive(session.send(one, source, Options(dials=True, timeout=0.3), lambda _event: None))
        source.close()


@pytest.mark.parametrize(
    ("first_words", "told"),
    [(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown type"), (b"\1\0\0\0\x28" + bytes(40), "malformed HELLO")],
)
def test_a_foreign_peer_is_told_and_refused(tmp_path: Path, first_words: bytes, told: str) -> None:
    near, far = socket.socketpair()
    with transport(near) as one:
        far.sendall(first_words)
        far.shutdown(socket.SHUT_WR)
        store = LocalStore(tmp_path / "inbox")
        with pytest.raises(EnchufeError, match=told):
            drive(session.receive(one, store.begin, Options(dials=False), lambda _event: None))
        answer = far.recv(4096)
        assert answer[0] == m.Type.ERROR
        assert answer[5] == m.Code.PROTOCOL
    far.close()


class FailingDelivery:
    """A delivery that fails where it is told to; the rest is a real one's."""

    def __init__(self, real: Any, where: str, error: Exception) -> None:
        self._real, self._where, self._error = real, where, error

    def __getattr__(self, name: str) -> Any:
        if name != self._where:
            return getattr(self._real, name)

        def fail(*_arguments: Any) -> None:
            raise self._error

        return fail


@pytest.mark.parametrize("where", ["admit", "write", "write_whole", "complete", "commit"])
@pytest.mark.parametrize(
    ("error", "there"),
    [(StoreError("secret path"), Refused), (LocalProtocolError("a bug"), BrokenError), (Refused("no"), Refused)],
)
def test_a_failing_receiver_tells_its_sender(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: EnchufeError,
    there: type[EnchufeError],
) -> None:
    begin = LocalStore.begin
    monkeypatch.setattr(LocalStore, "begin", lambda store: FailingDelivery(begin(store), where, error))
    ends = transfer(tree, tmp_path / "inbox")
    assert ends.of("receiver") is error
    assert isinstance(ends.of("sender"), there)
    assert "secret" not in str(ends.of("sender"))
    assert list((tmp_path / "inbox").iterdir()) == []


def test_a_slow_commit_keeps_the_heartbeat(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit longer than the sender's patience: it hears pings meanwhile."""
    monkeypatch.setattr("enchufe.link._PING_AFTER", 0.1)
    begin = LocalStore.begin
    slept = threading.Event()

    class Slow(FailingDelivery):
        def commit(self) -> None:
            slept.wait(1.5)
            self._real.commit()

    monkeypatch.setattr(LocalStore, "begin", lambda store: Slow(begin(store), "", ValueError()))
    ends = transfer(tree, tmp_path / "inbox", timeout=0.7)
    assert isinstance(ends.of("sender"), events.Receipt)
    assert isinstance(ends.of("receiver"), events.Receipt)


def test_the_last_words_of_a_peer_that_reset_us_are_heard(tree: Path) -> None:
    """An ERROR that came before the reset says more than the reset."""
    near, far = socket.socketpair()
    with transport(near) as one:
        far.sendall(b"".join(m.frame(m.Hello(m.Role.RECEIVER, window=100))))
        far.sendall(b"".join(m.frame(m.Error(m.Code.NO_SPACE, ""))))
        far.close()
        source = Source([tree])
        with pytest.raises(Refused, match="disk is full"):
            drive(session.send(one, source, Options(dials=True), lambda _event: None))
        source.close()


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
                drive(session.receive(one, LocalStore(tmp_path / "inbox").begin, Options(dials=False), print))
            except EnchufeError as error:
                errors.append(error)

    receiving = threading.Thread(target=receive)
    receiving.start()
    source = Source([tree])
    sending = Transport(near, BlockingWaiter(), name="unix", local="sender", peer="receiver")
    with sending, pytest.raises(KeyboardInterrupt):
        drive(session.send(sending, source, Options(dials=True), print))
    receiving.join(20)
    source.close()
    assert [type(error) for error in errors] == [BrokenError]
