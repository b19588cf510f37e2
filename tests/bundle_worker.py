"""What a test starts with torchrun in place of Ray Train: a bundle's work, with mishaps in the first attempts.

torchrun ... bundle_worker.py BUNDLE.json MISHAPS.json       (MISHAPS: run_id -> stall | sigterm)
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from orchestrator import worker
from orchestrator.store import Store
from vitmodel.training import guard, loop
from vitmodel.training.engine import import_deepspeed, leave_process_group

MISHAP_STEP = 9
TRAIN_STEP = loop.train_step


def main() -> None:
    guard.catch_termination()
    import_deepspeed()  # seconds, which are no stall
    bundle, mishaps = (json.loads(Path(path).read_text()) for path in sys.argv[1:3])
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
    leave_process_group()


if __name__ == "__main__":
    main()
