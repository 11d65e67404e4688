"""Many seeds: `python -m tests.simulation.run_transfers --seeds 1000000`, on every processor."""

from __future__ import annotations

import argparse
import logging
import time

from tests.everywhere import everywhere
from tests.simulation.blocks import small_blocks
from tests.simulation.transfers import run

BATCH = 200


def batch(job: tuple[int, int]) -> int:
    first, count = job
    logging.disable()
    with small_blocks():
        for seed in range(first, first + count):
            run(seed)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000_000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    started, done = time.monotonic(), 0
    if options.seeds <= BATCH:
        done = batch((options.first, options.seeds))
    else:
        last = options.first + options.seeds
        jobs = [(first, min(BATCH, last - first)) for first in range(options.first, last, BATCH)]
        done += sum(everywhere(batch, jobs, options.workers, settled=True))
    print(f"{done} transfers in {time.monotonic() - started:.0f} s, none other than the model says")


if __name__ == "__main__":
    main()
