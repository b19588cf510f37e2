"""Subsets with a seed, external tars, label sets and uneven shards: what is read and evaluated is exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datafiles
import numpy as np
import pytest
import torch
from conftest import WriteStudy, clean_environment
from test_packing import config

from orchestrator.plan.make import make_plan
from orchestrator.spec.study import read_study, resolve_size
from vitmodel.data.descriptions import LabelSets
from vitmodel.data.external_tars import index_tars
from vitmodel.data.index import load_index
from vitmodel.data.reader import Dataset
from vitmodel.data.shards import pack
from vitmodel.training.evaluate import evaluate


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("vitmodel.data.shards.SHARD_SAMPLES", 64)
    pack(config(datafiles.idx_folder(tmp_path / "mnist", train=400), "idx"), tmp_path / "packed")
    return tmp_path / "packed"


def images(dataset: Dataset) -> list[bytes]:
    return [image.tobytes() for image in dataset.read(np.arange(dataset.size))]


@pytest.mark.parametrize("seed", [0, 7])
def test_subset_seed_chooses_nested_balanced_images(packed: Path, seed: int) -> None:
    small, large = (Dataset(packed, "train", 8, size, subset_seed=seed) for size in (42, 130))
    assert (len(set(images(small))), len(set(images(large)))) == (42, 130)
    assert set(images(small)) < set(images(large))
    assert not set(images(large)) <= set(images(Dataset(packed, "train", 8, 130)))
    for dataset in (small, large):
        counts = np.bincount(dataset.labels, minlength=4)
        assert counts.max() - counts.min() <= 1
        order = dataset.order(seed=0, lanes=2, window=16)
        epoch = np.concatenate([order.batch(step, 2).samples for step in range(dataset.size // 2)])
        assert sorted(epoch.tolist()) == list(range(dataset.size))
    everything = Dataset(packed, "train", 8)
    whole = dict(zip(images(everything), everything.labels.tolist(), strict=True))
    assert [whole[image] for image in images(small)] == small.labels.tolist()


def test_subset_seed_is_part_of_the_run_id(tmp_path: Path, write_study: WriteStudy) -> None:
    def runs(seed: int | None) -> dict[int, str]:
        study = write_study(lambda content: content["pretrain"].update(subset_seed=seed) if seed is not None else None)
        plan = make_plan(read_study(study), tmp_path / "runs")
        return {
            cell.pretrain.config.data.size: cell.pretrain.run_id
            for cell in plan.cells
            if cell.pretrain.config.model.family == "vit"
        }

    none, one, two = runs(None), runs(1), runs(2)
    assert len({none[128], one[128], two[128]}) == 3
    assert none[256] == one[256] == two[256], "a subset of all images does not depend on the seed"


@pytest.mark.parametrize(
    ("size", "images_"),
    [("1%", 3_030_000), ("10k", 10_000), ("30M", 30_000_000), ("all", 303_000_000), ("2.3M", 2_300_000), ("0.1%", 303_000)],
)
def test_sizes_are_exact(size: str, images_: int) -> None:
    assert resolve_size(size, 303_000_000) == images_


def test_a_size_of_indexed_tars_is_a_prefix_of_the_shards(tmp_path: Path) -> None:
    for number in range(6):
        datafiles.tar(tmp_path / f"{number}.tar", datafiles.samples(5, start=10 * number))
    index = index_tars(tmp_path, seed=3)
    names = [shard.name for shard in index.splits["train"].shards]
    dataset = Dataset(tmp_path, "train", 16, 12)
    whole = Dataset(tmp_path, "train", 16)
    assert np.array_equal(dataset.read(np.arange(12)), whole.read(np.arange(30))[:12])
    order = dataset.order(seed=0, lanes=2, window=4)
    samples = np.concatenate([order.batch(step, 4).samples for step in range(3)])
    assert sorted(samples.tolist()) == list(range(12))
    assert {names[shard] for shard in dataset.files.shard_of(samples).tolist()} == set(names[:3])


def test_label_sets_are_evaluated(tmp_path: Path) -> None:
    """Predictions in the set are correct; images with an empty set count in top-1 alone."""
    datafiles.class_folders(tmp_path / "in/train", 2)
    datafiles.class_folders(tmp_path / "in/val", 2)
    for place, path in enumerate(sorted((tmp_path / "in/val").rglob("*.jpg"))):
        path.rename(path.with_name(f"{place}.jpg"))  # 0 1: ant, 2 3: bee, 4 5: cat
    (tmp_path / "in/real.json").write_text("[[0], [2], [], [1, 2], [], [0, 1]]")
    pack(config(tmp_path / "in", "folder", label_sets=LabelSets(split="val", file="real.json")), tmp_path / "out")

    def always(label: int) -> dict[str, float]:
        answer = torch.nn.functional.one_hot(torch.tensor(label), 3).float()
        return evaluate(lambda x: answer.repeat(len(x), 1), Dataset(tmp_path / "out", "val", 16), batch_size=4)

    for label, hits in ((0, 2), (1, 2), (2, 2)):
        result = always(label)
        assert (result["eval/top1"], result["eval/real_top1"], result["eval/samples"]) == (pytest.approx(2 / 6), hits / 4, 6)
        assert set(result) == {"eval/loss", "eval/top1", "eval/real_top1", "eval/samples"}
    assert "eval/real_top1" not in evaluate(
        lambda x: torch.zeros(len(x), 3), Dataset(tmp_path / "out", "train", 16), batch_size=4
    )


EVALUATE = """
import sys, json, torch
import torch.distributed as dist
from vitmodel.data.reader import Dataset
from vitmodel.training.evaluate import evaluate
from vitmodel.training.engine import ensure_process_group
worker, workers = ensure_process_group()
batches = []
def forward(x):
    batches.append(len(x))
    return torch.zeros(len(x), 3) + torch.tensor([0.0, 1.0, 0.0])
dataset = Dataset(sys.argv[1], "test", 16)
result = evaluate(forward, dataset, batch_size=4, worker=worker, workers=workers)
train = Dataset(sys.argv[1], "test", 16, size=20)
order = train.order(seed=0, lanes=2, window=4)
trained = [loaded.batch.samples.tolist() for loaded in train.batches(order.batch(t, 4, worker, workers) for t in range(10))]
print(json.dumps({**result, "batches": len(batches), "trained": trained}), flush=True)
dist.destroy_process_group()
"""


def test_three_uneven_shards_on_two_workers(tmp_path: Path) -> None:
    """Equal batches for both workers, every sample evaluated once, no deadlock."""
    for number, count in enumerate((7, 2, 12)):
        datafiles.tar(tmp_path / f"test/{number}.tar", datafiles.samples(count, start=30 * number))
    datafiles.tar(tmp_path / "train/0.tar", datafiles.samples(3))
    index_tars(tmp_path)
    environment = {
        **clean_environment(),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20_000 + os.getpid() % 10_000),
        "WORLD_SIZE": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", EVALUATE, str(tmp_path)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results: list[dict[str, Any]] = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    trained = [result.pop("trained") for result in results]  # two epochs of 20 images: four per step, two per worker
    assert [[len(batch) for batch in batches] for batches in trained] == [[2] * 10] * 2
    assert np.bincount(np.concatenate([np.ravel(batches) for batches in trained])).tolist() == [2] * 20
    assert results[0] == results[1]
    histogram = load_index(tmp_path).splits["test"].histogram
    assert (results[0]["eval/samples"], results[0]["eval/top1"]) == (21, histogram[1] / 21)
    assert results[0]["batches"] == 3
