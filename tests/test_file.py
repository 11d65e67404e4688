"""A connection as a file, both kinds, and the flush that nobody has to remember."""

from __future__ import annotations

import csv
import io
import pickle
import shutil
import threading
from pathlib import Path

import pytest

import enchufe
from enchufe import BlockingConnection, Connection, framing
from enchufe.errors import LocalProtocolError

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
