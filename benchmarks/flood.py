"""Flood: how much of its speed a transfer keeps while others flood its port from many addresses; the goal is 0.8.

    python -m benchmarks.flood                          every kind of flood, on /dev/shm
    python -m benchmarks.flood --kind connect --rounds 9
    python -m benchmarks.flood --encrypted

Rounds alternate: with no flood, with one on the transfer's own port, and with the same on a port of somebody else who
leaves all of them in his backlog, which shows what the kernel takes for itself. A flood begins when the transfer has
come in. It has a processor to itself, and both sides of the transfer have the others, with a flood and without one:
whoever attacks brings his own machine. How long a transfer takes is what its sender's receipt says.
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


def rate(
    file: Path, inbox: Path, kind: str | None, processor: int, *, elsewhere: str | None = None, plain: bool = True
) -> tuple[float, float]:
    """One transfer: bytes per second, and the flood's connections per second.

    Args:
        elsewhere: the address to flood; by default the receiver's.
    """
    how = ("--plain",) if plain else ()
    listening = [*COMMAND, "receive", "--listen", "127.0.0.1:0", "--json", "-o", str(inbox), *(how or ("--yes",))]
    own = {**os.environ, "XDG_STATE_HOME": str(inbox.parent)}
    with subprocess.Popen(
        [*listening, "--if-exists", "overwrite"], stdout=subprocess.PIPE, text=True, env=own
    ) as receiver:
        assert receiver.stdout is not None
        told = map(json.loads, receiver.stdout)
        address = next(event["address"] for event in told if event["event"] == "listening")
        if not plain:
            own["ENCHUFE_CODE"] = next(event["code"] for event in told if event["event"] == "code")
        sending = [*COMMAND, "send", str(file), "--to", address, "--json", "--retry", "10", *how]
        with (
            flooding(elsewhere or address, kind, processor) as (begin, came),
            subprocess.Popen(sending, stdout=subprocess.PIPE, text=True, env=own) as sender,
        ):
            next(event for event in told if event["event"] == "connected")
            begin()
            said, _ = sender.communicate(timeout=120)
        receiver.communicate(timeout=60)
    receipt = json.loads(said.splitlines()[-1])
    (inbox / file.name).unlink()
    return receipt["bytes"] / receipt["seconds"], came[0] if came else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    parser.add_argument("--encrypted", action="store_true", help="as by default; else --plain")
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
        with socket.create_server(("127.0.0.1", 0)) as idle:
            other = f"127.0.0.1:{idle.getsockname()[1]}"
            for kind in options.kind or list(KINDS):
                worst = min(worst, _compare(kind, file, other, processor, options))
    return 0 if worst >= GOAL else 1


def _compare(kind: str, file: Path, other: str, processor: int, options: argparse.Namespace) -> float:
    arms = {"alone": (None, None), "flooded": (kind, None), "elsewhere": (kind, other)}
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    came: list[float] = []
    for number in range(options.rounds):
        names = list(arms)
        for name in names[number % 3 :] + names[: number % 3]:
            chosen, where = arms[name]
            inbox = file.parent / "inbox"
            speed, connections = rate(file, inbox, chosen, processor, elsewhere=where, plain=not options.encrypted)
            speeds[name].append(speed)
            if name == "flooded":
                came.append(connections)
    alone, under, elsewhere = (statistics.median(speeds[name]) for name in arms)
    print(
        f"{kind:10} {statistics.median(came):8.0f} connections/s: {under / 1e6:6.0f} MB/s of {alone / 1e6:6.0f} MB/s,"
        f" ratio {under / alone:.2f} (goal {GOAL}); {under / elsewhere:.2f} of the speed with that flood elsewhere",
        flush=True,
    )
    return under / alone


if __name__ == "__main__":
    sys.exit(main())
