"""Claims get the verdict that made-up rows were made to deserve, targets are saved before and compared after, and the ViT
paper's own tables say what an independent re-analysis found in them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, WriteStudy

from orchestrator import results
from orchestrator.results.import_table import read_rows as table_rows
from orchestrator.spec.claims import Claims, Import, Target
from orchestrator.spec.schema import Study
from orchestrator.spec.study import read_study
from orchestrator.verdicts import findings
from orchestrator.verdicts.answers import Claim, Findings, Verdict
from orchestrator.verdicts.forecast import settle
from vitmodel.config.base import UserError

SIZES = [1000, 4000, 16000, 64000]
PARAMS = {"S/16": 1e6, "L/16": 1e7, "R1": 1e6, "R2": 1e7, "H1": 2e6}


def row(family: str, variant: str, size: int, error: float, **changes: Any) -> dict[str, Any]:
    """A finished fine-tune, pretrained for 6 epochs."""
    facts = {name: "" if kind == "str" else math.nan if kind == "float64" else 0 for name, kind in results.COLUMNS.items()}
    known = {"family": family, "variant": variant, "params": int(PARAMS[variant]), "dataset": "d", "dataset_size": size}
    known |= {"epochs": 6.0, "pretrain_flops": 6.0 * PARAMS[variant] * size, "phase": "finetune", "task": "t"}
    known |= {"finetune_epochs": 7.0, "error": error, "top1": 1 - error, "status": "DONE", "test_images": 100_000}
    found = {**facts, **known, **changes}
    key = [found[name] for name in ("family", "variant", "dataset_size", "task", "finetune_epochs", "seed", "pretrain_flops")]
    return {**found, "run_id": "-".join(map(str, key))}


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype(results.COLUMNS)


def asking(**claims: Any) -> Study:
    return Study(name="made-up", imports=(Import(name="none"),), claims=Claims(**claims))


def headline(found: Findings, name: str) -> Claim:
    return next(claim for claim in found.claims if claim.name == name and claim.headline)


def judged(rows: list[dict[str, Any]], name: Any, **claims: Any) -> Claim:
    return headline(findings.findings(frame(rows), asking(check=(name,), **claims)), name)


# --- verdicts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("large_errs", "verdict"), [(1.3, Verdict.HOLDS), (0.7, Verdict.FAILS), (1.01, Verdict.CANNOT_TELL)])
def test_larger_needs_data(large_errs: float, verdict: Verdict) -> None:
    rows = [row("vit", "S/16", n, 0.5 * (n / 1000) ** -0.2) for n in SIZES]
    rows += [row("vit", "L/16", n, 0.5 * large_errs * (n / 1000) ** -0.4) for n in SIZES]
    claim = judged(rows, "larger_needs_data")
    assert claim.verdict is verdict
    assert claim.number.low < 100 * (large_errs - 1) < claim.number.high
    assert len(claim.runs) == 4, "two models at the fewest and at the most images"


CROSSING = {"falls": (-0.6, Verdict.HOLDS), "level": (-0.2, Verdict.FAILS), "touches": (-0.37, Verdict.CANNOT_TELL)}


@pytest.mark.parametrize("case", CROSSING)
def test_overtakes_with_data(case: str) -> None:
    exponent, verdict = CROSSING[case]
    rows = [row("resnet", "R1", n, 0.3 * (n / 1000) ** -0.2) for n in SIZES]
    rows += [row("vit", "S/16", n, 0.6 * (n / 1000) ** exponent) for n in SIZES]
    claim = judged(rows, "overtakes_with_data")
    assert claim.verdict is verdict, claim.sentence
    if verdict is Verdict.HOLDS:
        crossing = next(part for part in claim.parts if part.unit == "images")
        assert crossing.value == pytest.approx(1000 * 2 ** (1 / 0.4), rel=0.01)
        assert crossing.low < crossing.value < crossing.high


def along_compute(family: str, variant: str, flops: np.ndarray, error: np.ndarray) -> list[dict[str, Any]]:
    """A model trained ever longer on the same images."""
    pairs = zip(flops.tolist(), error.tolist(), strict=True)
    return [row(family, variant, 64000, e, pretrain_flops=f, epochs=f / 1e15) for f, e in pairs]


def ladder(family: str, variant: str, factor: float, exponent: float = 0.3, seed: int = 0) -> list[dict[str, Any]]:
    """Seven computes at one dataset size."""
    noise = 0.01 * np.random.default_rng(seed).standard_normal(7)
    flops = np.geomspace(1e15, 1e18, 7)
    error = 0.4 * (flops / factor / 1e15) ** -exponent * np.exp(noise)
    return along_compute(family, variant, flops, error)


@pytest.mark.parametrize(
    ("ratio", "less", "two_to_four"),
    [
        (3.0, Verdict.HOLDS, Verdict.HOLDS),
        (10.0, Verdict.HOLDS, Verdict.FAILS),
        (0.2, Verdict.FAILS, Verdict.FAILS),
        (1.0, Verdict.CANNOT_TELL, Verdict.FAILS),
        (4.0, Verdict.HOLDS, Verdict.CANNOT_TELL),
    ],
)
def test_compute_ratio_claims(ratio: float, less: Verdict, two_to_four: Verdict) -> None:
    rows = ladder("resnet", "R1", ratio, seed=1) + ladder("vit", "S/16", 1.0, seed=5)
    found = findings.findings(frame(rows), asking(form="M1"))
    claim = headline(found, "less_compute")
    assert (claim.verdict, headline(found, "two_to_four_times_less").verdict) == (less, two_to_four), claim.sentence
    assert claim.number.low < ratio < claim.number.high
    assert claim.method.startswith("M1 laws"), "the form is named"
    assert {c.method for c in found.comparisons} >= {"M1", "M2", "fronts"}


def test_hybrids_lose_their_lead() -> None:
    vit = ladder("vit", "S/16", 1.0)
    assert judged(vit + ladder("hybrid", "H1", 0.3, 0.25, 1), "hybrid_advantage_vanishes", form="M1").verdict is Verdict.HOLDS
    assert judged(vit + ladder("hybrid", "H1", 0.3, 0.3, 1), "hybrid_advantage_vanishes", form="M1").verdict is Verdict.FAILS


def test_saturation() -> None:
    flops = np.geomspace(1e15, 1e18, 9)

    def verdict(error: np.ndarray) -> Verdict:
        noisy = error * np.exp(0.003 * np.random.default_rng(0).standard_normal(9))
        return judged(along_compute("vit", "S/16", flops, noisy), "no_saturation").verdict

    assert verdict(0.4 * (flops / 1e15) ** -0.3) is Verdict.HOLDS
    assert verdict(0.1 + 0.3 * (flops / 1e15) ** -1.2) is Verdict.FAILS


@pytest.mark.parametrize(("excess", "verdict"), [(1.0, Verdict.HOLDS), (1.3, Verdict.FAILS)])
def test_few_epochs_suffice(excess: float, verdict: Verdict) -> None:
    error = {1.0: 2.0, 3.0: excess, 7.0: 1.0}
    noise = np.random.default_rng(0).normal(0, 0.01, (4, 3))
    rows = [
        row("vit", "S/16", n, 0.1 * error[e] * math.exp(noise[i, j]), finetune_epochs=e)
        for i, n in enumerate(SIZES)
        for j, e in enumerate(error)
    ]
    claim = judged(rows, "few_epochs_suffice")
    assert claim.verdict is verdict, claim.sentence
    assert "After 3 fine-tune epochs" in claim.sentence
    assert len(claim.runs) == 8
    assert judged(rows, "few_epochs_suffice", few_epochs=1.0).verdict is Verdict.FAILS


# --- honesty --------------------------------------------------------------------------------------------------


def test_small_test_sets_and_noisy_seeds_widen_intervals() -> None:
    def width(seeds: float, images: int) -> float:
        noise = np.random.default_rng(0).normal(0, seeds, (2, 4, 3))
        rows = [
            row(*model, n, 0.3 * math.exp(noise[i, j, s]), seed=s, test_images=images)
            for i, model in enumerate([("vit", "S/16"), ("vit", "L/16")])
            for j, n in enumerate(SIZES)
            for s in range(3)
        ]
        claim = judged(rows, "larger_needs_data")
        assert "measured" in claim.method
        return claim.number.high - claim.number.low

    assert width(0.1, 10**6) > 3 * width(0.02, 10**6)
    assert width(0.02, 100) > 3 * width(0.02, 10**6)


def test_one_seed_is_said_to_be_one() -> None:
    rows = [row("vit", v, n, 0.3 if v == "S/16" else 0.32) for v in ("S/16", "L/16") for n in SIZES]
    claim = judged(rows, "larger_needs_data", seed_spread=0.1)
    assert claim.verdict is Verdict.CANNOT_TELL
    assert "10% between seeds assumed" in claim.method
    assert judged(rows, "larger_needs_data", seed_spread=0.001).verdict is Verdict.HOLDS


def test_no_rows_no_claims_and_no_law_no_verdict() -> None:
    assert findings.findings(frame([row("vit", "S/16", 1000, math.nan, status="FAILED")]), asking()).claims == ()
    rows = [row(family, v, 1000, 0.3) for family, v in (("vit", "S/16"), ("vit", "L/16"), ("resnet", "R1"))]
    found = findings.findings(frame(rows), asking())
    assert headline(found, "less_compute").verdict is Verdict.CANNOT_TELL
    assert "distinct x" in headline(found, "no_saturation").sentence
    assert "overtakes_with_data" not in {claim.name for claim in found.claims}, "one size says nothing about data"


def test_a_mean_needs_every_task() -> None:
    rows = [row("vit", "S/16", n, 0.2, task=task) for n in SIZES for task in ("a", "b") if (n, task) != (4000, "b")]
    curve = next(c for c in findings.findings(frame(rows), asking()).curves if c.view == "mean of 2 tasks")
    assert sorted(p.dataset_size for p in curve.points) == [1000, 16000, 64000]


# --- the paper ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> Findings:
    study = read_study(ROOT / "studies" / "vit_paper_published.yaml").study
    tables = [table_rows(ROOT / "studies" / t.table, t.source, {}, results.COLUMNS) for t in study.imports if t.table]
    return findings.findings(pd.concat(tables, ignore_index=True).drop_duplicates("run_id"), study)


def ratio(found: Findings, view: str, method: str) -> Any:
    return next(c.ratio for c in found.comparisons if (c.view, c.first, c.method) == (view, "resnet", method))


def test_the_papers_compute_ratios(published: Findings) -> None:
    """An independent re-analysis: 4.2x [2.7, 8.7], 6.1x to 2.8x with accuracy; 3.2x without Flowers; 2.1x [1.5, 3.4]."""
    without = "mean of 4 tasks, without flowers"
    for method in ("M1", "M2", "auto", "fronts"):
        assert 2.7 <= ratio(published, "mean of 5 tasks", method).value <= 8.7
    assert 1.5 <= ratio(published, "imagenet", "M1").value <= 3.4
    assert ratio(published, without, "M1").value == pytest.approx(3.2, abs=0.5)
    assert "flowers" in published.ceilings


def test_the_trend_of_the_ratio_depends_on_the_form(published: Findings) -> None:
    """So that nobody claims the one without naming the other."""
    ends = {m: [at.ratio for at in ratio(published, "mean of 5 tasks", m).at] for m in ("M1", "M2", "fronts")}
    assert ends["M1"][0] == pytest.approx(6.1, abs=1.0)
    assert ends["M1"][-1] == pytest.approx(2.8, abs=0.5)
    assert ends["M2"][0] < ends["M2"][-1]
    assert ends["fronts"][0] < ends["fronts"][-1]


def test_the_papers_claims(published: Findings) -> None:
    heads = {claim.name: claim for claim in published.claims if claim.headline}
    verdicts = {name: str(claim.verdict) for name, claim in heads.items()}
    assert verdicts == {
        "larger_needs_data": "holds",
        "less_compute": "holds",
        "two_to_four_times_less": "cannot tell",
        "hybrid_advantage_vanishes": "holds",
        "no_saturation": "holds",
    }
    assert heads["larger_needs_data"].view == "imagenet"
    assert heads["less_compute"].view == "mean of 5 tasks"
    assert len(heads["less_compute"].runs) == (6 + 7) * 5


def test_findings_are_json_and_deterministic(published: Findings, tmp_path: Path) -> None:
    assert json.dumps(findings.as_data(published), allow_nan=False)
    rows = frame(ladder("resnet", "R1", 3.0, seed=1) + ladder("vit", "S/16", 1.0))
    one, two = (json.dumps(findings.as_data(findings.findings(part, asking()))) for part in (rows, rows.iloc[::-1]))
    assert one == two, "the same rows in any order"
    findings.keep(published, tmp_path)
    table = pd.read_csv(tmp_path / "claims.csv")
    assert table.groupby("claim")["headline"].sum().eq(1).all()
    assert len(findings.as_text(published).splitlines()) == 5


def test_the_published_study_runs_by_the_usual_command_and_trains_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator import study;"
        f"end = study.run(Path({str(ROOT / 'studies' / 'vit_paper_published.yaml')!r}), storage={str(tmp_path)!r});"
        "sys.exit(end or ('ray' in sys.modules or 'torch' in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "holds        ViT needs less compute than ResNet at equal error" in ended.stdout
    folder = tmp_path / "studies" / "vit-paper-published"
    assert {path.name for path in folder.iterdir()} >= {
        "results.csv",
        "report.html",
        "claims.csv",
        "claims.json",
        "findings.json",
    }
    assert "needs less compute than ResNet" in (folder / "report.html").read_text()
    assert not (tmp_path / "runs").exists()


# --- targets --------------------------------------------------------------------------------------------------


def curve_rows(sizes: list[int]) -> list[dict[str, Any]]:
    noise = np.random.default_rng(0).normal(0, 0.01, len(sizes))
    return [
        row("vit", "S/16", n, float((0.05 + 0.5 * (n / 1000) ** -0.4) * math.exp(z))) for n, z in zip(sizes, noise, strict=True)
    ]


def with_target(**target: Any) -> Study:
    study = asking(check=())
    return study.model_copy(
        update={"targets": (Target(**{"variant": "S/16", "dataset_size": 128_000, "epochs": 6.0, **target}),)}
    )


def test_a_target_is_saved_before_and_compared_after(tmp_path: Path) -> None:
    rows = curve_rows([1000, 2000, 4000, 8000, 16000, 32000, 64000])
    truth = 0.05 + 0.5 * 128**-0.4
    (before,) = settle(findings.findings(frame(rows), with_target()).forecasts, tmp_path)
    assert (before.state, before.made_before, before.by) == ("open", True, "data")
    assert before.low < truth < before.high
    assert before.beyond == {"dataset_size": 2.0}
    for measured, state in ((truth, "inside"), (2 * truth, "outside")):
        done = [*rows, row("vit", "S/16", 128_000, measured)]
        fresh = findings.findings(frame(done), with_target()).forecasts
        (after,) = settle(fresh, tmp_path)
        assert after.state == state
        assert (after.error, after.made, after.made_before) == (before.error, before.made, True), "the saved one is judged"
        assert after.measured == pytest.approx(measured)
        (hindcast,) = settle(fresh, tmp_path / "elsewhere")
        assert not hindcast.made_before
        assert hindcast.error == pytest.approx(before.error), "its own row is never used"


def test_a_target_without_a_law_is_refused_with_the_reason() -> None:
    (found,) = findings.findings(frame(curve_rows([1000, 2000])), with_target()).forecasts
    assert found.state == "refused"
    assert "distinct x" in found.refused
    (unknown,) = findings.findings(frame(curve_rows([1000, 2000])), with_target(task="pets")).forecasts
    assert "pets" in unknown.refused


# --- the study file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "field", "message"),
    [
        ({"claims": {"tasks": ["digit"]}}, "claims.tasks[0]", "did you mean digits"),
        ({"claims": {"check": ["less_computes"]}}, "claims.check[0]", "less_compute"),
        ({"claims": {"pairs": [["V16/8", "V8/8"]]}}, "claims.pairs[0][1]", "unknown model"),
        ({"claims": {"forms": "M1"}}, "claims.forms", "did you mean form"),
        ({"targets": [{"variant": "Q/16", "dataset_size": "1k"}]}, "targets[0].variant", "unknown model"),
        ({"targets": [{"variant": "V16/8"}]}, "targets[0].dataset_size", "Field required"),
    ],
)
def test_mistakes_in_claims_and_targets(section: dict[str, Any], field: str, message: str, write_study: WriteStudy) -> None:
    with pytest.raises(UserError, match=message) as found:
        read_study(write_study(lambda content: content.update(section)))
    assert found.value.field == field
    assert found.value.line
