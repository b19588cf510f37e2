"""`index.json`: what a dataset of WebDataset shards contains. Reads JSON and file sizes only, so that planning can ask it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from vitmodel.config.base import Frozen, UserError
from vitmodel.data.remote import Patience, is_url, join, read_whole

INDEX_FILE = "index.json"


class Shard(Frozen):
    """One tar file. `members` names the array file with the place of every sample in it: offset and bytes of the image,
    class (-1: none). `label_sets`, where images have several right answers, names an int32 array (samples, most labels),
    filled up with -1."""

    name: str
    members: str
    label_sets: str = ""
    samples: int = Field(gt=0)
    bytes: int = Field(gt=0)
    sha256: str


class Split(Frozen):
    """The shards of one split in their one order, and the images per class."""

    shards: tuple[Shard, ...]
    histogram: tuple[int, ...]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)


class DatasetIndex(Frozen):
    """A packed dataset: its identity, classes and splits, and where it came from."""

    format: int = 1
    name: str
    identity: str
    recipe: str = ""  # hash of what it was packed from, and how
    classes: int = Field(gt=1)
    class_names: tuple[str, ...] = ()
    image_size: int | None  # pixels per side where all images are equal squares
    order: Literal["packed", "shard-permutation"] = "packed"  # what a prefix is: class-interleaved samples, or whole shards
    ignored: tuple[str, ...] = ()  # extensions of members that are neither image nor label
    source: str
    licence: str
    command: str = ""  # what made this index
    digest: str = ""  # sha256 of this index without it
    splits: dict[str, Split]


def render_index(index: DatasetIndex) -> str:
    """The text of index.json, with a checksum of itself, so that a changed byte anywhere in it is seen."""
    text = index.model_copy(update={"digest": ""}).model_dump_json(indent=1)
    return index.model_copy(update={"digest": hashlib.sha256(text.encode()).hexdigest()}).model_dump_json(indent=1)


def load_index(root: Path | str) -> DatasetIndex:
    """Read and check a dataset's index. Raises UserError where it is missing, unreadable, or older than its shards.

    Shards behind a URL are checked when they are read.
    """
    index = read_index(root)
    if not is_url(root):
        folder = str(root)
        for split in index.splits.values():
            for shard in split.shards:
                _check_shard(folder, shard)
    return index


def read_index(root: Path | str, patience: Patience | None = None) -> DatasetIndex:
    """The index alone, its shards unseen. Raises UserError where it is missing or unreadable, RemoteError where the
    store behind a URL does not answer."""
    path = join(root, INDEX_FILE)
    try:
        text = read_whole(path, patience or Patience()) if is_url(root) else Path(path).read_bytes()
        return DatasetIndex.model_validate_json(text)
    except FileNotFoundError:
        raise UserError(
            "no dataset here: index.json is missing", file=str(root), allowed="a folder made by `vitscale data pack`"
        ) from None
    except ValidationError as error:
        raise UserError(f"unreadable index: {error.errors()[0]['msg']}", file=path) from None


def _check_shard(folder: str, shard: Shard) -> None:
    try:  # thousands of shards: without a Path for each
        size, _ = os.stat(f"{folder}/{shard.name}").st_size, os.stat(f"{folder}/{shard.members}")
    except OSError:
        raise UserError(f"stale index: {shard.name} or its member list is missing", file=f"{folder}/{INDEX_FILE}") from None
    if size != shard.bytes:
        raise UserError(
            f"stale index: {shard.name} has {size} bytes, the index says {shard.bytes}; pack the dataset again",
            file=f"{folder}/{INDEX_FILE}",
        )
