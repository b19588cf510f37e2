"""Overhead per run: the usual way compared with vitscale, on the same grid of tiny runs, in one command.

    python bench/overhead.py [--seeds 2]

Usual: one Tune trial with its own TorchTrainer for each run, default settings, one trial at a time (two would compete for
the CPUs of a small machine). Ours: `python -m orchestrator.study`, from process start to report and MLflow.
Overhead is wall-clock time minus the training time in it. Both sides train the same runs with the same code. Half of the
usual side runs before ours and half after it, so that a change in the machine's load affects both.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STUDY = """\
name: overhead
seeds: [SEEDS]
datasets:
  fractals: {generate: fractals, classes: 4, train: 256, val: 64, image_size: 16, points: 256}
  digits: {generate: digits, image_size: 16}
pretrain:
  data: fractals
  resolution: 16
  sizes: [128, 256]
  lengths: [{epochs: 2}]
  models:
    - {family: vit, variant: V16/8, width: 16, depth: 1, mlp_dim: 32, heads: 2, patch: 8}
    - {family: resnet, variant: R4, stages: [1, 1], width: 4, block: basic, stem: stride2, groups: 2}
  recipe: {preset: micro_vit}
transfer: {tasks: [digits], epochs: [1, 2], resolution: 16, recipe: {preset: micro_vit_finetune}}
probe: {tasks: [digits], shots: [5]}
"""


def usual(runs: list[dict[str, Any]], storage: Path) -> tuple[float, float]:
    """(wall-clock seconds, training seconds) of one trial and one trainer per run."""
    started = time.perf_counter()
    import ray
    from ray import tune

    ray.init(log_to_driver=False)
    try:
        results = tune.Tuner(
            usual_trial,
            param_space={"item": tune.grid_search(runs), "storage": str(storage)},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(name="usual", storage_path=str(storage / "tune"), verbose=0),
        ).fit()
        training = sum(result.metrics["seconds"] for result in results)
    finally:
        ray.shutdown()
    return time.perf_counter() - started, training


def usual_trial(config: dict[str, Any]) -> None:
    """A trial as in Ray's documentation: it has its own trainer."""
    import ray.train
    from ray import tune
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        usual_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(name=config["item"]["run_id"], storage_path=config["storage"] + "/train"),
    )
    tune.report({"seconds": trainer.fit().return_value})


def usual_worker(config: dict[str, Any]) -> float:
    """The same run with the same code as ours, in its own worker group."""
    import ray.train
    import torch

    from vitmodel.config.run import RunConfig
    from vitmodel.training.context import Context
    from vitmodel.training.run import execute
    from vitmodel.weights.header import WEIGHTS_FILE

    torch.set_num_threads(1)
    item, root = config["item"], Path(config["storage"], "runs")
    folder, parent = root / item["run_id"], item["config"]["parent"]
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(
        folder=folder,
        data_root=Path(item["data_root"]),
        parent_weights=root / parent / WEIGHTS_FILE if parent else None,
        micro_batch=item["micro_batch"],
    )
    metrics = execute(RunConfig.model_validate_json(json.dumps(item["config"])), context)
    ray.train.report({"seconds": training_seconds(metrics)})
    return training_seconds(metrics)


def training_seconds(metrics: dict[str, float]) -> float:
    """Seconds in the training loop. A probe has none: all of its seconds count."""
    return metrics.get("time/train_seconds", metrics["time/run_seconds"])


def ours(study: Path, storage: Path) -> tuple[float, float]:
    """(wall-clock seconds, training seconds divided by the groups that run in parallel) of the study command."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "orchestrator.study", str(study), "--storage", str(storage)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    run_results = [json.loads(path.read_text()) for path in (storage / "runs").glob("*/result.json")]
    return wall, sum(training_seconds(result["metrics"]) for result in run_results) / len(os.sched_getaffinity(0))


def planned_runs(study: Path, storage: Path) -> list[dict[str, Any]]:
    """The study's runs, parents first. Packs their data."""
    from orchestrator.prepare import prepare
    from vitmodel.data.shards import pack

    prepared = prepare(study, str(storage))
    for name, spec in prepared.file.study.datasets.items():
        pack(spec, Path(prepared.plan.datasets[name]))
    return [
        {
            "run_id": run.run_id,
            "config": run.config.model_dump(mode="json"),
            "data_root": prepared.plan.datasets[run.dataset],
            "micro_batch": run.placement.micro_batch,
        }
        for cell in prepared.plan.cells
        for run in cell.runs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, help="16 runs each; the usual side takes minutes per seed")
    parser.add_argument("--skip-usual", action="store_true", help="measure our side only, for larger grids")
    options = parser.parse_args()
    os.environ |= {"RAY_TRAIN_V2_ENABLED": "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory(prefix="vso") as name:
        folder = Path(name)
        study = folder / "overhead.yaml"
        study.write_text(STUDY.replace("SEEDS", ", ".join(map(str, range(options.seeds)))))
        runs = planned_runs(study, folder / "usual")
        half = len(runs) // 2
        parts = [] if options.skip_usual else [usual(runs[:half], folder / "usual")]
        wall, training = ours(study, folder / "ours")
        parts += [] if options.skip_usual else [usual(runs[half:], folder / "usual")]
    mine = (wall - training) / len(runs)
    print(f"ours    {len(runs)} runs: {wall:6.1f} s wall-clock, {training:5.1f} s training, {mine:6.2f} s overhead per run")
    if parts:
        wall, training = (sum(values) for values in zip(*parts, strict=True))
        theirs = (wall - training) / len(runs)
        print(
            f"usual   {len(runs)} runs: {wall:6.1f} s wall-clock, {training:5.1f} s training, {theirs:6.2f} s overhead per run"
        )
        print(f"ratio   ours / usual = {mine / theirs:.3f} (1/{theirs / mine:.0f})")


if __name__ == "__main__":
    main()
