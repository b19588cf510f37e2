"""`index.json`: the content of a dataset of WebDataset shards. Reads JSON and file sizes only, so that planning can use it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from vitmodel.config.base import Frozen, UserError
from vitmodel.data.remote import RetryPolicy, is_url, join, read_whole

INDEX_FILE = "index.json"


class Shard(Frozen):
    """One tar file. `members` names the array file with an entry for every sample: offset and bytes of its image, and its
    class (-1: none). `label_sets`, if images have several correct classes, names an int32 array (samples, most classes),
    padded with -1."""

    name: str
    members: str
    label_sets: str = ""
    samples: int = Field(gt=0)
    bytes: int = Field(gt=0)
    sha256: str


class Split(Frozen):
    """The shards of one split, in order, and the number of images of each class."""

    shards: tuple[Shard, ...]
    histogram: tuple[int, ...]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)


class DatasetIndex(Frozen):
    """A packed dataset: its identity, classes and splits, and its provenance."""

    format: int = 1
    name: str
    identity: str
    recipe: str = ""  # hash of the configuration and the list of samples that were packed
    classes: int = Field(gt=1)
    class_names: tuple[str, ...] = ()
    image_size: int | None  # pixels per side if all images are equal squares
    order: Literal["packed", "shard-permutation"] = "packed"  # a prefix of it is: class-interleaved samples, or whole shards
    ignored: tuple[str, ...] = ()  # extensions of members that were ignored
    source: str
    licence: str
    command: str = ""  # the command that wrote this index
    digest: str = ""  # sha256 of this index without it
    splits: dict[str, Split]


def render_index(index: DatasetIndex) -> str:
    """The text of index.json, with a checksum of itself, so that a change of any byte is detected."""
    text = index.model_copy(update={"digest": ""}).model_dump_json(indent=1)
    return index.model_copy(update={"digest": hashlib.sha256(text.encode()).hexdigest()}).model_dump_json(indent=1)


class MissingIndexError(UserError):
    """The folder or address has no index."""


def load_index(root: Path | str, retry_policy: RetryPolicy | None = None) -> DatasetIndex:
    """Read a dataset's index and check it against its shards. Raises UserError if it is missing, invalid or stale, RemoteError
    if the store behind a URL does not answer.

    Shards behind a URL are checked when they are read.
    """
    index = read_index(root, retry_policy)
    if not is_url(root):
        folder = str(root)
        for split in index.splits.values():
            for shard in split.shards:
                _check_shard(folder, shard)
    return index


def read_index(root: Path | str, retry_policy: RetryPolicy | None = None) -> DatasetIndex:
    """Read the index without checking its shards. Raises MissingIndexError, UserError if it is invalid, RemoteError if
    the store behind a URL does not answer."""
    path = join(root, INDEX_FILE)
    try:
        text = read_whole(path, retry_policy or RetryPolicy()) if is_url(root) else Path(path).read_bytes()
        return DatasetIndex.model_validate_json(text)
    except FileNotFoundError:
        raise MissingIndexError(
            "not a dataset: index.json is missing", file=str(root), allowed="a folder written by `vitscale data pack`"
        ) from None
    except ValidationError as error:
        raise UserError(f"invalid index: {error.errors()[0]['msg']}", file=path) from None


def _check_shard(folder: str, shard: Shard) -> None:
    try:  # thousands of shards: a Path for each would be slow
        size, _ = os.stat(f"{folder}/{shard.name}").st_size, os.stat(f"{folder}/{shard.members}")
    except OSError:
        raise UserError(
            f"stale index: {shard.name} or its member list is missing; pack the dataset again", file=f"{folder}/{INDEX_FILE}"
        ) from None
    if size != shard.bytes:
        raise UserError(
            f"stale index: {shard.name} has {size} bytes, {shard.bytes} in the index; pack the dataset again",
            file=f"{folder}/{INDEX_FILE}",
        )
