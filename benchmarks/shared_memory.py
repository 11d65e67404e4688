"""How fast messages cross shared memory: `python -m benchmarks.shared_memory`.

Two processes of one machine, one way and question by question, beside `multiprocessing.Pipe`, a Unix socket and, where
it can be imported, pyzmq over ipc. enchufe's rows are a `Connection` with `LengthPrefixed(4)` driven by a thread. All
rows of a table run in every round, in rotating order; each round's seconds are compared with its first row's. The
processor time of both ends together tells more where others use the processors too. Last comes the ceiling: what the
copies alone take, in by one process and out by another, on one processor and on two.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import os
import resource
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe
from statistics import median
from typing import Any, Final

from enchufe.connection import Connection
from enchufe.framing import LengthPrefixed
from enchufe.transports import Listener, connect, parse_address, shared_memory
from enchufe.waiting import BlockingWaiter, drive

try:
    import zmq  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    zmq = None

FRAMING: Final = LengthPrefixed(4)
GATHERED: Final = 100  # messages of one send, in the row that gathers
DONE: Final = b"done"
SPIN: Final = shared_memory.SPIN
# Bytes of a message, and how many of them a run has, one way and there and back.
SIZES: Final = {64: (50_000, 3000), 1024: (30_000, 3000), 65536: (20_000, 1000), 1 << 20: (300, 150)}

Ends = tuple[Callable[[], Any], Callable[[], Any]]
"""What makes the two ends, each in the process that will use it: first the one that listens."""


@dataclass(frozen=True)
class Row:
    """Somebody to be measured: how it is connected, what each end does, and how long it looks before it sleeps."""

    name: str
    ends: Callable[[str], Ends]
    near: Callable[[Any, int, int], None]
    far: Callable[[Any, int, int], None]
    spin: float = SPIN


# enchufe.


def enchufe_ends(scheme: str, folder: str) -> Ends:
    """Two Connections."""
    address, waiter = parse_address(f"{scheme}:{folder}/socket"), BlockingWaiter()
    listener = Listener(address)

    def near() -> Connection:
        transport = drive(listener.accept(waiter))
        assert transport is not None
        drive(transport.handshake())
        listener.close()
        return Connection(transport, FRAMING)

    return near, lambda: Connection(drive(connect(address, waiter)), FRAMING)


def send_all(connection: Connection, size: int, count: int, gathered: int = 1) -> None:
    """Send, and wait until the last has arrived."""
    messages = [bytes(size)] * gathered

    async def send() -> None:
        for _ in range(count // gathered):
            await connection.send(*messages)
        assert await connection.receive() == DONE

    drive(send())


def receive_all(connection: Connection, size: int, count: int) -> None:
    """Receive, and say so."""

    async def receive() -> None:
        for _ in range(count):
            message = await connection.receive()
            assert message is not None
            assert len(message) == size
        await connection.send(DONE)
        assert await connection.receive() is None

    drive(receive())
    connection.close()


def ask(connection: Connection, size: int, count: int) -> None:
    """Send, and wait for the answer."""
    message = bytes(size)

    async def send() -> None:
        for _ in range(count):
            assert len(await connection.ask(message)) == size

    drive(send())


def answer(connection: Connection, size: int, count: int) -> None:  # noqa: ARG001
    """Send back what comes."""

    async def echo() -> None:
        async for message in connection:
            await connection.send(message)

    drive(echo())
    connection.close()


# multiprocessing.Pipe.


def pipe_ends(folder: str) -> Ends:  # noqa: ARG001
    """Two of its connections."""
    here, there = multiprocessing.Pipe()

    def near() -> Pipe:
        there.close()
        return here

    return near, lambda: there


def pipe_send_all(pipe: Pipe, size: int, count: int) -> None:
    """As `send_all`."""
    message = bytes(size)
    for _ in range(count):
        pipe.send_bytes(message)
    assert pipe.recv_bytes() == DONE


def pipe_receive_all(pipe: Pipe, size: int, count: int) -> None:
    """As `receive_all`."""
    for _ in range(count):
        assert len(pipe.recv_bytes()) == size
    pipe.send_bytes(DONE)


def pipe_ask(pipe: Pipe, size: int, count: int) -> None:
    """As `ask`."""
    message = bytes(size)
    for _ in range(count):
        pipe.send_bytes(message)
        assert len(pipe.recv_bytes()) == size


def pipe_answer(pipe: Pipe, size: int, count: int) -> None:  # noqa: ARG001
    """As `answer`."""
    for _ in range(count):
        pipe.send_bytes(pipe.recv_bytes())


# pyzmq: a socket for each direction, since PUSH only sends and PULL only receives.


class Queues:
    """Two sockets over ipc that have found their peers."""

    def __init__(self, folder: str, *, near: bool) -> None:
        self._context = zmq.Context()
        self.out, self.back = (self._context.socket(kind) for kind in (zmq.PUSH, zmq.PULL))
        names = ("there", "back") if near else ("back", "there")
        for queue, name in zip((self.out, self.back), names, strict=True):
            (queue.bind if near else queue.connect)(f"ipc://{folder}/{name}")
        if near:
            assert self.back.recv() == DONE
        else:
            self.out.send(DONE)

    def close(self) -> None:
        """Send what is left, and end."""
        self.out.close()
        self.back.close()
        self._context.term()


def queue_ends(folder: str) -> Ends:
    """Two pairs of sockets."""
    return partial(Queues, folder, near=True), partial(Queues, folder, near=False)


def queue_send_all(queues: Queues, size: int, count: int) -> None:
    """As `send_all`."""
    message = bytes(size)
    for _ in range(count):
        queues.out.send(message)
    assert queues.back.recv() == DONE


def queue_receive_all(queues: Queues, size: int, count: int) -> None:
    """As `receive_all`."""
    for _ in range(count):
        assert len(queues.back.recv()) == size
    queues.out.send(DONE)
    queues.close()


def queue_ask(queues: Queues, size: int, count: int) -> None:
    """As `ask`."""
    message = bytes(size)
    for _ in range(count):
        queues.out.send(message)
        assert len(queues.back.recv()) == size


def queue_answer(queues: Queues, size: int, count: int) -> None:  # noqa: ARG001
    """As `answer`."""
    for _ in range(count):
        queues.out.send(queues.back.recv())
    queues.close()


def rows(*, one_way: bool, size: int) -> list[Row]:
    """Who is compared, the one that the others are compared with first."""
    near, far = (send_all, receive_all) if one_way else (ask, answer)
    pipe = (pipe_send_all, pipe_receive_all) if one_way else (pipe_ask, pipe_answer)
    memory = partial(enchufe_ends, "shm")
    found = [
        Row("multiprocessing.Pipe", pipe_ends, *pipe),
        Row("unix", partial(enchufe_ends, "unix"), near, far),
        Row("shared_memory", memory, near, far),
        Row("shared_memory, no spin", memory, near, far, 0.0),
    ]
    if one_way and size < 65536:
        found.append(Row(f"shared_memory, {GATHERED} a send", memory, partial(send_all, gathered=GATHERED), far))
    if zmq is not None:
        queue = (queue_send_all, queue_receive_all) if one_way else (queue_ask, queue_answer)
        found.append(Row("pyzmq PUSH/PULL, ipc", queue_ends, *queue))
    return found


def in_child(function: Callable[[], None]) -> int:
    """Run it in a process of its own: its process id."""
    child = os.fork()
    if not child:
        status = 1
        try:
            function()
            status = 0
        except BaseException:  # noqa: BLE001 (it must not go on as its parent)
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def busy() -> float:
    """Seconds that processors spent on this process and on its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measured(row: Row, size: int, count: int) -> tuple[float, float]:
    """Seconds of one run, connecting not counted, and processor seconds of both ends."""
    worked = busy()
    shared_memory.SPIN = row.spin  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        near, far = row.ends(folder)
        child = in_child(lambda: row.far(far(), size, count))
        end = near()
        start = time.perf_counter()
        row.near(end, size, count)
        seconds = time.perf_counter() - start
        end.close()
        if os.waitpid(child, 0)[1]:
            raise RuntimeError(f"{row.name}: its other end failed")
    return seconds, busy() - worked


def rotated(compared: Sequence[Row], turn: int) -> Sequence[Row]:
    """The same, beginning with another one each time."""
    first = turn % len(compared)
    return [*compared[first:], *compared[:first]]


def compare(title: str, compared: Sequence[Row], size: int, count: int, rounds: int) -> None:
    """One table."""
    runs: dict[str, list[tuple[float, float]]] = {row.name: [] for row in compared}
    for turn in range(rounds):
        for row in rotated(compared, turn):
            runs[row.name].append(measured(row, size, count))
    first = compared[0].name
    print(f"\n{title}\n  {'':<28} {'us each':>8} {'CPU us':>8}   speed / {first}'s: median (lowest to highest)")
    for name, ours in runs.items():
        ratios = [base / one for (base, _), (one, _) in zip(runs[first], ours, strict=True)]
        each, worked = (median(figures) / count * 1e6 for figures in zip(*ours, strict=True))
        told = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {name:<28} {each:8.2f} {worked:8.2f}   {told}", flush=True)


def copies(capacity: int, piece: int, processors: Sequence[int], rounds: int = 200) -> tuple[float, float]:
    """Microseconds to copy `piece` bytes into a memory of `capacity` bytes, and out of it by another process.

    In turns, so that nobody waits while it is timed. The lower quartile: the machine may have other work.
    """
    with mmap.mmap(-1, capacity) as memory, mmap.mmap(-1, 4096) as results:
        view, answers = memoryview(memory), memoryview(results).cast("d")
        here, there = socket.socketpair()
        data, starts = bytes(piece), range(0, capacity, piece)

        def timed(copy: Callable[[int], object]) -> float:
            start = time.perf_counter()
            for at in starts:
                copy(at)
            return (time.perf_counter() - start) / len(starts) * 1e6

        def write(at: int) -> None:
            view[at : at + piece] = data

        def reader() -> None:
            os.sched_setaffinity(0, {processors[-1]})
            seconds = []
            for _ in range(rounds):
                there.recv(1)
                seconds.append(timed(lambda at: bytes(view[at : at + piece])))
                there.send(DONE[:1])
            answers[0] = sorted(seconds)[rounds // 4]

        usual = os.sched_getaffinity(0)
        child = in_child(reader)
        try:
            os.sched_setaffinity(0, {processors[0]})
            seconds = []
            for _ in range(rounds):
                seconds.append(timed(write))
                here.send(DONE[:1])
                here.recv(1)
        finally:
            os.sched_setaffinity(0, usual)
            os.waitpid(child, 0)
            here.close()
            there.close()
        out = answers[0]
        view.release()
        answers.release()
    return sorted(seconds)[rounds // 4], out


def ceiling() -> None:
    """What the copies alone take."""
    processors = sorted(os.sched_getaffinity(0))
    places = {"one processor": processors[:1], "two processors": [processors[0], processors[-1]]}
    print("\nthe copies alone, 64 KiB, by the size of the ring: microseconds in, out")
    for shift in (18, 20, 22, 24):
        print(f"  {1 << shift - 10:>6} KiB", end="")
        for name, place in places.items():
            into, out = copies(1 << shift, 65536, place)
            print(f"   {name} {into:.2f}, {out:.2f}", end="", flush=True)
        print()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(SIZES), default=list(SIZES))
    options = parser.parse_args()
    if zmq is None:
        print("pyzmq is not installed here: its rows are left out")
    for size in options.sizes:
        there, back = SIZES[size]
        compare(f"one way, {size} B", rows(one_way=True, size=size), size, there, options.rounds)
        compare(f"there and back, {size} B", rows(one_way=False, size=size), size, back, options.rounds)
    ceiling()


if __name__ == "__main__":
    main()
