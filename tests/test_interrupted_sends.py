"""What a signal handler raises, as for Ctrl-C, in the middle of a send or receive: nothing follows half a message."""

from __future__ import annotations

import asyncio
import contextlib
import dis
import gc
import signal
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio

from enchufe import BlockingConnection, aio, framing
from enchufe.buffer import ReceiveBuffer
from enchufe.connection import Connection
from enchufe.errors import BrokenError, ClosedError, DeadlineExceeded, LocalProtocolError
from enchufe.file import BlockingFile
from enchufe.framing.sized import SizedDecoder
from enchufe.heartbeat import Heartbeat, connection_over
from enchufe.transports import Transport, advance, unix
from enchufe.transports.ring import Rings
from enchufe.transports.shared_memory import SharedMemoryTransport
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import BlockingWaiter, drive
from tests.framed import framed
from tests.test_shared_memory import pair as in_memory
from tests.test_tls import new_authority, new_pair

PREFIXED = framing.LengthPrefixed(4)
BIG = bytes(8 << 20)
# Behind which call of each transport's an interruption is noticed when the bytes are out.
OUT = {"unix": socket.socket.sendmsg, "tls": socket.socket.sendmsg, "shm": Rings.write}


@contextmanager
def interrupted_behind(
    function: Any, error: type[BaseException] = KeyboardInterrupt, before: bool = False
) -> Iterator[None]:
    """`error` comes as soon as the first call of `function`, in C or ours, has returned; or when ours is called."""
    code = getattr(function, "__code__", None)

    def look(frame: FrameType, event: str, arg: Any) -> None:
        ours = event == ("call" if before else "return") and frame.f_code is code
        if ours or (event == "c_return" and code is None and arg.__qualname__ == function.__qualname__):
            sys.setprofile(None)
            raise error

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.fixture(params=OUT)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Transport, Transport]]:
    kind = request.param
    if kind == "shm":
        with in_memory() as (near, far):
            yield kind, near, far
        return
    if kind == "tls":
        pair = new_pair(new_authority(tmp_path / "ca", "localhost", "127.0.0.1"))
    else:
        near_end, far_end = socket.socketpair()
        pair = unix.transport(near_end, BlockingWaiter()), unix.transport(far_end, BlockingWaiter())
    with pair[0], pair[1]:
        yield kind, *pair


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_nothing_follows_a_message_of_which_nobody_knows_how_much_went(
    ends: tuple[str, Transport, Transport], error: type[BaseException]
) -> None:
    kind, near, _ = ends
    connection = BlockingConnection(Connection(near, PREFIXED, timeout=20))
    with pytest.raises(error), interrupted_behind(OUT[kind], error):
        connection.send(BIG)
    with pytest.raises(BrokenError, match="interrupted"):
        connection.send(b"in the middle of it")


@pytest.mark.parametrize("function", [Connection._deadline, advance])
def test_nor_one_that_was_cut_before_the_rest_of_it_was_tried(function: Any) -> None:
    near, far = socket.socketpair()
    with (
        far,
        closing(
            BlockingConnection(Connection(unix.transport(near, BlockingWaiter()), PREFIXED, timeout=20))
        ) as connection,
    ):
        with pytest.raises(KeyboardInterrupt), interrupted_behind(function):
            connection.send(BIG)
        with pytest.raises(BrokenError):
            connection.send(b"in the middle of it")


@pytest.mark.parametrize("function", [socket.socket.send, framing.LengthPrefixed.encode_plain])
def test_held_back_replies_go_once_or_are_told_as_lost(function: Any) -> None:
    near, far = socket.socketpair()
    transport = unix.transport(near, BlockingWaiter())
    with far, closing(Connection(transport, PREFIXED, timeout=20, gathers=True)) as connection:
        far.sendall(framed(b"1", b"2", b"3"))
        for _ in range(2):
            assert drive(connection.receive())
            drive(connection.send(b"reply"))
        with pytest.raises(KeyboardInterrupt), interrupted_behind(function):
            drive(connection.flush())
        with pytest.raises(BrokenError, match="interrupted"):
            drive(connection.send(b"another"))
            drive(connection.flush())
        far.setblocking(False)
        if function is socket.socket.send:
            assert far.recv(1000) == framed(b"reply", b"reply")
        else:
            with pytest.raises(BlockingIOError):
                far.recv(1000)


def test_what_a_signal_handler_raises_is_no_word_of_the_systems() -> None:
    def late(*_: object) -> None:
        raise TimeoutError("late")

    def receive(connection: BlockingConnection) -> None:
        connection.receive()

    def send(connection: BlockingConnection) -> None:
        connection.send(BIG)

    before = signal.signal(signal.SIGALRM, late)
    try:
        for act in (receive, send):
            near, far = socket.socketpair()
            transport = unix.transport(near, BlockingWaiter())
            with far, closing(BlockingConnection(Connection(transport, PREFIXED))) as connection:
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with pytest.raises(TimeoutError, match="late"):
                    act(connection)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("begin", [9, 12])  # of which the rest comes by the fast lane, and into the buffer
@pytest.mark.parametrize(
    ("ends", "function"),
    [
        ("unix", len),
        ("unix", Connection._take),
        ("tls", TlsTransport._fetch),
        ("tls", Connection._take),
        ("shm", SharedMemoryTransport._skip),
        ("shm", Connection._take),
    ],
    indirect=["ends"],
)
def test_who_goes_on_behind_an_interrupted_receive_has_all_or_is_told(
    ends: tuple[str, Transport, Transport], function: Any, begin: int
) -> None:
    _, near, far = ends
    messages = [b"%d" % number for number in range(20)]
    connection = BlockingConnection(Connection(near, PREFIXED, timeout=20))
    got = []
    whole = framed(b"first", *messages)
    drive(far.send([whole[:begin]]))
    assert connection.receive() == b"first"
    drive(far.send([whole[begin:]]))
    with pytest.raises(KeyboardInterrupt), interrupted_behind(function):
        while (message := connection.receive()) is not None:
            got.append(message)
    try:
        while len(got) < len(messages):
            message = connection.receive()
            assert message is not None
            got.append(message)
    except ClosedError as error:
        assert "interrupted" in str(error)
    assert got == messages[: len(got)]


def test_nor_does_who_is_interrupted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket.socketpair()
    transport = unix.transport(near, BlockingWaiter())
    whole = framed(b"first", bytes(5000), b"behind the gap")
    with far, closing(BlockingConnection(Connection(transport, PREFIXED, timeout=20))) as connection:
        far.sendall(whole[:12])
        assert connection.receive() == b"first"
        far.sendall(whole[12:])

        def again(_: object) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(Transport, "_wake_all", again)  # where what was lost is being noted
        with pytest.raises(KeyboardInterrupt), interrupted_behind(SizedDecoder._take):
            connection.receive()
        with pytest.raises(ClosedError, match="interrupted"):
            connection.receive()


@pytest.mark.parametrize("read", [BlockingFile.readline, lambda file: file.read(10), lambda file: readinto(file, 10)])
@pytest.mark.parametrize(
    ("ends", "function", "before"),
    [
        ("unix", ReceiveBuffer.received, True),
        ("unix", ReceiveBuffer.skip, True),
        ("tls", TlsTransport._arrived, True),
        ("tls", TlsTransport._fetch, False),
        ("shm", SharedMemoryTransport._skip, False),
    ],
    indirect=["ends"],
)
def test_nor_does_who_reads_a_file_miss_anything_without_a_word(
    ends: tuple[str, Transport, Transport], function: Any, before: bool, read: Any
) -> None:
    _, near, far = ends
    lines = [b"%09d\n" % number for number in range(20)]
    drive(far.send(lines))
    got = []
    with BlockingConnection(Connection(near, PREFIXED, timeout=20)).file() as file:
        with contextlib.suppress(KeyboardInterrupt), interrupted_behind(function, before=before):
            for _ in lines:
                got.append(read(file))
        try:
            while len(got) < len(lines):
                got.append(read(file))
        except ClosedError as error:
            assert "interrupted" in str(error)
    assert got == lines[: len(got)]


def readinto(file: BlockingFile, size: int) -> bytes:
    data = bytearray(size)
    assert file.readinto(data) == size
    return bytes(data)


def test_what_was_written_into_a_file_goes_once_though_its_flush_is_interrupted() -> None:
    near, far = socket.socketpair()
    with (
        far,
        BlockingConnection(Connection(unix.transport(near, BlockingWaiter()), PREFIXED, timeout=20)).file() as file,
    ):
        file.write(b"held ")
        with pytest.raises(KeyboardInterrupt), interrupted_behind(threading.RLock().__exit__):
            file.flush()
        file.write(b"back")
        file.flush()
        assert far.recv(100) == b"held back"


def test_nor_does_a_task_that_a_signal_handler_interrupts() -> None:
    async def receive() -> None:
        near, far = socket.socketpair()
        transport = unix.transport(near, aio.host())
        with far, closing(Connection(transport, PREFIXED, timeout=20)) as connection:
            far.sendall(framed(b"1", b"2"))
            with pytest.raises(TimeoutError, match="handler"), interrupted_behind(socket.socket.recv, handled):
                await connection.receive()
            with contextlib.suppress(BrokenPipeError):
                far.sendall(framed(b"3"))
            with pytest.raises(ClosedError, match="interrupted"):
                await connection.receive()

    handled: Any = TimeoutError("handler")
    asyncio.run(receive())


@pytest.mark.parametrize("blocking", [True, False], ids=["plain", "trio"])
def test_nor_does_who_iterates_miss_a_message_without_a_word(blocking: bool) -> None:
    got: list[bytes] = []

    async def receive() -> None:
        near, far = socket.socketpair()
        transport = unix.transport(near, BlockingWaiter() if blocking else aio.host())
        with far, closing(Connection(transport, PREFIXED, timeout=20)) as connection:
            far.sendall(framed(*[b"%d" % number for number in range(5)]))
            with pytest.raises(KeyboardInterrupt), interrupted_behind(list.pop):
                async for message in connection:
                    got.append(message)
            with pytest.raises(ClosedError, match="interrupted"):
                async for message in connection:
                    got.append(message)

    drive(receive()) if blocking else trio.run(receive)
    assert got == [b"%d" % number for number in range(len(got))]


def test_nor_does_who_iterates_blocking_for_no_signal_is_handled_while_the_message_is_in_hand() -> None:
    """Python handles one at a jump back, and no profiler can raise there: so what it jumps to must ask anew."""
    steps = list(dis.get_instructions(BlockingConnection.__iter__))
    back = [step for step in steps if "BACKWARD" in step.opname and step.argval < step.offset]
    assert back
    for jump in back:
        after = [step.opname for step in steps if step.offset >= jump.argval]
        assert any("CALL" in name for name in after[: after.index("YIELD_VALUE")]), jump


@pytest.mark.parametrize("heartbeat", [None, Heartbeat(b"beat", 20, 60)])
def test_no_answer_is_taken_for_that_to_the_next_question(heartbeat: Heartbeat | None) -> None:
    near, far = socket.socketpair()
    transport = unix.transport(near, BlockingWaiter())
    with far, closing(BlockingConnection(connection_over(transport, PREFIXED, heartbeat=heartbeat))) as connection:
        with pytest.raises(KeyboardInterrupt), interrupted_behind(Connection.receive, before=True):
            connection.ask(b"1")
        far.sendall(framed(b"beat", b"to 1") if heartbeat else framed(b"to 1"))
        with pytest.raises(LocalProtocolError, match="asked before"):
            connection.ask(b"2")
        assert connection.receive() == b"to 1"
        if heartbeat is None:
            far.sendall(framed(b"to 2"))
            assert connection.ask(b"2") == b"to 2"
        else:
            with pytest.raises(LocalProtocolError, match="asked before"):
                connection.ask(b"2")
        assert far.recv(100) == framed(b"1", *([] if heartbeat else [b"2"]))


def test_what_was_not_sent_has_no_answer_to_wait_for() -> None:
    near, far = socket.socketpair()
    transport = unix.transport(near, BlockingWaiter())
    with far, closing(BlockingConnection(Connection(transport, PREFIXED, timeout=0.01))) as client:
        with contextlib.suppress(BlockingIOError):
            while near.send(bytes(4096), socket.MSG_DONTWAIT):
                pass
        with pytest.raises(DeadlineExceeded):
            client.ask(b"1")
        with pytest.raises(DeadlineExceeded):  # and not that the answer has not been received
            client.ask(b"2")
        client.close()
        with pytest.raises(ClosedError):
            client.ask(b"3")


@pytest.mark.parametrize("kind", ["shm", "tls"])
def test_a_transport_that_is_interrupted_as_it_is_made_goes_in_silence(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: ignored.append(told.exc_value))
    context = ssl.create_default_context()
    near, far = socket.socketpair()
    with far, near, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # that it is not closed may be told
        with pytest.raises(KeyboardInterrupt), interrupted_behind(socket.socket.setblocking):
            if kind == "shm":
                SharedMemoryTransport(near, BlockingWaiter(), listening=True, local="", peer="")
            else:
                TlsTransport(near, BlockingWaiter(), context, server_side=False, local="", peer="")
        gc.collect()
    assert not ignored
