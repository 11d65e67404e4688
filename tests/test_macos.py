"""The same where Python has what it has on macOS: messages by every engine, and files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.secured.people import ENCHUFE, HERE, two_people

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a Linux that pretends to be another system")

MESSAGES = """
from tests import macos
macos.pretend()

import asyncio
import select
import socket
import sys

import enchufe
from enchufe import aio, framing
from enchufe.engines import pollers

LINES = framing.Lines(max_size=1 << 20)
assert list(pollers.available()) == ["kqueue", "poll", "select"]
assert not hasattr(select, "epoll")


async def echo(connection):
    async for message in connection:
        await connection.send(message)


def talk(address):
    with enchufe.connect(address, framing=LINES, timeout=20) as connection:
        for _ in range(3):
            assert connection.ask(b"hola") == b"hola"
        if not address.startswith("unix:"):
            sock = connection._connection.transport._sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE) == 30
        assert connection.ask(b"x" * 1000000) == b"x" * 1000000


for engine in "threads", "processes", "events":
    for workers in None, 2:
        for address in "127.0.0.1:0", "unix:" + sys.argv[1]:
            with enchufe.Server(echo, address, framing=LINES, engine=engine, workers=workers) as server:
                talk(*server.addresses)
                print(engine, workers, address.partition(":")[0])


async def hosted():
    async with aio.Server(echo, "127.0.0.1:0", framing=LINES) as server:
        await asyncio.to_thread(talk, *server.addresses)
        async with await aio.connect(server.addresses[0], framing=LINES) as connection:
            assert await connection.ask(b"hola") == b"hola"


asyncio.run(hosted())
try:
    enchufe.connect("shm:" + sys.argv[1], framing=LINES)
except enchufe.LocalProtocolError as error:
    print(error)
"""

FILES = """
from tests import macos
macos.pretend()

import sys
import threading

import enchufe

tree, inbox, plain = sys.argv[1], sys.argv[2], sys.argv[3] == "plain"
listening = threading.Event()
told = {}


def tell(event):
    told[type(event).__name__] = event
    if "Listening" in told and (plain or "Code" in told):
        listening.set()


def send():
    told["sent"] = enchufe.send_files([tree], listen="127.0.0.1:0", plain=plain, announce=False, retry=0, on_event=tell)


sending = threading.Thread(target=send)
sending.start()
assert listening.wait(60)
where = told["Listening"].address
code = {} if plain else {"code": told["Code"].code}
receipt = enchufe.receive_files(inbox, source=where, plain=plain, announce=False, retry=0, **code)
sending.join()
assert told["sent"].files == receipt.files == 42
"""

COMMAND = ("-c", "from tests import macos; macos.pretend(); from enchufe.cli.main import main; main()")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for number in range(40):
        folder = root / f"folder {number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(bytes([number]) * number * 100)
    (root / "large").write_bytes(os.urandom(9 << 20))
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(5 << 20)
    (root / "link").symlink_to("large")
    return root


def contents(root: Path) -> dict[str, object]:
    return {
        str(path.relative_to(root)): path.readlink() if path.is_symlink() else path.is_dir() or path.read_bytes()
        for path in root.rglob("*")
    }


def run(code: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True, timeout=120
    )
    assert not done.returncode, done.stderr
    return done.stdout


def test_messages_go_by_every_engine(tmp_path: Path) -> None:
    lines = run(MESSAGES, tmp_path / "socket").splitlines()
    assert len(lines) == 13
    assert "shared memory needs Linux" in lines[-1]


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_files_arrive(kind: str, tree: Path, inbox: Path) -> None:
    run(FILES, tree, inbox, kind)
    assert contents(inbox / "tree") == contents(tree)


@pytest.mark.parametrize("there", ["sender", "receiver"])
def test_a_command_there_and_one_here_send_each_other_files(there: str, tree: Path, tmp_path: Path) -> None:
    program = {there: COMMAND}
    with two_people(tmp_path) as (ana, blas):
        receiver = blas.receive(*HERE, program=program.get("receiver", ENCHUFE))
        to = ("--to", receiver.address)
        sender = ana.send(tree, options=to, code=receiver.code(), program=program.get("sender", ENCHUFE))
        assert (sender.end(), receiver.end()) == (0, 0), (sender.told, receiver.told)
        assert contents(blas.inbox / "tree") == contents(tree)
