"""The link: `wan.c`, built on demand, between two network namespaces of this program's own.

It needs root and /dev/net/tun.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import Failed, Network, Pipeline, Stage

SOURCE: Final = Path(__file__).with_name("wan.c")
RECEIVER: Final = "10.99.0.2"  # as wan.c has it
COMPILE_SECONDS: Final = 60


@dataclass(frozen=True)
class Link:
    """A long link.

    Attributes:
        rtt: milliseconds there and back.
        rate: Mbit/s each way.
        loss: percent of the packets each way.
        congestion: control of connections that choose none; None: as this machine has it.
        seed: of which packets are lost.
    """

    rtt: float
    rate: float
    loss: float
    congestion: str | None = None
    seed: int = 1

    def __str__(self) -> str:
        return f"{self.rtt:g} ms, {self.rate:g} Mbit/s, {self.loss:g} % loss"


def absence() -> str | None:
    """Why there can be no link here, or None."""
    if os.geteuid() != 0:
        return "namespaces and TUN devices need root"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return None


@contextmanager
def up(link: Link, scratch: Path) -> Iterator[Network]:
    """The link for as long as the context lasts; its namespaces are named after this process."""
    scratch.mkdir()
    program = scratch / "wan"
    with ExitStack() as stack:
        stage = stack.enter_context(Stage(scratch, COMPILE_SECONDS))
        stage.run(["cc", "-O2", "-pthread", "-o", str(program), str(SOURCE), "-lm"])
        sender, receiver = names = [f"enchufe-{os.getpid()}-{side}" for side in ("sender", "receiver")]
        for name in names:
            # First what undoes it: a signal may come in between.
            stack.callback(_remove, name)
            _ip("netns", "add", name)
            _tune(name, link)
        said = scratch / "said"
        delay = ["-d", str(link.rtt / 2), "-p", str(link.loss / 100), "-r", str(link.rate), "-s", str(link.seed)]
        wan = stage.start(Pipeline([[str(program), *delay, sender, receiver]], stdout=said))
        stack.callback(wan[0].stop)
        stage.until(lambda: "READY" in said.read_text(), wan, "does not become ready")
        yield Network(RECEIVER, _inside(sender), _inside(receiver))
        wan[0].stop()


def counters(scratch: Path) -> str:
    """What the link counted, once it is down: packets that it held back too long make its figures worthless."""
    return (scratch / "said").read_text().removeprefix("READY\n").strip()


def _tune(name: str, link: Link) -> None:
    # Else the kernel remembers of one peer's connections what the next one's begin with.
    settings = {"tcp_no_metrics_save": "1"}
    if link.congestion is not None:
        settings["tcp_congestion_control"] = link.congestion
    for key, value in settings.items():
        subprocess.run([*_inside(name), "sysctl", "-qw", f"net.ipv4.{key}={value}"], check=True)


def _remove(name: str) -> None:
    """Take a namespace away, and whatever still runs in it: only this program put anything there."""
    if not Path("/run/netns", name).exists():
        return
    inside = subprocess.run(["ip", "netns", "pids", name], check=True, capture_output=True, text=True).stdout
    for number in inside.split():
        with suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGKILL)
    _ip("netns", "del", name)


def _inside(name: str) -> list[str]:
    return ["ip", "netns", "exec", name]


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"`ip {' '.join(words)}` fails: {done.stderr.strip()}")
