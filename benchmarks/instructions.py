"""Instructions that a message, and the start of a command, take: what does not drift with how busy a machine is.

`python -m benchmarks.instructions` runs itself under valgrind (Debian has it), which counts those of the process and
not the kernel's: with many turns and with few, so that all but the turns cancels out. A turn answers so many messages
as are told beside it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

import enchufe
from benchmarks.servers import loops
from benchmarks.servers.asyncio_streams import receive
from benchmarks.servers.known import SERVERS
from benchmarks.servers.wire import framed
from enchufe import aio, framing
from enchufe.connection import Connection
from enchufe.engines.loop import Loop
from enchufe.transports import unix
from enchufe.waiting import BlockingWaiter, drive

FRAME: Final = framing.LengthPrefixed(4).encode_plain([b"x" * 64])
HOSTS: Final = {f"aio on {loop}": loop for loop in ("asyncio", "uvloop")}
STREAMS: Final = {f"{loop} streams": loop for loop in ("asyncio", "uvloop")}
FEW: Final = 100
MANY: Final = 400
ENVIRONMENT: Final = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": ""}
START: Final = "import sys; from enchufe.cli.main import main; sys.argv[0] = 'enchufe'; sys.exit(main())"


def answer(engine: str, turns: int, count: int) -> None:
    """Answer `count` messages `turns` times, as a handler does."""
    gc.disable()
    near, far = socket.socketpair()
    loop = Loop() if engine == "events" else None

    async def echo() -> None:
        waiter = aio.host() if engine in HOSTS else loop or BlockingWaiter()
        with unix.transport(near, waiter) as transport:
            connection = Connection(transport, framing.LengthPrefixed(4), gathers=True)
            messages = aiter(connection)
            for _ in range(turns):
                far.send(FRAME * count)
                for _ in range(count):
                    await connection.send(await anext(messages))
                await connection.flush()
                far.recv(1 << 20)

    async def echo_by_streams() -> None:
        reader, writer = await asyncio.open_connection(sock=near)
        for _ in range(turns):
            far.send(FRAME * count)
            for _ in range(count):
                writer.write(framed(await receive(reader)))
                await writer.drain()
            far.recv(1 << 20)
        writer.close()

    if loop is not None:
        loop.run(echo())
    elif engine in HOSTS:
        loops.run(HOSTS[engine], echo)
    elif engine in STREAMS:
        loops.run(STREAMS[engine], echo_by_streams)
    else:  # as the engine has it: in the main thread, where signals are handled, a receive takes more
        thread = threading.Thread(target=lambda: drive(echo()))
        thread.start()
        thread.join()


def counted(*command: str) -> int:
    """The instructions of a Python program."""
    with tempfile.TemporaryDirectory() as folder:
        cachegrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={folder}/out"]
        done = subprocess.run(
            [*cachegrind, sys.executable, *command], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, check=True
        )
    found = re.search(r"I +refs: +([0-9,]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1].replace(",", ""))


def start() -> int:
    """Those of a command that sends one small file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file")
        file.write_bytes(b"x" * 1000)
        counts = []
        for _ in range(2):  # the first time what is imported is compiled
            command = [sys.executable, "-m", "enchufe", "receive", "-o", folder, "--plain", "--listen", "localhost:0"]
            with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as receiver:
                assert receiver.stdout is not None
                (address,) = re.findall(r'"address": "(.*?)"', receiver.stdout.readline())
                counts.append(counted("-c", START, "send", str(file), "--plain", "--quiet", "--to", address))
    return counts[-1]


def main() -> None:
    """Count, and print."""
    if len(sys.argv) > 1:
        answer(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        return
    again = [sys.executable, "-m", "benchmarks.instructions"]
    subprocess.run([*again, "threads", "1", "1"], env=ENVIRONMENT, check=True)  # compiles what is imported
    for engine in (name for name in ("threads", "events", *HOSTS, *STREAMS) if SERVERS[name].installed):
        for count in (1, 32):
            many, few = (
                counted("-m", "benchmarks.instructions", engine, str(turns), str(count)) for turns in (MANY, FEW)
            )
            print(f"{engine:15} {count:3} at a time: {(many - few) / (MANY - FEW) / count:9,.0f} a message")
    print(f"send --plain, one small file: {start() / 1e6:,.0f} million (enchufe {enchufe.__version__})")


if __name__ == "__main__":
    main()
