"""Fuzzes for as long as you like: `python -m tests.fuzz.run --seconds 600`.

With atheris where it can be imported (CPython 3.12 and later: `pip install atheris`), which looks for inputs that
reach new code; else, or with `--plain`, with mutations of seeds under `--seed`. A failing input is printed as the
command that tries it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST = 2048
# How many inputs the plain driver keeps to go on from.
KEPT = 2000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="do without atheris")
    parser.add_argument("--input", type=bytes.fromhex, help="try this one input, in hex")
    options = parser.parse_args(arguments)
    if options.input is not None:
        reporting(load())(options.input)
        print("nothing failed")
    elif options.plain or importlib.util.find_spec("atheris") is None:
        plainly(reporting(load()), options.seconds, options.seed)
    else:
        return by_coverage(options.seconds, options.seed)
    return 0


def load() -> Callable[[bytes], None]:
    """The checks; imported late, since atheris must be there first."""
    from tests.fuzz.check import check  # noqa: PLC0415

    return check


def reporting(check: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def checked(data: bytes) -> None:
        try:
            check(data)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                print(f"FAILED; again: python -m tests.fuzz.run --input {data.hex()}", file=sys.stderr, flush=True)
            raise

    return checked


def plainly(check: Callable[[bytes], None], seconds: float, seed: int) -> int:
    """Mutate and check until the time is over, and print how many inputs that were."""
    from tests.fuzz.seeds import seeds  # noqa: PLC0415

    chance = random.Random(seed)
    inputs = seeds()
    for data in inputs:
        check(data)
    first, count, end = len(inputs), len(inputs), time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(chance, chance.choice(inputs), chance.choice(inputs))
        check(data)
        count += 1
        if len(inputs) < KEPT:
            inputs.append(data)
        elif chance.random() < 0.1:
            inputs[chance.randrange(first, KEPT)] = data
    print(f"{count} executions under seed {seed}, nothing failed")
    return count


def mutated(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """`data` with a few changes: flipped, replaced, inserted, dropped and doubled bytes, and pieces of `other`."""
    changed = bytearray(data or b"\0")
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at = chance.randrange(len(changed) + 1)
        stop = at + chance.choice([1, 2, 4, 20])
        how = chance.randrange(6)
        if how == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            changed[at:stop] = chance.randbytes(min(stop, len(changed)) - at)
        elif how == 2:
            changed[at:at] = chance.randbytes(stop - at)
        elif how == 3 and stop - at < len(changed):
            del changed[at:stop]
        elif how == 4:
            changed[at:at] = changed[at:stop] * chance.choice([1, 3, 10])
        elif how == 5 and other:
            start = chance.randrange(len(other))
            changed[at:stop] = other[start : start + chance.choice([1, 4, 20, 200])]
    return bytes(changed[:LONGEST])


def by_coverage(seconds: float, seed: int) -> int:
    """Hand a child over to atheris, which ends it and says how many runs it did; its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if not child:
            _become_atheris(folder, seconds, seed)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become_atheris(folder: str, seconds: float, seed: int) -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["enchufe"]):
        check = reporting(load())
    from tests.fuzz.seeds import seeds  # noqa: PLC0415

    for number, data in enumerate(seeds()):
        Path(folder, f"seed{number}").write_bytes(data)
    limits = [f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={LONGEST}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/", folder], check)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
