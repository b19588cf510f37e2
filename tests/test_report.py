"""The sentences, figures and page of the report: equal to the rows, gaps shown as gaps, self-contained, escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from records import run_record
from test_results import cell, finish, full_store, make_store

from orchestrator import results
from orchestrator.report import plots, tables
from orchestrator.report.page import write_page
from orchestrator.report.sentences import summary_sentences
from orchestrator.results import summary
from orchestrator.store.state import State

FIGURES = [
    plots.error_vs_dataset_size,
    plots.error_vs_pretrain_flops,
    plots.error_vs_finetune_epochs,
    plots.fewshot_error_vs_dataset_size,
    plots.upstream_error_vs_dataset_size,
]
CANARY = "<script>alert(1)</script>"


def done(root: Path, seeds: int = 1) -> pd.DataFrame:
    return results.collect(full_store(root, seeds).root, "toy")


def with_a_gap(root: Path, reason: str = "loss not finite") -> pd.DataFrame:
    """ViT diverged at the middle one of three sizes; its children were skipped."""
    sizes = (1000, 4000, 16000)
    store = make_store(root, [run for family in ("vit", "resnet") for size in sizes for run in cell(family, size)])
    for run in results.collect(root, "toy")["run_id"]:
        if "vit-4000" not in run:
            finish(store, run, 0.9)
        elif run.startswith("pretrain"):
            store.run(run).begin(run_record(run))
            store.run(run).fail(State.DIVERGED, reason)
        else:
            store.run(run).fail(State.SKIPPED, "parent has no result")
    return results.collect(root, "toy")


def text_of(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def lines_of(figure: Figure) -> dict[str, Any]:
    return {str(line.get_label()): line for line in figure.axes[0].lines if line.get_marker() not in (None, "None")}


@pytest.mark.parametrize(
    ("number", "text"),
    [(512, "512"), (1024, "1k"), (4096, "4k"), (16384, "16k"), (999_999, "1M"), (1_281_167, "1.3M"), (303e6, "303M")],
)
def test_counts_have_a_suffix(number: float, text: str) -> None:
    assert summary.count(number) == text


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (3.1e10, "31 gigaFLOPs"),
        (1.85e12, "1.9 teraFLOPs"),
        (2.55e20, "255 exaFLOPs"),
        (4.2e21, "4200 exaFLOPs"),
        (0, "0 FLOPs"),
    ],
)
def test_flops_are_written_in_the_largest_unit(flops: float, text: str) -> None:
    assert summary.flops_text(flops) == text


def test_summary_names_the_leading_family_and_the_change_of_error(tmp_path: Path) -> None:
    text = " ".join(summary_sentences(done(tmp_path)))
    assert "16 of 16 runs are done" in text
    assert "ResNet leads with the fewest images (1k): ResNet 30% (R8), ViT 50% (V8)" in text
    assert "ViT leads with the most images (16k): ViT 5.0% (V8), ResNet 20% (R8)" in text
    assert "ViT on digits, 7 fine-tune epochs: best error 5.0% (V8, pretrained on 16k images)" in text
    assert "from 50% to 5.0%" in text
    assert "with at most" in text
    assert "single seed" in text


def test_families_whose_seeds_overlap_are_tied(tmp_path: Path) -> None:
    frame = done(tmp_path, seeds=3)
    rows = (frame["family"] == "resnet") & (frame["dataset_size"] == 16000)
    frame.loc[rows, "error"] = 0.045 + 0.01 * frame.loc[rows, "seed"]
    assert any("ViT and ResNet are tied" in s or "ResNet and ViT are tied" in s for s in summary_sentences(frame))
    assert not any("single seed" in s for s in summary_sentences(frame))


def test_summary_does_not_compare_families_without_results(tmp_path: Path) -> None:
    frame = done(tmp_path)
    frame.loc[(frame["family"] == "vit") & (frame["dataset_size"] == 1000), ["status", "top1", "error"]] = [
        "FAILED",
        np.nan,
        np.nan,
    ]
    sentences = summary_sentences(frame)
    assert any("cannot be compared with the fewest images" in s and "no result for ViT" in s for s in sentences)
    planned = frame.assign(status="PLANNED", top1=np.nan, error=np.nan)
    assert "the families cannot be compared" in summary_sentences(planned)[-1]


def test_families_at_different_compute_are_not_compared_at_equal_compute(tmp_path: Path) -> None:
    frame = done(tmp_path)
    frame.loc[frame["family"] == "vit", "pretrain_flops"] *= 1e6
    assert any("no common range of FLOPs" in s for s in summary_sentences(frame))
    assert "no common range" in text_of(plots.error_vs_pretrain_flops(frame))


@pytest.mark.parametrize("phases", [["pretrain"], ["pretrain", "probe"]])
def test_studies_without_fine_tunes_are_summarised_by_their_other_runs(tmp_path: Path, phases: list[str]) -> None:
    frame = done(tmp_path)
    frame = frame[frame["phase"].isin(phases)].reset_index(drop=True)
    assert any("ViT leads" in s for s in summary_sentences(frame))
    assert write_page(frame, tmp_path, {}).exists()


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("seeds", [1, 3])
def test_every_figure_has_a_line_for_each_variant_and_a_headline(tmp_path: Path, draw: Any, seeds: int) -> None:
    before = dict(mpl.rcParams)
    figure = draw(done(tmp_path, seeds))
    assert set(lines_of(figure)) == {"V8", "R8"}
    assert len({line.get_color() for line in lines_of(figure).values()}) == 2
    assert "lead" in text_of(figure)
    assert ("mean and range of 3 seeds" if seeds > 1 else "one seed") in text_of(figure)
    figure.savefig(tmp_path / "figure.png")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_every_figure_can_be_drawn_without_results_and_without_rows(tmp_path: Path, draw: Any) -> None:
    make_store(tmp_path, cell("vit", 1000) + cell("resnet", 4000))
    frame = results.collect(tmp_path, "toy")
    for rows in (frame, frame.iloc[:0]):
        figure = draw(rows)
        assert "No result yet" in text_of(figure)
        figure.savefig(tmp_path / "figure.png")


def test_a_run_without_a_result_is_a_gap_that_breaks_the_line(tmp_path: Path) -> None:
    frame = with_a_gap(tmp_path)
    figure = plots.error_vs_dataset_size(frame)
    line = lines_of(figure)["V8"]
    assert [bool(np.isfinite(y)) for y in line.get_ydata()] == [True, False, True]
    assert "1 of 6 runs without a result" in text_of(figure)


def test_points_are_means_over_seeds_of_the_longest_pretraining(tmp_path: Path) -> None:
    frame = done(tmp_path, seeds=3)
    shorter = frame.assign(length="1 epochs", pretrain_flops=frame["pretrain_flops"] / 6, error=0.99)
    figure = plots.error_vs_dataset_size(pd.concat([frame, shorter], ignore_index=True))
    np.testing.assert_allclose(lines_of(figure)["V8"].get_ydata(), [0.51, 0.06])


def test_equal_flops_on_different_data_are_separate_points(tmp_path: Path) -> None:
    frame = done(tmp_path).assign(pretrain_flops=1e12, length="100 steps")
    points = summary.flops_curve(summary.finetuned(frame))
    assert len(points) == 4
    assert sorted(points["mean"].round(3)) == [0.05, 0.2, 0.3, 0.5]


def test_an_error_of_zero_is_drawn(tmp_path: Path) -> None:
    frame = done(tmp_path)
    frame.loc[(frame["family"] == "vit") & (frame["dataset_size"] == 16000), ["top1", "error"]] = [1.0, 0.0]
    assert plots.error_vs_dataset_size(frame).axes[0].get_yscale() == "linear"
    assert any("best error 0%" in s for s in summary_sentences(frame))


def test_names_are_not_interpreted_as_formulas(tmp_path: Path) -> None:
    frame = done(tmp_path).replace({"variant": {"V8": r"$\frac$"}, "task": {"digits": "$x"}})
    for draw in FIGURES:
        draw(frame).savefig(tmp_path / "figure.png")


class Page(HTMLParser):
    """What a browser would load and run, and the text it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self.shown = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        given = dict(attrs)
        self._inside = "data" if given.get("type") == "application/json" else tag if tag in ("script", "style") else ""
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.shown += data


FACTS: dict[str, Any] = {
    "title": "A study",
    "note": "A note",
    "study_yaml": "name: toy\n",
    "planned": {"runs": 16, "cells": 4, "train_flops": 2.4e15, "naive_train_flops": 9e15, "core_hours": 1.5, "gpu_hours": 0.5},
    "wall_seconds": 250.0,
    "training_seconds": 200.0,
    "storage": "/somewhere/runs",
    "packages": {"torch": "2.13", "ray": "2.60"},
}


def test_the_report_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    path = write_page(done(tmp_path), tmp_path / "out", FACTS)
    assert sorted(p.name for p in path.parent.iterdir()) == ["figures", "report.html"]
    assert path.stat().st_size < 2_500_000, "plotly's basic bundle is in it once, with little else"
    text = path.read_text()
    page = Page(text)
    assert page.loads
    assert all(load.startswith("data:image/") for load in page.loads)
    assert not {"link", "iframe", "object"} & set(page.tags)
    for script in page.scripts:
        text = text.replace(script, "")
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.tags.count("img") == 6
    assert sorted(p.suffix for p in (path.parent / "figures").iterdir()) == [".png"] * 6 + [".svg"] * 6
    for fact in (
        "A study",
        "A note",
        "name: toy",
        "4 min",
        "2.4 petaFLOPs",
        "/somewhere/runs",
        "torch 2.13, ray 2.60",
    ):
        assert fact in page.shown, fact


def test_the_page_runs_its_own_scripts_and_no_other(tmp_path: Path) -> None:
    page = Page(write_page(done(tmp_path), tmp_path, FACTS).read_text())
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts}
    assert set(re.findall(r"'sha256-([^']+)'", page.policy)) == hashes
    assert len(hashes) == 2
    assert "default-src 'none'" in page.policy
    assert "script-src 'sha256-" in page.policy
    assert "unsafe" not in page.policy.replace("style-src 'unsafe-inline'", "")


def test_costs_are_compared_with_the_plan_in_hours_and_price(tmp_path: Path) -> None:
    phases = {"probe": {"core_hours": 3.5, "gpu_hours": 0.7}}
    planned = {**FACTS["planned"], "cost": 1.0, "price_per_gpu_hour": 2.0, "phases": phases}
    frame = done(tmp_path)
    costs = {name: (plan, spent) for name, plan, spent in tables.costs(frame, {"planned": planned})}
    assert costs["GPU-hours"] == ("0.5", "0.64")  # 16 runs of two GPUs for 72 seconds
    assert costs["price at 2 per GPU-hour"] == ("1.00", "1.28")
    rows = {row["phase"]: row for row in tables.phases(frame, phases)}
    assert rows["probe"]["gpu_hours"] == "0.16 of 0.7"
    assert rows["pretrain"]["gpu_hours"] == "0.16"


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    frame = done(tmp_path)
    first = write_page(frame, tmp_path / "a", FACTS).read_bytes()
    assert write_page(frame, tmp_path / "b", FACTS).read_bytes() == first


def test_all_text_from_files_is_escaped(tmp_path: Path) -> None:
    frame = with_a_gap(tmp_path, reason=f"{CANARY}\nTraceback {CANARY}")
    frame = frame.replace({"task": {"digits": CANARY}, "variant": {"V8": CANARY}})
    facts = {"title": CANARY, "note": CANARY, "study_yaml": CANARY, "resolved": {CANARY: CANARY}, CANARY: {CANARY: [CANARY]}}
    text = write_page(frame, tmp_path, facts).read_text()
    page = Page(text)
    assert page.tags.count("script") == 4, "two with data, two with code"
    assert CANARY not in text
    assert page.shown.count(CANARY) > 8
    assert all(re.fullmatch(r"[a-z0-9.-]+", p.name) for p in (tmp_path / "figures").iterdir())


def test_the_report_needs_only_rows_and_names_the_causes_of_failures(tmp_path: Path) -> None:
    page = Page(write_page(with_a_gap(tmp_path, reason="loss not finite at step 7"), tmp_path, {}).read_text())
    assert "DIVERGED, 1 run, 1 attempt: loss not finite at step 7" in page.shown
    assert "pretrain-vit-4000-0" in page.shown
    assert "SKIPPED, 3 runs" in page.shown
    assert "diverged" in page.shown.split("Cost")[0]  # the table shows the status in gaps


def test_the_table_for_a_terminal_has_numbers_and_gaps(tmp_path: Path) -> None:
    lines = tables.results_text(with_a_gap(tmp_path)).splitlines()
    assert "on digits" in lines[0]
    assert lines[1].split() == ["model", "family", "images", "upstream", "1", "epoch", "7", "epochs", "5", "shots"]
    assert ["V8", "ViT", "4k", "diverged", *["skipped"] * 3] in [line.split() for line in lines]
    assert ["R8", "ResNet", "1k", *["90.0"] * 4] in [line.split() for line in lines]


def test_a_study_without_results_has_a_report(tmp_path: Path) -> None:
    make_store(tmp_path, cell("vit", 1000))
    page = Page(write_page(results.collect(tmp_path, "toy"), tmp_path, {}).read_text())
    assert "0 of 4 runs are done" in page.shown
    assert "No run failed; 4 runs are not finished yet." in page.shown
