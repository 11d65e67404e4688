"""A search on every processor."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

_AHEAD = 4  # for each process: points that wait for it


def everywhere(
    function: Callable[[A], B],
    points: Iterable[A],
    workers: int | None = None,
    *,
    prepare: Callable[[], object] | None = None,
) -> Iterator[B]:
    """`function` of each point, as they come to their end; the first that fails ends it, as does a process that dies.

    Args:
        workers: how many processes; by default one for each processor.
        prepare: is called in each of them first.
    """
    count = workers or os.cpu_count() or 1
    left = iter(points)
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=prepare) as pool:
        try:
            under_way: set[Future[B]] = set()
            while True:
                under_way |= {pool.submit(function, point) for point in islice(left, _AHEAD * count - len(under_way))}
                if not under_way:
                    return
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        finally:
            pool.shutdown(cancel_futures=True)
