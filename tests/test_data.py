"""Packing, index and reading: deterministic bytes, nested balanced sizes, and an error for every damaged file."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st

from vitmodel.config.base import UserError
from vitmodel.data import generated
from vitmodel.data.augment import augment, normalise, normalise_and_augment
from vitmodel.data.generated import DigitsConfig, FractalConfig
from vitmodel.data.images import encode_png
from vitmodel.data.index import load_index
from vitmodel.data.order import Batch, interleaved
from vitmodel.data.reader import Dataset
from vitmodel.data.shards import pack
from vitmodel.data.verify import verify

FRACTALS = FractalConfig(generate="fractals", classes=8, train=6500, val=100, image_size=16, points=128)

SMALL = FRACTALS.model_copy(update={"train": 40, "val": 16})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "fractals"
    pack(FRACTALS, root, processes=1)
    return root


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    """A copy of the packed dataset, for damage."""
    return shutil.copytree(packed, tmp_path / "fractals")


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_bytes_do_not_depend_on_processes(packed: Path, tmp_path: Path) -> None:
    pack(FRACTALS, tmp_path / "fractals", processes=2)
    assert contents(tmp_path / "fractals") == contents(packed)


def test_identity_depends_on_the_arguments() -> None:
    changed = FRACTALS.model_copy(update={"variation": 0.3})
    assert generated.identity(changed) != generated.identity(FRACTALS)


def test_declared_counts_match_the_packed_dataset(packed: Path, tmp_path: Path) -> None:
    for config, root in ((FRACTALS, packed), (digits := DigitsConfig(generate="digits"), tmp_path / "digits")):
        index = pack(config, root)
        assert index.splits["train"].samples == generated.train_samples(config)
        assert index.classes == generated.classes(config)
        assert generated.eval_split(config) in index.splits
    assert sum(part.samples for part in pack(digits, tmp_path / "digits").splits.values()) == 1797


@given(st.integers(2, 9), st.integers(1, 60), st.integers(0, 3))
def test_every_prefix_is_balanced(classes: int, each: int, seed: int) -> None:
    labels = np.repeat(np.arange(classes), each)
    ordered = labels[interleaved(labels, seed)]
    assert sorted(ordered) == sorted(labels)
    for n in range(1, len(labels) + 1, 7):
        counts = np.bincount(ordered[:n], minlength=classes)
        assert counts.max() - counts.min() <= 1


def test_sizes_are_nested(packed: Path) -> None:
    small, large = Dataset(packed, "train", 16, 100), Dataset(packed, "train", 16, 1000)
    assert np.array_equal(small.read(np.arange(100)), large.read(np.arange(100)))
    assert np.array_equal(small.labels, large.labels[:100])


def test_stock_webdataset_reads_our_shards(packed: Path) -> None:
    shards = [str(packed / shard.name) for shard in load_index(packed).splits["train"].shards]
    samples = list(wds.WebDataset(shards, shardshuffle=False))
    assert [int(sample["cls"]) for sample in samples] == Dataset(packed, "train", 16).labels.tolist()
    assert len({sample["__key__"] for sample in samples}) == FRACTALS.train


def test_cache_and_files_give_equal_batches(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = Dataset(packed, "val", 16)
    monkeypatch.setattr("vitmodel.data.memory_cache.AUTO_BYTES", 0)
    direct = Dataset(packed, "val", 16)
    order = direct.order(seed=0, lanes=4, window=16)
    batches = [order.batch(step, 8) for step in range(20)]
    for one, other in zip(cached.batches(batches), direct.batches(batches), strict=True):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)


def test_verify_finds_a_flipped_byte(copy: Path) -> None:
    assert verify(copy) == []
    path = copy / "train-00001.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert verify(copy) == ["train-00001.tar: checksum differs"]


@pytest.mark.parametrize("damage", ["missing shard", "longer shard", "bad json", "no index"])
def test_stale_and_missing_indexes(damage: str, copy: Path) -> None:
    match damage:
        case "missing shard":
            (copy / "val-00000.tar").unlink()
        case "longer shard":
            (copy / "val-00000.tar").open("ab").write(b"x")
        case "bad json":
            (copy / "index.json").write_text("{")
        case "no index":
            (copy / "index.json").unlink()
    with pytest.raises(UserError, match="index"):
        load_index(copy)


def test_another_dataset_is_never_overwritten(packed: Path) -> None:
    before = contents(packed)
    with pytest.raises(UserError, match="another dataset"):
        pack(FRACTALS.model_copy(update={"seed": 9}), packed)
    assert contents(packed) == before


def test_an_interrupted_pack_leaves_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("vitmodel.data.shards.write_shard", fail)
    with pytest.raises(OSError, match="disk full"):
        pack(SMALL, tmp_path / "fractals", processes=1)
    assert not (tmp_path / "fractals").exists()
    monkeypatch.undo()
    pack(SMALL, tmp_path / "fractals", processes=1)  # uses the partial folder and removes it
    assert [path.name for path in tmp_path.iterdir()] == ["fractals"]


def test_a_damaged_image_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member = np.load(copy / "val-00000.npy")[3]
    path = copy / "val-00000.tar"
    data = bytearray(path.read_bytes())
    data[member["offset"] + 60 : member["offset"] + member["bytes"]] = bytes(member["bytes"] - 60)
    path.write_bytes(data)
    monkeypatch.setattr("vitmodel.data.memory_cache.AUTO_BYTES", 0)
    with pytest.raises(UserError, match=f"val-00000.tar: sample 3 at byte {member['offset']}"):
        Dataset(copy, "val", 16).read(np.array([3]))


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "bomb"
    pack(FractalConfig(generate="fractals", classes=2, train=2, val=2, image_size=8, points=64), root)
    bomb = encode_png(np.zeros((9000, 9000), dtype=np.uint8))
    tar = root / "val-00000.tar"
    with tarfile.open(tar, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(bomb)
        (root / "a").write_bytes(bomb)
        archive.addfile(info, (root / "a").open("rb"))
    members = np.load(root / "val-00000.npy")
    members[0] = (512, len(bomb), 0)
    np.save(root / "val-00000.npy", members)
    index = json.loads((root / "index.json").read_text())
    index["splits"]["val"]["shards"][0]["bytes"] = tar.stat().st_size
    (root / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="pixels"):
        Dataset(root, "val", 8)


@pytest.mark.parametrize("kind", ["none", "shift", "inception"])
def test_augmentation_depends_on_the_sample_alone(packed: Path, kind: str) -> None:
    import torch

    data = Dataset(packed, "train", 16, 64)
    samples, epochs = np.arange(8), np.zeros(8, dtype=np.int64)
    images = normalise(data.read(samples), torch.device("cpu"))
    assert images.abs().max() <= 1
    whole = augment(images, Batch(samples, epochs), 0, kind, True)
    alone = augment(images[5:6], Batch(samples[5:6], epochs[5:6]), 0, kind, True)
    assert torch.allclose(whole[5:6], alone, atol=1e-6)
    assert whole.shape == images.shape
    other = augment(images, Batch(samples, epochs + 1), 0, kind, True)
    assert not torch.equal(whole, other)
    assert torch.equal(augment(images, Batch(samples, epochs), 0, "none", False), images)
    assert torch.equal(
        normalise_and_augment(data.read(samples), Batch(samples, epochs), 0, kind, True, device=torch.device("cpu")), whole
    )
