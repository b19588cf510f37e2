"""Groups of worker processes, forked from one that has the libraries loaded: they start in milliseconds, not seconds.

The process that forks has made no thread and no group yet. What torchrun and Ray Train do is done here: ranks, and an end of
all soon after one has died.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

import torch

from vitmodel.training.engine import ensure_process_group, import_deepspeed, leave_process_group

GRACE_SECONDS = 20.0  # after one has died the others find it out by themselves


def load() -> None:
    """Everything that a worker needs, before the first group is forked."""
    torch.set_num_threads(1)
    import_deepspeed()
    importlib.import_module("torch._dynamo")
    importlib.import_module("deepspeed.runtime.engine")  # what `initialize` would load


def group(workers: int, work: Callable[[], None]) -> list[int]:
    """Let `work` be done by so many processes over gloo; returns their exit codes, minus the signal where one ended it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sys.stdout.flush()
    pids = [_fork(rank, workers, port, work) for rank in range(workers)]
    codes: dict[int, int] = {}
    deadline = float("inf")
    while len(codes) < workers:
        for pid in set(pids) - codes.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid]:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


def _fork(rank: int, workers: int, port: int, work: Callable[[], None]) -> int:
    if pid := os.fork():
        return pid
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": workers, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in ranks.items()}})
    code = 1
    try:
        ensure_process_group()
        work()
        leave_process_group()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
