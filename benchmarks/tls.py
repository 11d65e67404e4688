"""How fast TLS 1.3 carries bulk over loopback, side by side with asyncio's streams and Python's SSLSocket.

`python -m benchmarks.tls`: one connection between two processes, from the first byte sent until the receiver has
answered that it has them all. Then each side alone, against an `SSLSocket` that is the same for all. All take turns,
and a ratio is that of the medians. Where other programs want the processors too, elapsed time tells more of them than
of us: the processor seconds are what to compare there. At the end, what OpenSSL alone takes of them: what is less than
that nobody can reach.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import Any, Final

import trustme

from enchufe.buffer import Buffer
from enchufe.engines.loop import Loop
from enchufe.transports import Listener, TcpAddress, tcp, tls
from enchufe.transports.tls_machine import PLAIN, RECORD, SLICE, TlsMachine
from enchufe.waiting import BlockingWaiter, Waiter, drive

LOCAL: Final = "127.0.0.1"
TOTAL: Final = 512 << 20  # bytes of each run
SIZES: Final = (65536, 262144, 1 << 20)  # bytes of one send, and that a receive asks for
ROUNDS: Final = 9
DONE: Final = b"!"
RUN_SECONDS: Final = 60
STOP_SECONDS: Final = 5

BOTH, RECEIVING, SENDING = "both ends", "receiving alone", "sending alone"
ENCHUFE, EVENTS, ASYNCIO, SOCKET = "enchufe, blocking", "enchufe, events", "asyncio streams", "SSLSocket"


def certificates(folder: Path) -> None:
    """An authority and a certificate for LOCAL, in files."""
    authority = trustme.CA()
    issued = authority.issue_cert(LOCAL)
    authority.cert_pem.write_to_path(str(folder / "authority"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "server"))


def server_context(folder: Path) -> ssl.SSLContext:
    """The same for all."""
    return tls.server_context(str(folder / "server"), str(folder / "server"))


def client_context(folder: Path) -> ssl.SSLContext:
    """The same for all."""
    return tls.client_context(str(folder / "authority"))


# Each end, once for each way to write it: a receiver says by `ready` on which port it waits.

Ready = Callable[[int], None]
Runner = Callable[[Callable[[Waiter], Coroutine[Any, Any, float]]], float]


def blocking(end: Callable[[Waiter], Coroutine[Any, Any, float]]) -> float:
    """Run an end of enchufe's in this thread."""
    return drive(end(BlockingWaiter()))


def in_loop(end: Callable[[Waiter], Coroutine[Any, Any, float]]) -> float:
    """Run an end of enchufe's in its event loop."""
    loop = Loop()
    try:
        return loop.run(end(loop))
    finally:
        loop.close()


def receive_enchufe(run: Runner, context: ssl.SSLContext, size: int, ready: Ready) -> None:
    """enchufe, however it waits."""

    async def end(waiter: Waiter) -> float:
        with Listener(TcpAddress(LOCAL, 0), tls=context) as listener:
            ready(int(listener.addresses[0].rpartition(":")[2]))
            transport = await listener.accept(waiter)
        assert transport is not None
        with transport:
            await transport.handshake()
            view, got = memoryview(bytearray(size)), 0
            while got < TOTAL:
                got += await transport.receive_into(view) or _ended_early()
            await transport.send([DONE])
        return 0

    run(end)


def send_enchufe(run: Runner, context: ssl.SSLContext, size: int, port: int) -> float:
    """enchufe, however it waits."""

    async def end(waiter: Waiter) -> float:
        plain = tcp.transport(socket.create_connection((LOCAL, port)), waiter)
        with tls.over(plain, context, server_side=False, server_hostname=LOCAL) as transport:
            await transport.handshake()
            data = os.urandom(size)
            start = time.perf_counter()
            for _ in range(TOTAL // size):
                await transport.send([data])
            await transport.receive_into(bytearray(1))
            return time.perf_counter() - start

    return run(end)


def receive_asyncio(context: ssl.SSLContext, size: int, ready: Ready) -> None:
    """asyncio's streams."""

    async def main() -> None:
        finished = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got = 0
            while got < TOTAL:
                got += len(await reader.read(size)) or _ended_early()
            writer.write(DONE)
            await reader.read(1)
            writer.close()
            finished.set()

        server = await asyncio.start_server(handle, LOCAL, 0, ssl=context, limit=size)
        ready(server.sockets[0].getsockname()[1])
        await finished.wait()
        server.close()

    asyncio.run(main())


def send_asyncio(context: ssl.SSLContext, size: int, port: int) -> float:
    """asyncio's streams."""

    async def main() -> float:
        reader, writer = await asyncio.open_connection(LOCAL, port, ssl=context)
        data = os.urandom(size)
        start = time.perf_counter()
        for _ in range(TOTAL // size):
            writer.write(data)
            await writer.drain()
        await reader.read(1)
        seconds = time.perf_counter() - start
        writer.close()
        return seconds

    return asyncio.run(main())


def receive_socket(context: ssl.SSLContext, size: int, ready: Ready) -> None:
    """SSLSocket, which reads and writes the descriptor itself, one record a call, and cannot half-close."""
    with socket.create_server((LOCAL, 0)) as listener:
        ready(listener.getsockname()[1])
        sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with context.wrap_socket(sock, server_side=True) as secured:
        view, got = memoryview(bytearray(size)), 0
        while got < TOTAL:
            got += secured.recv_into(view) or _ended_early()
        secured.sendall(DONE)
        secured.recv(1)


def send_socket(context: ssl.SSLContext, size: int, port: int) -> float:
    """SSLSocket."""
    sock = socket.create_connection((LOCAL, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with context.wrap_socket(sock, server_hostname=LOCAL) as secured:
        data = os.urandom(size)
        start = time.perf_counter()
        for _ in range(TOTAL // size):
            secured.sendall(data)
        secured.recv(1)
        return time.perf_counter() - start


def _ended_early() -> int:
    raise EOFError("the stream ended early")


RECEIVERS: Final[dict[str, Callable[[ssl.SSLContext, int, Ready], None]]] = {
    ENCHUFE: lambda *rest: receive_enchufe(blocking, *rest),
    EVENTS: lambda *rest: receive_enchufe(in_loop, *rest),
    ASYNCIO: receive_asyncio,
    SOCKET: receive_socket,
}
SENDERS: Final[dict[str, Callable[[ssl.SSLContext, int, int], float]]] = {
    ENCHUFE: lambda *rest: send_enchufe(blocking, *rest),
    EVENTS: lambda *rest: send_enchufe(in_loop, *rest),
    ASYNCIO: send_asyncio,
    SOCKET: send_socket,
}


def settle_memory() -> None:
    """Have the C library keep what it is given back, as it does in a program that has run for a while.

    Until a piece this large was freed, glibc maps and unmaps every piece of 128 KiB (mallopt(3), M_MMAP_THRESHOLD).
    Without this asyncio's receiver spends most of its time in page faults: 0.43 GB/s instead of 1.2, and enchufe, which
    receives into memory that it keeps, was 3 to 4.6 times as fast.
    """
    _ = bytes(1 << 24)


def receiver(kind: str, folder: Path, size: int, pipe: Pipe) -> None:
    """The receiving process: tells its port, then its processor seconds."""
    settle_memory()
    context = server_context(folder)
    before = time.process_time()
    RECEIVERS[kind](context, size, pipe.send)
    pipe.send(time.process_time() - before)


def sender(kind: str, folder: Path, size: int, port: int, pipe: Pipe) -> None:
    """The sending process: tells the seconds, then its processor seconds."""
    settle_memory()
    context = client_context(folder)
    before = time.process_time()
    pipe.send(SENDERS[kind](context, size, port))
    pipe.send(time.process_time() - before)


def told(pipe: Pipe) -> Any:
    """What a process tells."""
    if not pipe.poll(RUN_SECONDS):
        raise TimeoutError("a run did not end")
    return pipe.recv()


@dataclass
class Measured:
    """A receiver and a sender: what each round took."""

    receiver: str
    sender: str
    seconds: list[float] = field(default_factory=list)
    receiving: list[float] = field(default_factory=list)
    sending: list[float] = field(default_factory=list)

    def run(self, folder: Path, size: int) -> None:
        """One round, in two new processes."""
        context = multiprocessing.get_context("spawn")
        (theirs, hers), (ours, his) = context.Pipe(), context.Pipe()
        one = context.Process(target=receiver, args=(self.receiver, folder, size, hers))
        one.start()
        other = context.Process(target=sender, args=(self.sender, folder, size, told(theirs), his))
        other.start()
        try:
            self.seconds.append(told(ours))
            self.sending.append(told(ours))
            self.receiving.append(told(theirs))
        finally:
            for process in (one, other):
                process.join(STOP_SECONDS)
                process.kill()

    def work(self, ends: str) -> float:
        """Processor seconds of the ends that a group compares."""
        receiving, sending = median(self.receiving), median(self.sending)
        return {BOTH: receiving + sending, RECEIVING: receiving, SENDING: sending}[ends]

    def row(self, reference: Measured, ends: str) -> str:
        """The line, compared with `reference`."""
        ratios = [theirs / mine for mine, theirs in zip(self.seconds, reference.seconds, strict=True)]
        gigabytes = TOTAL / 1e9
        return (
            f"  {self.receiver:<18} <- {self.sender:<18} {gigabytes / median(self.seconds):6.2f}"
            f"    {median(self.receiving) / gigabytes:6.3f} {median(self.sending) / gigabytes:6.3f}"
            f"    {reference.work(ends) / self.work(ends):5.2f}"
            f"    {median(reference.seconds) / median(self.seconds):5.2f}  ({min(ratios):.2f}..{max(ratios):.2f})"
        )


def in_memory(folder: Path) -> None:
    """Print what encryption takes without any socket: OpenSSL's part, which asyncio pays too, and all of `TlsMachine`.

    The least of all rounds, which is when nobody else was in the way.
    """
    near = TlsMachine(client_context(folder), server_side=False, server_hostname=LOCAL, peer="")
    far = TlsMachine(server_context(folder), server_side=True, server_hostname=None, peer="")
    shaken = False
    while not shaken:
        near.shake()
        far.put(near.take())
        shaken = far.shake()
        near.put(far.take())
    size = 16 * PLAIN
    data, view = os.urandom(size), memoryview(bytearray(size))
    least: dict[str, float] = {}

    def took(what: str, start: float) -> None:
        least[what] = min(least.get(what, RUN_SECONDS), time.process_time() - start)

    for _ in range(3000):
        encrypted: list[Buffer] = []
        start = time.process_time()
        near.encrypt([data], size, encrypted)
        took("TlsMachine encrypts", start)
        wire = memoryview(b"".join(encrypted))
        start, filled = time.process_time(), 0
        for at in range(0, len(wire), SLICE * RECORD):
            far.put(wire[at : at + SLICE * RECORD])
            filled += far.decrypt(view[filled:])
        took("TlsMachine decrypts", start)
        start = time.process_time()
        near._ssl.write(data)
        took("OpenSSL encrypts", start)
        far.put(near.take())
        start, filled = time.process_time(), 0
        while filled < size:
            filled += far._ssl.read(size, view[filled:])  # type: ignore[operator]  # as in TlsMachine
        took("OpenSSL decrypts", start)
    print(" in memory, processor s/GB")
    for what, seconds in least.items():
        print(f"  {what:<20} {seconds / size * 1e9:.3f}")


def main() -> None:
    """Print a table for each size."""
    groups = {
        BOTH: [Measured(kind, kind) for kind in RECEIVERS],
        RECEIVING: [Measured(kind, SOCKET) for kind in RECEIVERS if kind != SOCKET],
        SENDING: [Measured(SOCKET, kind) for kind in SENDERS if kind != SOCKET],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates(folder)
        for size in SIZES:
            print(f"{size} bytes a send, {ROUNDS} rounds of {TOTAL >> 20} MiB")
            print(
                f"  {'receiver':<18}    {'sender':<18}   GB/s    processor s/GB    asyncio's / this: processor, elapsed"
            )
            for title, group in groups.items():
                for measured in group:
                    measured.seconds, measured.receiving, measured.sending = [], [], []
                for number in range(ROUNDS):
                    # In rotating order, so that none always runs behind the same other.
                    for measured in group[number % len(group) :] + group[: number % len(group)]:
                        measured.run(folder, size)
                reference = next(one for one in group if ASYNCIO in (one.receiver, one.sender))
                print(f" {title}")
                for measured in group:
                    print(measured.row(reference, title), flush=True)
        in_memory(folder)


if __name__ == "__main__":
    main()
