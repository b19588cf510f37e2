"""The ViT paper's own tables: verdicts and compute ratios agree with an independent re-analysis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

from orchestrator import results
from orchestrator.results.import_table import read_rows
from orchestrator.spec.study import read_study
from orchestrator.verdicts import findings
from orchestrator.verdicts.answers import Findings


@pytest.fixture(scope="module")
def published() -> Findings:
    study = read_study(ROOT / "studies" / "vit_paper_published.yaml").study
    tables = [read_rows(ROOT / "studies" / t.table, t.source, {}, results.COLUMNS) for t in study.imports if t.table]
    return findings.findings(pd.concat(tables, ignore_index=True).drop_duplicates("run_id"), study)


def ratio(published: Findings, view: str, method: str) -> Any:
    return next(c.ratio for c in published.comparisons if (c.view, c.first, c.method) == (view, "resnet", method))


def test_the_papers_compute_ratios(published: Findings) -> None:
    """An independent re-analysis: 4.2x [2.7, 8.7], 6.1x to 2.8x with accuracy; 3.2x without Flowers; 2.1x [1.5, 3.4]."""
    without = "mean of 4 tasks, without flowers"
    for method in ("M1", "M2", "auto", "fronts"):
        assert 2.7 <= ratio(published, "mean of 5 tasks", method).value <= 8.7
    assert 1.5 <= ratio(published, "imagenet", "M1").value <= 3.4
    assert ratio(published, without, "M1").value == pytest.approx(3.2, abs=0.5)
    assert "flowers" in published.ceilings


def test_the_trend_of_the_ratio_depends_on_the_form(published: Findings) -> None:
    """A statement on the trend must name the form."""
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
        "hybrid_advantage_vanishes": "cannot tell",  # -1%, but up to 7% may remain: more than the margin
        "no_saturation": "holds",
    }
    assert heads["larger_needs_data"].view == "imagenet"
    assert heads["less_compute"].view == "mean of 5 tasks"
    assert len(heads["less_compute"].runs) == (6 + 6) * 5, "one ResNet of seven is above the frontier"
    assert heads["larger_needs_data"].provisional, "one seed: the noise between seeds is assumed"
    assert "with a second seed" in heads["larger_needs_data"].method
    assert not heads["less_compute"].provisional, "its noise is measured, by the scatter about the laws"


def test_findings_are_written_as_json_and_csv(published: Findings, tmp_path: Path) -> None:
    assert json.dumps(findings.as_data(published), allow_nan=False)
    findings.save(published, tmp_path)
    table = pd.read_csv(tmp_path / "claims.csv")
    assert table.groupby("claim")["headline"].sum().eq(1).all()
    assert len(findings.as_text(published).splitlines()) == 5


def test_the_published_study_runs_without_ray_or_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator import study;"
        f"end = study.run(Path({str(ROOT / 'studies' / 'vit_paper_published.yaml')!r}), storage={str(tmp_path)!r});"
        "sys.exit(end or ('ray' in sys.modules or 'torch' in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "holds        ViT needs less compute than ResNet at equal error" in process.stdout
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
