"""Broken study files: all mistakes at once, each with file, line, key and what is allowed; exit 2; nothing is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, WriteStudy, run_study
from ruamel.yaml import YAML

from orchestrator.plan.datasets import NO_INDEX
from orchestrator.plan.make import make_plan
from orchestrator.spec import expand, hints
from orchestrator.spec.kinds import Kind, kind_of
from orchestrator.spec.schema import Study
from orchestrator.spec.study import read_study
from vitmodel.config.base import UserError
from vitmodel.config.models import FAMILIES
from vitmodel.data.generated import DigitsConfig
from vitmodel.data.shards import pack

# (text to replace, replacement, line of the file, part of the message)
MISTAKES = {
    "unknown key": ("lengths: [{epochs: 2}]", "lengthz: [{epochs: 2}]", 9, "unknown key, did you mean lengths?"),
    "unknown key deep": ("depth: 1,", "depht: 1,", 11, "did you mean depth"),
    "unknown recipe key": ("preset: micro_vit, batch_size", "preset: micro_vit, lr_rat: 1, batch_size", 14, "did you mean lr?"),
    "unknown section": ("probe:", "probes:", 21, "did you mean probe"),
    "another name": (
        "preset: micro_vit, batch_size",
        "preset: micro_vit, learning_rate: 1, batch_size",
        14,
        "did you mean lr?",
    ),
    "another name of a key": ("data: fractals", "dataset: fractals", 6, "pretrain.dataset: unknown key, did you mean data?"),
    "misplaced": ("name: tiny", "name: tiny\nlr: 0.1", 2, "did you mean pretrain.recipe.lr?"),
    "misplaced below": ("vit: {preset", "preset: micro_vit\n    vit: {preset", 14, "did you mean pretrain.recipe.vit.preset?"),
    "misplaced in a model": ("patch: 8}", "patch: 8, lr: 0.1}", 11, "did you mean pretrain.models[0].recipe.lr?"),
    "wrong type": (
        "width: 16",
        "width: wide",
        11,
        "'wide' is not a number (allowed: a whole number, 1 or more; example: width: 384)",
    ),
    "text for a number": ("epochs: 2}]", "epochs: '2'}]", 9, "'2' is text, not a number; remove the quotes"),
    "number for text": ("name: tiny", "name: 5", 1, "name 5 is not valid"),
    "fraction": ("width: 16", "width: 1.5", 11, "1.5 is not a whole number"),
    "out of range": ("width: 16", "width: 0", 11, "0 is out of range (allowed: a whole number, 1 or more"),
    "not finite": (
        "preset: micro_vit, batch_size",
        "preset: micro_vit, lr: .inf, batch_size",
        14,
        "inf is not a finite number",
    ),
    "too large": ("width: 16", f"width: {10**30}", 11, "is too large"),
    "no value": ("width: 16", "width: null", 11, "has no value (allowed: a whole number"),
    "empty section": ("transfer:\n", "notify:\ntransfer:\n", 16, "notify: the section is empty; fill it in or remove it"),
    "empty axis": ("sizes: [128, 256]", "sizes: []", 8, "the list is empty; at least one value is required"),
    "value for a list": ("sizes: [128, 256]", "sizes: 128", 8, "must be a list, not 128; write [128]"),
    "mapping for a list": (
        "lengths: [{epochs: 2}]",
        "lengths: {epochs: 2}",
        9,
        "must be a list, not a mapping; write [{epochs: 2}]",
    ),
    "value for a mapping": (
        "name: tiny",
        "name: tiny\nbudget: 5",
        2,
        "must be a mapping, not 5 (allowed: a mapping with the keys max_runs",
    ),
    "list for a value": ("data: fractals", "data: [fractals]", 6, "must be a single value, not a list"),
    "length as text": (
        "[{epochs: 2}]",
        "[8 epochs]",
        9,
        "lengths[0]: length '8 epochs' is not valid; write {epochs: 8}, {steps: 1000} or {examples: 1e6}",
    ),
    "size above the dataset": ("sizes: [128, 256]", "sizes: [128, 257]", 8, "size 257 is not within the dataset"),
    "size of nothing": ("sizes: [128, 256]", "sizes: [0%]", 8, "size 0%"),
    "size as text": (
        "sizes: [128, 256]",
        "sizes: [lots]",
        8,
        "size 'lots' is not valid; write a number of images such as 16384",
    ),
    "unknown task": ("tasks: [digits]\n  epochs", "tasks: [digist]\n  epochs", 17, "did you mean digits"),
    "unknown dataset": ("data: fractals", "data: imagenet", 6, "unknown dataset 'imagenet' (allowed: fractals, digits)"),
    "unknown generator": ("generate: digits", "generate: digit", 4, "unknown generator 'digit', did you mean digits?"),
    "patch": ("patch: 8", "patch: 7", 11, "patch 7 of V16/8 does not divide the image size 16"),
    "heads": ("heads: 2", "heads: 3", 11, "heads 3 must divide width 16"),
    "groups": ("groups: 2", "groups: 3", 12, "groups 3 must divide width 4"),
    "unknown model": ("- {family: resnet", "- B/17x\n    - {family: resnet", 12, "unknown model 'B/17x', did you mean B/16?"),
    "unknown family": ("family: resnet", "family: resnett", 12, "unknown family 'resnett', did you mean resnet?"),
    "model without a name": ("- {family: resnet, variant: R4", "- {name: R4", 12, "unknown key, did you mean model?"),
    "model that is no model": (
        "- {family: resnet",
        "- 16\n    - {family: resnet",
        12,
        "model 16 is not valid; write a name such as B/16",
    ),
    "same model twice": ("variant: R4", "variant: V16/8", 12, "V16/8 is listed twice with the same recipe"),
    "unknown recipe": (
        "preset: micro_resnet",
        "preset: micro_resnets",
        15,
        "unknown preset 'micro_resnets', did you mean micro_resnet?",
    ),
    "recipe as a name": (
        "recipe: {preset: micro_vit_finetune}",
        "recipe: micro_vit_finetune",
        20,
        "write {preset: NAME, KEY: VALUE}",
    ),
    "two units": ("{epochs: 2}", "{epochs: 2, steps: 3}", 9, "exactly one unit"),
    "name": ("name: tiny", "name: Tiny Study", 1, "name 'Tiny Study' is not valid; write up to 64 of the characters"),
    "lanes against batch": ("resolution: 16\n  sizes", "lanes: 12\n  resolution: 16\n  sizes", 7, "batch 32, 12 lanes"),
    "workers against lanes": ("name: tiny", "name: tiny\nresources: {workers: 3}", 2, "3 workers"),
    "too many runs": ("name: tiny", "name: tiny\nbudget: {max_runs: 5}", 2, "more runs than its limit"),
    "too many shots": ("shots: [5]", "shots: [500]", 23, "fewer than 500 images"),
    "exclude nothing": (
        "sizes: [128, 256]",
        "sizes: [128, 256]\n  exclude: [{model: R9}]",
        9,
        "this entry excludes nothing",
    ),
    "not yaml": ("sizes: [128, 256]", "sizes: [128, 256", 9, "not valid YAML: expected ',' or ']'"),
    "a tab": ("  data: fractals", "\tdata: fractals", 6, "indent with spaces, not tabs"),
    "duplicate key": ("probe:", "transfer:", 21, "transfer: duplicate key, first used on line 16; keep one of them"),
    "duplicate key deep": ("width: 16", "width: 16, width: 16", 11, "pretrain.models[0].width: duplicate key"),
    "alias of itself": ("name: tiny", "name: &name [*name]", 1, "an alias refers to a value that contains it"),
}
PYDANTIC = ("Input should", "Field required", "Extra inputs", "Value error", "should have at", "should match", "valid ")


def with_text(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_have_their_line(mistake: str, tmp_path: Path) -> None:
    before, after, line, text_part = MISTAKES[mistake]
    assert TINY.count(before) == 1
    path = with_text(tmp_path, TINY.replace(before, after))
    with pytest.raises(UserError) as caught:
        make_plan(read_study(path), tmp_path / "runs")
    message = next((str(error) for error in caught.value.errors if text_part.lower() in str(error).lower()), "")
    assert message.startswith(f"{path}, line {line}:"), str(caught.value)
    assert not (tmp_path / "runs").exists()


def errors_of(path: Path) -> list[str]:
    """What is wrong with a study file, a line each, without its path."""
    with pytest.raises(UserError) as caught:
        read_study(path)
    assert str(caught.value).splitlines() == [str(error) for error in caught.value.errors]
    return [str(error).removeprefix(f"{path}, ") for error in caught.value.errors]


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    """Those of the YAML, of short forms, of the schema and of references; one line each, in the order of the file."""
    text = TINY
    for before, after in {
        "image_size: 16, points: 256": "image_size: 16, pts: 256",
        "  data: fractals": "  data: fractal",
        "sizes: [128, 256]": "sizes: [128, 128, lots]",
        "[{epochs: 2}]": "[8 epochs]",
        "heads: 2": "heads: 3",
        "{family: resnet,": "{family: resnett,",
        "vit: {preset: micro_vit,": "vit: {preset: micro_vitt, wd: 0.1, dropout: 1.5,",
        "resolution: 16\n  recipe": "resolution: 16\n  resolution: 16\n  recipe",
        "  tasks: [digits]\n  shots: [5]": "  tasks: [digist]\n  shots: 5",
    }.items():
        assert before in text
        text = text.replace(before, after)
    lines = errors_of(with_text(tmp_path, text + "transfr: {}\n"))
    assert [line.partition(" (")[0] for line in lines] == [
        "line 3: datasets.fractals.pts: unknown key, did you mean points?",
        "line 6: pretrain.data: unknown dataset 'fractal', did you mean fractals?",
        "line 8: pretrain.sizes[2]: size 'lots' is not valid; write a number of images such as 16384, 16k or 30M, a percentage "
        "such as 10%, or all",
        "line 9: pretrain.lengths[0]: length '8 epochs' is not valid; write {epochs: 8}, {steps: 1000} or {examples: 1e6}",
        "line 11: pretrain.models[0]: heads 3 must divide width 16",
        "line 12: pretrain.models[1].family: unknown family 'resnett', did you mean resnet?",
        "line 14: pretrain.recipe.vit.preset: unknown preset 'micro_vitt', did you mean micro_vit?",
        "line 14: pretrain.recipe.vit.dropout: 1.5 is out of range",
        "line 14: pretrain.recipe.vit.wd: unknown key, did you mean weight_decay?",
        "line 20: transfer.resolution: duplicate key, first used on line 19; keep one of them",
        "line 23: probe.tasks[0]: unknown dataset 'digist', did you mean digits?",
        "line 24: probe.shots: must be a list, not 5; write [5]",
        "line 25: transfr: unknown key, did you mean transfer?",
    ]
    done = run_study(tmp_path / "study.yaml", tmp_path / "runs")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("study.yaml, line") == len(done.stderr.splitlines()) == len(lines)


# (text of the file, what is reported)
BROKEN_FILES = {
    "empty": ("", ["line 1: the file is empty; a study file is a mapping of keys"]),
    "comments alone": ("# nothing\n", ["line 1: the file is empty; a study file is a mapping of keys"]),
    "list": ("- name: x\n", ["line 1: the file is a list; a study file is a mapping of keys"]),
    "value": ("study\n", ["line 1: the file is a value; a study file is a mapping of keys"]),
    "two documents": (
        "name: x\n---\nname: y\n",
        [
            "line 2: not valid YAML: expected a single document in the stream, but found another document; write one document "
            "per file, without a second ---"
        ],
    ),
    "control character": (
        "name: x\nreport: {title: a\x07}\n",
        ["line 2: not valid YAML: unacceptable character #x0007: special characters are not allowed"],
    ),
    "missing sections": (
        "name: x\n",
        ["line 1: datasets: required key is missing", "line 1: pretrain: required key is missing"],
    ),
    "empty sections": (
        "name: x\ndatasets:\npretrain:\nprobe:\n",
        [
            f"line {n}: {name}: the section is empty; fill it in or remove it"
            for n, name in enumerate(("datasets", "pretrain", "probe"), 2)
        ],
    ),
    "missing keys": (
        "name: x\ndatasets: {d: {generate: digits}}\npretrain: {models: [B/16], dataset: d, image_size: 32}\n",
        [
            "line 3: pretrain.dataset: unknown key, did you mean data?",
            "line 3: pretrain.image_size: unknown key, did you mean resolution?",
            "line 3: pretrain.sizes: required key is missing",
            "line 3: pretrain.lengths: required key is missing",
            "line 3: pretrain.recipe: required key is missing",
        ],
    ),
    "every model": (
        TINY.replace(
            "  models:\n", "  models:\n    - B/17x\n    - {model: S/16, mixr: axial}\n    - null\n    - {init: no.npz}\n"
        ),
        [
            "line 11: pretrain.models[0]: unknown model 'B/17x', did you mean B/16?",
            "line 12: pretrain.models[1].mixr: unknown key, did you mean mixer?",
            "line 13: pretrain.models[2]: has no value; write a name such as B/16, R50x1 or R50+B/16, {model: NAME, KEY: "
            "VALUE}, {family: FAMILY, variant: NAME, ...} or {init: FILE}",
            f"line 14: pretrain.models[3].init: {Path('no.npz').absolute()}: no such file or folder",
        ],
    ),
    "every objective": (
        TINY.replace("  recipe:\n", "  objective: [mea, {kind: mae, ratio: 0.5, lengths: 3}, {masked: 0.5}]\n  recipe:\n"),
        [
            "line 13: pretrain.objective[0]: unknown objective 'mea', did you mean mae?",
            "line 13: pretrain.objective[1].ratio: unknown key, did you mean masked?",
            "line 13: pretrain.objective[2]: objective {masked: 0.5} is not valid; write supervised, masked_patch, mae, or a "
            "mapping such as {kind: mae, masked: 0.75}",
            "line 13: pretrain.objective[1].lengths: must be a list, not 3",
        ],
    ),
    "unions": (
        TINY + "on_failure: {retries: many, then: {stop_aftr: 2}}\nresources: {workers: many, cache: much, zero_stage: 7}\n",
        [
            "line 24: on_failure.retries: number of retries 'many' is not valid; write a number of failures such as 5, or a "
            "mapping such as {failures: 5, preemptions: 10}",
            "line 24: on_failure.then.stop_aftr: unknown key, did you mean stop_after?",
            "line 25: resources.workers: 'many' is not a number",
            "line 25: resources.zero_stage: 7 is out of range",
            "line 25: resources.cache: cache size 'much' is not valid; write auto, off, or bytes such as 500MB or 2GiB",
        ],
    ),
    "datasets": (
        TINY.replace(
            "datasets:\n", "datasets:\n  a:\n  b: /data/b\n  c: {generate: fractal}\n  d: {path: /d, num_classes: x}\n"
        ),
        [
            "line 3: datasets.a: has no value",
            "line 4: datasets.b: dataset '/data/b' is not valid; write {generate: fractals, ...}, {generate: digits}, {url: "
            "FOLDER, train: COUNT, classes: COUNT}, {describe: NAME, url: FOLDER} or {describe: NAME, source: FOLDER}",
            "line 5: datasets.c.generate: unknown generator 'fractal', did you mean fractals?",
            "line 6: datasets.d.path: unknown key, did you mean url?",
            "line 6: datasets.d.num_classes: unknown key, did you mean classes?",
        ],
    ),
    "questions": (
        TINY + "claims: {tasks: [digit], pairs: [[V16/8], [V16/8, B/16]]}\ntargets: [{variant: Q/16, dataset_size: 2.5}]\n",
        [
            "line 24: claims.pairs[0]: [V16/8] has the wrong length",
            "line 24: claims.tasks[0]: unknown task 'digit', did you mean digits?",
            "line 24: claims.pairs[1][1]: unknown model 'B/16'",
            "line 25: targets[0].dataset_size: count 2.5 is not valid; write a whole number above 0 such as 16384, 16k, 30M "
            "or 1e6",
            "line 25: targets[0].variant: unknown model 'Q/16', did you mean g/16?",
        ],
    ),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_files(case: str, tmp_path: Path) -> None:
    text, expected = BROKEN_FILES[case]
    assert [line.partition(" (")[0] for line in errors_of(with_text(tmp_path, text))] == expected


@pytest.mark.parametrize("value", [None, -7, "x", [{"a": 1}]], ids=repr)
def test_any_value_at_any_place(value: object, write_study: WriteStudy) -> None:
    """Every error is a message of vitscale and has a line; nothing ends in a traceback."""

    def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield (*above, key)
            yield from places(item, (*above, key)) if isinstance(item, dict | list) else ()

    def put(content: Any, place: tuple[Any, ...]) -> None:
        for part in place[:-1]:
            content = content[part]
        content[place[-1]] = value

    for place in places(YAML(typ="safe").load(TINY)):
        try:
            read_study(write_study(lambda content: put(content, place)))  # noqa: B023
        except UserError as error:
            for mistake in error.errors:
                assert mistake.file, place
                assert mistake.line, (place, str(mistake))
                assert not any(
                    text_part in str(mistake).replace("not valid ", "").replace("is not valid", "") for text_part in PYDANTIC
                )


def test_other_names_are_those_of_keys_and_values() -> None:
    """The table of other names has no entry that nothing in the schema has."""
    names = {
        name for path, field in hints._paths(kind_of(Study), ()) for name in (str(path[-1]), *every_choice(kind_of(field)))
    }
    names |= {"model", *FAMILIES, *expand.GENERATORS, *expand.OBJECTIVES, "kind"}
    assert set(hints.ALIASES) <= names
    for name, others in hints.ALIASES.items():
        for other in others.split(", "):
            assert hints.intended(other.upper(), [name, "unrelated"]) == name


def every_choice(kind: Kind) -> Iterator[str]:
    for member in kind.members:
        yield from member.choices
        if inner := member.element or member.value:
            yield from every_choice(inner)


@pytest.mark.parametrize("mistake", ["unknown key", "patch", "size above the dataset"])
def test_exit_2_and_one_line(mistake: str, tmp_path: Path) -> None:
    before, after, _, text_part = MISTAKES[mistake]
    path = with_text(tmp_path, TINY.replace(before, after))
    done = run_study(path, tmp_path / "runs")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert text_part in done.stderr
    assert not (tmp_path / "runs").exists()


def test_yaml_bombs(tmp_path: Path) -> None:
    bomb = "a: &a [x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9))
    with pytest.raises(UserError, match="too many aliases"):
        read_study(with_text(tmp_path, bomb))
    with pytest.raises(UserError, match="too large"):
        read_study(with_text(tmp_path, TINY + "# " + "x" * 300_000))
    with pytest.raises(UserError, match="too many"):
        read_study(with_text(tmp_path, "a: " + "[" * 30_000 + "]" * 30_000))


def test_yaml_tags_execute_no_code(tmp_path: Path) -> None:
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
    """A packed dataset is read, a missing one planned but not run, a contradicting or stale one refused."""
    root = tmp_path / "digits"
    path = with_text(tmp_path, external(root))
    assert make_plan(read_study(path), tmp_path).missing_indexes == {"digits": NO_INDEX}
    done = run_study(path, tmp_path / "runs")
    assert done.returncode == 2
    assert re.search(r"line 4: datasets.digits.url: no index.json", done.stderr), done.stderr
    pack(DigitsConfig(generate="digits", image_size=16), root)
    assert make_plan(read_study(path), tmp_path).missing_indexes == {}
    with pytest.raises(UserError, match=r"line 4: datasets\.digits\.train: the index has 1074 training images, not 1000"):
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
    with pytest.raises(UserError, match=r"MiB free.*64 MiB or more"):
        layout.Store(tmp_path).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_the_tiny_study_is_valid(write_study: WriteStudy) -> None:
    assert read_study(write_study()).study.name == YAML(typ="safe").load(TINY)["name"]
