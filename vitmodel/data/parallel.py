"""Runs many equal jobs on the processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

MIN_JOBS = 4  # fewer jobs finish in this process before others have started


def map_unordered(function: Callable[[Job], Result], jobs: list[Job], processes: int | None = None) -> Iterator[Result]:
    """Results as they become available. `function` must be importable. All processes have ended when the iteration ends or
    a job fails."""
    count = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    if count <= 1 or len(jobs) < MIN_JOBS:
        yield from map(function, jobs)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload([function.__module__, "webdataset"])  # imported once, not in every process
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        pending = [pool.submit(function, job) for job in jobs]
        try:
            for future in as_completed(pending):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
