"""Packing: every format gives its images and labels; the bytes depend on the source alone; a killed packing is resumed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datafiles
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from pydantic import TypeAdapter
from scipy.io import savemat

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import FORMATS, Format, LabelSets, PackConfig
from vitmodel.data.external_tars import index_tars
from vitmodel.data.index import load_index
from vitmodel.data.open_source import READERS, detect_format
from vitmodel.data.shard_writer import load_members
from vitmodel.data.shards import pack
from vitmodel.data.tar_index import samples_of
from vitmodel.data.verify import verify

HOLD_OUT = {"val": 0.2, "test": 0.1}


def config(path: Path, kind: str, *, keys: dict[str, Any] | None = None, **fields: Any) -> PackConfig:
    files = TypeAdapter(Format).validate_python({"format": kind, **(keys or {})})
    return PackConfig(path=str(path), files=files, **fields)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def packed_images(root: Path, split: str) -> list[tuple[bytes, int]]:
    """(encoded image, label) of every sample, in packed order."""
    samples = []
    for shard in load_index(root).splits[split].shards:
        data = (root / shard.name).read_bytes()
        for offset, length, label in load_members(root / shard.members).tolist():
            samples.append((data[offset : offset + length], label))
    return samples


def test_every_format_has_a_reader() -> None:
    assert set(READERS) == set(FORMATS)


def test_folder_with_splits_keeps_every_byte(tmp_path: Path) -> None:
    source = tmp_path / "pets"
    datafiles.class_folders(source / "train", 5)
    datafiles.class_folders(source / "validation", 2, start=500)
    assert detect_format(source) == "folder"
    index = pack(config(source, "folder", hold_out=HOLD_OUT, licence="CC BY 4.0"), tmp_path / "out")
    assert {split: part.histogram for split, part in index.splits.items()} == {"train": (5, 5, 5), "val": (2, 2, 2)}
    assert (index.class_names, index.licence, index.image_size) == (("ant", "bee", "cat"), "CC BY 4.0", None)
    expected = {
        ((source / "train" / name / f"{n:03d}.jpg").read_bytes(), c)
        for c, name in enumerate(index.class_names)
        for n in range(5)
    }
    assert set(packed_images(tmp_path / "out", "train")) == expected
    assert verify(tmp_path / "out") == []


def test_a_sample_keeps_its_split_when_others_are_added(tmp_path: Path) -> None:
    source = datafiles.class_folders(tmp_path / "images", 60)
    first = pack(config(source, "folder", hold_out=HOLD_OUT), tmp_path / "one")
    before = {split: set(packed_images(tmp_path / "one", split)) for split in first.splits}
    assert list(first.splits) == ["train", "val", "test"]
    assert 20 < first.splits["val"].samples < 52
    (source / "ant" / "new.jpg").write_bytes(datafiles.image(99_999))
    pack(config(source, "folder", hold_out=HOLD_OUT), tmp_path / "two")
    for split, images in before.items():
        assert images <= set(packed_images(tmp_path / "two", split))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path: Path, suffix: str) -> None:
    source = datafiles.idx_folder(tmp_path / "mnist", suffix=suffix)
    assert detect_format(source) == "idx"
    index = pack(config(source, "idx"), tmp_path / "out")
    assert (index.splits["train"].samples, index.splits["test"].samples, index.classes, index.image_size) == (40, 10, 4, 8)
    decoded = {
        (np.asarray(Image.open(io.BytesIO(data))).tobytes(), label) for data, label in packed_images(tmp_path / "out", "test")
    }
    assert decoded == {(row.tobytes(), number % 4) for number, row in enumerate(datafiles.pixels(10, 8))}


@pytest.mark.parametrize(("labels", "classes"), [("fine", 4), ("coarse", 2)])
def test_cifar_100(tmp_path: Path, labels: str, classes: int) -> None:
    files = {"train.bin": datafiles.cifar_records(12, 2), "test.bin": datafiles.cifar_records(8, 2)}
    names = {"fine_label_names.txt": b"a\nb\nc\nd\n", "coarse_label_names.txt": b"x\ny\n"}
    archive = datafiles.cifar_archive(tmp_path / "cifar-100-binary.tar.gz", {**files, **names})
    assert detect_format(archive) == detect_format(tmp_path) == "cifar"
    index = pack(config(tmp_path, "cifar", keys={"labels": labels}), tmp_path / "out")
    assert (index.classes, len(index.class_names), index.splits["train"].samples) == (classes, classes, 12)
    records = np.frombuffer(files["test.bin"], dtype=np.uint8).reshape(8, -1)
    expected = {(r[2:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes(), int(r[int(labels == "fine")])) for r in records}
    samples = packed_images(tmp_path / "out", "test")
    assert {(np.asarray(Image.open(io.BytesIO(data))).tobytes(), label) for data, label in samples} == expected


def test_cifar_10_batches(tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(datafiles.cifar_records(number, 1))
    (tmp_path / "test_batch.bin").write_bytes(datafiles.cifar_records(4, 1))
    index = pack(config(tmp_path, "cifar"), tmp_path / "out")
    assert (index.splits["train"].samples, index.splits["test"].samples, index.classes) == (15, 4, 2)


def test_parquet(tmp_path: Path) -> None:
    datafiles.parquet(tmp_path / "hf/data/train-00000-of-00002.parquet", 7, ["ant", "bee", "cat", "dog"])
    datafiles.parquet(tmp_path / "hf/data/train-00001-of-00002.parquet", 6, ["ant", "bee", "cat", "dog"], start=50)
    datafiles.parquet(tmp_path / "hf/data/test-00000-of-00001.parquet", 3, ["ant", "bee", "cat", "dog"], start=90)
    index = pack(config(tmp_path / "hf", "parquet"), tmp_path / "out")
    assert (index.classes, index.class_names[3], index.splits["train"].samples, index.splits["test"].samples) == (
        4,
        "dog",
        13,
        3,
    )
    expected = {(datafiles.image(start + n), n % 3) for start, count in ((0, 7), (50, 6)) for n in range(count)}
    assert set(packed_images(tmp_path / "out", "train")) == expected
    assert verify(tmp_path / "out") == []


def test_lists_of_oxford_pets(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    lines = [f"Breed_{n} {n % 3 + 1} 1 {n}" for n in range(9)]
    for n in range(9):
        (tmp_path / "images" / f"Breed_{n}.jpg").write_bytes(datafiles.image(n))
    (tmp_path / "annotations/trainval.txt").write_text("#Image CLASS-ID SPECIES BREED\n" + "\n".join(lines[:6]))
    (tmp_path / "annotations/test.txt").write_text("\n".join(lines[6:]))
    lists = {"train": ("annotations/trainval.txt",), "test": ("annotations/test.txt",)}
    keys = {"lists": lists, "image": "images/{0}.jpg", "label": 1, "first_label": 1}
    index = pack(config(tmp_path, "lists", keys=keys), tmp_path / "out")
    assert {split: part.histogram for split, part in index.splits.items()} == {"train": (2, 2, 2), "test": (1, 1, 1)}
    assert set(packed_images(tmp_path / "out", "test")) == {(datafiles.image(n), n % 3) for n in (6, 7, 8)}


def test_flowers(tmp_path: Path) -> None:
    (tmp_path / "jpg").mkdir()
    for n in range(1, 10):
        (tmp_path / "jpg" / f"image_{n:05d}.jpg").write_bytes(datafiles.image(n))
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[1, 2, 3, 1, 2, 3, 1, 2, 3]], dtype=np.uint8)})
    savemat(
        tmp_path / "setid.mat", {"trnid": np.array([[1, 2, 3]]), "valid": np.array([[4, 5]]), "tstid": np.array([[6, 7, 8, 9]])}
    )
    assert detect_format(tmp_path) == "flowers"
    index = pack(config(tmp_path, "flowers"), tmp_path / "out")
    assert {split: part.histogram for split, part in index.splits.items()} == {"train": (2, 2, 1), "test": (1, 1, 2)}


def test_external_tars_are_packed_again(tmp_path: Path) -> None:
    datafiles.tar(tmp_path / "theirs/train-0.tar", [*datafiles.samples(6), ("./s0005.txt", b"a caption")])
    datafiles.tar(tmp_path / "theirs/test-0.tar", datafiles.samples(4, start=6))
    with pytest.raises(UserError, match=r"train-0.tar: member './s0005.txt' at byte \d+: extension 'txt'"):
        pack(config(tmp_path / "theirs", "tars"), tmp_path / "out")
    index = pack(config(tmp_path / "theirs", "tars", keys={"ignore": ("txt",)}), tmp_path / "out")
    assert (index.splits["train"].samples, index.splits["test"].samples, index.order) == (6, 4, "packed")
    assert set(packed_images(tmp_path / "out", "train")) == {(datafiles.image(n), n % 3) for n in range(6)}


def test_external_tars_are_indexed_in_place(tmp_path: Path) -> None:
    for number in range(5):
        datafiles.tar(tmp_path / f"train/{number}.tar", datafiles.samples(4 + number, start=10 * number))
    datafiles.tar(tmp_path / "test/0.tar", datafiles.samples(3, start=90))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tar")}
    index = index_tars(tmp_path, seed=1, licence="see source")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.tar")} == before
    assert (index.order, index.splits["train"].samples, index.splits["test"].samples) == ("shard-permutation", 30, 3)
    order = [shard.name for shard in index.splits["train"].shards]
    assert sorted(order) == [f"train/{n}.tar" for n in range(5)] != order
    assert verify(tmp_path) == []
    # a size is a prefix of the shards as listed, the last one cut
    first = index.splits["train"].shards[0].samples
    prefix = packed_images(tmp_path, "train")[: first + 2]
    listed = [s for name in order for s in samples_of(tmp_path / name)]
    assert [label for _, label in prefix] == [sample.label for sample in listed[: first + 2]]
    (tmp_path / "index.json").unlink()
    other = index_tars(tmp_path, seed=2)
    assert [shard.name for shard in other.splits["train"].shards] != order


def test_label_sets_are_packed_and_verified(tmp_path: Path) -> None:
    """ImageNet ReaL: a JSON list of label lists in the order of the images' names; packed, packed again, and verified."""
    datafiles.class_folders(tmp_path / "in/train", 3)
    datafiles.class_folders(tmp_path / "in/val", 1)
    for place, name in enumerate(("ant", "bee", "cat")):  # names that sort across the classes
        (tmp_path / "in/val" / name / "000.jpg").rename(tmp_path / "in/val" / name / f"val_{3 - place}.jpg")
    (tmp_path / "in/real.json").write_text("[[2], [], [0, 1]]")
    sets = LabelSets(split="val", file="real.json")
    pack(config(tmp_path / "in", "folder", label_sets=sets), tmp_path / "out")
    shard = load_index(tmp_path / "out").splits["val"].shards[0]
    table = np.load(tmp_path / "out" / shard.label_sets)
    by_label = dict(zip(load_members(tmp_path / "out" / shard.members)["label"].tolist(), table.tolist(), strict=True))
    assert by_label == {0: [0, 1], 1: [-1, -1], 2: [2, -1]}
    pack(config(tmp_path / "out", "tars"), tmp_path / "again")
    again = load_index(tmp_path / "again").splits["val"].shards[0]
    assert sorted(np.load(tmp_path / "again" / again.label_sets).tolist()) == sorted(table.tolist())
    assert verify(tmp_path / "again") == []
    (tmp_path / "in/real.json").write_text("[[2], []]")
    with pytest.raises(UserError, match=r"real.json: 2 label sets for the 3 images of val"):
        pack(config(tmp_path / "in", "folder", label_sets=sets), tmp_path / "new")


def test_the_development_split_is_cut_from_train(tmp_path: Path) -> None:
    source = datafiles.idx_folder(tmp_path / "mnist", train=80)
    index = pack(config(source, "idx", dev=0.1), tmp_path / "out")
    assert {split: part.histogram for split, part in index.splits.items()} == {"train": (18,) * 4, "val": (2,) * 4}
    whole = pack(config(source, "idx"), tmp_path / "whole")
    assert whole.splits["train"].samples == 80
    both = set(packed_images(tmp_path / "out", "train")) | set(packed_images(tmp_path / "out", "val"))
    assert both == set(packed_images(tmp_path / "whole", "train"))


def test_resize_changes_larger_images_only(tmp_path: Path) -> None:
    source = datafiles.class_folders(tmp_path / "images", 2)
    large = datafiles.image(7, size=(96, 64))
    (source / "ant" / "large.jpg").write_bytes(large)
    pack(config(source, "folder", resize=20), tmp_path / "out")
    encoded = {data for data, _ in packed_images(tmp_path / "out", "train")}
    assert sorted(Image.open(io.BytesIO(data)).size for data in encoded) == [(24, 16)] * 6 + [(30, 20)]
    assert (source / "bee" / "000.jpg").read_bytes() in encoded
    assert large not in encoded


def test_bad_images_are_named_or_counted(tmp_path: Path) -> None:
    source = datafiles.class_folders(tmp_path / "images", 10)
    bad = source / "bee" / "003.jpg"
    bad.write_bytes(bad.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"bee/003.jpg: the image cannot be packed: .*Premature end"):
        pack(config(source, "folder"), tmp_path / "out")
    with pytest.raises(UserError, match=r"1 of 30 images are unreadable.*allowed: 1.00%"):
        pack(config(source, "folder", skip_bad=0.01), tmp_path / "out")
    index = pack(config(source, "folder", skip_bad=0.05), tmp_path / "out")
    assert index.splits["train"].histogram == (10, 9, 10)
    assert "bee/003.jpg" in json.loads((tmp_path / "out/bad_samples.jsonl").read_text())["image"]
    assert verify(tmp_path / "out") == []


def test_no_file_of_an_earlier_attempt_is_left(tmp_path: Path) -> None:
    """All files that an attempt with another configuration has left are removed."""
    source = datafiles.class_folders(tmp_path / "images", 10)
    bad = source / "cat" / "009.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(b"#!/bin/sh")
    with pytest.raises(UserError, match=r"cat/009.jpg: the image cannot be packed: not a JPEG, PNG, WEBP image"):
        pack(config(source, "folder", hold_out={"val": 0.3, "test": 0.3}), tmp_path / "out")
    assert list((tmp_path / ".out.partial").glob("*.npy"))
    bad.write_bytes(whole)
    pack(config(source, "folder"), tmp_path / "out")
    assert verify(tmp_path / "out") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]


def test_sizes_are_nested_and_balanced(tmp_path: Path) -> None:
    pack(config(datafiles.idx_folder(tmp_path / "mnist", train=400), "idx"), tmp_path / "out")
    labels = np.array([label for _, label in packed_images(tmp_path / "out", "train")])
    for n in (4, 40, 120, 399):
        counts = np.bincount(labels[:n], minlength=4)
        assert counts.max() - counts.min() <= 1


def test_progress_counts_written_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitmodel.data.shards.SHARD_SAMPLES", 20)
    reports: list[tuple[int, int]] = []
    source = datafiles.idx_folder(tmp_path / "mnist", train=60)
    index = pack(config(source, "idx"), tmp_path / "out", processes=1, report=lambda *counts: reports.append(counts))
    written = [done for done, _ in reports]
    assert written == sorted(set(written))
    assert reports[-1] == (70, 70)
    assert len(reports) >= len(index.splits["train"].shards)


KILL = """
import sys, time
from pathlib import Path
import vitmodel.data.shard_writer as writing
from vitmodel.data import shards
slow = writing._write
def write(job, root):
    time.sleep(0.15)
    return slow(job, root)
writing._write = write
shards.SHARD_SAMPLES = 20
from vitmodel.data.descriptions import IdxFormat, PackConfig
shards.pack(PackConfig(path=sys.argv[1], files=IdxFormat(format="idx")), Path(sys.argv[2]), processes=1)
"""


def test_a_killed_packing_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9: no dataset appears; the next call uses the finished shards and writes the same bytes."""
    source = datafiles.idx_folder(tmp_path / "mnist", train=400)
    monkeypatch.setattr("vitmodel.data.shards.SHARD_SAMPLES", 20)
    pack(config(source, "idx"), tmp_path / "whole")
    root, done = tmp_path / "out", tmp_path / ".out.partial/done"
    process = subprocess.Popen([sys.executable, "-c", KILL, str(source), str(root)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(done.glob("train*.json"))) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not root.exists()
    finished = {path.stem: os.stat(done.parent / f"{path.stem}.tar").st_ino for path in done.glob("*.json")}
    assert 5 <= len(finished) < 20
    (done.parent / f"{min(finished)}.tar").write_bytes(b"damaged")  # must be written again
    pack(config(source, "idx"), root, processes=1)
    reused = {stem for stem, inode in finished.items() if os.stat(root / f"{stem}.tar").st_ino == inode}
    assert reused == set(finished) - {min(finished)}
    shards = {name: data for name, data in contents(root).items() if name != "index.json"}
    assert shards == {name: data for name, data in contents(tmp_path / "whole").items() if name != "index.json"}
    assert load_index(root).identity == load_index(tmp_path / "whole").identity
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mnist", "out", "whole"]


@pytest.mark.slow
def test_ray_and_processes_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = datafiles.idx_folder(tmp_path / "mnist", train=200)
    monkeypatch.setattr("vitmodel.data.shards.SHARD_SAMPLES", 32)
    for name, processes in (("one", 1), ("two", 2)):
        pack(config(source, "idx"), tmp_path / name / "set", processes=processes)
    program = (  # in a new process: Ray reads its token once, and another test may have started Ray in this one
        "import sys; from pathlib import Path; import vitmodel.data.shards as shards; shards.SHARD_SAMPLES = 32; "
        "from orchestrator.execution.packing import ray_tasks; from test_packing import config, pack; "
        "pack(config(Path(sys.argv[1]), 'idx'), Path(sys.argv[2]), run_jobs=ray_tasks)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    subprocess.run([sys.executable, "-c", program, str(source), str(tmp_path / "ray/set")], check=True, env=environment)
    one, two, ray = (contents(tmp_path / name / "set") for name in ("one", "two", "ray"))
    assert one == two == ray
    with pytest.raises(UserError, match="the folder holds another dataset"):
        pack(config(source, "idx", seed=1), tmp_path / "one" / "set")
