"""Joint laws of size and data, their compute-optimal allocation, IsoFLOP minima with intervals, and `fit` on any table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from orchestrator import laws
from orchestrator.cli import app
from orchestrator.laws.isoflop_fit import compute_bins
from orchestrator.laws.points import LawError
from vitmodel.config.base import UserError

TRUTH = {"E": 1.8, "A": 450.0, "B": 2000.0, "a": 0.35, "b": 0.37}
Array = NDArray[np.float64]


def loss_of(size: Array, data: Array) -> Array:
    return TRUTH["E"] + TRUTH["A"] * size ** -TRUTH["a"] + TRUTH["B"] * data ** -TRUTH["b"]


def language_rows(count: int = 120, noise: float = 0.005, seed: int = 0) -> pd.DataFrame:
    """Rows in the shape of Chinchilla's: sizes from 50M to 10B, ten to a hundred examples a parameter, a few failed runs."""
    random = np.random.default_rng(seed)
    size = 10 ** random.uniform(7.7, 10.0, count)
    data = size * 10 ** random.uniform(0.0, 2.0, count)
    loss = loss_of(size, data) * np.exp(noise * random.standard_normal(count))
    loss[:3] *= 1.2
    return pd.DataFrame({"params": size, "tokens": data, "loss": loss, "flops": 6 * size * data})


def run_fit(frame: pd.DataFrame, folder: Path, *arguments: str) -> Any:
    path = folder / "rows.csv"
    frame.to_csv(path, index=False)
    result = CliRunner().invoke(app, ["fit", str(path), *arguments, "--json"])
    if result.exception:
        raise result.exception
    return json.loads(result.output)


def test_a_joint_law_is_recovered_despite_failed_runs() -> None:
    rows = language_rows()
    law = laws.fit_joint(rows["params"], rows["tokens"], rows["loss"])
    intervals = law.parameter_intervals()
    assert law.converged
    assert law.unidentified() == ()
    for name, truth in TRUTH.items():
        assert intervals[name][0] <= law.params[name] <= intervals[name][1], "the estimate is inside its interval"
        assert intervals[name][0] <= truth <= intervals[name][1], name
    assert law.params["a"] == pytest.approx(TRUTH["a"], abs=0.03)
    assert law.predict([1e9], [2e10])[0] == pytest.approx(float(loss_of(np.array(1e9), np.array(2e10))), rel=0.01)


def test_more_rows_give_narrower_intervals() -> None:
    widths = []
    for count in (30, 120, 360):
        spans = []
        for seed in range(3):
            rows = language_rows(count, seed=seed)
            low, high = laws.fit_joint(rows["params"], rows["tokens"], rows["loss"]).parameter_intervals()["b"]
            spans.append(high - low)
        widths.append(np.median(spans))
    assert widths[0] > widths[1] > widths[2]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """30 tables of 40 rows; the long simulation is in docs/laws.md."""
    inside = []
    for seed in range(30):
        rows = language_rows(40, seed=seed)
        intervals = laws.fit_joint(rows["params"], rows["tokens"], rows["loss"]).parameter_intervals()
        inside.append([intervals[name][0] <= truth <= intervals[name][1] for name, truth in TRUTH.items()])
    coverage = np.mean(inside, axis=0)
    assert (coverage >= 0.75).all(), coverage


def test_the_optimum_is_the_least_loss_at_its_compute() -> None:
    rows = language_rows(noise=0.0)
    law = laws.fit_joint(rows["params"], rows["tokens"], rows["loss"])
    best = laws.optimum(law)
    a, b = law.params["a"], law.params["b"]
    assert best.size_exponent == pytest.approx(b / (a + b))
    assert best.data_exponent == pytest.approx(a / (a + b))
    assert best.size_exponent_interval[0] <= TRUTH["b"] / (TRUTH["a"] + TRUTH["b"]) <= best.size_exponent_interval[1]
    for at in best.at:
        assert 6 * at.size * at.data == pytest.approx(at.compute)
        others = at.size * np.geomspace(0.5, 2, 9)
        assert at.y <= law.predict(others, at.compute / 6 / others).min() * (1 + 1e-12)


def test_the_optimum_knows_costs_that_are_not_proportional_to_size() -> None:
    rows = language_rows(noise=0.0)
    law = laws.fit_joint(rows["params"], rows["tokens"], rows["loss"])
    cost = laws.fit_cost(rows["params"], 40 * rows["params"] ** 0.8)
    assert (cost.factor, cost.power) == pytest.approx((40, 0.8))
    at = laws.optimum(law, cost).at[0]
    others = at.size * np.geomspace(0.5, 2, 9)
    assert cost.flops([at.size], [at.data])[0] == pytest.approx(at.compute)
    assert at.y <= law.predict(others, at.compute / cost.flops(others, np.ones(9))).min() * (1 + 1e-12)


def test_a_term_that_rows_do_not_need_is_not_determined() -> None:
    rows = language_rows(noise=0.01)
    only_size = 1.0 + 300 * rows["params"] ** -0.4
    law = laws.fit_joint(rows["params"], rows["tokens"], only_size * np.exp(0.01 * np.random.default_rng(1).normal(size=120)))
    assert {"B", "b"} <= set(law.unidentified())
    assert "a" not in law.unidentified()


@pytest.mark.parametrize(
    ("size", "data", "message"),
    [
        ([1e6, 1e7, 1e8], [1e9, 1e8, 1e7], "3 rows"),
        ([1e6, 1e7] * 5, np.geomspace(1e6, 1e9, 10), "2 distinct values of N"),
        (np.geomspace(1e6, 1e9, 10), [1e7] * 10, "1 distinct values of D"),
    ],
)
def test_rows_that_cannot_determine_a_joint_law(size: Any, data: Any, message: str) -> None:
    with pytest.raises(LawError, match=message):
        laws.fit_joint(size, data, np.linspace(3, 2, len(size)))


def test_blocks_of_correlated_rows_widen_the_interval() -> None:
    random = np.random.default_rng(3)
    rows = language_rows(noise=0.0).iloc[3:].reset_index(drop=True)
    runs = np.arange(len(rows)) // 9
    loss = rows["loss"] * np.exp(0.01 * random.standard_normal(runs.max() + 1)[runs])

    def width(blocks: list[int] | None) -> float:
        low, high = laws.fit_joint(rows["params"], rows["tokens"], loss, blocks=blocks).parameter_intervals()["E"]
        return high - low

    assert width(runs.tolist()) > 1.3 * width(None)


def test_fit_prints_a_joint_law_of_any_table(tmp_path: Path) -> None:
    rows = language_rows()
    (group,) = run_fit(rows, tmp_path, "--form", "L(N,D)", "--x", "params,tokens", "--y", "loss", "--by", "")
    law = group["law"]
    assert (law["form"], law["points"], law["weights"]) == ("L(N,D)", 120, "equal")
    for name, truth in TRUTH.items():
        assert law["params"][name]["low"] <= truth <= law["params"][name]["high"]
    exponent = law["optimum"]["size"]["exponent"]
    assert exponent["low"] <= TRUTH["b"] / (TRUTH["a"] + TRUTH["b"]) <= exponent["high"]
    squared = run_fit(
        rows, tmp_path, "--form", "L(N,D)", "--x", "params,tokens", "--y", "loss", "--by", "", "--loss", "squared"
    )
    assert (law["loss"], squared[0]["law"]["loss"]) == ("huber, delta 0.001", "squared")
    assert squared[0]["law"]["rmse"] < law["rmse"], "the failed runs decide it"
    text = CliRunner().invoke(
        app, ["fit", str(tmp_path / "rows.csv"), "--form", "L(N,D)", "--x", "params,tokens", "--y", "loss", "--by", ""]
    )
    assert "least y at a given compute C = 6 N D" in text.output


def test_budgets_that_scatter_form_one_isoflop_curve() -> None:
    random = np.random.default_rng(0)
    nominal = np.repeat([1e18, 3e18, 1e19, 3e19], 9)
    compute = nominal * np.exp(0.04 * random.uniform(-1, 1, len(nominal)))
    stray = np.array([1.7e18, 5.5e18])
    bins = compute_bins(np.concatenate([compute, stray]), 0.1)
    assert [len(set(bins[i * 9 : (i + 1) * 9])) for i in range(4)] == [1, 1, 1, 1]
    assert len(set(bins)) == 6
    assert bins[0] == 0, "numbered by ascending compute"


def test_isoflop_recovers_the_allocation_with_an_interval(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    budgets, sizes = np.geomspace(1e18, 1e21, 7), []
    for budget in budgets:
        sizes.append(0.09 * budget**0.5 * np.geomspace(0.3, 3, 9))
    size = np.concatenate(sizes)
    compute = np.repeat(budgets, 9) * np.exp(0.04 * random.uniform(-1, 1, size.size))
    loss = loss_of(size, compute / 6 / size) * np.exp(0.002 * random.standard_normal(size.size))
    frame = pd.DataFrame({"c": compute, "n": size, "loss": loss})
    (group,) = run_fit(frame, tmp_path, "--isoflop", "--x", "c,n", "--y", "loss", "--by", "")
    exponent = group["law"]["params"]["exponent"]
    assert exponent["low"] <= TRUTH["b"] / (TRUTH["a"] + TRUTH["b"]) <= exponent["high"]
    assert exponent["high"] - exponent["low"] < 0.1
    assert {minimum["state"] for minimum in group["law"]["minima"]} == {"interior"}
    assert all(m["size"]["low"] < m["size"]["value"] < m["size"]["high"] for m in group["law"]["minima"])


def test_a_law_of_the_frontier_leaves_dominated_rows_out(tmp_path: Path) -> None:
    x = np.geomspace(1e15, 1e19, 12)
    frame = pd.DataFrame({"flops": np.tile(x, 3), "error": np.concatenate([k * 50 * x**-0.12 for k in (1, 1.3, 1.8)])})
    arguments = ["--x", "flops", "--by", "", "--form", "M1"]
    (front,) = run_fit(frame, tmp_path, *arguments, "--frontier")
    assert front["law"]["points"] == 12
    assert front["law"]["params"]["c"]["value"] == pytest.approx(0.12, abs=1e-3)
    assert run_fit(frame, tmp_path, *arguments)[0]["law"]["points"] == 36


def test_options_of_fits_of_one_column(tmp_path: Path) -> None:
    x = np.geomspace(1e3, 1e6, 10)
    curves = [(family, a * x**-c + 0.1) for family, a, c in (("vit", 9.0, 0.5), ("resnet", 3.0, 0.4))]
    frame = pd.concat([pd.DataFrame({"family": f, "n": x, "error": np.minimum(y, 0.9), "run": range(10)}) for f, y in curves])
    arguments = ["--x", "n", "--by", "family"]
    shared = run_fit(frame, tmp_path, *arguments, "--share-floor", "--weights", "equal")
    floors = [group["law"]["params"]["e"]["value"] for group in shared]
    assert floors[0] == pytest.approx(floors[1])
    assert floors[0] == pytest.approx(0.1, abs=0.01)
    frame["error"] *= np.where((frame["family"] == "vit") & (frame["run"] == 4), 1.5, 1.0)
    squared, huber = (
        run_fit(frame, tmp_path, *arguments, "--form", "M2", "--weights", "equal", "--loss", loss)[0]["law"]["params"]["c"][
            "value"
        ]
        for loss in ("squared", "huber")
    )
    assert abs(huber - 0.5) < abs(squared - 0.5)
    assert run_fit(frame, tmp_path, *arguments, "--form", "M4", "--chance", "0.9", "--block", "run")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--form", "L(N,D)", "--x", "params"], "--x"),
        (["--form", "M1", "--x", "params,tokens"], "--x"),
        (["--isoflop", "--x", "flops,params", "--form", "M2"], "--form"),
        (["--form", "L(N,D)", "--x", "params,tokens", "--frontier"], "--frontier"),
        (["--form", "L(N,D)", "--x", "params,tokens", "--weights", "growing"], "--weights"),
        (["--form", "M3", "--x", "params", "--share-floor"], "--share-floor"),
        (["--form", "L(N,D)", "--x", "params,token"], "--x"),
        (["--form", "M1", "--x", "params", "--block", "runs"], "--block"),
        (["--form", "L(N,D)", "--x", "params,tokens", "--flops-per-example", "cost"], "--flops-per-example"),
        (["--form", "L(N,D)", "--x", "params,tokens", "--flops-per-example", "-6"], "--flops-per-example"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], field: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        run_fit(language_rows(20), tmp_path, "--y", "loss", "--by", "", *arguments)
    assert raised.value.field == field
