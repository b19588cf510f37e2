"""Speed and memory of one training step: ours compared with timm, Hugging Face and vit-pytorch at the same shapes.

    python bench/models.py --ours                    images/s of ours only
    python bench/models.py --ours --peers            interleaved with the installed peers, and the ratio
    python bench/models.py --ours --peers --threads 2
    python bench/models.py --ours --peers --same-allocator   peers with the allocator settings of our workers

A step is forward, cross-entropy, backward, clipping and fused AdamW in fp32, the same for all. Every contestant is its own
process, started as its users start it: ours with the environment that our launcher gives to workers
(vitmodel/training/allocator.py), the peers with none. They make their steps in turn, so that other load on the machine slows
all of them. Speed is that of the median step. The ratio to a peer is the median of the ratios of all rounds, with a 95%
interval from resampled rounds. Memory is the peak of each process during its steps minus its memory before the model.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import peers
import torch
import torch.nn.functional as F
from torch import nn

from vitmodel.flops.count import train_flops
from vitmodel.training import allocator

WARM_UP = 3
RESAMPLES = 2000


class Measurement(NamedTuple):
    """One contestant at one shape."""

    step_seconds: list[float]  # one per round
    peak_mib: float


def make_step(module: nn.Module, shape: peers.Shape) -> Callable[[], float]:
    """A function that makes one step and returns its seconds."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    torch.manual_seed(0)
    images, labels = torch.randn(shape.batch, 3, shape.image_size, shape.image_size), torch.arange(shape.batch) % peers.CLASSES
    module.train()

    def step() -> float:
        started = time.perf_counter()
        F.cross_entropy(module(images), labels).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    return step


def serve(who: str, shape: peers.Shape) -> None:
    """A contestant's process: makes one step for every line on stdin, and prints its seconds and the peak memory so far."""
    make = peers.ALL[who]
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory freed by imports must not hide the memory of a step
    before = _status_mib("VmRSS")
    module = make(shape)
    if module is None:
        print("none", flush=True)
        return
    step = make_step(module, shape)
    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(step(), _status_mib("VmHWM") - before, flush=True)


def start(who: str, shape_name: str, threads: int, same_allocator: bool) -> subprocess.Popen[str]:
    tuned = allocator.ENVIRONMENT if same_allocator or who not in peers.PEERS else {}
    command = [sys.executable, __file__, "--threads", str(threads), "--serve", who, "--shapes", shape_name]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | tuned
    )


def measure(shape_name: str, names: list[str], arguments: argparse.Namespace) -> dict[str, Measurement]:
    """Each contestant that has this model, over steps made in turn."""
    running = {who: start(who, shape_name, arguments.threads, arguments.same_allocator) for who in names}
    try:
        taking_part = {who: process for who, process in running.items() if _answer(process, who) == "ready"}
        seconds: dict[str, list[float]] = {who: [] for who in taking_part}
        peak = dict.fromkeys(taking_part, 0.0)
        until, turn = time.monotonic() + arguments.seconds, list(taking_part)
        while time.monotonic() < until:
            for who in turn:
                process = taking_part[who]
                assert process.stdin is not None
                process.stdin.write("step\n")
                process.stdin.flush()
                taken, peak[who] = map(float, _answer(process, who).split())
                seconds[who].append(taken)
            turn = turn[1:] + turn[:1]
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    rounds = min(map(len, seconds.values()))
    return {who: Measurement(values[:rounds], peak[who]) for who, values in seconds.items()}


def _answer(process: subprocess.Popen[str], who: str) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise SystemExit(f"{who} exited early; to see its error, run: python bench/models.py --serve '{who}' --shapes SHAPE")
    return line


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Speed of ours relative to theirs, from pairs of the same round: the median and the bounds of its 95% interval."""
    paired = np.array(theirs) / np.array(ours)
    drawn = np.random.default_rng(0).choice(paired, (RESAMPLES, len(paired)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(np.median(paired)), float(low), float(high)


def report(shape_name: str, measured: dict[str, Measurement]) -> None:
    shape = peers.SHAPES[shape_name]
    rivals = {who: measured[who] for who in measured if who in peers.PEERS}
    fastest = min(rivals, key=lambda who: statistics.median(rivals[who].step_seconds), default=None)
    for who, (seconds, peak) in measured.items():
        rate = shape.batch / statistics.median(seconds)
        gflops = rate * train_flops(shape.model, shape.image_size, peers.CLASSES, 1) / 1e9
        comparison = ""
        if fastest:
            middle, low, high = ratio(seconds, rivals[fastest].step_seconds)
            memory = peak / min(rival.peak_mib for rival in rivals.values())
            comparison = f"  {middle:5.3f} [{low:5.3f}, {high:5.3f}] x {fastest}, {memory:5.3f} x the least memory"
        print(f"{shape_name:6} {who:14} {rate:9.2f} images/s {gflops:6.1f} GFLOP/s {peak:6.0f} MiB{comparison}", flush=True)
    print(f"{shape_name:6} {len(seconds)} rounds", flush=True)


def _status_mib(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--compile", action="store_true", help="also ours with torch.compile (needs a C++ compiler)")
    parser.add_argument("--peers", action="store_true", help="timm, transformers and vit-pytorch, if they are installed")
    parser.add_argument("--same-allocator", action="store_true", help="give the peers our workers' allocator settings")
    parser.add_argument("--shapes", nargs="+", choices=peers.SHAPES, default=list(peers.SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="per shape, for all contestants together")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.serve:
        serve(arguments.serve, peers.SHAPES[arguments.shapes[0]])
        return
    names = ["ours"] * arguments.ours + ["ours compiled"] * arguments.compile
    if arguments.peers:
        names += [who for who, (module, _) in peers.PEERS.items() if importlib.util.find_spec(module)]
    if not names:
        parser.error("nothing to measure: give --ours, --peers or both")
    for shape_name in arguments.shapes:
        report(shape_name, measure(shape_name, names, arguments))


if __name__ == "__main__":
    main()
