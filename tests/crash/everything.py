"""The full count of a search: every point there is, or as many as were asked for, on every processor."""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from tests.everywhere import everywhere

P = TypeVar("P")


def search(
    about: str | None,
    points: Callable[[int], list[P]],
    run: Callable[[list[P]], Counter[str]],
    told: str,
    *,
    default: int,
    together: int = 1,
    besides: Callable[[int, int], list[P]] | None = None,
    settled: bool = False,
) -> None:
    """Read the options, and do it.

    Args:
        points: all that there are, for a seed.
        run: tries some of them, and counts how they ended.
        told: what was tried, and what held.
        default: how many are tried where nobody says.
        together: as many are given to `run` at once.
        besides: makes some more, for a seed and the number asked for.
        settled: as `everywhere` has it.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--all", action="store_true", help="every point, in place of --points of them")
    parser.add_argument("--points", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    started = time.monotonic()
    chosen = points(options.seed)
    random.Random(options.seed).shuffle(chosen)
    chosen = chosen if options.all else chosen[: options.points]
    if besides is not None:
        chosen += besides(options.seed, options.points)
    jobs = [chosen[first : first + together] for first in range(0, len(chosen), together)]
    ends: Counter[str] = Counter()
    for done, some in enumerate(everywhere(run, jobs, options.workers, settled=settled), 1):
        ends += some
        if done % 100 == 0:
            print(f"{done * together} of {len(chosen)} in {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(chosen)} {told.format(dict(ends))}, in {time.monotonic() - started:.0f} s")
