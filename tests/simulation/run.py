"""Many seeds: `python -m tests.simulation.run --seeds 1000000`, on every processor."""

from __future__ import annotations

import argparse
import logging
import time

from tests.everywhere import everywhere
from tests.simulation.scenarios import run

BATCH = 500


def batch(job: tuple[int, int]) -> int:
    first, count = job
    for seed in range(first, first + count):
        run(seed)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000_000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    logging.disable()  # a server warns of every drain that was cut short, which is what some seeds are about
    started, done = time.monotonic(), 0
    if options.seeds <= BATCH:
        done = batch((options.first, options.seeds))
    else:
        starts = range(options.first, options.first + options.seeds, BATCH)
        jobs = [(first, min(BATCH, options.first + options.seeds - first)) for first in starts]
        done += sum(everywhere(batch, jobs, options.workers, prepare=logging.disable, settled=True))
    print(f"{done} conversations in {time.monotonic() - started:.0f} s, none other than the model says")


if __name__ == "__main__":
    main()
