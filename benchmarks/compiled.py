"""C beside the Python: compiled when it is first used, and kept until its source changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.processes import Failed


def compiled(source: Path) -> Path:
    """The program that `source` makes, in the user's cache.

    Raises:
        Failed: there is no compiler, or it refuses.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.blake2b(source.read_bytes(), digest_size=8).hexdigest()
    program = caches / "enchufe-benchmarks" / f"{source.stem}-{digest}"
    if program.exists():
        return program
    if shutil.which("cc") is None:
        raise Failed("there is no C compiler here (see packages.sh)")
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        made = Path(folder, "program")
        command = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(made), str(source)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{source.name} does not compile:\n{done.stderr[-2000:]}")
        made.rename(program)  # whole or not at all, whoever else compiles it now
    return program
