"""How the driver's work grows with the number of runs: planning, bundling, following, collecting at 500 to 2,000 runs.

    python bench/scale.py [--runs 500 1000 2000] [--nodes 500]

No Ray and no training: the files of runs are written as workers write them, in waves of as many runs as `--nodes` nodes hold.
Following is the driver's look at the store after every wave. Recording is the tracking cursor, without MLflow
(bench/collect.py measures MLflow). Prints seconds and the exponent p of seconds ~ runs^p.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collect import STUDY as COLLECTED
from collect import curve, plan_of, record_of, result_of
from rich.console import Console

from orchestrator import results
from orchestrator.monitor.progress import Progress
from orchestrator.plan.make import make_bundles
from orchestrator.plan.records import RunFacts
from orchestrator.prepare import prepare
from orchestrator.store.layout import RunFolder, Store
from orchestrator.tracking.cursor import Cursor, TrackedRun

STUDY = """\
name: scale
seeds: SEEDS
datasets:
  images: {generate: fractals, classes: 4, train: 4096, val: 64, image_size: 16, points: 256}
pretrain:
  data: images
  resolution: 16
  sizes: [128, 256, 512, 1024]
  lengths: [{epochs: 2}, {epochs: 4}]
  models:
    - {family: vit, variant: V16/8, width: 16, depth: 1, mlp_dim: 32, heads: 2, patch: 8}
    - {family: resnet, variant: R4, stages: [1, 1], width: 4, block: basic, stem: stride2, groups: 2}
  recipe: {vit: {preset: micro_vit, batch_size: 32}, resnet: {preset: micro_resnet, batch_size: 32}}
transfer: {tasks: [images], epochs: [1, 2, 3], resolution: 16, recipe: {preset: micro_vit_finetune}}
probe: {tasks: [images], shots: [5]}
budget: {max_runs: 100000}
resources: {workers: 1, cpus_per_worker: 1, max_concurrent: NODES}
"""
RUNS_PER_SEED = 80


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--nodes", type=int, default=500)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    for count in options.runs:
        for name, value in measure(count, options.nodes).items():
            seconds.setdefault(name, []).append(value)
    print(f"{'':12}" + "".join(f"{count:>10,}" for count in options.runs) + "  exponent")
    span = math.log(options.runs[-1] / options.runs[0])
    for name, values in seconds.items():
        exponent = math.log(values[-1] / values[0]) / span if len(values) > 1 else math.nan
        print(f"{name:12}" + "".join(f"{value:>9.2f}s" for value in values) + f"  {exponent:.2f}")
    return 0


def measure(count: int, nodes: int) -> dict[str, float]:
    """Seconds of each part."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder, "scale.yaml")
        seeds = list(range(round(count / RUNS_PER_SEED)))
        study.write_text(STUDY.replace("SEEDS", str(seeds)).replace("NODES", str(nodes)))
        with timed("planning"):
            prepared = prepare(study, f"{folder}/runs")
        with timed("bundling"):
            make_bundles(prepared.plan.cells, dict.fromkeys({c.pretrain.placement.group for c in prepared.plan.cells}, nodes))
        follow(Store(Path(folder, "followed")), count, nodes, timed)
    return seconds


def follow(store: Store, count: int, nodes: int, timed: Callable[[str], Any]) -> None:
    """Waves of runs start, log and finish. The driver looks at the store after each."""
    plan = plan_of(count)
    store.write_plan(plan)
    cursor = Cursor(store.study(COLLECTED), "none")
    cursor.save()
    with Progress(store, plan, Console(quiet=True)) as progress:
        for first in range(0, count, nodes):
            wave = plan.runs[first : first + nodes]
            for stage in (begin, log_steps, finish):
                for facts in wave:
                    stage(store.run(facts.run_id), facts)
                with timed("following"):
                    changes = progress.refresh()
                assert len(changes) == len(wave)
                with timed("recording"):
                    for change in changes:
                        cursor.note_tracked(change.folder.run_id, TrackedRun(id="0" * 32, step=1, state=str(change.state)))
    with timed("collecting"):
        assert len(results.collect(store.root, COLLECTED)) == count


def begin(folder: RunFolder, facts: RunFacts) -> None:
    folder.begin(record_of(facts))


def log_steps(folder: RunFolder, facts: RunFacts) -> None:
    with folder.metrics_files()[-1].open("a") as file:
        file.write(curve())


def finish(folder: RunFolder, facts: RunFacts) -> None:
    folder.finish(result_of(facts.run_id))


if __name__ == "__main__":
    sys.exit(main())
