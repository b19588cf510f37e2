"""Scans a WebDataset tar that is not trusted: the position of every member, and the image and labels of every sample.

Python's tarfile silently stops where an archive is truncated between two members or a header is damaged; this scan raises an
error. Nothing is ever extracted or executed. Every error names the file, the member and its offset.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from vitmodel.config.base import UserError
from vitmodel.data.images import MAX_BYTES

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json")
MAX_LABEL_BYTES = 2**20
BLOCK = tarfile.BLOCKSIZE


class TarSample(NamedTuple):
    """Position of a sample's image in its tar, and its class. `labels`: all correct classes, where several are given."""

    key: str
    extension: str
    offset: int
    bytes: int
    label: int
    labels: tuple[int, ...] | None = None


class _Member(NamedTuple):
    extension: str
    name: str
    offset: int
    bytes: int


def samples_of(path: Path, ignore: tuple[str, ...] = ()) -> Iterator[TarSample]:
    """Every sample of a tar in its order: one image and its `cls` or `json` label. Members with an extension in `ignore` are
    skipped; any other member must be an image or a label. Raises UserError."""
    earlier: set[str] = set()
    key, members = None, list[_Member]()
    with path.open("rb") as file:
        for member_key, member in _sample_members(path, file, ignore):
            if member_key != key:
                if key is not None:
                    yield _sample(path, file, key, members)
                if member_key in earlier:
                    raise _error(path, member, f"a second sample with the key {member_key!r}")
                earlier.add(member_key)
                key, members = member_key, []
            members.append(member)
        if key is not None:
            yield _sample(path, file, key, members)


def _sample_members(path: Path, file: BinaryIO, ignore: tuple[str, ...]) -> Iterator[tuple[str, _Member]]:
    """(key, member) of all images and labels. The key is the name up to the first dot of its last part, as in WebDataset."""
    for info in _tar_members(path, file):
        name = PurePosixPath(info.name)
        stem, _, extension = name.name.partition(".")
        member = _Member(extension.lower(), info.name, info.offset_data, info.size)
        if info.isdir() or member.extension in ignore:
            continue
        if name.is_absolute() or ".." in name.parts:
            raise _error(path, member, "its name points outside of the dataset")
        if not info.isreg() or info.issparse():
            raise _error(path, member, "not a regular file (a link or a device)")
        if member.extension not in IMAGES + LABELS:
            raise _error(path, member, f"extension {extension!r} is neither image nor label", ", ".join(IMAGES + LABELS))
        limit = MAX_BYTES if member.extension in IMAGES else MAX_LABEL_BYTES
        if info.size > limit:
            raise _error(path, member, f"{info.size} bytes; the limit is {limit}")
        yield str(name.with_name(stem)), member


def _tar_members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """All members. The archive must end with its two empty blocks and nothing but zeros after them."""
    size = path.stat().st_size
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them in memory
                end = info.offset_data + -(-info.size // BLOCK) * BLOCK
                if info.offset_data + info.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                yield info
            end = tar.offset
    except tarfile.TarError as error:
        raise UserError(f"truncated or not an uncompressed tar, at byte {end}: {error}", file=str(path)) from None
    file.seek(end)
    tail = file.read(2 * BLOCK)
    if len(tail) < 2 * BLOCK:
        raise UserError(f"truncated: the archive ends at byte {size} without its end mark", file=str(path))
    while tail:
        if tail.strip(b"\0"):
            raise UserError(f"damaged header, or data after the end mark, at byte {end}", file=str(path))
        end, tail = end + len(tail), file.read(2**20)


def _sample(path: Path, file: BinaryIO, key: str, members: list[_Member]) -> TarSample:
    images = [member for member in members if member.extension in IMAGES]
    if len(images) != 1:
        fault = "no image" if not images else f"{len(images)} images: {', '.join(image.name for image in images)}"
        raise _error(path, images[-1] if images else members[0], f"sample {key!r} has {fault}")
    label_members = [member for member in members if member.extension in LABELS]
    if len({member.extension for member in label_members}) != len(label_members):
        raise _error(path, label_members[-1], f"sample {key!r} has two labels of the same extension")
    if not label_members:
        raise _error(path, images[0], f"sample {key!r} has no label", "a .cls or .json member")
    label, labels = -1, None
    for member in label_members:
        file.seek(member.offset)
        text = file.read(member.bytes)
        try:
            if member.extension == "cls":
                label = _class_number(int(text))
            else:
                label, labels = _from_json(text, label)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _error(path, member, f"not a valid class: {error}") from None
    image = images[0]
    return TarSample(key, image.extension, image.offset, image.bytes, label, labels)


def _from_json(text: bytes, label: int) -> tuple[int, tuple[int, ...] | None]:
    """{"label": 3}, or several correct classes: {"labels": [3, 5]} in addition to a cls."""
    content = json.loads(text)
    if "labels" in content:
        return label, tuple(_class_number(value) for value in content["labels"])
    return _class_number(content["label"]), None


def _class_number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is not an integer from 0")
    return value


def _error(path: Path, member: _Member, message: str, allowed: str = "") -> UserError:
    return UserError(f"member {member.name!r} at byte {member.offset}: {message}", file=str(path), allowed=allowed)
