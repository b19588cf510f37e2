"""Many equal jobs over the processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

WORTH_PROCESSES = 4  # jobs; fewer are done here sooner than processes start


def spread(function: Callable[[Job], Result], jobs: list[Job], processes: int | None = None) -> Iterator[Result]:
    """Results as they come. `function` is one of a module; no process outlives the loop, also where a job fails."""
    count = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    if count <= 1 or len(jobs) < WORTH_PROCESSES:
        yield from map(function, jobs)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload([function.__module__, "webdataset"])  # imported once, not in every process
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        waiting = [pool.submit(function, job) for job in jobs]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
