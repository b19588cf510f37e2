"""Time to collect 2,000 runs: from the store (the first and the second time), and from MLflow (a sqlite database).

    python bench/collect.py [--runs 2000]

Creates a store of finished runs, sends it to MLflow as the driver does, then collects from each in turn, three times. Prints
the median seconds and the limits. Takes a few minutes, nearly all of them for writing to MLflow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from orchestrator import results
from orchestrator.plan.devices import DEVICES
from orchestrator.plan.records import PlanFile, RunFacts, Totals
from orchestrator.plan.runs import Placement, WorkerGroup
from orchestrator.results import cache as row_cache
from orchestrator.store.layout import Store
from orchestrator.store.records import Provenance, RunRecord, RunResult
from orchestrator.tracking.mlflow import Follower
from vitmodel.config.models import named_model
from vitmodel.config.run import DataRef, RunConfig

STUDY = "bench"
ROUNDS = 3
LIMITS = {"store, first time": 2.0, "store, second time": 2.0, "MLflow": 10.0}  # seconds
GROUP = WorkerGroup(workers=1, cpus_per_worker=1, gpus_per_worker=1, zero_stage=0)
PLACEMENT = Placement(group=GROUP, micro_batch=8, accumulation=1, activation_checkpointing=False, memory_bytes=1, seconds=1.0)
STEPS = 20  # entries of a run's curve


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), count)
        uri = f"sqlite:///{folder}/mlflow.db"
        began = time.perf_counter()
        plan = store.plan(STUDY)
        assert plan is not None
        assert Follower(store, plan, uri).finish([], {}, seconds=3600)
        print(f"sent {count} runs to MLflow in {time.perf_counter() - began:.0f} s")
        return measure(store, uri, count)


def measure(store: Store, uri: str, count: int) -> int:
    """Time each source in turn. Returns 1 if a limit was exceeded."""
    cache = store.study(STUDY) / row_cache.FILE
    sources: dict[str, tuple[Callable[[], object], Path | str]] = {
        "store, first time": (lambda: cache.unlink(missing_ok=True), store.root),
        "store, second time": (lambda: None, store.root),
        "MLflow": (lambda: None, uri),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(ROUNDS):
        for name, (prepare, source) in sources.items():
            prepare()
            began = time.perf_counter()
            assert len(results.collect(source, STUDY)) == count
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        print(f"{name:20} {statistics.median(values):6.2f} s   limit {LIMITS[name]:g} s")
    return int(any(statistics.median(values) > LIMITS[name] for name, values in seconds.items()))


def make_store(root: Path, count: int) -> Store:
    """Finished runs with curves: nine fine-tunes for each pretraining."""
    store = Store(root)
    plan = plan_of(count)
    store.write_plan(plan)
    for facts in plan.runs:
        folder = store.run(facts.run_id)
        with folder.begin(record_of(facts)).open("a") as file:
            file.write(curve())
        folder.finish(result_of(facts.run_id))
    return store


def plan_of(count: int) -> PlanFile:
    totals: dict[str, Any] = {**dict.fromkeys(Totals.model_fields, 0), "runs": count, "cost": None}
    totals |= dict.fromkeys(("sharing_saves", "gpu_hours", "core_hours"), 0.0)
    runs = tuple(facts_of(number) for number in range(count))
    return PlanFile(study=STUDY, totals=Totals(**totals), device=DEVICES["cpu"], datasets={}, bundles=(), runs=runs)


def facts_of(number: int) -> RunFacts:
    parent = number - number % 10
    phase: Literal["pretrain", "finetune"] = "pretrain" if number == parent else "finetune"
    return RunFacts(
        run_id=f"{phase}-{number:06d}",
        parent_id=None if number == parent else f"pretrain-{parent:06d}",
        phase=phase,
        family="vit",
        variant="B/16",
        params=86_000_000,
        forward_flops=35_000_000_000,
        dataset="images",
        dataset_size=1000 + number,
        length="7 epochs",
        epochs=7.0,
        steps=STEPS,
        examples_seen=7000,
        train_flops=735_000_000_000_000,
        pretrain_flops=735_000_000_000_000,
        resolution=224,
        shots=None,
        seed=0,
        objective="supervised",
        recipe="",
        label=f"{phase} {number}",
        placement=PLACEMENT,
    )


def record_of(facts: RunFacts) -> RunRecord:
    data = DataRef(name="images", identity="images-1", size=1000, lanes=8, window=64, eval_split="val")
    config = RunConfig(phase="pretrain", model=named_model("B/16"), image_size=224, classes=4, data=data, seed=0)
    return RunRecord(config=config, facts=facts)


def curve() -> str:
    entries = [{"step": i + 1, "time": 10.0 + i, "train/loss": 1.0, "speed/images_per_second": 9.0} for i in range(STEPS)]
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def result_of(run_id: str) -> RunResult:
    return RunResult(
        run_id=run_id,
        metrics={"eval/loss": 1.0, "eval/top1": 0.5, "eval/samples": 100.0, "time/run_seconds": 9.0, "time/train_seconds": 8.0},
        last={"step": STEPS, "speed/images_per_second": 9.0},
        **GROUP.model_dump(include={"workers", "cpus_per_worker", "gpus_per_worker", "zero_stage"}),
        gpu_hours=0.01,
        core_hours=0.01,
        peak_flops=1e12,
        finished=1.8e9,
        provenance=Provenance(git="abc"),
    )


if __name__ == "__main__":
    sys.exit(main())
