"""A search on every processor."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import cycle, islice
from multiprocessing.queues import SimpleQueue
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
    settled: bool = False,
) -> Iterator[B]:
    """`function` of each point, as they come to their end; the first that fails ends it, as does a process that dies.

    Args:
        workers: how many processes; by default one for each processor.
        prepare: is called in each of them first.
        settled: whether each keeps to one processor: threads of Python, of which one runs at a time, take half as long
            where it need not move.
    """
    count = workers or os.cpu_count() or 1
    left = iter(points)
    context = multiprocessing.get_context("spawn")
    homes = context.SimpleQueue()
    for number in islice(cycle(_processors()), count) if settled else ():
        homes.put(number)
    with ProcessPoolExecutor(count, context, initializer=_begin, initargs=(homes, prepare)) as pool:
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


def _processors() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _begin(homes: SimpleQueue[int], prepare: Callable[[], object] | None) -> None:
    if not homes.empty():
        os.sched_setaffinity(0, [homes.get()])
    if prepare is not None:
        prepare()
