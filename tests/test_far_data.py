"""Studies on remote or damaged data, through the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WriteStudy, clean_environment, run_study
from test_remote import serving

from orchestrator import results
from orchestrator.store.layout import Store
from vitmodel.config.run import RunConfig
from vitmodel.data.bad_samples import BAD_FILE
from vitmodel.data.generated import FractalConfig
from vitmodel.data.index import INDEX_FILE, load_index, render_index
from vitmodel.data.node_cache import NodeCache
from vitmodel.data.reader import ReadOptions
from vitmodel.data.shards import pack
from vitmodel.training.run import Context, execute

BAD = {3, 40}  # samples whose images are zeros
ALLOWED = 0.05


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A dataset with bad images and an index that matches them, as if they had been packed like this."""
    root = tmp_path / "data"
    pack(FractalConfig(generate="fractals", classes=4, train=64, val=40, image_size=16, points=64), root, processes=1)
    index = load_index(root)
    (shard,) = index.splits["train"].shards
    members = np.load(root / shard.members)
    tar = bytearray((root / shard.name).read_bytes())
    for sample in BAD:
        offset, length, _ = members[sample].item()
        tar[offset : offset + length] = bytes(length)
    (root / shard.name).write_bytes(tar)
    shard = shard.model_copy(update={"sha256": hashlib.sha256(tar).hexdigest()})
    train = index.splits["train"].model_copy(update={"shards": (shard,)})
    (root / INDEX_FILE).write_text(render_index(index.model_copy(update={"splits": {**index.splits, "train": train}})))
    return root


def named(folder: Path) -> dict[int, dict[str, Any]]:
    """The bad samples that a run has recorded, each once."""
    records = [json.loads(line) for line in (folder / BAD_FILE).read_text().splitlines()]
    assert len({record["sample"] for record in records}) == len(records)
    return {record["sample"]: record for record in records}


@pytest.mark.slow
def test_a_server_that_truncates_every_third_reply_and_bad_samples(
    damaged: Path, tmp_path: Path, write_study: WriteStudy
) -> None:
    """A study with two workers completes; a run that reads the folder finds and replaces the same samples."""

    def change(content: dict[str, Any]) -> None:
        content["datasets"] = {"far": {"url": url, "train": 64, "classes": 4, "eval_split": "val"}}
        content["pretrain"] |= {"data": "far", "sizes": ["all"], "models": content["pretrain"]["models"][:1]}
        content["resources"] = {"workers": 2}
        content["on_bad_sample"] = {"skip_up_to": f"{ALLOWED:.0%}"}
        del content["transfer"], content["probe"]

    storage = tmp_path / "runs"
    cut = []
    with serving(damaged, lambda number, path: cut.append(path) or "cut" if number % 3 == 0 else "") as (url, server):
        environment = {**clean_environment(), "VITSCALE_NODE_CACHE": str(tmp_path / "cache")}
        done = run_study(write_study(change), storage, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(cut) > 1
    assert {"/train-00000.tar", "/val-00000.tar"} <= set(server.requests)
    (row,) = results.collect(storage, "tiny").to_dict("records")
    assert (row["status"], row["workers"], row["dataset_size"], row["skipped_images"]) == ("DONE", 2, 64, len(BAD))
    run = Store(storage).run(row["run_id"])
    far = named(run.path)
    assert far.keys() == BAD
    assert {record["url"] for record in far.values()} == {f"{url}/train-00000.tar"}
    assert all(record["member"].endswith(".png") and record["offset"] and record["reason"] for record in far.values())

    config = RunConfig.model_validate(json.loads((run.path / "config.json").read_text())["config"])
    losses: dict[float, float] = {}
    reading = ReadOptions(skip_up_to=ALLOWED, node_cache=NodeCache(folder=tmp_path / "unused"))
    (tmp_path / "near").mkdir()
    result = execute(
        config,
        Context(
            folder=tmp_path / "near",
            data_root=damaged,
            micro_batch=config.recipe.batch_size if config.recipe else 1,
            reading=reading,
            report=lambda entry: losses.update({entry["step"]: entry["train/loss"]}),
        ),
    )
    assert result["data/skipped"] == len(BAD)
    near = named(tmp_path / "near")
    assert {n: (r["member"], r["offset"]) for n, r in near.items()} == {n: (r["member"], r["offset"]) for n, r in far.items()}
    assert {e["step"]: e["train/loss"] for e in run.metrics()} == pytest.approx(losses, rel=1e-5)
