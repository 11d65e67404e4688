"""Flood: how much of its speed a transfer keeps while others flood its port from many addresses; the goal is 0.8.

    python -m benchmarks.flood                          every kind of flood, on /dev/shm
    python -m benchmarks.flood --kind connect --rounds 9

Rounds alternate, with the flood and without. It begins when the transfer has come in. It has a processor to itself,
and both sides of the transfer have the others, with a flood and without one: whoever attacks brings his own machine.
How long a transfer takes is what its sender's receipt says.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import select
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Final

GOAL: Final = 0.8
COMMAND: Final = [sys.executable, "-m", "enchufe"]
_HELD: Final = 300  # connections that the flood keeps open at once
_ADDRESSES: Final = 32
_HELLO: Final = b"\x01\x00\x00\x00\x40"


def client_hello() -> bytes:
    """What a TLS handshake begins with: it costs the other side a key exchange and a signature."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


# What is said at once, and then a byte at a time, by each connection.
KINDS: Final[dict[str, Callable[[], tuple[bytes, bytes]]]] = {
    "silent": lambda: (b"", b""),
    "connect": lambda: (b"", b""),
    "dribble": lambda: (b"", _HELLO + bytes(59)),
    "handshake": lambda: (client_hello(), b"\x17"),
}


def flood(address: str, kind: str, processor: int, begin: Any, over: Any, count: Synchronized[int]) -> None:
    """Connect from one address after the other, and hold on; `connect` lets go at once, and is as fast as it can."""
    os.sched_setaffinity(0, {processor})
    host, _, port = address.rpartition(":")
    first, then = KINDS[kind]()
    held: list[socket.socket] = []
    begin.wait()
    while not over.is_set():
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((f"127.0.1.{count.value % _ADDRESSES + 1}", 0))
        sock.connect_ex((host, int(port)))
        count.value += 1
        if kind == "connect":
            sock.close()
            continue
        held.append(sock)
        select.select([], [sock], [], 0.01)
        with suppress(OSError):
            if first:
                sock.send(first)
        for at, one in enumerate(held[:20] if then else ()):
            with suppress(OSError):
                one.send(then[at % len(then) :][:1])
        if len(held) > _HELD:
            held.pop(0).close()
    for sock in held:
        sock.close()


@contextmanager
def flooding(address: str, kind: str | None, processor: int) -> Iterator[tuple[Callable[[], object], list[float]]]:
    """A flood of that kind, or none: what begins it, and afterwards its connections per second."""
    told: list[float] = []
    if kind is None:
        yield (lambda: None), told
        return
    context = multiprocessing.get_context("spawn")
    begin, over, count = context.Event(), context.Event(), context.Value("L", 0)
    process = context.Process(target=flood, args=(address, kind, processor, begin, over, count))
    process.start()
    started = time.monotonic()
    try:
        yield begin.set, told
    finally:
        told.append(count.value / (time.monotonic() - started))
        over.set()
        begin.set()
        process.join()


def rate(file: Path, inbox: Path, kind: str | None, processor: int) -> tuple[float, float]:
    """One transfer: bytes per second, and the flood's connections per second."""
    listening = [*COMMAND, "receive", "--listen", "127.0.0.1:0", "--plain", "--json", "-o", str(inbox)]
    with subprocess.Popen([*listening, "--if-exists", "overwrite"], stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        address = json.loads(receiver.stdout.readline())["address"]
        sending = [*COMMAND, "send", str(file), "--to", address, "--plain", "--json", "--retry", "10"]
        with (
            flooding(address, kind, processor) as (begin, came),
            subprocess.Popen(sending, stdout=subprocess.PIPE, text=True) as sender,
        ):
            while json.loads(receiver.stdout.readline())["event"] != "connected":
                pass
            begin()
            told, _ = sender.communicate(timeout=120)
        receiver.communicate(timeout=60)
    receipt = json.loads(told.splitlines()[-1])
    (inbox / file.name).unlink()
    return receipt["bytes"] / receipt["seconds"], came[0] if came else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    parser.add_argument("--size", type=int, default=2048, help="MiB; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    options = parser.parse_args(arguments)
    worst = 1.0
    *rest, processor = sorted(os.sched_getaffinity(0))
    if rest:
        os.sched_setaffinity(0, rest)
    with tempfile.TemporaryDirectory(prefix="enchufe-flood-", dir=options.on) as name:
        here = Path(name)
        file = here / "file"
        with file.open("wb") as out:
            for _ in range(options.size):
                out.write(os.urandom(1 << 20))
        for kind in options.kind or list(KINDS):
            alone: list[float] = []
            under: list[float] = []
            came: list[float] = []
            for number in range(options.rounds):
                for chosen in (None, kind) if number % 2 else (kind, None):
                    speed, connections = rate(file, here / "inbox", chosen, processor)
                    (under if chosen else alone).append(speed)
                    if chosen:
                        came.append(connections)
            ratio = statistics.median(under) / statistics.median(alone)
            worst = min(worst, ratio)
            print(
                f"{kind:10} {statistics.median(came):8.0f} connections/s: {statistics.median(under) / 1e6:6.0f} MB/s"
                f" of {statistics.median(alone) / 1e6:6.0f} MB/s, ratio {ratio:.2f} (goal {GOAL})",
                flush=True,
            )
    return 0 if worst >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
