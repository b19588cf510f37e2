"""Damaged and hostile files: each gives an error that names file, member and offset; nothing in them is ever executed."""

from __future__ import annotations

import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import datafiles
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_packing import config

from vitmodel.config.base import UserError
from vitmodel.data.external_tars import index_tars
from vitmodel.data.index import load_index
from vitmodel.data.shards import pack
from vitmodel.data.tar_index import samples_of
from vitmodel.data.verify import verify

JPEG, CLS = datafiles.image(1), b"2"


class Bomb:
    """Creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("/tmp/vitscale-was-here",)


TARS = {  # members of a tar, and the error
    "no class": ([("a.jpg", JPEG), ("b.jpg", JPEG), ("b.cls", CLS)], r"member 'a.jpg' at byte 512: sample 'a' has no label"),
    "no image": ([("a.cls", CLS)], r"member 'a.cls' at byte 512: sample 'a' has no image"),
    "two images": ([("a.jpg", JPEG), ("a.png", JPEG), ("a.cls", CLS)], r"'a.png' at byte 2048: sample 'a' has 2 images"),
    "same key again": (
        [("a.jpg", JPEG), ("a.cls", CLS), ("b.jpg", JPEG), ("b.cls", CLS), ("a.jpg", JPEG), ("a.cls", CLS)],
        r"member 'a.jpg' at byte \d+: a second sample with the key 'a'",
    ),
    "label twice": (
        [("a.jpg", JPEG), ("a.cls", CLS), ("a.cls", CLS)],
        r"member 'a.cls' at byte \d+: sample 'a' has two labels of the same extension",
    ),
    "no number": ([("a.jpg", JPEG), ("a.cls", b"cat")], r"member 'a.cls' at byte \d+: not a valid class"),
    "negative": ([("a.jpg", JPEG), ("a.cls", b"-1")], r"member 'a.cls' at byte \d+: not a valid class: -1"),
    "json without label": ([("a.jpg", JPEG), ("a.json", b"{}")], r"member 'a.json' at byte \d+: not a valid class: 'label'"),
    "deep json": ([("a.jpg", JPEG), ("a.json", b"[" * 10**5)], r"member 'a.json' at byte \d+: not a valid class"),
    "pickle": (
        [("a.jpg", JPEG), ("a.pickle", pickle.dumps(Bomb()))],
        r"member 'a.pickle' at byte \d+: extension 'pickle' is neither",
    ),
    "pyd": ([("a.jpg", JPEG), ("a.pyd", pickle.dumps(Bomb())), ("a.cls", CLS)], r"member 'a.pyd' at byte \d+: extension 'pyd'"),
    "way out": ([("../../a.jpg", JPEG), ("../../a.cls", CLS)], r"member '../../a.jpg' at byte 512: its name points outside"),
    "root": ([("/etc/a.jpg", JPEG), ("/etc/a.cls", CLS)], r"member '/etc/a.jpg' at byte 512: its name points outside"),
    "empty": ([], r"no samples"),
}


@pytest.mark.parametrize("case", TARS)
def test_tars(case: str, tmp_path: Path) -> None:
    members, message = TARS[case]
    path = datafiles.tar(tmp_path / "train-0.tar", members)
    with pytest.raises(UserError, match=message) as caught:
        index_tars(tmp_path)
    assert caught.value.file == str(path)
    assert not (tmp_path / "index.json").exists()
    assert not Path("/tmp/vitscale-was-here").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(UserError, match=r"0.tar: member 'a.jpg' at byte 512: not a regular file"):
        index_tars(tmp_path)


def test_a_truncated_tar_is_detected(tmp_path: Path) -> None:
    """Also between two members, where other readers silently return half of the samples."""
    path = datafiles.tar(tmp_path / "0.tar", datafiles.samples(6))
    whole, ends = path.read_bytes(), [sample.offset + sample.bytes for sample in samples_of(path)]
    boundaries = [-(-end // 512) * 512 for end in ends]
    for length in [*boundaries, *(b + 512 for b in boundaries), 0, 100, 512, ends[2] - 7, boundaries[-1] + 1024 + 512]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"0.tar: truncated.*at byte|0.tar: truncated or not an uncompressed tar"):
            index_tars(tmp_path)
    header = bytearray(whole)
    header[boundaries[2] + 1024 + 3] ^= 1  # in the name of a member: its checksum fails
    path.write_bytes(header)
    with pytest.raises(UserError, match=r"0.tar: damaged header, or data after the end mark, at byte \d+"):
        index_tars(tmp_path)
    path.write_bytes(whole + whole)  # two archives: the second would be ignored
    with pytest.raises(UserError, match="data after the end mark"):
        index_tars(tmp_path)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    source = datafiles.idx_folder(tmp_path / "mnist", train=16, test=6)
    root = tmp_path / "out"
    pack(config(source, "idx"), root)
    generator = np.random.default_rng(0)
    for path in sorted(root.iterdir()):
        whole = path.read_bytes()
        for place in [0, len(whole) - 1, *generator.integers(0, len(whole), 12)]:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(generator.integers(8))
            path.write_bytes(damaged)
            assert problems_of(root), (path.name, place)
        path.write_bytes(whole)
    assert verify(root) == []


def problems_of(root: Path) -> list[str]:
    """What verify finds, or its error for an index that is not JSON."""
    try:
        return verify(root)
    except UserError as error:
        return [str(error)]


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (lambda root: (root / "train-00000.tar").unlink(), ["train-00000.tar: missing"]),
        (lambda root: (root / "train-00000.npy").unlink(), ["train-00000.npy: missing"]),
        (lambda root: (root / "more.txt").write_text("x"), ["more.txt: not in the index"]),
        (
            lambda root: (root / "test-00000.tar").open("ab").write(bytes(512)),
            ["test-00000.tar: 20992 bytes, 20480 in the index"],
        ),
    ],
)
def test_verify_names_the_file(damage: Callable[[Path], None], problems: list[str], tmp_path: Path) -> None:
    root = tmp_path / "out"
    pack(config(datafiles.idx_folder(tmp_path / "mnist", train=16, test=6), "idx"), root)
    damage(root)
    assert verify(root) == problems


def test_a_shard_changed_after_indexing(tmp_path: Path) -> None:
    path = datafiles.tar(tmp_path / "0.tar", datafiles.samples(6))
    index_tars(tmp_path)
    assert verify(tmp_path) == []
    before = path.stat().st_size
    datafiles.tar(path, datafiles.samples(16, start=50))
    assert verify(tmp_path) == [f"0.tar: {path.stat().st_size} bytes, {before} in the index"]
    with pytest.raises(UserError, match=r"stale index: 0.tar has \d+ bytes"):
        load_index(tmp_path)


def test_a_png_of_3600_million_pixels(tmp_path: Path) -> None:
    source = datafiles.class_folders(tmp_path / "images", 2)
    (source / "ant" / "bomb.png").write_bytes(datafiles.png_header(60_000, 60_000))
    with pytest.raises(UserError, match=r"ant/bomb.png: the image cannot be packed: .*pixels"):
        pack(config(source, "folder"), tmp_path / "out")
    (source / "ant" / "bomb.png").write_bytes(datafiles.png_header(9_000, 9_000))
    with pytest.raises(UserError, match=r"bomb.png: the image cannot be packed: 9000 x 9000 pixels; the limit is"):
        pack(config(source, "folder"), tmp_path / "out")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_image_is_never_packed(kind: str, tmp_path: Path) -> None:
    source = datafiles.class_folders(tmp_path / "images", 1)
    bad = source / "cat" / f"bad.{kind.lower()}"
    whole = datafiles.image(3, kind, (160, 120))
    middle = len(whole) // 2
    damages = [whole[:middle], whole[:-12], whole[:-2], b"", b"#!/bin/sh\nreboot\n"]
    if kind != "WEBP":  # its lossy scan has neither checksums nor invalid codes
        damages.append(whole[:middle] + b"\xff" * 60 + whole[middle + 60 :])
    for damaged in damages:
        bad.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"cat/bad.{kind.lower()}: the image cannot be packed"):
            pack(config(source, "folder"), tmp_path / "out")


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty class": (lambda root: (root / "dog").mkdir(), r"dog: a class folder without images"),
    "foreign file": (
        lambda root: (root / "ant/notes.txt").write_text("x"),
        r"ant/notes.txt: a class folder may hold image files only",
    ),
    "folder in a class": (lambda root: (root / "ant/more").mkdir(), r"ant/more: a class folder may hold image files only"),
    "splits and classes": (
        lambda root: (root / "train").mkdir(),
        r"the folder holds both splits and class folders, such as 'ant'",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(case: str, tmp_path: Path) -> None:
    damage, message = FOLDERS[case]
    source = datafiles.class_folders(tmp_path / "images", 2)
    damage(source)
    with pytest.raises(UserError, match=message):
        pack(config(source, "folder"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_a_class_that_train_does_not_have(tmp_path: Path) -> None:
    datafiles.class_folders(tmp_path / "in/train", 2)
    datafiles.class_folders(tmp_path / "in/val", 1, ("ant", "wolf"))
    with pytest.raises(UserError, match=r"in/val: class 'wolf' is not a class of the train split"):
        pack(config(tmp_path / "in", "folder"), tmp_path / "out")


def test_idx_files(tmp_path: Path) -> None:
    source = datafiles.idx_folder(tmp_path / "mnist")
    images, labels = source / "train-images-idx3-ubyte", source / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    cases: list[tuple[Path, bytes, str]] = [
        (images, b"\x00\x00\x09\x03" + whole[4:], "magic number 00000903 at byte 0"),
        (images, whole[:-1], "2559 bytes of data, 40 x 8 x 8 in the header"),
        (images, whole + b"x", "2561 bytes of data"),
        (images, b"", "magic number  at byte 0"),
        (labels, labels.read_bytes()[:4] + b"\x00\x00\x00\x27" + labels.read_bytes()[8:-1], "39 labels for 40 images"),
    ]
    for path, data, message in cases:
        before = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(UserError, match=message) as caught:
            pack(config(source, "idx"), tmp_path / "out")
        assert caught.value.file == str(path)
        path.write_bytes(before)
    labels.unlink()
    with pytest.raises(UserError, match="train-labels-idx1-ubyte: cannot be read"):
        pack(config(source, "idx"), tmp_path / "out")


def test_cifar_archives(tmp_path: Path) -> None:
    good = {"train.bin": datafiles.cifar_records(4, 2), "test.bin": datafiles.cifar_records(2, 2)}
    cases = [
        (
            {**good, "train.bin": good["train.bin"][:-5]},
            r"train.bin has 12291 bytes: the record of 3074 bytes at byte 9222 is truncated",
        ),
        ({"train.bin": good["train.bin"]}, "files of CIFAR-10 or CIFAR-100 are missing; found"),
        (
            {"data_batch_1.bin": good["train.bin"], "test_batch.bin": good["test.bin"]},
            r"the record of 3073 bytes at byte \d+ is truncated",
        ),
    ]
    for number, (files, message) in enumerate(cases):
        archive = datafiles.cifar_archive(tmp_path / f"cifar-{number}.tar.gz", files)
        with pytest.raises(UserError, match=message) as caught:
            pack(config(archive, "cifar"), tmp_path / "out")
        assert caught.value.file == str(archive)
    archive.write_bytes(archive.read_bytes()[:-4])  # in the checksum of the whole
    with pytest.raises(UserError, match="not a readable archive"):
        pack(config(archive.rename(tmp_path / "cut.tar.gz"), "cifar"), tmp_path / "out")


def test_parquet_files(tmp_path: Path) -> None:
    datafiles.parquet(tmp_path / "a/train-0.parquet", 3, label="caption")
    with pytest.raises(UserError, match=r"train-0.parquet: no column 'label' \(allowed: image, caption\)"):
        pack(config(tmp_path / "a", "parquet"), tmp_path / "out")
    (tmp_path / "b").mkdir()
    tables = {
        r"column 'label' does not hold class numbers": pa.table({"image": [{"bytes": JPEG, "path": ""}], "label": ["cat"]}),
        r"column 'image' is string, not an image": pa.table({"image": ["x"], "label": [1]}),
        r"row 0 has no image bytes": pa.table({"image": [{"bytes": None, "path": "x.jpg"}], "label": [1]}).cast(
            pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
        ),
        r"row 0 has no valid class: None": pa.table(
            {"image": [{"bytes": JPEG, "path": ""}], "label": pa.array([None], type=pa.int64())}
        ),
        r"row 0 has no valid class: -1": pa.table({"image": [{"bytes": JPEG, "path": ""}], "label": [-1]}),
    }
    for message, table in tables.items():
        pq.write_table(table, tmp_path / "b/train-0.parquet")
        with pytest.raises(UserError, match=rf"train-0.parquet: {message}"):
            pack(config(tmp_path / "b", "parquet"), tmp_path / "out")
    (tmp_path / "b/train-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a readable parquet file"):
        pack(config(tmp_path / "b", "parquet"), tmp_path / "out")
