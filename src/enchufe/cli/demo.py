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
from pathlib import Path
from typing import Any, Final

import enchufe
from enchufe.cli.show import in_bytes

_MIB: Final = 1 << 20
_COMMAND: Final = [sys.executable, "-m", "enchufe"]


def run(size: int) -> int:
    """Send a generated file of `size` MiB and this program's own source; 0 if what landed is what was sent."""
    with tempfile.TemporaryDirectory(prefix="enchufe-demo-") as folder:
        return _run(Path(folder), size)


def _run(folder: Path, size: int) -> int:
    big, tree, inbox = folder / "big.bin", folder / "enchufe", folder / "inbox"
    _say(f"a file of {size} MiB and the source of enchufe, encrypted, from one process to another over loopback")
    _generate(big, size)
    shutil.copytree(Path(enchufe.__file__).parent, tree, ignore=shutil.ignore_patterns("__pycache__"))

    receive = [*_COMMAND, "receive", "--listen", "127.0.0.1:0", "-o", str(inbox), "--yes", "--json"]
    receiver = subprocess.Popen(receive, stdout=subprocess.PIPE, text=True)
    try:
        assert receiver.stdout is not None
        address = json.loads(receiver.stdout.readline())["address"]
        code = json.loads(receiver.stdout.readline())["code"]
        _say(f"$ enchufe receive --listen {address} -o {inbox} --yes")
        _say(f"the code that it shows, to be said to whoever sends: {code}")
        _say(f"$ enchufe send {big} {tree} --to {address}")
        send = [*_COMMAND, "send", str(big), str(tree), "--to", address]
        sender = subprocess.run(send, env={**os.environ, "ENCHUFE_CODE": code}, check=False)
        told = [json.loads(line) for line in receiver.stdout]
        ended = receiver.wait(timeout=60)
    finally:
        if receiver.poll() is None:
            receiver.kill()
            receiver.wait()
    if sender.returncode or ended:
        _say(f"it failed: the sender ended with {sender.returncode}, the receiver with {ended}")
        return 1
    return _compare(told[-1], [(big, inbox / big.name), (tree, inbox / tree.name)])


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
    sys.stderr.write(text + os.linesep)
    sys.stderr.flush()
