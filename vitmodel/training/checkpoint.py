"""Checkpoints of a training under way: every worker its own shard, then a manifest with checksums, then COMPLETE.

A folder without COMPLETE does not exist for a resume. DeepSpeed's shards are pickles, so they are loaded only from
the run's own folder and only after their checksums were met.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

MANIFEST, COMPLETE = "manifest.json", "COMPLETE"
KEPT = 2


def save_checkpoint(engine: Any, folder: Path, step: int, *, worker: int, workers: int) -> None:
    """Write the state after `step` steps. Collective. Older ones beyond the last two are removed once this is complete."""
    tag = f"step-{step:09d}-w{workers}"
    target = folder / tag
    if worker == 0:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
    dist.barrier()
    if worker == 0:
        files = {path.name: _sha256(path) for path in sorted(target.iterdir())}
        manifest = {"step": step, "workers": workers, "zero_stage": engine.zero_optimization_stage(), "files": files}
        (target / MANIFEST).write_text(json.dumps(manifest, indent=1))
        (target / COMPLETE).touch()
        for old in complete_checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{COMPLETE}"))


def resume(engine: Any, folder: Path, *, worker: int, workers: int) -> int:
    """Load the newest whole checkpoint of this world size and ZeRO stage; returns its step, 0 without one. Collective."""
    found: list[str | None] = [None]
    if worker == 0:
        usable = [path for path in complete_checkpoints(folder) if _is_whole(path, workers, engine.zero_optimization_stage())]
        found = [usable[-1].name if usable else None]
    if workers > 1:
        dist.broadcast_object_list(found, src=0)
    if found[0] is None:
        return 0
    engine.load_checkpoint(str(folder), tag=found[0])
    return int(json.loads((folder / found[0] / MANIFEST).read_text())["step"])


def _is_whole(path: Path, workers: int, zero_stage: int) -> bool:
    manifest = json.loads((path / MANIFEST).read_text())
    if (manifest["workers"], manifest["zero_stage"]) != (workers, zero_stage):
        return False
    return all((path / name).is_file() and _sha256(path / name) == digest for name, digest in manifest["files"].items())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
