"""Reading the structure of a WebDataset tar without trusting it: every member's place, every sample's image and labels.

Python's tarfile ends in silence where an archive is cut at a member's boundary or a header is broken; this does not.
Nothing is ever extracted or executed. Every refusal names the file, the member and its offset.
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
    """Where a sample's image lies in its tar, and its class; `labels` are all right answers where several are given."""

    key: str
    extension: str
    offset: int
    bytes: int
    label: int
    labels: tuple[int, ...] | None = None


class _Found(NamedTuple):
    extension: str
    name: str
    offset: int
    bytes: int


def samples_of(path: Path, ignore: tuple[str, ...] = ()) -> Iterator[TarSample]:
    """Every sample of a tar in its order: one image and its `cls` or `json` label. Members with an extension in `ignore`
    are passed over; any other that is no image and no label is refused. Raises UserError."""
    seen: set[str] = set()
    key, parts = None, list[_Found]()
    with path.open("rb") as file:
        for found_key, found in _files(path, file, ignore):
            if found_key != key:
                if key is not None:
                    yield _sample(path, file, key, parts)
                if found_key in seen:
                    raise _refusal(path, found, f"a second sample with the key {found_key!r}")
                seen.add(found_key)
                key, parts = found_key, []
            parts.append(found)
        if key is not None:
            yield _sample(path, file, key, parts)


def _files(path: Path, file: BinaryIO, ignore: tuple[str, ...]) -> Iterator[tuple[str, _Found]]:
    """(key, file) for the members that matter. The key is the name up to the first dot of its last part, as in WebDataset."""
    for member in _members(path, file):
        name = PurePosixPath(member.name)
        stem, _, extension = name.name.partition(".")
        found = _Found(extension.lower(), member.name, member.offset_data, member.size)
        if member.isdir() or found.extension in ignore:
            continue
        if name.is_absolute() or ".." in name.parts:
            raise _refusal(path, found, "its name leads out of the dataset")
        if not member.isreg() or member.issparse():
            raise _refusal(path, found, "no plain file (a link or a device)")
        if found.extension not in IMAGES + LABELS:
            raise _refusal(path, found, f"extension {extension!r} is neither image nor label", f"{', '.join(IMAGES + LABELS)}")
        if member.size > (MAX_BYTES if found.extension in IMAGES else MAX_LABEL_BYTES):
            raise _refusal(path, found, f"{member.size} bytes are too many")
        yield str(name.with_name(stem)), found


def _members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """All members; the archive must end with its two empty blocks and nothing but zeros after them."""
    size = path.stat().st_size
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                yield member
            end = tar.offset
    except tarfile.TarError as error:
        raise UserError(f"truncated or no plain tar, at byte {end}: {error}", file=str(path)) from None
    file.seek(end)
    tail = file.read(2 * BLOCK)
    if len(tail) < 2 * BLOCK:
        raise UserError(f"truncated: the archive stops at byte {size} without its end mark", file=str(path))
    while tail:
        if tail.strip(b"\0"):
            raise UserError(f"broken header, or data after the end mark, at byte {end}", file=str(path))
        end, tail = end + len(tail), file.read(2**20)


def _sample(path: Path, file: BinaryIO, key: str, parts: list[_Found]) -> TarSample:
    images = [part for part in parts if part.extension in IMAGES]
    if len(images) != 1:
        fault = "no image" if not images else f"{len(images)} images: {', '.join(image.name for image in images)}"
        raise _refusal(path, images[-1] if images else parts[0], f"sample {key!r} has {fault}")
    given = [part for part in parts if part.extension in LABELS]
    if len({part.extension for part in given}) != len(given):
        raise _refusal(path, given[-1], f"sample {key!r} has a label twice")
    if not given:
        raise _refusal(path, images[0], f"sample {key!r} has no label", "a .cls or .json member")
    label, labels = -1, None
    for part in given:
        file.seek(part.offset)
        text = file.read(part.bytes)
        try:
            if part.extension == "cls":
                label = _whole(int(text))
            else:
                label, labels = _from_json(text, label)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _refusal(path, part, f"no class number: {error}") from None
    image = images[0]
    return TarSample(key, image.extension, image.offset, image.bytes, label, labels)


def _from_json(text: bytes, label: int) -> tuple[int, tuple[int, ...] | None]:
    """{"label": 3}, or several right answers: {"labels": [3, 5]} beside a cls."""
    content = json.loads(text)
    if "labels" in content:
        return label, tuple(_whole(value) for value in content["labels"])
    return _whole(content["label"]), None


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is no whole number from 0")
    return value


def _refusal(path: Path, found: _Found, message: str, allowed: str = "") -> UserError:
    return UserError(f"member {found.name!r} at byte {found.offset}: {message}", file=str(path), allowed=allowed)
