"""Program of the tests in place of Ray Train: works through bundles with two processes, injects faults into first attempts.

bundle_worker.py JOBS.json       (a list of [orders, faults]; faults: run_id -> stall | sigterm | taken over)

A group is restarted until it succeeds. Prints a line of JSON per bundle: the exit codes of each group's processes.
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

from orchestrator.execution import worker
from orchestrator.execution.orders import BundleOrders
from orchestrator.store.records import LeaseRecord, as_json
from vitmodel.files import write_json
from vitmodel.training import loop, preemption
from vitmodel.training.checkpoint import complete_checkpoints
from vitmodel.training.context import CHECKPOINTS

FAULT_STEP = 9
TRAIN_STEP = loop.train_step


def work(orders: BundleOrders, faults: dict[str, str]) -> None:
    preemption.handle_sigterm()
    store = orders.store

    def step(job: Any, engine: Any, loaded: Any, number: int) -> Any:
        for run_id, fault in faults.items():
            is_here = store.run(run_id).attempts() == 1 and store.run(run_id).state() == "RUNNING"
            if is_here and number == FAULT_STEP and dist.get_rank() == 1:
                if fault == "sigterm":
                    os.kill(os.getpid(), signal.SIGTERM)
                elif fault == "taken over":  # by a driver on another host, because this one's lease has expired
                    while not complete_checkpoints(store.run(run_id).path / CHECKPOINTS):
                        time.sleep(0.01)
                    lease = LeaseRecord(token="another's", host="elsewhere", pid=1, time=time.time())
                    write_json(orders.study_folder / "lease.json", as_json(lease))
                else:
                    time.sleep(10_000)
        return TRAIN_STEP(job, engine, loaded, number)

    loop.train_step = step
    worker.work({"orders": orders.model_dump_json()})


def main() -> None:
    forked.load()
    for data, faults in json.loads(Path(sys.argv[1]).read_text()):
        orders = BundleOrders.model_validate_json(json.dumps(data))
        ended: list[list[int]] = []
        while len(ended) < 4 and (not ended or any(ended[-1])):
            ended.append(forked.group(2, partial(work, orders, faults)))
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
