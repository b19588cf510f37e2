"""Importing a table of results: strict parsing, each run once, no run folders; the paper's tables are in the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from records import plan_file
from typer.testing import CliRunner

from orchestrator import results
from orchestrator.cli import app
from orchestrator.laws.tables import comparable
from orchestrator.prepare import import_tables, prepare
from orchestrator.results import imports
from orchestrator.results.import_table import read_rows
from orchestrator.results.summary import probe_text, shots_text
from orchestrator.spec.study import read_study
from orchestrator.store.layout import Store
from orchestrator.verdicts.evidence import gather
from orchestrator.verdicts.forecast import forecast
from orchestrator.verdicts.targets import target_run
from orchestrator.verdicts.views import views
from vitmodel.config.base import UserError

DATA = ROOT / "studies" / "data"
GOOD = (
    "family,variant,dataset,dataset_size,epochs,task,top1_percent\nvit,B/16,jft,300M,7,pets,95.8\nvit,L/16,jft,300M,7,pets,97\n"
)


def table(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_table_becomes_done_rows(tmp_path: Path) -> None:
    frame = read_rows(table(tmp_path, GOOD), "a blog", {}, results.COLUMNS)
    assert frame.dtypes.astype(str).to_dict() == {**results.COLUMNS}
    assert set(frame["status"]) == {"DONE"}
    assert set(frame["source"]) == {"a blog"}
    assert set(frame["phase"]) == {"finetune"}
    assert frame["error"].tolist() == pytest.approx([0.042, 0.03])
    assert frame["dataset_size"].tolist() == [300_000_000] * 2
    assert frame["params"].iloc[0] == pytest.approx(86.6e6, rel=0.01), "computed for a published model"
    assert frame["pretrain_flops"].iloc[0] == pytest.approx(7 * 300e6 * 105.6e9, rel=0.02), "Table 6's convention"
    assert frame["attempts"].sum() == frame["steps"].sum() == 0, "nothing was run here"


def test_tables_with_a_column_per_task_and_mapped_names(tmp_path: Path) -> None:
    text = "kind,family,model,n,top1:cars,top1:pets\nx,vit,B/16,1000,0.9,0.8\nx,resnet,R50x1,1000,,0.7\n"
    frame = read_rows(table(tmp_path, text), "s", {"variant": "model", "dataset_size": "n"}, results.COLUMNS)
    assert list(zip(frame["variant"], frame["task"], frame["top1"].round(6), strict=True)) == [
        ("B/16", "cars", 0.9),
        ("B/16", "pets", 0.8),
        ("R50x1", "pets", 0.7),
    ]


WRONG = {
    "no number": (GOOD.replace("95.8", "high"), 2, "top1_percent", "'high' is not a number"),
    "above 100": (GOOD.replace("97\n", "970\n"), 3, "top1_percent", "above 100"),
    "empty result": (GOOD.replace("95.8", ""), 2, "top1_percent", "empty"),
    "not a number": (GOOD.replace("95.8", "nan"), 2, "top1_percent", "nan is not allowed"),
    "percent as fraction": (GOOD.replace("top1_percent", "top1"), 2, "top1", "above 1"),
    "unknown family": (GOOD.replace("vit,L", "vitt,L"), 3, "family", "did you mean vit"),
    "twice": (GOOD.replace("L/16", "B/16"), 3, "variant", "same run as in line 2"),
    "half an image": (GOOD.replace("300M,7,pets,97", "300.5,7,pets,97"), 3, "dataset_size", "not a whole number"),
    "no model": (GOOD.replace("L/16", "Mine"), 3, "params", "not a published model"),
    "missing column": (GOOD.replace("dataset_size", "images"), 1, "dataset_size", "missing"),
    "two of a name": (GOOD.replace("epochs", "task"), 1, "task", "two columns with this name"),
    "too many values": (GOOD.replace("97\n", "97,4\n"), 3, "", "more than 7 values"),
    "no result": (GOOD.replace("top1_percent", "accuracy"), 1, "", "no column with results"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_the_line_and_the_column(case: str, tmp_path: Path) -> None:
    text, line, column, message = WRONG[case]
    path = table(tmp_path, text)
    with pytest.raises(UserError, match=message) as raised:
        read_rows(path, "s", {}, results.COLUMNS)
    assert (raised.value.file, raised.value.line) == (str(path), line)
    assert raised.value.field == column


def test_a_study_reads_imported_results(tmp_path: Path) -> None:
    path = table(tmp_path, GOOD.replace("variant", "model"))
    arguments = ["import-results", str(path), "--storage", str(tmp_path / "runs"), "--source", "mail of May"]
    result = CliRunner().invoke(app, [*arguments, "--column", "variant=model"])
    assert result.exit_code == 0, result.output
    assert "2 rows" in result.output
    store = Store(tmp_path / "runs")
    store.write_plan(plan_file(imports=("table",)))
    frame = results.collect(tmp_path / "runs", "s")
    assert frame["source"].tolist() == ["mail of May"] * 2
    assert frame["study"].tolist() == ["s"] * 2
    assert results.provenance(tmp_path / "runs", "s")["imported"] == "mail of May"
    assert not (tmp_path / "runs" / "runs").exists(), "an import creates no run folders"
    store.write_plan(plan_file(imports=("tabel",)))
    with pytest.raises(UserError, match="no imported table 'tabel'"):
        results.collect(tmp_path / "runs", "s")


def test_a_run_in_two_tables_counts_once(tmp_path: Path) -> None:
    for name in ("vit_paper_table6", "vit_paper_table5"):
        imports.import_csv(tmp_path, DATA / f"{name}.csv", name=name, source=name, columns={}, dtypes=results.COLUMNS)
    both = imports.merge(imports.load(tmp_path, name, results.COLUMNS) for name in ("vit_paper_table6", "vit_paper_table5"))
    jft_vit = both[(both["family"] == "vit") & (both["dataset"] == "jft300m")]
    assert set(jft_vit["source"]) == {"vit_paper_table6"}
    assert len(both) == 18 * 6 + 9 * 6, "the five JFT models of Table 5 are in Table 6 already"


def test_the_papers_tables_equal_the_published_ones() -> None:
    frame = read_rows(DATA / "vit_paper_table6.csv", "Table 6", {}, results.COLUMNS)
    wide = frame.pivot_table(index=["variant", "epochs"], columns="task", values="top1")
    published = pd.read_csv(ROOT / "tests" / "data" / "vit_paper_table6.csv")
    for task in ("imagenet", "imagenet_real", "cifar10", "cifar100", "pets", "flowers"):
        assert np.sort(wide[task]) == pytest.approx(np.sort(published[task]) / 100)
    assert wide.loc[("B/16", 7.0), "imagenet"] == pytest.approx(0.8415)
    table5 = read_rows(DATA / "vit_paper_table5.csv", "Table 5", {}, results.COLUMNS)
    by_size = table5[table5["task"] == "imagenet"].set_index(["dataset", "variant"])["top1"]
    assert by_size["imagenet", "L/16"] == pytest.approx(0.7653)
    assert by_size["imagenet", "B/16"] == pytest.approx(0.7791)


def test_a_study_without_runs_needs_a_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="required key is missing") as raised:
        read_study(table(tmp_path, "name: empty\n", "s.yaml"))
    assert raised.value.field == "datasets"


CLIP = "name,mparams,gmacs,unique,seen,on,acc1\ns-32,63,3.1,80M,0.4B,imagenet,0.31\nl-14,430,85,80M,6.4B,imagenet,0.66\n"
CLIP_COLUMNS = {
    "variant": "name",
    "params": "mparams",
    "forward_flops": "gmacs",
    "dataset_size": "unique",
    "examples_seen": "seen",
    "task": "on",
    "top1": "acc1",
}


def test_zero_shot_results_of_models_that_are_not_published_here(tmp_path: Path) -> None:
    """In the shape of OpenCLIP's tables, with made-up numbers."""
    frame = read_rows(
        table(tmp_path, CLIP),
        "s",
        CLIP_COLUMNS,
        results.COLUMNS,
        constants={"family": "vit", "phase": "zero-shot"},
        times={"params": 1e6, "forward_flops": 2e9},
    )
    assert set(frame["family"]) == {"vit"}
    assert frame["params"].tolist() == [63_000_000, 430_000_000]
    assert frame["examples_seen"].tolist() == [400_000_000, 6_400_000_000]
    assert frame["epochs"].tolist() == [5.0, 80.0], "examples seen over unique examples"
    assert frame["pretrain_flops"].iloc[0] == pytest.approx(3 * 6.2e9 * 400e6), "training is three forward passes"
    assert set(comparable(frame)["what"]) == {"imagenet, zero-shot"}
    assert probe_text(0) == shots_text(0) == "zero-shot"


def test_losses_of_models_without_names(tmp_path: Path) -> None:
    """In the shape of Chinchilla's table, with made-up numbers: a loss above 1 is no error rate."""
    text = "params,tokens,loss\n6.8e+09,2.4e+08,5.2\n1.5e+08,3e9,2.91\n"
    columns = {"params": "params", "forward_flops": "params", "examples_seen": "tokens"}
    constants, times = {"family": "transformer"}, {"forward_flops": 2.0}
    frame = read_rows(table(tmp_path, text), "s", columns, results.COLUMNS, constants=constants, times=times)
    assert frame["upstream_loss"].tolist() == [5.2, 2.91]
    assert frame["error"].isna().all(), "a loss is not a share"
    assert frame["variant"].tolist() == ["6800M", "150M"]
    assert frame["dataset_size"].tolist() == [240_000_000, 3_000_000_000], "examples are seen once, if nothing else is said"
    assert frame["pretrain_flops"].iloc[1] == pytest.approx(6 * 1.5e8 * 3e9)
    assert len(comparable(frame)) == 2


WRONG_MAPS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown constant": ({"constants": {"famly": "vit"}}, "famly", "did you mean family"),
    "constant of a column": ({"constants": {"family": "vit", "task": "pets"}}, "task", "the table has a column 'on'"),
    "constant result": ({"constants": {"family": "vit", "error": 0.5}}, "error", "cannot be a constant"),
    "unknown family": ({"constants": {"family": "vitt"}}, "constants.family", "did you mean vit"),
    "unknown phase": ({"constants": {"family": "vit", "phase": "zeroshot"}}, "constants.phase", "did you mean zero-shot"),
    "factor of a text": ({"constants": {"family": "vit"}, "times": {"variant": 2}}, "times.variant", "cannot be multiplied"),
    "factor of nothing": ({"constants": {"family": "vit"}, "times": {"epochs": 2}}, "times.epochs", "no such column"),
    "factor 0": ({"constants": {"family": "vit"}, "times": {"params": 0}}, "times.params", "invalid factor"),
    "no family": ({}, "family", "state it in `constants`"),
}


@pytest.mark.parametrize("case", WRONG_MAPS)
def test_errors_name_the_constant_or_the_factor(case: str, tmp_path: Path) -> None:
    maps, field, message = WRONG_MAPS[case]
    path = table(tmp_path, CLIP)
    with pytest.raises(UserError, match=message) as raised:
        read_rows(path, "s", CLIP_COLUMNS, results.COLUMNS, **maps)
    assert (raised.value.file, raised.value.field) == (str(path), field)


@pytest.mark.parametrize(
    ("cells", "column", "message"),
    [
        (("0.31", "1.31"), "acc1", "if it is a loss"),
        (("0.4B", "0"), "seen", "0 is not allowed"),
        (("80M,0.4B", ","), "unique", "images, or of examples seen"),
        (("s-32,63", "s-32,"), "mparams", "not a published model"),
    ],
)
def test_wrong_cells_of_mapped_columns(cells: tuple[str, str], column: str, message: str, tmp_path: Path) -> None:
    path = table(tmp_path, CLIP.replace(*cells, 1))
    with pytest.raises(UserError, match=message) as raised:
        read_rows(path, "s", CLIP_COLUMNS, results.COLUMNS, constants={"family": "vit", "phase": "zero-shot"})
    assert (raised.value.line, raised.value.field) == (2, column)


def test_a_study_of_a_strangers_table_runs_from_yaml(tmp_path: Path) -> None:
    """Constants, columns and factors reach the rows from the study file and from the command alike."""
    path = table(tmp_path, CLIP)
    columns = ", ".join(f"{ours}: {theirs}" for ours, theirs in CLIP_COLUMNS.items())
    maps = f"columns: {{{columns}}}, constants: {{family: vit, phase: zero-shot}}, times: {{params: 1e6, forward_flops: 2e9}}"
    study = table(tmp_path, f"name: clip\nimports: [{{name: yaml, table: {path.name}, {maps}}}]\n", "s.yaml")
    import_tables(prepare(study, str(tmp_path / "runs")))
    arguments = ["import-results", str(path), "--storage", str(tmp_path / "runs"), "--name", "command", "--source", path.name]
    arguments += [part for ours, theirs in CLIP_COLUMNS.items() for part in ("--column", f"{ours}={theirs}")]
    arguments += ["--constant", "family=vit", "--constant", "phase=zero-shot", "--times", "params=1e6"]
    result = CliRunner().invoke(app, [*arguments, "--times", "forward_flops=2e9"])
    assert result.exit_code == 0, result.output
    first, second = (imports.load(tmp_path / "runs", name, results.COLUMNS) for name in ("yaml", "command"))
    pd.testing.assert_frame_equal(first, second)
    assert len(first) == 2


def test_a_target_may_be_any_variant_with_parameters_and_flops_in_the_table(tmp_path: Path) -> None:
    lines = ["family,variant,params,forward_flops,dataset_size,epochs,phase,task,top1"]
    for size, (name, params) in enumerate([("tiny", 10), ("mid", 40), ("big", 160)]):
        for images in (1, 4, 16, 64):
            lines.append(
                f"vit,{name},{params}M,{params}B,{images}M,7,zero-shot,imagenet,{1 - 0.9 / (1 + size) * images**-0.2:.4f}"
            )
    table(tmp_path, "\n".join(lines))
    text = "name: s\nimports: [{name: t, table: table.csv}]\ntargets: [{variant: big, dataset_size: 256M}]\n"
    prepared = prepare(table(tmp_path, text, "s.yaml"), str(tmp_path / "runs"))
    import_tables(prepared)
    frame = imports.load(tmp_path / "runs", "t", results.COLUMNS)
    study = prepared.file.study
    (view,) = views(frame, study.claims, {})
    assert (view.name, view.how) == ("imagenet, zero-shot", "zero-shot")
    evidence = gather(frame, view, study.claims)
    run = target_run(study.targets[0], study, evidence.points)
    assert (run.family, run.params, run.epochs) == ("vit", 160_000_000, 7.0)
    assert run.pretrain_flops == pytest.approx(3 * 160e9 * 7 * 256e6)
    made = forecast(study.targets[0], study, [evidence])
    assert made.low < 0.3 * 256**-0.2 < made.high
    unknown = study.targets[0].model_copy(update={"variant": "huge"})
    with pytest.raises(UserError, match="no row of 'huge'") as raised:
        target_run(unknown, study, evidence.points)
    assert raised.value.allowed == "tiny, mid, big"
