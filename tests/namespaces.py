"""Machines on a network of their own: two network namespaces, joined by pairs of virtual cables."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv6Address
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
PATIENCE = 60  # seconds until `ip` counts as hanging
_numbers = itertools.count()


@dataclass(frozen=True)
class Machine:
    """One namespace.

    Attributes:
        name: of the namespace.
        number: 1 or 2, the last part of its addresses: on link N, 10.98.N.1 and fd98:N::1 (fd98::1 on link 0).
    """

    name: str
    number: int

    def inside(self, *command: str) -> list[str]:
        """The command that runs another in here."""
        return ["ip", "netns", "exec", self.name, *command]

    def python(self, code: str, *arguments: str) -> list[str]:
        """The command that runs Python code in here, which may import enchufe."""
        return self.inside("env", f"PYTHONPATH={SOURCE}", sys.executable, "-W", "error", "-c", code, *arguments)

    def do(self, *command: str) -> None:
        """Run a command in here, which has to succeed."""
        _run(*self.inside(*command))

    def ipv4(self, link: int = 0) -> str:
        return f"10.98.{link}.{self.number}"

    def ipv6(self, link: int = 0) -> str:
        return str(IPv6Address(f"fd98:{link}::{self.number}"))


@contextmanager
def two_machines(links: int = 1) -> Iterator[tuple[Machine, Machine]]:
    """Two machines, for as long as the block lasts, with the links `link0`, `link1` between them.

    Each link passes a switch, `switch0`, `switch1`, in a third namespace: `switch(...)` finds it.
    """
    if why := absence():
        pytest.skip(why)
    with ExitStack() as stack:
        number = next(_numbers)
        one, two, between = (Machine(f"enchufe-{os.getpid()}-{number}-{who}", who) for who in (1, 2, 3))
        for machine in (one, two, between):
            stack.callback(_remove, machine)  # first what undoes it: a signal may come in between
            _run("ip", "netns", "add", machine.name)
            # Addresses are good at once, and not only after nobody has objected for a second.
            machine.do("sh", "-c", "for each in all default; do echo 0 >/proc/sys/net/ipv6/conf/$each/accept_dad; done")
            machine.do("ip", "link", "set", "lo", "up")
        for link in range(links):
            between.do("ip", "link", "add", f"switch{link}", "type", "bridge", "mcast_snooping", "0")
            between.do("ip", "link", "set", f"switch{link}", "up")
            for machine in (one, two):
                _plug(machine, between, link)
        yield one, two


def no_multicast(one: Machine, link: int = 0) -> None:
    """From here on the link's switch carries no multicast, as that of many a guest network."""
    between = Machine(f"{one.name[:-1]}3", 3)
    for number in (1, 2):
        between.do("bridge", "link", "set", "dev", f"port{link}-{number}", "mcast_flood", "off")


def _plug(machine: Machine, between: Machine, link: int) -> None:
    name, port = f"link{link}", f"port{link}-{machine.number}"
    # The address of the hardware is in an IPv6 address: with this one no test depends on chance.
    end = ["address", f"02:00:00:00:{link:02x}:{machine.number:02x}", "netns", machine.name]
    _run("ip", "link", "add", name, *end, "type", "veth", "peer", "name", port, "netns", between.name)
    machine.do("ip", "address", "add", f"{machine.ipv4(link)}/24", "dev", name)
    machine.do("ip", "address", "add", f"{machine.ipv6(link)}/64", "dev", name)
    machine.do("ip", "link", "set", name, "up")
    between.do("ip", "link", "set", port, "master", f"switch{link}", "up")


@cache
def absence() -> str | None:
    """Why there can be no namespaces here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"enchufe-{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", name)
        try:
            _run("ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two")
            _run("ip", "-n", name, "link", "add", "switch", "type", "bridge")
        finally:
            _run("ip", "netns", "del", name)
    except FileNotFoundError:
        pytest.fail("there is no ip on this machine: run tests/packages.sh")
    except subprocess.CalledProcessError as error:
        return f"network namespaces are impossible here: {error.stderr.strip()}"
    return None


def _remove(machine: Machine) -> None:
    """Take a namespace away, and whatever still runs in it: only its test put anything there."""
    if not Path("/run/netns", machine.name).exists():
        return
    for number in _run("ip", "netns", "pids", machine.name).split():
        with suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGKILL)
    _run("ip", "netns", "del", machine.name)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout
