"""Descriptions of known datasets: strict, consistent, and used by the command line and by studies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datafiles
import numpy as np
import pytest
from conftest import ROOT, WriteStudy
from scipy.io import savemat
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.plan.make import make_plan
from orchestrator.spec.describe import DESCRIPTIONS, check_counts, find_description, known_names, pack_config, read_description
from orchestrator.spec.study import read_study
from vitmodel.config.base import UserError
from vitmodel.data.index import load_index
from vitmodel.data.open_source import open_source
from vitmodel.data.verify import verify

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize("name", known_names())
def test_every_description_is_sound(name: str, tmp_path: Path) -> None:
    description = read_description(DESCRIPTIONS / f"{name}.yaml")
    assert description.name == name.replace("/", "-")
    assert description.pack.startswith(f"vitscale data pack {name} DEST --from ")
    assert (DESCRIPTIONS / f"{name}.yaml").read_text().startswith("# ")
    assert all(file.url.startswith("https://") or file.url.startswith("http://") for file in description.downloads)
    with pytest.raises(UserError, match=r"no such folder; download .* first") as caught:
        pack_config(description, tmp_path / "nothing")
    assert description.downloads[0].url in caught.value.allowed


def small(tmp_path: Path, **changes: Any) -> Path:
    """Fashion-MNIST's description with the counts of a small set of the same format."""
    text = (DESCRIPTIONS / "fashion_mnist.yaml").read_text()
    for before, after in {"train: 60000, test: 10000": "train: 80, test: 20", **changes}.items():
        assert before in text
        text = text.replace(before, after)
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return path


def images(tmp_path: Path) -> Path:
    source = datafiles.idx_folder(tmp_path / "downloads", train=80, test=20)
    for prefix, count in (("train", 80), ("t10k", 20)):
        datafiles.idx(source / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return source


def test_pack_index_and_verify_from_the_command_line(tmp_path: Path) -> None:
    def call(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["data", *map(str, arguments)])
        if isinstance(result.exception, UserError):
            raise result.exception
        return result.exit_code, result.stdout

    source, out = images(tmp_path), tmp_path / "out"
    assert call("pack", small(tmp_path), out, "--from", source, "--workers", 1) == (
        0,
        f"{out}: train 80, test 20 images of 10 classes\n",
    )
    index = load_index(out)
    assert (index.class_names[9], index.licence) == ("Ankle boot", "MIT")
    assert "data pack" in index.command or index.command.startswith("vitscale")
    assert call("verify", out) == (0, f"{out}: complete and unchanged\n")
    (out / "train-00000.tar").unlink()
    assert call("verify", out) == (1, "train-00000.tar: missing\n")
    assert call("pack", source, tmp_path / "plain", "--workers", 1)[1].endswith("train 80, test 20 images of 10 classes\n")
    datafiles.tar(tmp_path / "tars/train-0.tar", [*datafiles.samples(4), ("./s0003.txt", b"x")])
    assert call("index", tmp_path / "tars", "--ignore", "txt")[1] == f"{tmp_path / 'tars'}: train 4 images of 3 classes\n"
    for arguments, message in {
        ("cifar11", tmp_path / "no"): "no such file or folder",
        ("fashion_mnist", tmp_path / "no"): "--from: required: fashion_mnist is a known dataset",
        ("fashion_mnist", tmp_path / "no", "--from", source): "packed .* a file is missing or is of another version",
        ("fashion_mnist", tmp_path / "no2", "--from", source, "--split", "val=1%"): "--split: cannot be combined with",
        ("fashion_mnist", tmp_path / "no2", "--from", source, "--dev"): "has no development split",
        (source, tmp_path / "no2", "--dev"): "--dev: cannot be combined with",
        (source, tmp_path / "no2", "--format", "idxx"): "unknown format 'idxx', did you mean idx?",
        (source, tmp_path / "no2", "--split", "train=9%"): "split 'train' cannot be held out",
        (source, tmp_path / "no2", "--key", "labels=coarse"): "format idx has no key 'labels'",
        (source, tmp_path / "no2", "--format", "cifar", "--key", "labels=none"): "format cifar, key 'labels': .*'coarse'",
        (source, tmp_path / "no2", "--key", "labels"): "--key: invalid key 'labels'",
    }.items():
        with pytest.raises(UserError, match=message):
            call("pack", *arguments)
    assert not (tmp_path / "no2").exists()


def test_a_study_packs_what_it_describes(tmp_path: Path, write_study: WriteStudy) -> None:
    from orchestrator.execution.packing import pack_missing

    small(tmp_path)
    source = images(tmp_path)

    def describe(content: dict[str, Any]) -> None:
        content["datasets"]["fractals"] = {"describe": "small.yaml", "source": str(source)}
        content["pretrain"]["sizes"] = ["10%", "64", "all"]
        content["pretrain"]["recipe"]["vit"]["batch_size"] = content["pretrain"]["recipe"]["resnet"]["batch_size"] = 8

    study = write_study(describe)
    file, runs = read_study(study), tmp_path / "runs"
    before = make_plan(file, runs)
    assert before.missing_indexes.keys() == {"fractals"}
    assert pack_missing(file, before.datasets, before.missing_indexes)
    after = make_plan(file, runs)
    assert after.missing_indexes == {}
    assert {cell.pretrain.config.data.size for cell in after.cells} == {8, 64, 80}
    index = load_index(Path(after.datasets["fractals"]))
    assert {cell.pretrain.config.data.identity for cell in after.cells} == {index.identity}
    (source / "train-images-idx3-ubyte").unlink()
    assert verify(Path(after.datasets["fractals"])) == []


def test_counts_are_those_of_the_description_but_for_what_was_skipped(tmp_path: Path) -> None:
    description = read_description(small(tmp_path))
    check_counts(description, {"train": 80, "test": 20}, 10, dev=False, skipped=0)
    check_counts(description, {"train": 79, "test": 19}, 10, dev=False, skipped=2)
    for train, classes, skipped in ((79, 10, 0), (78, 10, 1), (81, 10, 1), (80, 9, 0)):
        with pytest.raises(UserError, match="a file is missing or is of another version"):
            check_counts(description, {"train": train, "test": 20}, classes, dev=False, skipped=skipped)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"describe": "data/none.yaml", "url": "x"}, "line 4: datasets.fractals.describe: no description 'data/none.yaml'"),
        ({"describe": "fashion_mnist"}, "line 3: datasets.fractals: neither url nor source"),
        ({"describe": "fashion_mnist", "url": "x", "dev": True}, "datasets.fractals.dev: fashion_mnist has no development"),
        ({"describe": "fashion_mnist", "source": "x", "corase": True}, "datasets.fractals.corase: unknown key"),
        ({"url": "x", "source": "y", "train": 5, "classes": 3}, "datasets.fractals.source: a source needs a description"),
    ],
)
def test_mistakes_in_a_study(keys: dict[str, Any], message: str, tmp_path: Path, write_study: WriteStudy) -> None:
    study = write_study(lambda content: content["datasets"].update(fractals=keys))
    with pytest.raises(UserError) as caught:
        make_plan(read_study(study), tmp_path / "runs")
    assert message in str(caught.value)


def test_missing_downloads_are_reported_with_the_steps_to_get_them(tmp_path: Path, write_study: WriteStudy) -> None:
    from orchestrator.execution.packing import pack_missing

    keys = {"describe": "fashion_mnist", "source": str(tmp_path / "nothing")}
    file = read_study(write_study(lambda content: content["datasets"].update(fractals=keys)))
    plan = make_plan(file, tmp_path / "runs")
    with pytest.raises(
        UserError, match=r"line 5: datasets.fractals.source: .*download .* first.*apt install dataset-fashion-mnist"
    ):
        pack_missing(file, plan.datasets, plan.missing_indexes)


def test_a_wrong_key_has_its_line(tmp_path: Path) -> None:
    path = small(tmp_path, **{"eval_split: test": "eval_splt: test"})
    with pytest.raises(UserError, match=r"small.yaml, line \d+: eval_splt: unknown key, did you mean eval_split"):
        read_description(path)


def test_names_cannot_point_outside_of_the_descriptions() -> None:
    assert find_description("fashion_mnist") == DESCRIPTIONS / "fashion_mnist.yaml"
    assert find_description("../fashion") is None
    assert find_description(str(DESCRIPTIONS / "fashion_mnist")) is None


def test_a_known_name_is_found_in_any_folder(tmp_path: Path, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a file of that name lies next to the study; a path is relative to the study, not to the working directory."""
    small(tmp_path)
    (tmp_path / "fashion_mnist").write_text("not a description")
    monkeypatch.chdir("/")
    for name, train in (("fashion_mnist", 60_000), ("vtab/dtd", 1000), ("small.yaml", 80), (str(tmp_path / "small.yaml"), 80)):
        keys = {"describe": name, "url": "/nowhere"}
        study = read_study(write_study(lambda content: content["datasets"].update(fractals=keys)))  # noqa: B023
        assert getattr(study.study.datasets["fractals"], "train", None) == train


@pytest.mark.parametrize("name", ["fashion", "data/fashion_mnist.yaml", "fashion_mnist.yaml"])
def test_unknown_descriptions_are_refused_with_a_suggestion(name: str, write_study: WriteStudy) -> None:
    study = write_study(lambda content: content["datasets"].update(fractals={"describe": name, "url": "x"}))
    with pytest.raises(UserError, match=rf"describe: no description '{name}', did you mean fashion_mnist\?"):
        read_study(study)


def test_descriptions_are_in_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("orchestrator", "vitmodel"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    prefix = "orchestrator/spec/descriptions/"
    shipped = {name.removeprefix(prefix) for name in zipfile.ZipFile(wheel).namelist() if name.startswith(prefix)}
    assert shipped == {f"{name}.yaml" for name in known_names()}


def test_the_fashion_study_plans_without_its_images(tmp_path: Path) -> None:
    plan = make_plan(read_study(ROOT / "studies/fashion.yaml"), tmp_path)
    assert sorted({run.config.data.size for run in plan.runs if run.config.phase == "pretrain"}) == [1000, 6000, 60_000]


@pytest.mark.skipif(not FASHION.exists(), reason="needs Debian's dataset-fashion-mnist")
def test_the_real_fashion_mnist_matches_its_description() -> None:
    description = read_description(DESCRIPTIONS / "fashion_mnist.yaml")
    source = open_source(pack_config(description, FASHION), Path("unused"))
    assert {split: len(part.labels) for split, part in source.splits.items()} == description.splits
    assert (source.classes, source.class_names[0]) == (10, "T-shirt/top")


def cifar(root: Path, label_bytes: int) -> None:
    names = ("train.bin", "test.bin") if label_bytes == 2 else (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin")
    name = "cifar-100-binary.tar.gz" if label_bytes == 2 else "cifar-10-binary.tar.gz"
    datafiles.cifar_archive(root / name, {file: datafiles.cifar_records(10, label_bytes) for file in names})


def listed(root: Path, lists: dict[str, range], line: str, image: str) -> None:
    for name, numbers in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("".join(line.format(n, n % 3, n % 3 + 1) + "\n" for n in numbers))
        for n in numbers:
            path = root / image.format(n)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(datafiles.image(n))


def flowers(root: Path) -> None:
    savemat(root / "imagelabels.mat", {"labels": np.arange(30).reshape(1, -1) % 3 + 1})
    sets = {"trnid": np.arange(1, 11), "valid": np.arange(11, 21), "tstid": np.arange(21, 31)}
    savemat(root / "setid.mat", sets)


def imagenet(root: Path) -> None:
    datafiles.class_folders(root / "train", 10)
    datafiles.class_folders(root / "val", 1)
    for place, path in enumerate(sorted((root / "val").rglob("*.jpg"))):
        path.rename(path.with_name(f"ILSVRC2012_val_{place + 1:08d}.JPEG"))
    (root / "real.json").write_text("[[0], [], [2, 1]]")


def synsets(root: Path) -> None:
    datafiles.class_folders(root, 400)


VTAB_LISTS = {"train800.txt": range(8), "val200.txt": range(8, 10), "train800val200.txt": range(10), "test.txt": range(10, 15)}
PETS_LISTS = {"annotations/trainval.txt": range(20), "annotations/test.txt": range(20, 29)}

# name: (what makes small files of its format, images in each split, and with --dev)
KNOWN: dict[str, tuple[Callable[[Path], None], dict[str, int], dict[str, int] | None]] = {
    "cifar10": (lambda root: cifar(root, 1), {"train": 50, "test": 10}, {"train": 49, "val": 1}),
    "cifar100": (lambda root: cifar(root, 2), {"train": 10, "test": 10}, {"train": 9, "val": 1}),
    "oxford_pets": (
        lambda root: listed(root, PETS_LISTS, "Beagle_{0} {2} 1 1", "images/Beagle_{0}.jpg"),
        {"train": 20, "test": 9},
        {"train": 18, "val": 2},
    ),
    "flowers102": (flowers, {"train": 20, "test": 10}, {"train": 18, "val": 2}),
    "imagenet1k": (imagenet, {"train": 30, "val": 3}, {"train": 29, "val": 1}),
    "imagenet_real": (imagenet, {"train": 30, "val": 3}, None),
    "imagenet21k": (synsets, {"train": 1195, "val": 5}, None),
    "vtab/dtd": (
        lambda root: listed(root, VTAB_LISTS, "images/{0}.jpg {1}", "images/{0}.jpg"),
        {"train": 10, "test": 5},
        {"train": 8, "val": 2},
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_descriptions_open_files_of_their_format(name: str, tmp_path: Path) -> None:
    """What cannot be downloaded here, in small: the format, the split and the development set."""
    make, splits, dev_splits = KNOWN[name]
    make(tmp_path)
    description = read_description(DESCRIPTIONS / f"{name}.yaml")
    for wanted, dev in ((splits, False), (dev_splits, True)):
        if wanted is None:
            continue
        source = open_source(pack_config(description, tmp_path, dev=dev), tmp_path / "staging")
        assert {split: len(part.labels) for split, part in source.splits.items()} == wanted
        assert min(int(part.labels.min()) for part in source.splits.values()) == 0
        assert source.licence == description.licence
    if name == "imagenet_real":
        source = open_source(pack_config(description, tmp_path), tmp_path / "staging")
        assert source.splits["val"].label_sets == [(0,), (), (2, 1)]


def test_all_tasks_of_vtab_have_descriptions() -> None:
    tasks = [read_description(DESCRIPTIONS / f"{name}.yaml") for name in known_names() if name.startswith("vtab/")]
    assert len(tasks) == 19
    assert all((task.splits["train"], task.dev) == (1000, 0.2) for task in tasks)
    assert sorted(task.classes for task in tasks) == sorted(
        (100, 102, 47, 102, 37, 10, 397, 2, 10, 45, 5, 8, 6, 6, 4, 16, 16, 18, 9)
    )
