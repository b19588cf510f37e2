"""Groups of worker processes, forked from a process that has the libraries loaded: they start in milliseconds.

The parent process has started no thread and no process group. As torchrun and Ray Train do, this module sets the ranks, and
ends all workers soon after one has died.
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

GRACE_SECONDS = 20.0  # for the others to detect that one has died


def load() -> None:
    """Import everything that a worker needs, before the first group is forked."""
    torch.set_num_threads(1)
    import_deepspeed()
    importlib.import_module("torch._dynamo")
    importlib.import_module("deepspeed.runtime.engine")  # what `initialize` would load


def group(workers: int, work: Callable[[], None]) -> list[int]:
    """Call `work` in this number of processes over gloo. Returns their exit codes; minus the signal for a killed one."""
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
