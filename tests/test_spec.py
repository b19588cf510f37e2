"""What bad input gets: one message with file, line, field and what is allowed; exit 2; nothing written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from conftest import TINY, WriteStudy, run_study
from ruamel.yaml import YAML

from orchestrator.plan.datasets import NO_INDEX
from orchestrator.plan.make import make_plan
from orchestrator.spec.study import read_study
from vitmodel.config.base import UserError
from vitmodel.data.generated import DigitsConfig
from vitmodel.data.shards import pack

# (text to replace, replacement, line of the file, words of the message)
MISTAKES = {
    "unknown key": ("lengths: [{epochs: 2}]", "lengthz: [{epochs: 2}]", 9, "unknown key, did you mean lengths"),
    "unknown key deep": ("depth: 1,", "depht: 1,", 11, "did you mean depth"),
    "unknown recipe key": ("preset: micro_vit, batch_size", "preset: micro_vit, lr_rat: 1, batch_size", 14, "lr_rat"),
    "unknown section": ("probe:", "probes:", 21, "did you mean probe"),
    "wrong type": ("width: 16", "width: wide", 11, "valid integer, not 'wide'"),
    "text for a number": ("epochs: 2}]", "epochs: '2'}]", 9, "valid number, not '2'"),
    "empty axis": ("sizes: [128, 256]", "sizes: []", 8, "at least 1 item"),
    "size above the dataset": ("sizes: [128, 256]", "sizes: [128, 257]", 8, "size 257 is not within the dataset"),
    "size of nothing": ("sizes: [128, 256]", "sizes: [0%]", 8, "size 0%"),
    "size in words": ("sizes: [128, 256]", "sizes: [lots]", 8, "a size is a count"),
    "unknown task": ("tasks: [digits]\n  epochs", "tasks: [digist]\n  epochs", 17, "did you mean digits"),
    "unknown dataset": ("data: fractals", "data: imagenet", 6, "unknown dataset 'imagenet'"),
    "patch": ("patch: 8", "patch: 7", 11, "patch 7 of V16/8 does not divide the image size 16"),
    "heads": ("heads: 2", "heads: 3", 11, "heads 3 must divide width 16"),
    "groups": ("groups: 2", "groups: 3", 12, "groups 3 must divide width 4"),
    "unknown model": ("- {family: resnet", "- B/17x\n    - {family: resnet", 12, "unknown model 'B/17x'"),
    "unknown family": ("family: resnet", "family: resnett", 12, "vit, resnet"),
    "same model twice": ("variant: R4", "variant: V16/8", 12, "a second model called V16/8"),
    "unknown recipe": ("preset: micro_resnet", "preset: micro_resnets", 15, "did you mean micro_resnet"),
    "two units": ("{epochs: 2}", "{epochs: 2, steps: 3}", 9, "exactly one unit"),
    "name": ("name: tiny", "name: Tiny Study", 1, "string should match pattern"),
    "lanes against batch": ("resolution: 16\n  sizes", "lanes: 12\n  resolution: 16\n  sizes", 7, "batch 32 over 12 lanes"),
    "workers against lanes": ("name: tiny", "name: tiny\nresources: {workers: 3}", 2, "3 workers does not come out even"),
    "too many runs": ("name: tiny", "name: tiny\nbudget: {max_runs: 5}", 2, "more runs than its limit"),
    "too many shots": ("shots: [5]", "shots: [500]", 23, "fewer than 500 images"),
    "exclude nothing": (
        "sizes: [128, 256]",
        "sizes: [128, 256]\n  exclude: [{model: R9}]",
        9,
        "excludes nothing",
    ),
    "not yaml": ("sizes: [128, 256]", "sizes: [128, 256", 9, "not YAML"),
    "duplicate key": ("probe:", "transfer:", 21, "not YAML: found duplicate key"),
}


def with_text(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_placed(mistake: str, tmp_path: Path) -> None:
    before, after, line, words = MISTAKES[mistake]
    assert TINY.count(before) == 1
    path = with_text(tmp_path, TINY.replace(before, after))
    with pytest.raises(UserError) as caught:
        make_plan(read_study(path), tmp_path / "runs")
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}:"), message
    assert words.lower() in message.lower(), message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("mistake", ["unknown key", "patch", "size above the dataset"])
def test_exit_2_and_one_line(mistake: str, tmp_path: Path) -> None:
    before, after, _, words = MISTAKES[mistake]
    path = with_text(tmp_path, TINY.replace(before, after))
    done = run_study(path, tmp_path / "runs")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr
    assert not (tmp_path / "runs").exists()


def test_yaml_bombs(tmp_path: Path) -> None:
    bomb = "a: &a [x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9))
    with pytest.raises(UserError, match="too many aliases"):
        read_study(with_text(tmp_path, bomb))
    with pytest.raises(UserError, match="larger than"):
        read_study(with_text(tmp_path, TINY + "# " + "x" * 300_000))
    with pytest.raises(UserError, match="too many"):
        read_study(with_text(tmp_path, "a: " + "[" * 30_000 + "]" * 30_000))


def test_tags_run_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        read_study(
            with_text(tmp_path, TINY.replace("name: tiny", "name: !!python/object/apply:os.mkdir [/tmp/vitscale-canary]"))
        )
    assert not Path("/tmp/vitscale-canary").exists()


def test_yaml_1_2_numbers(tmp_path: Path) -> None:
    path = with_text(tmp_path, TINY.replace("preset: micro_vit, batch_size", "preset: micro_vit, lr: 1e-3, batch_size"))
    recipe = read_study(path).study.pretrain.recipe
    assert recipe.vit.lr == 1e-3  # type: ignore[union-attr]


@pytest.mark.parametrize(("written", "images"), [("all", 256), ("50%", 128), ("0.1k", 100), (77, 77)])
def test_sizes(written: object, images: int, write_study: WriteStudy, tmp_path: Path) -> None:
    path = write_study(lambda c: c["pretrain"].update(sizes=[written]))
    plan = make_plan(read_study(path), tmp_path)
    assert {cell.pretrain.config.data.size for cell in plan.cells} == {images}


EXTERNAL = "digits: {generate: digits, image_size: 16}"


def external(root: Path, train: int = 1074) -> str:
    return TINY.replace(EXTERNAL, f"digits: {{url: {root}, train: {train}, classes: 10}}")


def test_external_data(tmp_path: Path) -> None:
    """A packed dataset is found, a missing one planned but not run, a contradicting or stale one refused."""
    root = tmp_path / "digits"
    path = with_text(tmp_path, external(root))
    assert make_plan(read_study(path), tmp_path).missing_indexes == {"digits": NO_INDEX}
    done = run_study(path, tmp_path / "runs")
    assert done.returncode == 2
    assert re.search(r"line 4: datasets.digits.url: no index.json", done.stderr), done.stderr
    pack(DigitsConfig(generate="digits", image_size=16), root)
    assert make_plan(read_study(path), tmp_path).missing_indexes == {}
    with pytest.raises(UserError, match=r"line 4: datasets\.digits: the index has 1074 training images"):
        make_plan(read_study(with_text(tmp_path, external(root, train=1000))), tmp_path)
    (root / "test-00000.tar").unlink()
    with pytest.raises(UserError, match=r"line 4: datasets.digits.url: .*stale index"):
        make_plan(read_study(with_text(tmp_path, external(root))), tmp_path)


def test_environment_in_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(DigitsConfig(generate="digits", image_size=16), tmp_path / "digits")
    monkeypatch.setenv("VITSCALE_TEST_DATA", str(tmp_path))
    text = external(tmp_path).replace(f"url: {tmp_path}", "url: '${env:VITSCALE_TEST_DATA}/digits'")
    assert make_plan(read_study(with_text(tmp_path, text)), tmp_path).missing_indexes == {}


def test_write_protected_storage(write_study: WriteStudy, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    done = run_study(write_study(), blocked / "runs")
    assert done.returncode == 2
    assert "storage" in done.stderr
    if os.geteuid() != 0:  # root writes everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        assert run_study(write_study(), tmp_path / "locked" / "runs").returncode == 2


def test_full_storage(write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.store import layout

    monkeypatch.setattr(layout, "FREE_BYTES", 2**62)
    with pytest.raises(UserError, match=r"MiB left.*64 MiB or more"):
        layout.Store(tmp_path).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_the_tiny_study_is_valid(write_study: WriteStudy) -> None:
    assert read_study(write_study()).study.name == YAML(typ="safe").load(TINY)["name"]
