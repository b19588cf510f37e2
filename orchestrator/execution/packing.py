"""Packing datasets with a progress bar, in processes of this machine or in tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.execution.session import ray_session
from orchestrator.secrets import expand_environment
from orchestrator.spec.describe import check_counts, pack_config
from orchestrator.spec.schema import ExternalData
from orchestrator.spec.study import StudyFile
from vitmodel.config.base import Frozen, UserError
from vitmodel.data.descriptions import Description, PackConfig
from vitmodel.data.generated import GeneratedConfig
from vitmodel.data.index import DatasetIndex
from vitmodel.data.shard_writer import ShardJob, WrittenShard, write_shard
from vitmodel.data.shards import BAD_FILE, pack

TASKS_PER_CPU = 2  # submitted to Ray at a time


class PackOptions(Frozen):
    """What the command line sets for any source. `workers`: processes, None for one for each core."""

    workers: int | None = None
    on_ray: bool = False
    resize: int | None = None
    skip_bad: float = 0.0
    command: str = ""


def pack_visibly(config: PackConfig | GeneratedConfig, root: Path, options: PackOptions) -> DatasetIndex:
    """`pack`, with a progress bar and the time left."""
    columns = (TextColumn("packing {task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("pack", name=root.name, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        run_jobs = ray_tasks if options.on_ray else None
        return pack(config, root, processes=options.workers, run_jobs=run_jobs, report=report)


def pack_described(
    description: Description, folder: Path, root: Path, options: PackOptions, *, dev: bool = False
) -> DatasetIndex:
    """Pack the downloads of a known dataset, and check that all of them exist."""
    config = pack_config(
        description, folder, dev=dev, resize=options.resize, skip_bad=options.skip_bad, command=options.command
    )
    index = pack_visibly(config, root, options)
    samples = {split: part.samples for split, part in index.splits.items()}
    bad = root / BAD_FILE
    skipped = len(bad.read_text().splitlines()) if bad.exists() else 0
    check_counts(description, samples, index.classes, dev=dev, skipped=skipped)
    return index


def pack_missing(file: StudyFile, datasets: dict[str, str], missing: Iterable[str], options: PackOptions | None = None) -> bool:
    """Pack the missing datasets that a study describes together with their downloads. Returns whether there were any."""
    options = (options or PackOptions()).model_copy(update={"command": f"study {file.study.name}"})
    to_pack = [(name, spec) for name in missing if isinstance(spec := file.study.datasets[name], ExternalData) and spec.source]
    for name, spec in to_pack:
        assert spec.description is not None  # the schema allows source only together with describe
        try:
            folder = Path(expand_environment(spec.source)).expanduser()
            index = pack_described(spec.description, folder, Path(datasets[name]), options, dev=spec.dev)
            counts = ", ".join(f"{split} {part.samples:,}" for split, part in index.splits.items())
            print(f"packed {name}: {counts} images of {index.classes} classes")
        except UserError as error:
            where = f"{error.file}: " if error.file else ""
            raise file.tree.error(where + error.message, ("datasets", name, "source"), error.allowed) from None
    return bool(to_pack)


def ray_tasks(jobs: list[ShardJob]) -> Iterator[WrittenShard]:
    """One Ray task for each shard, on the cluster of RAY_ADDRESS or on a private one. All nodes must share the folder."""
    with ray_session() as nodes:
        import ray

        task = ray.remote(num_cpus=1, max_retries=3)(write_shard)
        ahead = TASKS_PER_CPU * max(1, int(sum(node.get("CPU", 0) for node in nodes)))
        remaining = iter(jobs)
        waiting = [task.remote(job) for job in islice(remaining, ahead)]
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            try:
                yield ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            waiting += [task.remote(job) for job in islice(remaining, 1)]
