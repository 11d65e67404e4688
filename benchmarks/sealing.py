"""What encryption costs a stream: plain text, TLS and sealed records side by side, over 1, 2 and 4 connections.

`python -m benchmarks.sealing`: blocks of a file, framed as in a transfer, between two processes over
loopback; nothing is hashed, read or written, so what differs is what carries them. A thread on each side for each
connection. From the first byte sent until the receiver has answered on every connection that it has all. All take
turns, and a ratio is that of the medians. At the end what AES-256-GCM alone does here, which nobody can reach.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.tls import LOCAL, certificates, client_context, server_context
from enchufe.buffer import ReceiveBuffer
from enchufe.entry import BLOCK_SIZE
from enchufe.session.carrier import Carrier, Plain
from enchufe.session.sealed import Said, Sealed, Sealer
from enchufe.transfer.data import Block
from enchufe.transfer.message import CONTROL_SIZE
from enchufe.transfer.messages import frame, next_message
from enchufe.transports import tcp, tls
from enchufe.waiting import BlockingWaiter, drive

SIZES: Final = (64, 2048)  # MiB of each run
CONNECTIONS: Final = (1, 2, 4)
ROUNDS: Final = 5
RUN_SECONDS: Final = 60.0
SECRET: Final = bytes(32)  # the salts are what make each run's keys

PLAIN, TLS, SEALED = "plain text", "TLS", "sealed records"
KINDS: Final = (PLAIN, TLS, SEALED)


async def carried(sock: socket.socket, kind: str, context: ssl.SSLContext | None, number: int) -> Carrier:
    """One end of a connection; a context is the dialer's, or its number is 0."""
    plain = tcp.transport(sock, BlockingWaiter())
    deadline = plain.waiter.now() + RUN_SECONDS
    if kind == TLS:
        assert context is not None
        dials = context.protocol is ssl.PROTOCOL_TLS_CLIENT
        transport = tls.over(plain, context, server_side=not dials, server_hostname=LOCAL if dials else None)
        await transport.handshake(deadline)
        return Plain(transport)
    if kind == SEALED:
        if number:
            return await Sealed.dial(plain, SECRET, number, deadline)
        said = await Said.hear(plain, deadline)
        assert said is not None
        return await Sealed.answer(plain, SECRET, said, deadline)
    return Plain(plain)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Do it `count` times at once."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def receive(pipe: Pipe, folder: Path) -> None:
    """The receiver's process: for each run a kind, a number of connections, and bytes."""
    context = server_context(folder)
    with socket.create_server((LOCAL, 0)) as listener:
        pipe.send(listener.getsockname()[1])
        while (run := pipe.recv()) is not None:
            kind, connections, total = run
            socks = [listener.accept()[0] for _ in range(connections)]

            def one(number: int) -> None:
                drive(_receive(socks[number], kind, context, total // connections))  # noqa: B023 (joined at once)

            in_threads(connections, one)


async def _receive(sock: socket.socket, kind: str, context: ssl.SSLContext, size: int) -> None:
    carrier = await carried(sock, kind, context, 0)
    with carrier.transport as transport:
        deadline = transport.waiter.now() + RUN_SECONDS
        buffer = ReceiveBuffer(BLOCK_SIZE + 2 * CONTROL_SIZE)
        got = 0
        while got < size:
            message = next_message(buffer)
            if isinstance(message, Block):
                got += len(message.payload)
            elif not isinstance(message, int) or not await carrier.receive(buffer, message, deadline):
                raise SystemExit("ended early")
        await carrier.send([b"!"], deadline)


def send(port: int, kind: str, context: ssl.SSLContext, connections: int, total: int) -> float:
    """One run: the seconds it took."""
    socks = [socket.create_connection((LOCAL, port)) for _ in range(connections)]
    carriers = [drive(carried(sock, kind, context, number)) for number, sock in enumerate(socks, 1)]

    def one(number: int) -> None:
        drive(_send(carriers[number], total // connections))

    start = time.perf_counter()
    in_threads(connections, one)
    return time.perf_counter() - start


async def _send(carrier: Carrier, size: int) -> None:
    with carrier.transport as transport:
        deadline = transport.waiter.now() + RUN_SECONDS
        block = memoryview(bytearray(os.urandom(BLOCK_SIZE)))
        digest = bytes(32)
        for offset in range(0, size, BLOCK_SIZE):
            await carrier.send(frame(Block(1, offset, digest, block)), deadline)
        answer = ReceiveBuffer(64)
        while not len(answer):
            if not await carrier.receive(answer, 1, deadline):
                raise SystemExit("ended early")


def alone() -> None:
    """What the cipher does by itself, in bytes per second."""
    block = memoryview(bytearray(os.urandom(BLOCK_SIZE)))
    out = memoryview(bytearray(BLOCK_SIZE + 16))
    cipher, sealer = AESGCM(bytes(32)), Sealer(bytes(32))

    def rate(step: Callable[[int], object]) -> float:
        rates = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for number in range(200):
                step(number)
            rates.append(200 * BLOCK_SIZE / (time.perf_counter() - start) / 1e9)
        return median(rates)

    into = rate(lambda number: cipher.encrypt_into(number.to_bytes(12, "big"), block, None, out))
    ours = rate(lambda _: list(sealer.seal([bytes(49), block])))
    print(f"AES-256-GCM alone, one thread, 1 MiB at a time: {into:.1f} GB/s; Sealer: {ours:.1f} GB/s")


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, action="append", help="MiB of each run; repeatable; default: 64 and 2048")
    totals = [size << 20 for size in parser.parse_args().size or SIZES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates(folder)
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=receive, args=(there, folder), daemon=True)
        process.start()
        context = client_context(folder)
        port = here.recv()
        for total in totals:
            cases = [(kind, connections) for connections in CONNECTIONS for kind in KINDS]
            seconds: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
            for turn in range(ROUNDS):
                for kind, connections in cases[turn % len(cases) :] + cases[: turn % len(cases)]:
                    here.send((kind, connections, total))
                    seconds[kind, connections].append(send(port, kind, context, connections, total))
            print(f"\n{total >> 20} MiB, medians of {ROUNDS} rounds (of plain text over as many: all by TLS over one)")
            one = median(seconds[TLS, 1])
            for kind, connections in cases:
                took = median(seconds[kind, connections])
                of_plain = median(seconds[PLAIN, connections]) / took
                print(
                    f"  {connections} x {kind:<15} {total / took / 1e9:6.2f} GB/s"
                    f"   {of_plain:5.2f} of plain   {one / took:5.2f} of 1 x TLS"
                )
        here.send(None)
        process.join()
    alone()


if __name__ == "__main__":
    main()
