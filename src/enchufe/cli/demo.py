"""`enchufe demo`: the main job on this machine, start to end, between two real processes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import enchufe
from enchufe.cli import exits, output
from enchufe.cli.show import in_bytes
from enchufe.errors import LocalProtocolError
from enchufe.interruption import undivided
from enchufe.store.faults import store_error

_MIB: Final = 1 << 20
_COMMAND: Final = [sys.executable, "-m", "enchufe"]
_SOURCE: Final = Path(enchufe.__file__).parent


def run(size: int) -> int:
    """Send a generated file of `size` MiB and this program's own source; 0 if what landed is what was sent.

    Raises:
        StoreError: there is no room for it.
        LocalProtocolError: that source is not in a folder.
    """
    if not _SOURCE.is_dir():
        raise LocalProtocolError(
            "the demo sends enchufe's own source, which is inside of an archive here",
            hint="Run it where enchufe is installed; all other commands work from an archive, too.",
        )
    try:
        with tempfile.TemporaryDirectory(prefix="enchufe-demo-") as folder:
            return _run(Path(folder), size)
    except OSError as error:
        raise store_error(error, "use", "the folder for temporary files (TMPDIR)") from error


def _run(folder: Path, size: int) -> int:
    big, tree, inbox = folder / "big.bin", folder / "enchufe", folder / "inbox"
    _say(f"a file of {size} MiB and the source of enchufe, encrypted, from one process to another over loopback")
    _generate(big, size)
    shutil.copytree(_SOURCE, tree, ignore=shutil.ignore_patterns("__pycache__"))

    receive = [*_COMMAND, "receive", "--listen", "127.0.0.1:0", "-o", str(inbox), "--yes", "--json"]
    with _begun(receive, stdout=subprocess.PIPE, text=True) as receiver:
        listening, shown = _said(receiver), _said(receiver)
        if "code" not in shown:
            return _failed("receiver", receiver.wait())
        address: str = listening["address"]
        code: str = shown["code"]
        _say(f"$ enchufe receive --listen {address} -o {inbox} --yes")
        _say(f"the code that it shows, to be said to whoever sends: {code}")
        _say(f"$ enchufe send {big} {tree} --to {address}")
        send = [*_COMMAND, "send", str(big), str(tree), "--to", address]
        with _begun(send, env={**os.environ, "ENCHUFE_CODE": code}) as sender:
            if ended := sender.wait():  # the receiver would wait for another
                return _failed("sender", ended)
        told: dict[str, Any] = {}
        while event := _said(receiver):
            told = event
        if ended := receiver.wait():
            return _failed("receiver", ended)
    return _compare(told, [(big, inbox / big.name), (tree, inbox / tree.name)])


@contextmanager
def _begun(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of ours, which is gone when the block is left, and has no word to say about that."""
    process: subprocess.Popen[str] | None = None
    try:
        with undivided:  # in the middle of being started it belongs to nobody who would end it
            # In a session of its own: Ctrl-C on the terminal is for us alone.
            process = subprocess.Popen(command, start_new_session=True, **options)
        yield process
    finally:
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The event that it tells next; empty where it has ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    event: dict[str, Any] = json.loads(line) if line else {}
    return event


def _failed(who: str, code: int) -> int:
    _say(f"it failed: the {who} ended with {code}")
    return exits.UNEXPECTED


def _compare(receipt: dict[str, Any], pairs: list[tuple[Path, Path]]) -> int:
    _say(f"the receiver's digest of the whole tree: {receipt['digest']}")
    _say("now byte for byte, and by another digest (SHA-256) on either side:")
    same = True
    for sent, landed in pairs:
        here, there = _digest(sent), _digest(landed)
        same = same and here == there
        verdict = "the same" if here == there else "DIFFERENT"
        _say(f"  {sent.name}: sent {here[:16]}..., landed {there[:16]}...: {verdict}")
    rate = in_bytes(receipt["bytes"] / receipt["seconds"])
    files, size, seconds = receipt["files"], in_bytes(receipt["bytes"]), receipt["seconds"]
    _say(f"{files} files, {size} in {seconds:.2f} s: {rate}/s, encryption, fsync and all")
    return 0 if same else 1


def _generate(path: Path, size: int) -> None:
    piece = bytearray(random.Random(1).randbytes(_MIB))  # noqa: S311 (any bytes will do)
    with path.open("wb") as file:
        for number in range(size):
            piece[:8] = number.to_bytes(8, "big")  # no two pieces alike
            file.write(piece)


def _digest(path: Path) -> str:
    """SHA-256 over names, kinds, modes, times and contents below `path`."""
    digest = hashlib.sha256()
    for found in sorted([path, *path.rglob("*")]):
        info = found.lstat()
        kept = (str(found.relative_to(path)), info.st_mode, info.st_mtime_ns)
        digest.update(repr(kept).encode(errors="surrogateescape"))
        if found.is_file():
            with found.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _say(text: str) -> None:
    output.tell(f"{text}\n")
