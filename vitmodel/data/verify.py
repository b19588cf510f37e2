"""Whether a dataset's files are what its index says; and an index for tars that someone else wrote."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.formats.tars import find_tars
from vitmodel.data.index import INDEX_FILE, DatasetIndex, Shard, Split, read_index, render_index
from vitmodel.data.order import permutation
from vitmodel.data.shards import BAD_FILE, histogram, identity_of
from vitmodel.data.spread import spread
from vitmodel.data.tarscan import samples_of
from vitmodel.data.writing import describe_shard, load_members, member_files, sha256_of
from vitmodel.files import write_bytes


def verify(root: Path, *, processes: int | None = None) -> list[str]:
    """What is wrong with a dataset's files: every changed byte, missing shard, wrong count, file too many. Empty when whole."""
    index = read_index(root)
    problems = []
    if index.digest and (root / INDEX_FILE).read_text() != render_index(index):
        problems.append(f"{INDEX_FILE}: changed after it was written")
    shards = [shard for part in index.splits.values() for shard in part.shards]
    if len({shard.name for shard in shards}) != len(shards):
        problems.append(f"{INDEX_FILE}: a shard is listed twice")
    problems += sorted(
        text for texts in spread(partial(_check_shard, root, index.ignored), shards, processes) for text in texts
    )
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
        return [f"{shard.name}: {size} bytes, the index says {shard.bytes}"]
    if sha256_of(path) != shard.sha256:
        return [f"{shard.name}: checksum differs"]
    try:
        samples = list(samples_of(path, ignored))
    except UserError as error:
        return [str(error)]
    problems = (
        [f"{shard.name}: {len(samples)} samples, the index says {shard.samples}"] if len(samples) != shard.samples else []
    )
    for name, data in member_files(samples, shard.members).items():
        if (root / name).read_bytes() != data:
            problems.append(f"{name}: differs from what {shard.name} holds")
    return problems


def _check_counts(root: Path, index: DatasetIndex) -> list[str]:
    problems = []
    for split, part in index.splits.items():
        labels = np.concatenate([load_members(root / shard.members)["label"] for shard in part.shards])
        if histogram(labels, index.classes) != part.histogram:
            problems.append(f"{INDEX_FILE}: images per class of {split} differ from the shards")
    return problems


# --- tars of others -------------------------------------------------------------------------------------------


def index_tars(
    root: Path,
    *,
    seed: int = 0,
    source: str = "",
    licence: str = "",
    command: str = "",
    ignore: tuple[str, ...] = (),
    processes: int | None = None,
) -> DatasetIndex:
    """Write index.json and the member lists for a folder of WebDataset tars. Their bytes stay as they are.

    Shards are listed in a seeded permutation: a size is a prefix of it, and cuts the last shard. Raises UserError.
    """
    if (root / INDEX_FILE).exists():
        raise UserError("there is an index already; remove it to make another", file=str(root / INDEX_FILE))
    found = find_tars(root)
    paths = [path for tars in found.values() for path in tars]
    described = {shard.name: shard for shard in spread(partial(_describe, root, ignore), paths, processes)}
    if "train" not in found:
        raise UserError("no train shards", file=str(root))
    labels = {}
    for split, tars in found.items():
        members = [load_members(root / described[path.relative_to(root).as_posix()].members) for path in tars]
        labels[split] = np.concatenate(members)["label"]
    classes = 1 + max(int(values.max()) for values in labels.values())
    splits = {}
    for split, tars in found.items():
        order = permutation(len(tars), seed)
        shards = tuple(described[tars[number].relative_to(root).as_posix()] for number in order.tolist())
        splits[split] = Split(shards=shards, histogram=histogram(labels[split], classes))
    index = DatasetIndex(
        name=re.sub(r"[^a-z0-9._-]", "-", root.resolve().name.lower()),
        identity=identity_of(splits),
        classes=classes,
        image_size=None,
        order="shard-permutation",
        ignored=ignore,
        source=source or str(root),
        licence=licence,
        command=command,
        splits=splits,
    )
    write_bytes(root / INDEX_FILE, render_index(index).encode())
    return index


def _describe(root: Path, ignore: tuple[str, ...], path: Path) -> Shard:
    name = path.relative_to(root).with_suffix(".members.npy").as_posix()
    return describe_shard(root, path, name, ignore)
