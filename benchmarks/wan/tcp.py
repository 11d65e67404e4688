"""Bytes over some plain TCP connections at once: what the link itself gives.

    python -m benchmarks.wan.tcp receive ADDRESS PORT CONNECTIONS BYTES
    python -m benchmarks.wan.tcp send ADDRESS PORT CONNECTIONS BYTES CONGESTION

The receiver takes and drops the bytes, and answers with one when it has all of a connection.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.peers import Peer, Prepare, Transfer
from benchmarks.processes import Command, Pipeline, Stage, free_port

PIECE: Final = 1 << 20  # bytes of one send or receive
TIMEOUT: Final = 600  # seconds without a byte


def peer(connections: int, congestion: str) -> Peer:
    """So many connections under this congestion control, as a peer that delivers nothing to look at."""
    label = f"{connections} raw TCP, {congestion}"
    raw = _raw(connections, congestion)
    return Peer(f"tcp{connections}", label, [sys.executable], raw, trees=False, delivers=False)


def _raw(connections: int, congestion: str) -> Prepare:
    def prepare(source: Path, _into: Path, stage: Stage) -> Transfer:
        network = stage.network
        port = free_port()

        def program(verb: str, *more: str) -> Command:
            size = source.stat().st_size
            words = [verb, network.address, str(port), str(connections), str(size), *more]
            return [sys.executable, "-m", "benchmarks.wan.tcp", *words]

        receivers = stage.start(Pipeline([program("receive")], inside=network.receiver))
        stage.listening(receivers, port)
        return Transfer(Pipeline([program("send", congestion)], inside=network.sender), receivers)

    return prepare


def receive(address: str, port: int, connections: int, size: int) -> None:
    """Take `size` bytes over so many connections."""
    with socket.create_server((address, port), backlog=connections) as listener:
        listener.settimeout(TIMEOUT)
        accepted = [listener.accept()[0] for _ in range(connections)]
    counts = [0] * connections

    def take(number: int) -> None:
        buffer = bytearray(PIECE)
        with accepted[number] as connection:
            connection.settimeout(TIMEOUT)
            while got := connection.recv_into(buffer):
                counts[number] += got
            connection.sendall(b"!")

    _at_once(take, connections)
    if sum(counts) != size:
        sys.exit(f"{sum(counts)} bytes came instead of {size}")


def send(address: str, port: int, connections: int, size: int, congestion: str) -> None:
    """Send `size` bytes, the same share over each connection."""
    piece = memoryview(bytes(PIECE))
    opened = [_connect(address, port, congestion) for _ in range(connections)]
    answers = [b""] * connections

    def give(number: int) -> None:
        rest = size * (number + 1) // connections - size * number // connections
        with opened[number] as connection:
            while rest:
                rest -= connection.send(piece[: min(rest, PIECE)])
            connection.shutdown(socket.SHUT_WR)
            answers[number] = connection.recv(1)

    _at_once(give, connections)
    if b"" in answers:
        sys.exit("a connection was cut")


def _connect(address: str, port: int, congestion: str) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    connection.settimeout(TIMEOUT)
    connection.connect((address, port))
    return connection


def _at_once(run: Callable[[int], None], times: int) -> None:
    threads = [threading.Thread(target=run, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    verb, address, port, connections, size, *more = sys.argv[1:]
    if verb == "receive":
        receive(address, int(port), int(connections), int(size))
    else:
        send(address, int(port), int(connections), int(size), *more)
