"""How many connections at once a long link wants: plain ones, for some seconds, under each congestion control.

    python -m benchmarks.wan.streams --rtt 50,150 --rate 100,1000 --loss 0,0.1,1

As root, like `benchmarks.wan`. For each link a line for each control: Mbit/s of content in the second half of the time,
when they have found their speed; with --whole, from the first byte on. Then what the best number wins over 8.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import runs
from benchmarks.processes import Network, Pipeline, Stage, free_port
from benchmarks.wan import link as links
from benchmarks.wan.link import Link

COUNTS: Final = (1, 2, 4, 8, 16, 32)
DEFAULT: Final = 8  # of enchufe, far
CONTROLS: Final = ("bbr", "cubic")
PIECE: Final = 1 << 18  # bytes of one send or receive
MARGIN: Final = 30  # seconds that a run may take longer than it measures
ABORT: Final = struct.pack("ii", 1, 0)  # SO_LINGER: what is still queued is dropped


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each link; 1 if there can be none here, or a run failed."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["receive"]:
        return _receive(words[1], int(words[2]), int(words[3]), float(words[4]))
    if words[:1] == ["send"]:
        return _send(words[1], int(words[2]), int(words[3]), float(words[4]), words[5])
    options = _parser().parse_args(words)
    if why := links.absence():
        print(f"FAILED: {why}", file=sys.stderr)
        return 1
    results: list[dict[str, Any]] = []
    print("Mbit/s over", *options.count, "connections; best over", DEFAULT, sep="  ", flush=True)
    with runs.reported(results, options.json), runs.work_directory(options.on) as work:
        for rtt in options.rtt:
            for rate in options.rate:
                for loss in options.loss:
                    results += _measure(Link(rtt, rate, loss, seed=options.seed), work / "link", options)
    return 0


def _measure(link: Link, scratch: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One link: each control with each number of connections, some rounds; the medians are told."""
    measured: dict[str, dict[int, list[list[float]]]] = {
        control: {count: [] for count in options.count} for control in options.control
    }
    cells = [(control, count) for control in options.control for count in options.count]
    with runs.fresh(scratch.parent / "links") as place, links.up(link, place / "up") as network:
        for number in range(options.rounds):
            turn = number % len(cells)
            for control, count in [*cells[turn:], *cells[:turn]]:
                both = _run(network, place / "run", count, control, options.seconds)
                measured[control][count].append(both)
                time.sleep(0.2 + 2 * link.rtt / 1000)
    told = []
    for control, by_count in measured.items():
        whole, settled = (
            {count: sorted(one[which] for one in each)[len(each) // 2] for count, each in by_count.items()}
            for which in (0, 1)
        )
        shown = whole if options.whole else settled
        best = max(shown.values()) / shown[DEFAULT] if shown.get(DEFAULT) else 0.0
        print(f"{link}, {control}:", *(f"{speed:.1f}" for speed in shown.values()), f"{best:.2f}", sep="  ", flush=True)
        told.append({"link": str(link), "control": control, "whole": whole, "settled": settled})
    return told


def _run(network: Network, scratch: Path, count: int, control: str, seconds: float) -> list[float]:
    """Mbit/s of the whole time, and of its second half."""
    with runs.fresh(scratch), Stage(scratch, seconds + MARGIN, network) as stage:
        port, said = free_port(), scratch / "said"
        program = [sys.executable, "-m", "benchmarks.wan.streams"]
        words = [network.address, str(port), str(count), str(seconds)]
        receivers = stage.start(Pipeline([[*program, "receive", *words]], stdout=said, inside=network.receiver))
        stage.listening(receivers, port)
        senders = stage.start(Pipeline([[*program, "send", *words, control]], inside=network.sender))
        for process in [*receivers, *senders]:
            process.finish(stage.deadline)
        return [float(word) for word in said.read_text().split()]


def _receive(address: str, port: int, count: int, seconds: float) -> int:
    """Take what comes for so long, from the first connection on, and say how much it was."""
    with socket.create_server((address, port), backlog=count) as listener:
        listener.settimeout(MARGIN)
        accepted = [listener.accept()[0]]
        start = time.monotonic()
        taken = [0] * count

        def take(number: int) -> None:
            buffer = bytearray(PIECE)
            while not over.is_set():
                try:
                    got = accepted[number].recv_into(buffer)
                except OSError:
                    return
                if not got:
                    return
                taken[number] += got

        over = threading.Event()
        threads = [threading.Thread(target=take, args=(number,), daemon=True) for number in range(count)]
        threads[0].start()
        for thread in threads[1:]:
            accepted.append(listener.accept()[0])
            thread.start()
    time.sleep(max(0.0, start + seconds / 2 - time.monotonic()))
    half, middle = sum(taken), time.monotonic()
    time.sleep(max(0.0, start + seconds - time.monotonic()))
    whole, end = sum(taken), time.monotonic()
    over.set()
    for connection in accepted:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        connection.close()
    print(whole * 8e-6 / (end - start), (whole - half) * 8e-6 / (end - middle))
    return 0


def _send(address: str, port: int, count: int, seconds: float, control: str) -> int:
    """Send over so many connections, until the other side ends them or it is too long."""
    piece = bytes(PIECE)
    until = time.monotonic() + seconds + 1

    def give() -> None:
        connection = socket.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        connection.settimeout(MARGIN)  # the first packet may be lost as well
        with connection:
            connection.connect((address, port))
            connection.settimeout(1)
            while time.monotonic() < until:
                try:
                    connection.send(piece)
                except TimeoutError:
                    continue
                except OSError:
                    return

    threads = [threading.Thread(target=give) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _counts(text: str) -> list[int]:
    return [runs.positive(word) for word in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.wan.streams",
        description=(__doc__ or "").split("\n", 1)[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rtt", type=_numbers, default=[50.0], metavar="MS,MS")
    parser.add_argument("--rate", type=_numbers, default=[1000.0], metavar="MBIT,MBIT")
    parser.add_argument("--loss", type=_numbers, default=[0.1], metavar="PERCENT,PERCENT")
    parser.add_argument("--count", type=_counts, default=list(COUNTS), metavar="N,N", help="connections")
    parser.add_argument("--control", type=lambda text: text.split(","), default=list(CONTROLS), metavar="A,B")
    parser.add_argument("--seconds", type=float, default=6, help="for each; default: %(default)s")
    parser.add_argument("--rounds", type=runs.positive, default=1)
    parser.add_argument("--whole", action="store_true", help="speed from the first byte on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--on", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
