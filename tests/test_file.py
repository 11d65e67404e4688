"""A connection as a file, both kinds, and the flush that nobody has to remember."""

from __future__ import annotations

import asyncio
import csv
import io
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import enchufe
from enchufe import BlockingConnection, Connection, aio, framing
from enchufe.buffer import ReceiveBuffer
from enchufe.errors import ClosedError, DeadlineExceeded, LocalProtocolError
from enchufe.file import BlockingFile, ConnectionFile
from enchufe.transports import unix
from enchufe.waiting import BlockingWaiter, drive
from tests.until import until

LINES = framing.Lines()


async def shout(connection: Connection) -> None:
    file = connection.file()
    async for line in file:
        await file.write(line.upper())  # no flush: whoever waits for this must get it all the same


def plain_shout(connection: BlockingConnection) -> None:
    file = connection.file()
    for line in file:
        file.write(line.upper())


@pytest.mark.parametrize("handler", [shout, plain_shout])
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_nobody_has_to_remember_the_flush(handler: object, engine: str) -> None:
    with (
        enchufe.Server(handler, "127.0.0.1:0", framing=LINES, engine=engine) as server,  # type: ignore[arg-type]
        enchufe.connect(server.addresses[0], framing=LINES, timeout=20).file() as file,
    ):
        for text in (b"hola\n", b"\n", b"x" * 200_000 + b"\n"):
            file.write(text)  # the read below flushes it: it may be just what the other side waits for
            assert file.readline() == text.upper()
        file.write(b"no line feed")
        file.end()
        assert file.read() == b"NO LINE FEED"
        assert file.read() == b""


def test_under_events() -> None:
    with (
        enchufe.Server(shout, "127.0.0.1:0", framing=LINES, engine="events") as server,
        enchufe.connect(server.addresses[0], framing=LINES, timeout=20).file() as file,
    ):
        file.write(b"a\nb\n")
        file.end()
        assert file.readlines() == [b"A\n", b"B\n"]


def test_messages_first_and_then_a_file() -> None:
    async def upgrade(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)
            if message == b"file":
                break
        file = connection.file()
        await file.write(await file.read(4))
        await file.end()

    with enchufe.Server(upgrade, "127.0.0.1:0", framing=LINES) as server:
        with enchufe.connect(server.addresses[0], framing=LINES, timeout=20) as client:
            # In one piece: messages in hand, replies held back, and raw bytes behind them.
            client.reframe(framing.UntilClose())
            client.send(b"one\nfile\n\0\n\0\nrest")
            client.end()
            assert client.receive() == b"one\nfile\n\0\n\0\n"


def test_a_connection_that_is_a_file_has_no_messages_any_more() -> None:
    ours, theirs = socket.socketpair()
    with theirs, closing(Connection(unix.transport(ours, BlockingWaiter()), LINES)) as connection:
        theirs.sendall(b"first\nrest\n")
        assert drive(connection.receive()) == b"first"
        file = connection.file()
        drive(file.write(b"raw"))
        for use in (lambda: drive(connection.send(b"m")), lambda: drive(connection.receive()), connection.file):
            with pytest.raises(LocalProtocolError, match="belongs to its file"):
                use()
        assert drive(file.readline()) == b"rest\n"
        drive(file.flush())
        assert theirs.recv(100) == b"raw"


def test_what_the_standard_library_takes_for_a_file(tmp_path: Path) -> None:
    def table(connection: BlockingConnection) -> None:
        file = connection.file()
        assert pickle.load(file) == {"rows": 3}
        text = io.TextIOWrapper(file, newline="", write_through=True)  # type: ignore[type-var]
        csv.writer(text).writerows([[1, "a,b"], [2, "é"], [3, "\n"]])
        text.flush()
        shutil.copyfileobj(io.BytesIO(b"#" * 100_000), file)
        text.close()

    with enchufe.Server(table, "127.0.0.1:0", framing=LINES) as server:
        with enchufe.connect(server.addresses[0], framing=LINES, timeout=20).file() as file:
            pickle.dump({"rows": 3}, file)
            file.flush()
            rows = file.read()
    assert rows == '1,"a,b"\r\n2,é\r\n3,"\n"\r\n'.encode() + b"#" * 100_000


def test_reading_in_every_way() -> None:
    go = threading.Event()

    def talk(connection: BlockingConnection) -> None:
        file = connection.file()
        file.write(b"line\nlong line without an end")
        file.flush()
        go.wait(20)
        file.write(b"!")

    with enchufe.Server(talk, "127.0.0.1:0", framing=LINES) as server:
        with enchufe.connect(server.addresses[0], framing=LINES, timeout=20).file() as file:
            assert file.readline(2) == b"li"
            assert file.readline() == b"ne\n"
            assert file.read1(4) == b"long"
            view = bytearray(5)
            assert file.readinto(view) == 5 and view == b" line"
            assert file.read(0) == b""
            go.set()
            assert file.read() == b" without an end!"
            assert file.readline() == b""
            assert file.readable() and file.writable() and file.fileno() > 0
        with pytest.raises(LocalProtocolError):
            file.read()
        file.close()


class Full:
    """A file whose other side, in our hand, has taken nothing for so long that nothing fits any more."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(0.1)
        self.file = ConnectionFile(unix.transport(ours, BlockingWaiter()), ReceiveBuffer(), timeout=0.01)
        self.before = 0
        while count := self.file.transport.try_send([bytes(65536)]):
            self.before += count

    def heard(self) -> bytes:
        """What was written since."""
        got = b""
        try:
            while data := self.theirs.recv(1 << 20):
                got += data
        except TimeoutError:
            pass
        new, self.before = got[self.before :], 0
        return new

    def close(self) -> None:
        self.file.transport.close()
        self.theirs.close()


@pytest.fixture
def full() -> Iterator[Full]:
    with closing(Full()) as full:
        yield full


def test_what_could_not_be_sent_in_time_is_sent_later(full: Full) -> None:
    file = full.file
    drive(file.write(b"first "))
    with pytest.raises(DeadlineExceeded):
        drive(file.flush())
    drive(file.write(b"second "))
    with pytest.raises(DeadlineExceeded):
        drive(file.write(b"not written" * 10_000))
    drive(file.write(b"third"))
    assert full.heard() == b""
    drive(file.flush())
    assert full.heard() == b"first second third"


def test_a_file_ends_with_its_connection() -> None:
    ours, theirs = socket.socketpair()
    waiter = BlockingWaiter()
    file = ConnectionFile(unix.transport(ours, waiter), ReceiveBuffer(), None, deadline=waiter.now() + 0.01)
    with theirs, file.transport, pytest.raises(DeadlineExceeded):
        drive(file.read())


@pytest.mark.parametrize("blocking", [False, True])
def test_what_was_written_and_is_lost_is_no_orderly_end(blocking: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        connection = enchufe.connect(address, framing=LINES, timeout=20)
        connection._connection.timeout = 0.05
        peer, _ = listening.accept()
        with peer:
            transport = connection._connection.transport
            while transport.try_send([bytes(65536)]):
                pass
            file = connection.file() if blocking else connection._connection.file()
            with pytest.raises(DeadlineExceeded):
                if isinstance(file, ConnectionFile):
                    drive(file.write(b"lost"))
                    drive(file.close())
                else:
                    file.write(b"lost")
                    file.close()
            with pytest.raises(ConnectionResetError):
                while peer.recv(1 << 20):
                    pass


# One reads, another writes


def narrow() -> tuple[ConnectionFile, socket.socket, int]:
    """A file into which nothing more can be sent for now, its other end, and how many bytes stand between."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    theirs.settimeout(20)
    file = ConnectionFile(unix.transport(ours, BlockingWaiter()), ReceiveBuffer(), 20)
    before = 0
    while count := file.transport.try_send([bytes(1000)]):
        before += count
    return file, theirs, before


def exactly(end: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        got += end.recv(1 << 16)
    return bytes(got)


def test_what_a_reader_sends_and_what_a_writer_does_are_not_mixed() -> None:
    asyncio.run(reads_and_writes_at_once())


async def reads_and_writes_at_once() -> None:
    file, theirs, before = narrow()
    file.transport.waiter = aio.host()
    with theirs:
        await file.write(b"a" * 50_000)
        reading = asyncio.create_task(file.readline())  # it sends that first
        await asyncio.sleep(0)
        await file.write(b"b" * 10)
        flushing = asyncio.create_task(file.flush())
        writing = asyncio.create_task(file.write(b"c" * 100_000))
        await asyncio.sleep(0)
        heard = asyncio.create_task(asyncio.to_thread(exactly, theirs, before + 150_010))
        await asyncio.gather(flushing, writing)
        in_order = (await heard)[before:] == b"a" * 50_000 + b"b" * 10 + b"c" * 100_000
        assert in_order
        theirs.send(b"line\n")
        assert await reading == b"line\n"
        await file.close()


def test_the_same_in_threads() -> None:
    plain, theirs, before = narrow()
    with theirs, BlockingFile(plain) as file:
        file.write(b"a" * 50_000)
        lines: list[bytes] = []
        reading = threading.Thread(target=lambda: lines.append(file.readline()))
        reading.start()
        until(lambda: plain._sending.taken)  # it sends that first
        writing = threading.Thread(target=lambda: file.write(b"c" * 500_000))
        writing.start()
        in_order = exactly(theirs, before + 550_000)[before:] == b"a" * 50_000 + b"c" * 500_000
        assert in_order
        theirs.send(b"line\n")
        reading.join(20)
        writing.join(20)
        assert lines == [b"line\n"]


def test_who_reads_does_not_wait_for_who_writes() -> None:
    """The other side may take what is written only when it was read from."""
    plain, theirs, before = narrow()
    with theirs, BlockingFile(plain) as file:
        writing = threading.Thread(target=lambda: file.write(b"c" * 100_000))
        writing.start()
        until(lambda: plain._sending.taken)
        answering = threading.Timer(0.05, theirs.send, [b"line\n"])
        answering.start()
        assert file.readline() == b"line\n"
        answering.join()
        exactly(theirs, before + 100_000)
        writing.join()


def test_who_reads_hears_what_comes_before_all_that_was_written_could_go() -> None:
    plain, theirs, _ = narrow()
    with theirs, closing(plain.transport):
        drive(plain.write(b"a" * 50_000))
        answering = threading.Timer(0.05, theirs.send, [b"line\n"])
        answering.start()
        plain.timeout = 5
        assert drive(plain.readline()) == b"line\n"
        answering.join()


@pytest.mark.parametrize("what", ["reads", "writes"])
def test_leaving_wakes_who_waits_in_another_thread(what: str) -> None:
    """Also where what was written is lost by it, so that the other side is told that this is no end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = enchufe.connect(f"127.0.0.1:{listening.getsockname()[1]}", framing=LINES)
        peer, _ = listening.accept()
        file = connection.file()
        told: list[BaseException] = []

        def use() -> None:
            try:
                file.read(1) if what == "reads" else file.write(bytes(50_000_000))
            except ClosedError as error:
                told.append(error)

        with peer:
            waiting = threading.Thread(target=use, daemon=True)
            waiting.start()
            if what == "writes":
                until(lambda: file._file.transport._full)
                time.sleep(0.01)
            else:
                time.sleep(0.1)  # so that it waits in poll(), and no longer in recv()
                file.write(b"lost")
            connection.close()
            waiting.join(20)
            assert told
            peer.settimeout(20)
            with pytest.raises(ConnectionResetError):
                while peer.recv(1 << 20):
                    pass


def test_nothing_is_waited_for_where_nothing_is_asked_for() -> None:
    plain, theirs, _ = narrow()
    with theirs, closing(BlockingFile(plain)) as file:
        assert [file.read(0), file.read1(0), file.readline(0), file.readinto(bytearray())] == [b"", b"", b"", 0]
