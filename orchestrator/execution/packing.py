"""Packing as a person sees it: a progress bar, the processes of this machine or the tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.execution.launch import ray_session
from orchestrator.secrets import expand_environment
from orchestrator.spec.describe import check_counts, pack_config
from orchestrator.spec.schema import ExternalData
from orchestrator.spec.study import StudyFile
from vitmodel.config.base import UserError
from vitmodel.data.descriptions import Description, PackConfig
from vitmodel.data.generated import GeneratedConfig
from vitmodel.data.index import DatasetIndex
from vitmodel.data.shards import BAD_FILE, pack
from vitmodel.data.writing import ShardJob, WrittenShard, finish_job

TASKS_PER_CPU = 2  # handed to Ray ahead of those that run


def pack_visibly(
    config: PackConfig | GeneratedConfig, root: Path, *, workers: int | None = None, on_ray: bool = False
) -> DatasetIndex:
    """`pack`, with a progress bar and the time that is left."""
    columns = (TextColumn("packing {task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("pack", name=root.name, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return pack(config, root, processes=workers, run_jobs=ray_tasks if on_ray else None, report=report)


def pack_described(
    description: Description, folder: Path, root: Path, *, dev: bool = False, own: dict[str, Any], **how: Any
) -> DatasetIndex:
    """Pack the downloads of a known dataset, and check that it is all there. `own`: fields of PackConfig."""
    index = pack_visibly(pack_config(description, folder, dev=dev, **own), root, **how)
    found = {split: part.samples for split, part in index.splits.items()}
    bad = root / BAD_FILE
    skipped = len(bad.read_text().splitlines()) if bad.exists() else 0
    check_counts(description, found, index.classes, dev=dev, skipped=skipped)
    return index


def pack_missing(file: StudyFile, datasets: dict[str, str], missing: Iterable[str], **how: Any) -> bool:
    """Pack the datasets that a study describes and names the downloads of. Whether there were any."""
    todo = [(name, spec) for name in missing if isinstance(spec := file.study.datasets[name], ExternalData) and spec.source]
    for name, spec in todo:
        assert spec.description is not None  # source is allowed beside describe alone
        try:
            folder = Path(expand_environment(spec.source)).expanduser()
            own = {"command": f"study {file.study.name}"}
            index = pack_described(spec.description, folder, Path(datasets[name]), dev=spec.dev, own=own, **how)
            counts = ", ".join(f"{split} {part.samples:,}" for split, part in index.splits.items())
            print(f"packed {name}: {counts} images of {index.classes} classes")
        except UserError as error:
            where = f"{error.file}: " if error.file else ""
            raise file.tree.error(where + error.message, ("datasets", name, "source"), error.allowed) from None
    return bool(todo)


def ray_tasks(jobs: list[ShardJob]) -> Iterator[WrittenShard]:
    """One Ray task a shard, on the cluster that RAY_ADDRESS names or one of this machine. The folder must be shared."""
    with ray_session() as nodes:
        import ray

        task = ray.remote(num_cpus=1, max_retries=3)(finish_job)
        ahead = TASKS_PER_CPU * max(1, int(sum(node.get("CPU", 0) for node in nodes)))
        todo = iter(jobs)
        waiting = [task.remote(job) for job in islice(todo, ahead)]
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            try:
                yield ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            waiting += [task.remote(job) for job in islice(todo, 1)]
