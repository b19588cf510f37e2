"""Checks a dataset's files against its index."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.index import INDEX_FILE, DatasetIndex, Shard, read_index, render_index
from vitmodel.data.parallel import map_unordered
from vitmodel.data.shard_writer import load_members, member_files, sha256_of
from vitmodel.data.shards import BAD_FILE, histogram
from vitmodel.data.tar_index import samples_of


def verify(root: Path, *, processes: int | None = None) -> list[str]:
    """All differences between a dataset's files and its index: changed bytes, missing shards, wrong counts, unknown files."""
    index = read_index(root)
    problems = []
    if index.digest and (root / INDEX_FILE).read_text() != render_index(index):
        problems.append(f"{INDEX_FILE}: changed after it was written")
    shards = [shard for split in index.splits.values() for shard in split.shards]
    if len({shard.name for shard in shards}) != len(shards):
        problems.append(f"{INDEX_FILE}: a shard is listed twice")
    checks = map_unordered(partial(_check_shard, root, index.ignored), shards, processes)
    problems += sorted(problem for shard_problems in checks for problem in shard_problems)
    if not problems:
        problems += _check_counts(root, index)
    known = {INDEX_FILE, BAD_FILE, *(name for shard in shards for name in _files_of(shard))}
    return problems + [f"{name}: not in the index" for name in sorted(_files_in(root) - known)]


def _files_of(shard: Shard) -> list[str]:
    return [name for name in (shard.name, shard.members, shard.label_sets) if name]


def _files_in(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


def _check_shard(root: Path, ignored: tuple[str, ...], shard: Shard) -> list[str]:
    if missing := [name for name in _files_of(shard) if not (root / name).is_file()]:
        return [f"{name}: missing" for name in missing]
    path = root / shard.name
    if (size := path.stat().st_size) != shard.bytes:
        return [f"{shard.name}: {size} bytes, {shard.bytes} in the index"]
    if sha256_of(path) != shard.sha256:
        return [f"{shard.name}: checksum differs"]
    try:
        samples = list(samples_of(path, ignored))
    except UserError as error:
        return [str(error)]
    problems = [f"{shard.name}: {len(samples)} samples, {shard.samples} in the index"] if len(samples) != shard.samples else []
    for name, data in member_files(samples, shard.members).items():
        if (root / name).read_bytes() != data:
            problems.append(f"{name}: differs from the content of {shard.name}")
    return problems


def _check_counts(root: Path, index: DatasetIndex) -> list[str]:
    problems = []
    for name, split in index.splits.items():
        labels = np.concatenate([load_members(root / shard.members)["label"] for shard in split.shards])
        if histogram(labels, index.classes) != split.histogram:
            problems.append(f"{INDEX_FILE}: images per class of {name} differ from the shards")
    return problems
