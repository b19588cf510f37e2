"""A plan as plain data and as text: what will run, what is shared, what it is expected to cost. Stable byte for byte."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orchestrator.plan.make import Plan
from orchestrator.plan.runs import Bundle, Run

WEIGHT_BYTES, CHECKPOINT_BYTES = 4, 12  # a parameter, in fp32: as it is kept; with the optimizer's two moments


def naive_flops(plan: Plan) -> int:
    """Training FLOPs of the same grid where every fine-tune and probe pretrains for itself."""
    return sum(
        run.train_flops + (cell.pretrain.train_flops if run is not cell.pretrain else 0)
        for cell in plan.cells
        for run in (cell.children or (cell.pretrain,))
    )


def totals(plan: Plan, bundles: list[Bundle]) -> dict[str, Any]:
    """What the whole plan amounts to."""
    flops = sum(run.train_flops for run in plan.runs)
    gpu_seconds = sum(
        run.placement.seconds * run.placement.group.workers * run.placement.group.gpus_per_worker for run in plan.runs
    )
    core_seconds = sum(
        run.placement.seconds * run.placement.group.workers * run.placement.group.cpus_per_worker for run in plan.runs
    )
    return {
        "runs": len(plan.runs),
        "cells": len(plan.cells),
        "bundles": len(bundles),
        "train_flops": flops,
        "naive_train_flops": naive_flops(plan),
        "sharing_saves": round(naive_flops(plan) / flops, 3) if flops else 1.0,
        "gpu_hours": round(gpu_seconds / 3600, 4),
        "core_hours": round(core_seconds / 3600, 4),
        "cost": None if plan.price_per_gpu_hour is None else round(gpu_seconds / 3600 * plan.price_per_gpu_hour, 2),
        "largest_memory_bytes": max((run.placement.memory_bytes for run in plan.runs), default=0),
        "weights_bytes": sum(WEIGHT_BYTES * run.params for run in plan.runs if run.config.phase == "pretrain"),
        "largest_checkpoint_bytes": max((CHECKPOINT_BYTES * run.params for run in plan.runs), default=0),
    }


def phase_hours(plan: Plan) -> dict[str, dict[str, float]]:
    """Expected core-hours and GPU-hours of each phase."""
    found: dict[str, dict[str, float]] = {}
    for run in plan.runs:
        group, hours = run.placement.group, run.placement.seconds / 3600 * run.placement.group.workers
        spent = found.setdefault(run.config.phase, {"core_hours": 0.0, "gpu_hours": 0.0})
        spent["core_hours"] += hours * group.cpus_per_worker
        spent["gpu_hours"] += hours * group.gpus_per_worker
    return found


def plan_as_data(plan: Plan, bundles: list[Bundle]) -> dict[str, Any]:
    """The plan as plain data: stable from call to call, byte for byte."""
    return {
        "study": plan.study,
        "totals": totals(plan, bundles),
        "device": asdict(plan.device),
        "datasets": plan.datasets,
        "missing_indexes": list(plan.missing_indexes),
        "bundles": [
            {
                "bundle_id": bundle.bundle_id,
                "group": asdict(bundle.group),
                "seconds": round(bundle.seconds, 1),
                "cells": [cell.pretrain.run_id for cell in bundle.cells],
                **({"runs": [run.run_id for run in bundle.runs], "after": bundle.after} if bundle.after else {}),
            }
            for bundle in bundles
        ],
        "runs": [run_facts(run) for run in plan.runs],
    }


def run_facts(run: Run) -> dict[str, Any]:
    """The part of a run's results row that is known before it runs, and its placement."""
    config = run.config
    placement = asdict(run.placement)
    return {
        "run_id": run.run_id,
        "parent_id": config.parent,
        "phase": config.phase,
        "family": config.model.family,
        "variant": run.variant,
        "recipe": run.recipe,
        "objective": "" if config.phase == "import" else config.objective.kind,
        "params": run.params,
        "forward_flops": run.forward_flops,
        "dataset": run.dataset,
        "dataset_size": config.data.size or None,
        "length": run.length,
        "epochs": None if config.phase == "import" else round(run.epochs, 4),
        "steps": config.steps,
        "examples_seen": run.examples_seen,
        "train_flops": run.train_flops,
        "pretrain_flops": run.pretrain_flops,
        "resolution": config.image_size,
        "shots": config.shots,
        "seed": config.seed,
        "label": run.label,
        "placement": {**placement, "seconds": round(run.placement.seconds, 1)},
    }


def plan_as_text(plan: Plan, bundles: list[Bundle], done: int) -> str:
    """The plan for a person: one line a cell, then the totals."""
    rows = [("model", "params", "images", "length", "steps", "train FLOPs", "group", "memory", "time", "children")]
    for cell in plan.cells:
        run, group = cell.pretrain, cell.pretrain.placement.group
        is_import = run.config.phase == "import"
        rows.append(
            (
                run.model_name,
                f"{run.params / 1e6:.4g}M",
                "unknown" if is_import else f"{run.config.data.size:,}",
                run.length,
                "-" if is_import else f"{run.config.steps:,}",
                "-" if is_import else f"{run.train_flops:.4g}",
                f"{group}, ZeRO {group.zero_stage}",
                f"{max(r.placement.memory_bytes for r in cell.runs) / 1e9:.3g} GB",
                _duration(cell.seconds),
                str(len(cell.children)),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"study {plan.study}", "", *table, "", *_totals_text(plan, bundles, done)])


def _duration(seconds: float) -> str:
    """Time for a person, in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _totals_text(plan: Plan, bundles: list[Bundle], done: int) -> list[str]:
    facts = totals(plan, bundles)
    imports = sum(cell.pretrain.config.phase == "import" for cell in plan.cells)
    imported = f" and {imports} imported models" if imports else ""
    lines = [
        f"runs      {facts['runs']:,} ({done:,} done already): {facts['cells'] - imports} pretrainings{imported} shared by "
        f"{facts['runs'] - facts['cells']:,} fine-tunes and probes, in {facts['bundles']} bundles",
        f"compute   {facts['train_flops']:.4g} training FLOPs; without sharing {facts['naive_train_flops']:.4g}: "
        f"sharing saves a factor of {facts['sharing_saves']:g}",
        f"estimate  {facts['gpu_hours']:,.4g} GPU-hours, {facts['core_hours']:,.4g} core-hours; "
        f"{facts['largest_memory_bytes'] / 1e9:.3g} GB a worker at most",
        f"disk      {facts['weights_bytes'] / 1e9:.3g} GB of weights that stay; the largest checkpoint of a run under way "
        f"{facts['largest_checkpoint_bytes'] / 1e9:.3g} GB",
    ]
    device = plan.device
    lines.append(
        f"assuming  {device.name}: {device.peak_flops:.3g} FLOP/s at {device.vit_utilisation:.0%} (ViT) and "
        f"{device.resnet_utilisation:.0%} (ResNet) utilisation, {device.step_seconds * 1000:g} ms a step besides, "
        f"{device.memory_bytes / 1e9:.3g} GB"
    )
    if facts["cost"] is not None:
        lines.append(f"price     {facts['cost']:,.2f} at {plan.price_per_gpu_hour:g} per GPU-hour")
    if plan.missing_indexes:
        lines.append(f"not here  datasets planned from what the study says of them: {', '.join(plan.missing_indexes)}")
    return lines
