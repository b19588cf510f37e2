"""Targets are predicted from the other rows, saved before they are run, and compared with their result."""

from __future__ import annotations

from pathlib import Path

import pytest
from claim_rows import data_curve_rows, frame, row, with_target

from orchestrator.verdicts import findings
from orchestrator.verdicts.forecast import settle


def test_a_target_is_saved_before_and_compared_after(tmp_path: Path) -> None:
    rows = data_curve_rows([1000, 2000, 4000, 8000, 16000, 32000, 64000])
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
        assert (after.error, after.made, after.made_before) == (before.error, before.made, True), (
            "the saved forecast is the one that is compared"
        )
        assert after.measured == pytest.approx(measured)
        (later,) = settle(fresh, tmp_path / "elsewhere")
        assert not later.made_before
        assert later.error == pytest.approx(before.error), "the row of the target is not used"


def test_a_target_without_a_law_is_refused_with_the_reason() -> None:
    (forecast,) = findings.findings(frame(data_curve_rows([1000, 2000])), with_target()).forecasts
    assert forecast.state == "refused"
    assert "distinct x" in forecast.refused
    (unknown,) = findings.findings(frame(data_curve_rows([1000, 2000])), with_target(task="pets")).forecasts
    assert "pets" in unknown.refused
