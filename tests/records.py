"""Records of made-up runs: configurations, planned facts, results, plans."""

from __future__ import annotations

from typing import Any

from orchestrator.plan.devices import DEVICES
from orchestrator.plan.records import PlanFile, RunFacts, Totals
from orchestrator.plan.runs import Placement, WorkerGroup
from orchestrator.store.records import RunRecord, RunResult
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.run import DataRef, RunConfig

GROUP = WorkerGroup(workers=2, cpus_per_worker=1, gpus_per_worker=0, zero_stage=2)
MODEL = ViTConfig(family="vit", variant="V16/8", width=16, depth=1, mlp_dim=32, heads=2, patch=8)


def placement(group: WorkerGroup = GROUP, seconds: float = 10.0) -> Placement:
    return Placement(
        group=group, micro_batch=8, accumulation=1, activation_checkpointing=False, memory_bytes=10**6, seconds=seconds
    )


def run_facts(run_id: str = "pretrain-a", **changes: Any) -> RunFacts:
    """Planned facts of a run; the phase is the first word of its id."""
    facts: dict[str, Any] = {
        "run_id": run_id,
        "parent_id": None,
        "phase": run_id.partition("-")[0],
        "family": "vit",
        "variant": "V16/8",
        "recipe": "",
        "objective": "supervised",
        "params": 1000,
        "forward_flops": 10**6,
        "dataset": "fractals",
        "dataset_size": 256,
        "length": "2 epochs",
        "epochs": 2.0,
        "steps": 100,
        "examples_seen": 3200,
        "train_flops": 10**10,
        "pretrain_flops": 10**10,
        "resolution": 16,
        "shots": None,
        "seed": 0,
        "label": run_id,
        "placement": placement(),
    }
    return RunFacts(**{**facts, **changes})


def run_record(run_id: str = "pretrain-a", **changes: Any) -> RunRecord:
    """What config.json of a run holds; `changes` are of its RunConfig."""
    data = DataRef(name="fractals", identity="f-1", size=256, lanes=8, window=64, eval_split="val")
    config: dict[str, Any] = {"phase": "pretrain", "model": MODEL, "image_size": 16, "classes": 4, "data": data, "seed": 0}
    return RunRecord(config=RunConfig(**{**config, **changes}), facts=run_facts(run_id))


def run_result(run_id: str = "pretrain-a", **changes: Any) -> RunResult:
    """A result; `metrics` of `changes` replace the default ones."""
    result: dict[str, Any] = {
        "run_id": run_id,
        "metrics": {"eval/top1": 0.5, "eval/loss": 1.0, "time/run_seconds": 10.0},
        "workers": 2,
        "zero_stage": 2,
        "cpus_per_worker": 1,
        "gpus_per_worker": 0,
        "gpu_hours": 0.0,
        "core_hours": 20 / 3600,
        "peak_flops": 2e11,
        "seconds": 10.0,
    }
    return RunResult(**{**result, **changes})


def plan_file(*runs: RunFacts, study: str = "s", **changes: Any) -> PlanFile:
    """A plan of these runs."""
    sums = dict.fromkeys(Totals.model_fields, 0)
    plan: dict[str, Any] = {
        "study": study,
        "totals": Totals(
            **{**sums, "runs": len(runs), "sharing_saves": 1.0, "gpu_hours": 0.0, "core_hours": 0.0, "cost": None}
        ),
        "device": DEVICES["cpu"],
        "datasets": {},
        "bundles": (),
        "runs": runs,
    }
    return PlanFile(**{**plan, **changes})
