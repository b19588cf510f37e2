"""Checkpoints of a training: every worker writes a shard, then worker 0 a manifest with checksums, then COMPLETE.

    step-000000120-1f0c/  shard-00000.safetensors ... manifest.json COMPLETE

A resume ignores a folder without COMPLETE. Shards hold named ranges (sharded_state.py), so that any number of workers at
any ZeRO stage can resume from them. The training waits only for the copy into host memory: a thread of each worker writes
its shard, and worker 0's thread completes the checkpoint once all shards exist. The next save waits for that.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from vitmodel.files import write_json
from vitmodel.training.checkpoint_shard import is_intact, write_tensors
from vitmodel.training.deepspeed_internals import optimizer_keys, optimizer_steps
from vitmodel.training.engine import device
from vitmodel.training.sharded_state import RangeReader, owned_pieces, restore

MANIFEST, COMPLETE = "manifest.json", "COMPLETE"
DAMAGED_PREFIX = "damaged-"  # a checkpoint whose checksums do not match is renamed to this and its name
POLL_SECONDS = 0.05

Facts = dict[str, Any]


class CheckpointError(Exception):
    """A checkpoint could not be written: raised on all workers together. The previous one remains."""


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """When checkpoints are written, and how many complete ones are retained. None: not by time, or not by steps."""

    seconds: float | None = 600.0
    steps: int | None = None
    keep: int = 2


class Writer:
    """Writes one run's checkpoints. `save` and `finish` are collective; every worker has its own Writer."""

    def __init__(
        self, folder: Path, keep: int, worker: int, workers: int, is_current: Callable[[], bool] = lambda: True
    ) -> None:
        """`is_current`: whether this attempt may still write checkpoints; called before each is completed."""
        self._is_current = is_current
        self._folder, self._keep, self._worker, self._workers = folder, keep, worker, workers
        # Part of the folder's name, so that a delayed writer of an earlier attempt never writes into this one's.
        (self._token,) = _broadcast([uuid.uuid4().hex[:8]], workers)
        self._host: dict[str, Tensor] = {}  # the copies, reused: allocating memory costs more than copying
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self.error: Exception | None = None

    def save(self, engine: Any, extra: Mapping[str, Tensor], facts: Facts) -> None:
        """Copy the state and the extra tensors, and write them in the background. Collective.

        `facts`, which include `step`, are added to the manifest.
        """
        self.finish()
        target = self._folder / f"step-{facts['step']:09d}-{self._token}"
        pieces = {
            f"{piece.kind}|{piece.start}|{piece.name}": piece.values
            for piece in owned_pieces(engine, extra, self._worker, self._workers)
        }
        self._copy(pieces)
        manifest = {
            **deepcopy(facts),  # the training changes its lists before this is written
            "workers": self._workers,
            "zero_stage": engine.zero_optimization_stage(),
            "optimizer": {"kinds": optimizer_keys(engine), "steps": optimizer_steps(engine)},
        }
        self._thread = threading.Thread(target=self._write, args=(target, manifest), name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the last checkpoint is complete. Collective. Raises CheckpointError on all workers if any failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failed = torch.tensor(float(self.error is not None), device=device())
        if self._workers > 1:
            dist.all_reduce(failed, op=dist.ReduceOp.MAX)
        if failed:
            self.fail()

    def fail(self) -> None:
        """Raise CheckpointError, on every worker, with the cause where this worker is the one that failed."""
        raise CheckpointError(f"a checkpoint could not be written: {self.error or 'on another worker'}") from self.error

    def abandon(self) -> None:
        """End the background thread without waiting for the other workers' shards."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _copy(self, pieces: Mapping[str, Tensor]) -> None:
        is_gpu = device().type == "cuda"
        if {name: values.shape for name, values in pieces.items()} != {n: v.shape for n, v in self._host.items()}:
            self._host = {n: torch.empty_like(v, device="cpu", pin_memory=is_gpu) for n, v in pieces.items()}
        for name, values in pieces.items():
            self._host[name].copy_(values, non_blocking=True)
        if is_gpu:
            torch.cuda.synchronize()

    def _write(self, target: Path, manifest: Facts) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # lower priority than the training
        try:
            target.mkdir(parents=True, exist_ok=True)
            shard = target / f"shard-{self._worker:05d}.safetensors"
            written = write_tensors(shard, self._host)
            write_json(shard.with_suffix(".json"), written)
            if self._worker == 0:
                self._complete(target, manifest)
        except Exception as error:  # raised on all workers when they synchronise next
            self.error = error

    def _complete(self, target: Path, manifest: Facts) -> None:
        """On worker 0: once all shards exist, write the manifest and COMPLETE, and delete older checkpoints."""
        records = [target / f"shard-{worker:05d}.json" for worker in range(self._workers)]
        while not all(record.exists() for record in records):
            if self._cancelled.wait(POLL_SECONDS):
                return
        files = {record.with_suffix(".safetensors").name: json.loads(record.read_text()) for record in records}
        write_json(target / MANIFEST, {**manifest, "time": time.time(), "files": files})
        if not self._is_current():
            raise CheckpointError("another worker group has taken over this run")
        write_json(target / COMPLETE, {})
        for record in records:
            record.unlink()
        for old in complete_checkpoints(self._folder)[: -self._keep]:
            discard(old)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{COMPLETE}"))


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint, COMPLETE first, so that a partly deleted one is never taken for complete."""
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def load_newest(engine: Any, extra: Mapping[str, Tensor], folder: Path, *, worker: int, workers: int) -> Facts | None:
    """Load the newest intact checkpoint and return its manifest, or None if there is none. Collective.

    Incomplete folders are deleted. A checkpoint whose checksums do not match is renamed, and the one before it is loaded.
    """
    if worker == 0:
        for path in folder.glob("step-*"):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path, ignore_errors=True)
    while True:
        names = [path.name for path in complete_checkpoints(folder)] if worker == 0 else []
        newest = _broadcast([names[-1] if names else None], workers)[0]
        if newest is None:
            return None
        manifest: Facts | None = _broadcast([_manifest(folder / newest) if worker == 0 else None], workers)[0]
        if manifest is not None and _is_intact(folder / newest, manifest, worker, workers):
            read = _open_shards(folder / newest, manifest).read
            restore(engine, extra, read, manifest["optimizer"]["kinds"], manifest["optimizer"]["steps"])
            return manifest
        if worker == 0:
            (folder / newest).rename(folder / f"{DAMAGED_PREFIX}{newest}")


def _manifest(checkpoint: Path) -> Facts | None:
    try:
        manifest: Facts = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return manifest


def _is_intact(checkpoint: Path, manifest: Facts, worker: int, workers: int) -> bool:
    """Whether the checksums of all shards match; each worker checks some of them. Collective."""
    mine = list(manifest["files"].items())[worker::workers]
    intact = torch.tensor(float(all(is_intact(checkpoint / name, facts) for name, facts in mine)), device=device())
    if workers > 1:
        dist.all_reduce(intact, op=dist.ReduceOp.MIN)
    return bool(intact)


def _open_shards(checkpoint: Path, manifest: Facts) -> RangeReader:
    reader = RangeReader()
    for name in manifest["files"]:
        shard: Any = safe_open(str(checkpoint / name), "pt")
        for key in shard.keys():  # noqa: SIM118  (not a dictionary)
            kind, start, parameter = key.split("|", 2)
            part = shard.get_slice(key)
            reader.add(kind, parameter, int(start), part.get_shape()[0], partial(_slice, part))
    return reader


def _slice(part: Any, low: int, high: int) -> Tensor:
    values: Tensor = part[low:high]
    return values


def _broadcast(box: list[Any], workers: int) -> list[Any]:
    """Worker 0's list, on every worker. Collective."""
    if workers > 1:
        dist.broadcast_object_list(box, src=0)
    return box
