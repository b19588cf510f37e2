"""Checkpoints of a training under way: every worker its own shard, then a manifest with checksums, then COMPLETE.

    step-000000120-1f0c/  shard-00000.safetensors ... manifest.json COMPLETE

A folder without COMPLETE does not exist for a resume. Shards hold named ranges (state.py), so any number of workers at
any ZeRO stage can go on from them. The training waits only for the copy into host memory: a thread of each worker
writes, and the thread of worker 0 completes when all shards are there. The next save waits for it.
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
from vitmodel.training import state
from vitmodel.training.engine import device
from vitmodel.training.shardfile import is_whole, write_tensors

MANIFEST, COMPLETE = "manifest.json", "COMPLETE"
ASIDE = "damaged-"  # what a checkpoint is called once its checksums were not met
POLL_SECONDS = 0.05

Facts = dict[str, Any]


class CheckpointError(Exception):
    """A checkpoint could not be written: raised on all workers together. The one before it still serves."""


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """When checkpoints are written, and how many complete ones stay."""

    seconds: float | None = 600.0
    steps: int | None = None
    keep: int = 2


class Writer:
    """Writes one run's checkpoints. `save` and `finish` are collective; every worker has its own Writer."""

    def __init__(
        self, folder: Path, keep: int, worker: int, workers: int, is_current: Callable[[], bool] = lambda: True
    ) -> None:
        """`is_current`: whether this attempt may still leave checkpoints; asked before each is completed."""
        self._is_current = is_current
        self._folder, self._keep, self._worker, self._workers = folder, keep, worker, workers
        # No late writer of a dead attempt shares a folder with us.
        (self._token,) = _from_first([uuid.uuid4().hex[:8]], workers)
        self._host: dict[str, Tensor] = {}  # the copies, used again: fresh memory costs more than the copy itself
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self.error: Exception | None = None

    def save(self, engine: Any, beside: Mapping[str, Tensor], facts: Facts) -> None:
        """Copy the state, and write it in the background. `facts` (with `step`) go into the manifest. Collective."""
        self.finish()
        target = self._folder / f"step-{facts['step']:09d}-{self._token}"
        pieces = {
            f"{piece.kind}|{piece.start}|{piece.name}": piece.values
            for piece in state.owned(engine, beside, self._worker, self._workers)
        }
        self._copy(pieces)
        manifest = {
            **deepcopy(facts),  # written later, when the training has long gone on with its lists
            "workers": self._workers,
            "zero_stage": engine.zero_optimization_stage(),
            "optimizer": {"kinds": state.optimizer_kinds(engine), "steps": state.optimizer_steps(engine)},
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
        """Raise what all workers know to have failed."""
        raise CheckpointError(f"a checkpoint could not be written: {self.error or 'on another worker'}") from self.error

    def abandon(self) -> None:
        """Leave without waiting for others."""
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
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # the training goes first
        try:
            target.mkdir(parents=True, exist_ok=True)
            shard = target / f"shard-{self._worker:05d}.safetensors"
            written = write_tensors(shard, self._host)
            write_json(shard.with_suffix(".json"), written)
            if self._worker == 0:
                self._complete(target, manifest)
        except Exception as error:  # surfaces on all workers when they next meet
            self.error = error

    def _complete(self, target: Path, manifest: Facts) -> None:
        """Worker 0: when all shards are there, the manifest, the mark, and older ones go."""
        notes = [target / f"shard-{worker:05d}.json" for worker in range(self._workers)]
        while not all(note.exists() for note in notes):
            if self._cancelled.wait(POLL_SECONDS):
                return
        files = {note.with_suffix(".safetensors").name: json.loads(note.read_text()) for note in notes}
        write_json(target / MANIFEST, {**manifest, "time": time.time(), "files": files})
        if not self._is_current():
            raise CheckpointError("another group works on this run now")
        write_json(target / COMPLETE, {})
        for note in notes:
            note.unlink()
        for old in complete_checkpoints(self._folder)[: -self._keep]:
            discard(old)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{COMPLETE}"))


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint, its mark first: it is never half a checkpoint that claims to be whole."""
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def load_newest(engine: Any, beside: Mapping[str, Tensor], folder: Path, *, worker: int, workers: int) -> Facts | None:
    """Load the newest whole checkpoint and return its manifest, None without one. Collective.

    Unfinished folders are removed; one whose checksums are not met is moved aside, and the one before it serves.
    """
    if worker == 0:
        for path in folder.glob("step-*"):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path, ignore_errors=True)
    while True:
        names = [path.name for path in complete_checkpoints(folder)] if worker == 0 else []
        newest = _from_first([names[-1] if names else None], workers)[0]
        if newest is None:
            return None
        manifest: Facts | None = _from_first([_manifest(folder / newest) if worker == 0 else None], workers)[0]
        if manifest is not None and _is_whole(folder / newest, manifest, worker, workers):
            read = _stitched(folder / newest, manifest).read
            state.restore(engine, beside, read, manifest["optimizer"]["kinds"], manifest["optimizer"]["steps"])
            return manifest
        if worker == 0:
            (folder / newest).rename(folder / f"{ASIDE}{newest}")


def _manifest(checkpoint: Path) -> Facts | None:
    try:
        found: Facts = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return found


def _is_whole(checkpoint: Path, manifest: Facts, worker: int, workers: int) -> bool:
    """Whether all shards meet their checksums: the workers share the work. Collective."""
    mine = list(manifest["files"].items())[worker::workers]
    whole = torch.tensor(float(all(is_whole(checkpoint / name, facts) for name, facts in mine)), device=device())
    if workers > 1:
        dist.all_reduce(whole, op=dist.ReduceOp.MIN)
    return bool(whole)


def _stitched(checkpoint: Path, manifest: Facts) -> state.Stitched:
    stitched = state.Stitched()
    for name in manifest["files"]:
        shard: Any = safe_open(str(checkpoint / name), "pt")
        for key in shard.keys():  # noqa: SIM118  (not a dictionary)
            kind, start, parameter = key.split("|", 2)
            part = shard.get_slice(key)
            stitched.add(kind, parameter, int(start), part.get_shape()[0], partial(_part_of, part))
    return stitched


def _part_of(part: Any, low: int, high: int) -> Tensor:
    values: Tensor = part[low:high]
    return values


def _from_first(box: list[Any], workers: int) -> list[Any]:
    """Worker 0's list, known to all. Collective."""
    if workers > 1:
        dist.broadcast_object_list(box, src=0)
    return box
