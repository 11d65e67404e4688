"""Other people's programs as processes: started with their pipes, ended by whoever started them."""

from __future__ import annotations

import importlib.util
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

HERE = Path(__file__).parent
# Seconds until a peer counts as dead: no measure of anything, only the end of a test that hangs.
PATIENCE = 60.0


@contextmanager
def running(command: Sequence[str], *, errors: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts; its standard error is that of the tests, or a pipe (`errors`)."""
    stderr = subprocess.PIPE if errors else None
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=0)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def line(pipe: IO[bytes] | None) -> str:
    """The next line that a process prints."""
    assert pipe
    assert select.select([pipe], [], [], PATIENCE)[0], "the peer printed nothing"
    text = pipe.readline().decode()
    assert text.endswith("\n"), f"the peer ended after {text!r}"
    return text.strip()


def program(name: str) -> str:
    """Where a program is that a Debian package brings."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"there is no {name} on this machine: run tests/packages.sh")
    return path


def netcat() -> str:
    """OpenBSD's netcat, whichever else is called `nc`."""
    return program("nc.openbsd")


def twisted(protocol: str, *rest: str) -> list[str]:
    return _python("twisted", "twisted_peer.py", protocol, *rest)


def protobuf(kind: str, *rest: str) -> list[str]:
    return _python("google.protobuf", "protobuf_peer.py", kind, *rest)


def erlang(packet: str, *rest: str) -> list[str]:
    return [program("escript"), str(HERE / "erlang_peer.escript"), packet, *rest]


def _python(needs: str, script: str, *rest: str) -> list[str]:
    if importlib.util.find_spec(needs) is None:
        pytest.fail(f"there is no {needs} in this environment: install requirements/dev.txt")
    return [sys.executable, "-W", "ignore", str(HERE / script), *rest]
