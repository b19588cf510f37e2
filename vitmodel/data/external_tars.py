"""Writes an index for WebDataset tars that were written by other tools. The tars stay where and as they are."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.formats.tars import find_tars
from vitmodel.data.index import INDEX_FILE, DatasetIndex, Shard, Split, render_index
from vitmodel.data.order import permutation
from vitmodel.data.parallel import map_unordered
from vitmodel.data.shard_writer import describe_shard, load_members
from vitmodel.data.shards import histogram, identity_of
from vitmodel.files import write_bytes


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
    """Write index.json and the member lists for a folder of WebDataset tars.

    Shards are listed in a seeded permutation: a dataset size is a prefix of it, with the last shard cut. Raises UserError.
    """
    if (root / INDEX_FILE).exists():
        raise UserError("the folder already has an index; remove it to write another one", file=str(root / INDEX_FILE))
    tars_of = find_tars(root)
    paths = [path for tars in tars_of.values() for path in tars]
    described = {shard.name: shard for shard in map_unordered(partial(_describe, root, ignore), paths, processes)}
    if "train" not in tars_of:
        raise UserError("no train shards", file=str(root))
    labels = {}
    for split, tars in tars_of.items():
        members = [load_members(root / described[path.relative_to(root).as_posix()].members) for path in tars]
        labels[split] = np.concatenate(members)["label"]
    classes = 1 + max(int(values.max()) for values in labels.values())
    splits = {}
    for split, tars in tars_of.items():
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
