"""Packs a source into WebDataset tar shards with an index.

Shards are written in a seeded, class-interleaved order: the first n samples of a split are a class-balanced, uniform subset
for every n, so dataset sizes are nested prefixes. Every shard depends on its own samples alone, so any number of processes or
machines write the same bytes, and shards that an interrupted packing has finished are used by the next one.
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
from vitmodel.data.open_source import open_source
from vitmodel.data.order import Ints, interleaved
from vitmodel.data.parallel import map_unordered
from vitmodel.data.shard_writer import ShardJob, WrittenShard, load_members, write_shard
from vitmodel.data.sources import Source
from vitmodel.files import partial_folder, write_bytes

SHARD_SAMPLES = 2048
BAD_FILE = "bad_samples.jsonl"  # of a packed dataset: images that were left out

RunJobs = Callable[[list[ShardJob]], Iterable[WrittenShard]]  # in any order
Report = Callable[[int, int], None]  # samples written so far, samples in total


def pack(
    config: PackConfig | GeneratedConfig,
    root: Path,
    *,
    processes: int | None = None,
    run_jobs: RunJobs | None = None,
    report: Report | None = None,
) -> DatasetIndex:
    """Write the dataset to `root`, or return at once if it already exists there.

    The folder appears complete or not at all. Finished shards stay in a hidden folder next to it for the next attempt.
    `run_jobs` may run the jobs elsewhere. Raises UserError for an invalid source, or a folder that holds another dataset.
    """
    if isinstance(config, FractalConfig | DigitsConfig) and (root / INDEX_FILE).exists():
        return _same(root, generated.identity(config))
    with partial_folder(root) as partial:
        source = open_source(config, partial / "staging")
        recipe = _recipe(config, source)
        if (root / INDEX_FILE).exists():  # perhaps written by another process while this one waited
            return _same(root, recipe)
        _discard_other(partial, recipe)
        jobs = _jobs(config, source, partial)
        written = _run(jobs, run_jobs or (lambda todo: map_unordered(write_shard, todo, processes)), report)
        index = _index(config, source, recipe, partial, written)
        _record_bad(config, written, partial)
        shutil.rmtree(partial / "staging", ignore_errors=True)
        shutil.rmtree(partial / "done")
        (partial / "recipe").unlink()
        write_bytes(partial / INDEX_FILE, render_index(index).encode())
        partial.rename(root)
    return index


def _same(root: Path, recipe: str) -> DatasetIndex:
    index = load_index(root)
    if recipe not in (index.identity, index.recipe):
        raise UserError("the folder holds another dataset; choose another name or remove the folder", file=str(root))
    return index


def _recipe(config: PackConfig | GeneratedConfig, source: Source) -> str:
    """A hash of all that determines the bytes: the configuration and the list of samples. A generated dataset's identity."""
    if not isinstance(config, PackConfig):
        return generated.identity(config)
    keys = config.model_dump_json(exclude={"path", "command"})
    total = hashlib.sha256(f"{SHARD_SAMPLES} {keys}".encode())
    for split, samples in source.splits.items():
        total.update(split.encode() + samples.labels.tobytes())
        total.update("\n".join(map(samples.key, range(len(samples.labels)))).encode())
        total.update(json.dumps(samples.label_sets).encode())
    return "recipe-" + total.hexdigest()[:16]


def _discard_other(partial: Path, recipe: str) -> None:
    """Remove the files that an attempt with another configuration or source has left."""
    mark = partial / "recipe"
    if not mark.exists() or mark.read_text() != recipe:
        for path in partial.iterdir():
            if path.is_dir() and path.name != "staging":  # its files are named by the source's files
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
        mark.write_text(recipe)
    (partial / "done").mkdir(exist_ok=True)


def _jobs(config: PackConfig | GeneratedConfig, source: Source, partial: Path) -> list[ShardJob]:
    jobs = []
    for split, samples in source.splits.items():
        order = interleaved(samples.labels, config.seed)
        for number, start in enumerate(range(0, len(order), SHARD_SAMPLES)):
            chosen = order[start : start + SHARD_SAMPLES]
            jobs.append(
                ShardJob(
                    root=str(partial),
                    stem=f"{split}-{number:05d}",
                    names=[f"{split}-{sample:09d}" for sample in chosen.tolist()],
                    samples=samples.take(chosen),
                    read=source.read,
                    check=isinstance(config, PackConfig),
                    resize=config.resize if isinstance(config, PackConfig) else None,
                    may_skip=isinstance(config, PackConfig) and config.skip_bad > 0,
                )
            )
    return jobs


def _run(jobs: list[ShardJob], run_jobs: RunJobs, report: Report | None) -> list[WrittenShard]:
    """Run all jobs. Results are in the order of the jobs."""
    total, done = sum(len(job.names) for job in jobs), 0
    shards: dict[str, WrittenShard] = {}
    for written in run_jobs(jobs):
        shards[written.stem] = written
        done += written.samples + len(written.bad)
        if report:
            report(done, total)
    return [shards[job.stem] for job in jobs]


def _index(
    config: PackConfig | GeneratedConfig, source: Source, recipe: str, root: Path, done: list[WrittenShard]
) -> DatasetIndex:
    splits = {}
    for split in source.splits:
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
    """Number of images of each class. A label of -1 is not counted."""
    return tuple(np.bincount(labels[labels >= 0], minlength=classes).tolist())


def identity_of(splits: dict[str, Split]) -> str:
    """Identity of a dataset by its bytes: the checksums of the shards in their order."""
    text = json.dumps({name: [shard.sha256 for shard in split.shards] for name, split in sorted(splits.items())})
    return "shards-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _record_bad(config: PackConfig | GeneratedConfig, written: list[WrittenShard], partial: Path) -> None:
    """List the unreadable images in a file. Raises UserError if there are more than allowed."""
    bad = [entry for one in written for entry in one.bad]
    total = sum(one.samples for one in written) + len(bad)
    allowed = config.skip_bad if isinstance(config, PackConfig) else 0.0
    if len(bad) > allowed * total:
        raise UserError(f"{len(bad)} of {total} images are unreadable, the first: {bad[0]}", allowed=f"{allowed:.2%}")
    if bad:
        write_bytes(partial / BAD_FILE, "".join(_json_line(entry) for entry in bad).encode())


def _json_line(entry: str) -> str:
    return json.dumps({"image": entry}) + "\n"
