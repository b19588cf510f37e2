"""What a test starts in place of Ray Train: a bundle's work by two processes, with mishaps in the first attempts.

bundle_worker.py BUNDLE.json MISHAPS.json       (MISHAPS: run_id -> stall | sigterm)

The group is started again until it ends well. Prints the exit codes of each group's processes as a line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import forked
import torch.distributed as dist

from orchestrator import worker
from orchestrator.store import Store
from vitmodel.training import guard, loop

MISHAP_STEP = 9
TRAIN_STEP = loop.train_step


def work(bundle: dict[str, Any], mishaps: dict[str, str]) -> None:
    guard.catch_termination()
    store = Store(Path(bundle["storage"]))

    def step(job: Any, engine: Any, loaded: Any, number: int) -> Any:
        for run_id, mishap in mishaps.items():
            is_here = store.run(run_id).attempts() == 1 and store.run(run_id).state() == "RUNNING"
            if is_here and number == MISHAP_STEP and dist.get_rank() == 1:
                if mishap == "sigterm":
                    os.kill(os.getpid(), signal.SIGTERM)
                else:
                    time.sleep(10_000)
        return TRAIN_STEP(job, engine, loaded, number)

    loop.train_step = step
    worker.work(bundle)


def main() -> None:
    forked.load()
    bundle, mishaps = (json.loads(Path(path).read_text()) for path in sys.argv[1:3])
    for _ in range(4):
        codes = forked.group(2, partial(work, bundle, mishaps))
        print(json.dumps(codes), flush=True)
        if not any(codes):
            return


if __name__ == "__main__":
    main()
