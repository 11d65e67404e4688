"""What others on a machine and its network can see of commands while they run."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.namespaces import Machine

_CAPTURE = """
import socket
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as wire:
    wire.bind(("link0", 0))
    print("capturing", flush=True)
    while True:
        print(wire.recv(1 << 17).hex(), flush=True)
"""


class Processes:
    """Looks at processes over and over, as `ps` does, from `with` on.

    Attributes:
        arguments: all that was seen of any process.
        environments: all that was seen of our children, by process.
    """

    def __init__(self) -> None:
        self.arguments: set[bytes] = set()
        self.environments: dict[int, bytes] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    self.arguments.add((process / "cmdline").read_bytes())
            for number in _children(os.getpid()):
                with suppress(OSError):
                    if not _is_forked_off(number):
                        self.environments[number] = Path(f"/proc/{number}/environ").read_bytes()


def _is_forked_off(number: int) -> bool:
    """Whether a process is no program of its own yet: until then it says what its parent says, whose memory it has."""
    parent = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1]
    return Path(f"/proc/{number}/cmdline").read_bytes() == Path(f"/proc/{parent}/cmdline").read_bytes()


def _children(number: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):  # it may have ended
        for tasks in Path(f"/proc/{number}/task").glob("*/children"):
            found += map(int, tasks.read_text().split())
    return found + [below for each in found for below in _children(each)]


class Tap:
    """All packets that a machine sends or receives on its first link, from `with` to its end.

    Attributes:
        packets: once it has ended.
    """

    def __init__(self, machine: Machine) -> None:
        self.packets: list[bytes] = []
        self._process = subprocess.Popen(machine.python(_CAPTURE), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"capturing\n"
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._thread.join()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):
                self.packets.append(bytes.fromhex(line.decode()))

    def announcements(self) -> list[bytes]:
        return [packet for packet in self.packets if b"_enchufe" in packet]


def files_below(folder: Path) -> list[bytes]:
    """What is in every file that was left there."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
