"""Packing a source into WebDataset tar shards with an index.

Shards are written in one seeded, class-interleaved order: the first n samples of a split are a class-balanced,
uniform subset for every n, so dataset sizes are nested prefixes. Every shard depends on its own samples alone; any
number of processes or machines write the same bytes, and what a killed packing has finished is used by the next.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data import generated
from vitmodel.data.descriptions import PackConfig
from vitmodel.data.generated import DigitsConfig, FractalConfig, GeneratedConfig
from vitmodel.data.index import INDEX_FILE, DatasetIndex, Split, load_index, render_index
from vitmodel.data.opening import open_source
from vitmodel.data.order import Ints, interleaved
from vitmodel.data.sources import Source
from vitmodel.data.spread import spread
from vitmodel.data.writing import ShardJob, WrittenShard, finish_job, load_members
from vitmodel.files import partial_folder, write_bytes

SHARD_SAMPLES = 2048
BAD_FILE = "bad_samples.jsonl"

RunJobs = Callable[[list[ShardJob]], Iterable[WrittenShard]]  # in any order
Report = Callable[[int, int], None]  # samples written so far, of how many


def pack(
    config: PackConfig | GeneratedConfig,
    root: Path,
    *,
    processes: int | None = None,
    run_jobs: RunJobs | None = None,
    report: Report | None = None,
) -> DatasetIndex:
    """Write the dataset under `root`, or return at once where it is already there.

    The folder appears whole or not at all; what is finished waits in a hidden folder beside it for the next attempt.
    `run_jobs` may do the work elsewhere. Raises UserError for a source that is not sound, or a folder that holds
    another dataset.
    """
    if isinstance(config, FractalConfig | DigitsConfig) and (root / INDEX_FILE).exists():
        return _same(root, generated.identity(config))
    with partial_folder(root) as partial:
        source = open_source(config, partial / "staging")
        recipe = _recipe(config, source)
        if (root / INDEX_FILE).exists():  # also where another process made it while this one waited
            return _same(root, recipe)
        _keep_only(partial, recipe)
        jobs = _jobs(config, source, partial)
        written = _run(jobs, run_jobs or (lambda todo: spread(finish_job, todo, processes)), report)
        index = _index(config, source, recipe, partial, written)
        _note_bad(config, written, partial)
        shutil.rmtree(partial / "staging", ignore_errors=True)
        shutil.rmtree(partial / "done")
        (partial / "recipe").unlink()
        write_bytes(partial / INDEX_FILE, render_index(index).encode())
        partial.rename(root)
    return index


def _same(root: Path, recipe: str) -> DatasetIndex:
    index = load_index(root)
    if recipe not in (index.identity, index.recipe):
        raise UserError("another dataset lies here; choose another name or remove the folder", file=str(root))
    return index


def _recipe(config: PackConfig | GeneratedConfig, source: Source) -> str:
    """What decides the bytes: the configuration and the list of samples. A generated dataset's identity."""
    if not isinstance(config, PackConfig):
        return generated.identity(config)
    meaning = config.model_dump_json(exclude={"path", "command"})
    total = hashlib.sha256(f"{SHARD_SAMPLES} {meaning}".encode())
    for split, part in source.parts.items():
        total.update(split.encode() + part.labels.tobytes())
        total.update("\n".join(map(part.key, range(len(part.labels)))).encode())
        total.update(json.dumps(part.label_sets).encode())
    return "recipe-" + total.hexdigest()[:16]


def _keep_only(partial: Path, recipe: str) -> None:
    """Throw away what another configuration has left."""
    mark = partial / "recipe"
    if not mark.exists() or mark.read_text() != recipe:
        for path in partial.iterdir():
            if path.is_dir() and path.name != "staging":  # which goes by the source's own files
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
        mark.write_text(recipe)
    (partial / "done").mkdir(exist_ok=True)


def _jobs(config: PackConfig | GeneratedConfig, source: Source, partial: Path) -> list[ShardJob]:
    jobs = []
    for split, part in source.parts.items():
        order = interleaved(part.labels, config.seed)
        for number, start in enumerate(range(0, len(order), SHARD_SAMPLES)):
            chosen = order[start : start + SHARD_SAMPLES]
            jobs.append(
                ShardJob(
                    root=str(partial),
                    stem=f"{split}-{number:05d}",
                    names=[f"{split}-{sample:09d}" for sample in chosen.tolist()],
                    part=part.take(chosen),
                    read=source.read,
                    check=isinstance(config, PackConfig),
                    resize=config.resize if isinstance(config, PackConfig) else None,
                    may_skip=isinstance(config, PackConfig) and config.skip_bad > 0,
                )
            )
    return jobs


def _run(jobs: list[ShardJob], run_jobs: RunJobs, report: Report | None) -> list[WrittenShard]:
    """Do all jobs; results in the jobs' order."""
    total, done = sum(len(job.names) for job in jobs), 0
    found: dict[str, WrittenShard] = {}
    for written in run_jobs(jobs):
        found[written.stem] = written
        done += written.samples + len(written.bad)
        if report:
            report(done, total)
    return [found[job.stem] for job in jobs]


def _index(
    config: PackConfig | GeneratedConfig, source: Source, recipe: str, root: Path, done: list[WrittenShard]
) -> DatasetIndex:
    splits = {}
    for split in source.parts:
        shards = tuple(one.shard for one in done if one.stem.rpartition("-")[0] == split and one.shard is not None)
        labels = np.concatenate([load_members(root / shard.members)["label"] for shard in shards])
        splits[split] = Split(shards=shards, histogram=histogram(labels, source.classes))
    sides = {one.image_size for one in done if one.shard is not None}
    is_packed = isinstance(config, PackConfig)
    return DatasetIndex(
        name=root.name.removeprefix(".").removesuffix(".partial"),
        identity=identity_of(splits) if is_packed else recipe,
        recipe=recipe,
        classes=source.classes,
        class_names=source.class_names,
        image_size=source.image_size or (sides.pop() if len(sides) == 1 else None),
        source=source.source,
        licence=source.licence,
        command=config.command if isinstance(config, PackConfig) else "",
        splits=splits,
    )


def histogram(labels: Ints, classes: int) -> tuple[int, ...]:
    """Images of each class; -1 is none."""
    return tuple(np.bincount(labels[labels >= 0], minlength=classes).tolist())


def identity_of(splits: dict[str, Split]) -> str:
    """Identity of a dataset by its bytes: the shards' checksums in their order."""
    text = json.dumps({split: [shard.sha256 for shard in part.shards] for split, part in sorted(splits.items())})
    return "shards-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _note_bad(config: PackConfig | GeneratedConfig, written: list[WrittenShard], partial: Path) -> None:
    """The unreadable images, in a file of their own. Raises UserError for more than are allowed."""
    bad = [entry for one in written for entry in one.bad]
    total = sum(one.samples for one in written) + len(bad)
    allowed = config.skip_bad if isinstance(config, PackConfig) else 0.0
    if len(bad) > allowed * total:
        raise UserError(f"{len(bad)} of {total} images are unreadable, the first: {bad[0]}", allowed=f"{allowed:.2%}")
    if bad:
        write_bytes(partial / BAD_FILE, "".join(_json_line(entry) for entry in bad).encode())


def _json_line(entry: str) -> str:
    return json.dumps({"image": entry}) + "\n"


def describe_splits(index: DatasetIndex) -> str:
    """`train 60,000, test 10,000`."""
    return ", ".join(f"{split} {part.samples:,}" for split, part in index.splits.items())
