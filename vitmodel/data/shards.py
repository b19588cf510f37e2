"""Packing a source into WebDataset tar shards with an index, and verifying them.

Shards are written in one seeded, class-interleaved order: the first n samples of a split are a class-balanced,
uniform subset for every n, so dataset sizes are nested prefixes.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitmodel.config import UserError
from vitmodel.data import generated
from vitmodel.data.index import INDEX_FILE, DatasetIndex, Shard, Split, load_index
from vitmodel.data.order import hash_uint64
from vitmodel.data.sources import open_source

SHARD_SAMPLES = 2048
WORTH_PROCESSES = 4  # shards; fewer are written here sooner than processes start
MEMBER = np.dtype([("offset", "<u8"), ("bytes", "<u4"), ("label", "<i4")])  # place of a sample's image, and its class


def interleaved(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Sample numbers so ordered that every prefix is class-balanced (within 1 for balanced sources) and random within."""
    ticket = hash_uint64(seed, np.arange(len(labels)))
    by_class = np.lexsort((ticket, labels))
    counts = np.bincount(labels)
    rank = np.empty(len(labels), dtype=np.float64)  # each class spreads its members evenly over [0, 1)
    rank[by_class] = (np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)) / np.repeat(counts, counts)
    return np.lexsort((ticket, rank))


def pack(config: generated.GeneratedConfig, root: Path, *, processes: int | None = None) -> DatasetIndex:
    """Write the dataset under `root`, or return at once where it is already there.

    The folder appears whole or not at all; a folder that holds another dataset is refused with UserError.
    """
    identity = generated.identity(config)
    if (root / INDEX_FILE).exists():
        index = load_index(root)
        if index.identity != identity:
            raise UserError("another dataset lies here; choose another name or remove the folder", file=str(root))
        return index
    partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        index = _write(config, identity, root.name, partial, processes or os.cpu_count() or 1)
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return index


class _Job(NamedTuple):
    config: generated.GeneratedConfig
    root: Path
    split: str
    number: int
    samples: NDArray[np.int64]


def _write(config: generated.GeneratedConfig, identity: str, name: str, root: Path, processes: int) -> DatasetIndex:
    source = open_source(config)
    jobs = [
        _Job(config, root, split, number, order[start : start + SHARD_SAMPLES])
        for split, labels in source.labels.items()
        for order in [interleaved(labels, config.seed)]
        for number, start in enumerate(range(0, len(order), SHARD_SAMPLES))
    ]
    if processes > 1 and len(jobs) >= WORTH_PROCESSES:
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__, "webdataset"])  # imported once, not in every process
        with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
            shards = list(pool.map(_write_shard, jobs))
    else:
        shards = [_write_shard(job) for job in jobs]
    splits = {
        split: Split(
            shards=tuple(shard for shard, job in zip(shards, jobs, strict=True) if job.split == split),
            histogram=tuple(np.bincount(labels, minlength=source.classes).tolist()),
        )
        for split, labels in source.labels.items()
    }
    index = DatasetIndex(
        name=name,
        identity=identity,
        classes=source.classes,
        image_size=source.image_size,
        source=source.source,
        licence=source.licence,
        splits=splits,
    )
    (root / INDEX_FILE).write_text(index.model_dump_json(indent=1))
    return index


def _write_shard(job: _Job) -> Shard:
    """One tar of (key.png, key.cls) pairs in WebDataset's layout, and the array of its members."""
    from webdataset import TarWriter

    source = open_source(job.config)
    images, labels = source.encode(job.split, job.samples), source.labels[job.split][job.samples]
    tar = io.BytesIO()
    with TarWriter(tar, mtime=0, user="vitscale", group="vitscale", encoder=False) as writer:
        for number, image, label in zip(job.samples, images, labels, strict=True):
            writer.write({"__key__": f"{job.split}-{number:09d}", "png": image, "cls": str(label).encode()})
    data = tar.getvalue()
    stem = f"{job.split}-{job.number:05d}"
    (job.root / f"{stem}.tar").write_bytes(data)
    np.save(job.root / f"{stem}.npy", np.fromiter(members_of(data), dtype=MEMBER))
    return Shard(
        name=f"{stem}.tar",
        members=f"{stem}.npy",
        samples=len(job.samples),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def members_of(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(image offset, image bytes, label) of every sample in a tar, in its order."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            if extension == "cls":
                labels[key] = int(data[member.offset_data : member.offset_data + member.size])
            else:
                images[key] = (member.offset_data, member.size)
            if key in images and key in labels:
                yield (*images.pop(key), labels.pop(key))


def verify(root: Path) -> list[str]:
    """What is wrong with a dataset's files: every changed byte, missing shard, wrong count. Empty when whole."""
    problems = []
    for split, part in load_index(root).splits.items():
        for shard in part.shards:
            data = (root / shard.name).read_bytes()
            if hashlib.sha256(data).hexdigest() != shard.sha256:
                problems.append(f"{shard.name}: checksum differs")
                continue
            members = np.fromiter(members_of(data), dtype=MEMBER)
            if len(members) != shard.samples or not np.array_equal(members, np.load(root / shard.members)):
                problems.append(f"{shard.name}: member list of split {split} differs")
    return problems
