"""Writes one shard: a tar of samples, the array of its members, and last a mark that it is finished."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from vitmodel.config.base import Frozen, UserError
from vitmodel.data.images import CheckedImage, check_image
from vitmodel.data.index import Shard
from vitmodel.data.sources import EncodedImage, ReadImages, SampleList
from vitmodel.data.tar_index import TarSample, samples_of
from vitmodel.files import atomic_path, write_bytes

MEMBER = np.dtype([("offset", "<u8"), ("bytes", "<u4"), ("label", "<i4")])  # position of a sample's image, and its class
CHUNK_BYTES = 2**22


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Everything that determines a shard. It is sent to other processes and machines."""

    root: str
    stem: str
    names: list[str]  # keys of the samples in the tar
    samples: SampleList
    read: ReadImages
    check: bool  # decode every image completely
    resize: int | None
    may_skip: bool


class WrittenShard(Frozen):
    """A finished shard (None if all its images were bad), the bad images that were left out, and the side of its images if
    all are equal squares."""

    stem: str
    shard: Shard | None
    bad: tuple[str, ...]
    image_size: int | None

    @property
    def samples(self) -> int:
        return self.shard.samples if self.shard else 0


def write_shard(job: ShardJob) -> WrittenShard:
    """Write a shard, unless an earlier attempt has finished it and its bytes are unchanged."""
    root, mark = Path(job.root), Path(job.root) / "done" / f"{job.stem}.json"
    if not mark.parent.is_dir():
        raise UserError("this machine cannot see the destination folder; all nodes must share it", file=job.root)
    if mark.exists():
        try:
            written = WrittenShard.model_validate_json(mark.read_text())
            if written.shard is None or sha256_of(root / written.shard.name) == written.shard.sha256:
                return written
        except (OSError, ValidationError):
            pass  # an incomplete mark or a missing shard: write it again
    written = _write(job, root)
    write_bytes(mark, written.model_dump_json().encode())
    return written


def _write(job: ShardJob, root: Path) -> WrittenShard:
    from webdataset import TarWriter

    bad: list[str] = []
    sides: set[tuple[int, int]] = set()
    path = root / f"{job.stem}.tar"
    with (
        atomic_path(path) as partial,
        partial.open("wb") as file,
        TarWriter(file, mtime=0, user="vitscale", group="vitscale", encoder=False) as writer,
    ):
        for number, image in _good_images(job, bad):
            writer.write(_sample(job, number, image))
            sides.add((image.width, image.height))
    if len(bad) == len(job.names):
        path.unlink()
        return WrittenShard(stem=job.stem, shard=None, bad=tuple(bad), image_size=None)
    side = sides.pop() if len(sides) == 1 else (0, 1)
    return WrittenShard(
        stem=job.stem,
        shard=describe_shard(root, path, f"{job.stem}.npy"),
        bad=tuple(bad),
        image_size=side[0] if side[0] == side[1] and job.check else None,
    )


def _good_images(job: ShardJob, bad: list[str]) -> Iterator[tuple[int, CheckedImage]]:
    """(number in the shard, image) of every readable image. A bad one is added to `bad`, or raises UserError if none may be
    skipped."""
    for number, encoded in enumerate(job.read(job.samples.items)):
        try:
            yield number, _checked(job, encoded)
        except ValueError as error:
            if not job.may_skip:
                raise UserError(f"the image cannot be packed: {error}", file=encoded.origin) from None
            bad.append(f"{encoded.origin}: {error}")


def _checked(job: ShardJob, encoded: EncodedImage) -> CheckedImage:
    if job.check:
        return check_image(encoded.data, job.resize)
    return CheckedImage(encoded.data, "png", 0, 0)


def _sample(job: ShardJob, number: int, image: CheckedImage) -> dict[str, Any]:
    """In WebDataset's layout: key.png and key.cls; also key.json with all correct classes if there may be several."""
    sample: dict[str, Any] = {"__key__": job.names[number], image.extension: image.data}
    label = int(job.samples.labels[number])
    if label >= 0:
        sample["cls"] = str(label).encode()
    if job.samples.label_sets is not None:
        sample["json"] = json.dumps({"labels": job.samples.label_sets[number]}).encode()
    return sample


def describe_shard(root: Path, path: Path, members: str, ignore: tuple[str, ...] = ()) -> Shard:
    """Scan a tar; write the array of its members, and of its label sets; return its entry in the index."""
    samples = list(samples_of(path, ignore))
    if not samples:
        raise UserError("no samples in this tar", file=str(path))
    files = member_files(samples, members)
    for name, data in files.items():
        write_bytes(root / name, data)
    return Shard(
        name=path.relative_to(root).as_posix(),
        members=members,
        label_sets=next((name for name in files if name != members), ""),
        samples=len(samples),
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
    )


def member_files(samples: list[TarSample], members: str) -> dict[str, bytes]:
    """Names and bytes of the arrays that belong to a shard."""
    table = np.array([(s.offset, s.bytes, s.label) for s in samples], dtype=MEMBER)
    files = {members: _npy(table)}
    if any(sample.labels is not None for sample in samples):
        width = max(1, *(len(sample.labels or ()) for sample in samples))
        sets = np.full((len(samples), width), -1, dtype="<i4")
        for row, sample in zip(sets, samples, strict=True):
            row[: len(sample.labels or ())] = sample.labels or ()
        files[members.removesuffix(".npy") + ".sets.npy"] = _npy(sets)
    return files


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def load_members(path: Path) -> NDArray[Any]:
    """The array of a shard's members."""
    return np.load(path, allow_pickle=False)


def sha256_of(path: Path) -> str:
    """Checksum of a file, in constant memory."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()
