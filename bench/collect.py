"""How long it takes to collect 2,000 runs: from the store (first and again), and from MLflow (a sqlite database).

    python bench/collect.py [--runs 2000]

Makes a store of finished runs, sends it to MLflow as a study's follower does, then collects from each in turn, three times
interleaved; prints the median seconds and the limits. Takes a few minutes, nearly all of them writing to MLflow.
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
from typing import Any

from orchestrator import results
from orchestrator.results import cache as rowcache
from orchestrator.store.layout import Store
from orchestrator.tracking.mlflow import Follower
from vitmodel.files import write_json

ROUNDS = 3
LIMITS = {"store, first time": 2.0, "store, again": 2.0, "MLflow": 10.0}  # seconds
GROUP = {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 1, "zero_stage": 0}
LOGGED = 20  # entries of a run's curve


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), count)
        uri = f"sqlite:///{folder}/mlflow.db"
        began = time.perf_counter()
        plan = store.plan("bench")
        assert plan is not None
        assert Follower(store, plan, uri).finish([], {}, seconds=3600)
        print(f"sent {count} runs to MLflow in {time.perf_counter() - began:.0f} s")
        return measure(store, uri, count)


def measure(store: Store, uri: str, count: int) -> int:
    """Time each way in turn; 1 where a limit was missed."""
    cache = store.study("bench") / rowcache.FILE
    ways: dict[str, tuple[Callable[[], object], Path | str]] = {
        "store, first time": (lambda: cache.unlink(missing_ok=True), store.root),
        "store, again": (lambda: None, store.root),
        "MLflow": (lambda: None, uri),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (prepare, source) in ways.items():
            prepare()
            began = time.perf_counter()
            assert len(results.collect(source, "bench")) == count
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        print(f"{name:18} {statistics.median(values):6.2f} s   to reach {LIMITS[name]:g} s")
    return int(any(statistics.median(values) > LIMITS[name] for name, values in seconds.items()))


def make_store(root: Path, count: int) -> Store:
    """Finished runs with curves: each pretraining with nine fine-tunes."""
    store = Store(root)
    facts = [facts_of(number) for number in range(count)]
    write_json(store.study("bench") / "plan.json", {"study": "bench", "totals": {"runs": count}, "runs": facts})
    recipe = {f"key{i}": 0.1 * i for i in range(20)}
    for run in facts:
        folder = store.run(run["run_id"]).path
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"config": {"recipe": recipe, "model": {"width": 64, "depth": 3}}}))
        entries = [{"step": i + 1, "time": 10.0 + i, "train/loss": 1.0, "speed/images_per_second": 9.0} for i in range(LOGGED)]
        (folder / "metrics-000.jsonl").write_text("\n".join(json.dumps(entry) for entry in [{"begin": 0.0}, *entries]) + "\n")
        (folder / "result.json").write_text(json.dumps(result_of(run["run_id"])))
    return store


def facts_of(number: int) -> dict[str, Any]:
    parent = number - number % 10
    phase = "pretrain" if number == parent else "finetune"
    return {
        "run_id": f"{phase}-{number:06d}",
        "parent_id": None if number == parent else f"pretrain-{parent:06d}",
        "phase": phase,
        "family": "vit",
        "variant": "B/16",
        "params": 86_000_000,
        "forward_flops": 35_000_000_000,
        "dataset": "images",
        "dataset_size": 1000 + number,
        "length": "7 epochs",
        "epochs": 7.0,
        "steps": LOGGED,
        "examples_seen": 7000,
        "train_flops": 735_000_000_000_000,
        "pretrain_flops": 735_000_000_000_000,
        "resolution": 224,
        "shots": None,
        "seed": 0,
        "objective": "supervised",
        "recipe": "",
        "label": f"{phase} {number}",
        "placement": {"group": GROUP, "micro_batch": 8, "accumulation": 1, "memory_bytes": 1, "seconds": 1.0},
    }


def result_of(run_id: str) -> dict[str, Any]:
    metrics = {"eval/loss": 1.0, "eval/top1": 0.5, "eval/samples": 100.0, "time/run_seconds": 9.0, "time/train_seconds": 8.0}
    last = {"step": LOGGED, "speed/images_per_second": 9.0}
    cost = {"gpu_hours": 0.01, "core_hours": 0.01, "peak_flops": 1e12, "finished": 1.8e9}
    return {"run_id": run_id, "metrics": metrics, "last": last, **GROUP, **cost, "provenance": {"git": "abc"}}


if __name__ == "__main__":
    sys.exit(main())
