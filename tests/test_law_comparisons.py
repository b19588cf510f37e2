"""Comparisons of families: compute ratios, crossings, fronts, ceilings, IsoFLOP minima, and the ViT paper's Table 6."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from orchestrator import laws

TABLE_6 = pd.read_csv(ROOT / "tests" / "data" / "vit_paper_table6.csv")  # Dosovitskiy et al. 2021, Table 6
FIVE = ["imagenet", "cifar10", "cifar100", "pets", "flowers"]
TEST_IMAGES = {"imagenet": 50_000, "cifar10": 10_000, "cifar100": 10_000, "pets": 3_669, "flowers": 6_149}
X = np.geomspace(1, 1e4, 12)


def noisy(y: np.ndarray, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    return y * np.exp(noise * np.random.default_rng(seed).standard_normal(y.shape))


def published(family: str, tasks: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pretraining compute (exaFLOPs) and mean error of a family's runs."""
    rows = TABLE_6[TABLE_6["family"] == family]
    return rows["exaflops"].to_numpy(dtype=float), 1 - rows[tasks].mean(axis=1).to_numpy() / 100


@pytest.mark.parametrize("form", ["M1", "M2", "auto"])
def test_a_known_ratio_is_recovered(form: str) -> None:
    floor = 0.0 if form == "M1" else 0.05
    slow = laws.fit(X * 3, noisy(0.6 * X**-0.4 + floor), form)
    fast = laws.fit(X, noisy(0.6 * X**-0.4 + floor, seed=1), form)
    ratio = laws.compute_ratio(slow, fast)
    assert ratio.low < 3 < ratio.high
    assert ratio.value == pytest.approx(3, rel=0.25)
    assert laws.compute_ratio(fast, slow).value == pytest.approx(1 / ratio.value, rel=1e-6)


def test_fronts_give_the_same_ratio() -> None:
    ratio = laws.front_ratio((X * 3, noisy(0.6 * X**-0.4)), (X, noisy(0.6 * X**-0.4, seed=1)))
    assert ratio.value == pytest.approx(3, rel=0.15)
    assert ratio.low < 3 < ratio.high


def test_draws_that_never_reach_the_error_make_the_interval_infinite() -> None:
    """The second family may saturate above the compared errors: then the ratio has no lower bound."""
    certain = laws.fit(X, noisy(0.6 * X**-0.4), "M1")
    uncertain = laws.fit(X[:5], noisy(0.6 * X[:5] ** -0.4 + 0.05, noise=0.2, seed=1), "M2")
    ratio = laws.compute_ratio(certain, uncertain)
    inverse = laws.compute_ratio(uncertain, certain)
    assert 0.05 < ratio.covered < 0.95
    assert (ratio.low, inverse.high) == (0.0, math.inf)
    assert ratio.high > ratio.value > 0
    assert 0 < inverse.low < inverse.value


def test_errors_that_a_family_did_not_reach_are_reported() -> None:
    weak, strong = laws.fit(X, 0.5 * X**-0.1), laws.fit(X, 0.4 * X**-0.3)
    ratio = laws.compute_ratio(weak, strong, errors=[0.9, 0.45, 0.3, 0.1, 0.001])
    assert [at.reached for at in ratio.at] == [
        laws.ReachedBy.NEITHER,
        laws.ReachedBy.FIRST_ONLY,
        laws.ReachedBy.BOTH,
        laws.ReachedBy.SECOND_ONLY,
        laws.ReachedBy.NEITHER,
    ]
    assert math.isnan(ratio.at[3].ratio)
    assert ratio.at[2].ratio > 1
    apart = laws.compute_ratio(laws.fit(X, 0.9 * X**-0.01), laws.fit(X, 0.1 * X**-0.3))
    assert math.isnan(apart.value)
    assert apart.at == ()


def test_a_known_crossing_is_recovered() -> None:
    resnet, vit = laws.fit(X, noisy(0.5 * X**-0.2, 0.005), "M1"), laws.fit(X, noisy(0.9 * X**-0.3, 0.005, seed=1), "M1")
    result = laws.crossing(resnet, vit)
    truth = (0.9 / 0.5) ** 10
    assert result.gains == "second"
    assert result.low < truth < result.high
    assert result.x == pytest.approx(truth, rel=0.3)
    assert result.chance > 0.95
    assert laws.crossing(vit, resnet).gains == "first"


def test_no_crossing_outside_the_common_range() -> None:
    result = laws.crossing(laws.fit(X, 0.5 * X**-0.2, "M1"), laws.fit(X, 5 * X**-0.3, "M1"))
    assert math.isnan(result.x)
    assert result.gains == "none"
    with pytest.raises(laws.LawError, match="share no range of x"):
        laws.crossing(laws.fit(X, 0.5 * X**-0.2), laws.fit(X * 1e6, 0.5 * X**-0.2))


def test_pareto_front() -> None:
    x, y = laws.pareto([1, 2, 2, 3, 4, 5], [0.5, 0.4, 0.3, 0.35, 0.3, 0.2])
    assert x.tolist() == [1, 2, 5]
    assert y.tolist() == [0.5, 0.3, 0.2]


def test_tasks_at_their_ceiling() -> None:
    errors = {task: {family: published(family, [task])[1] for family in ("vit", "resnet")} for task in FIVE}
    at_ceiling = laws.ceilings(errors, TEST_IMAGES)
    assert "flowers" in at_ceiling, at_ceiling
    assert "imagenet" not in at_ceiling
    assert "cifar100" not in at_ceiling
    assert set(laws.ceilings(errors)) >= {"flowers", "cifar10"}


def test_only_interior_isoflop_minima_count() -> None:
    sizes, budgets = np.geomspace(1e6, 1e9, 9), np.geomspace(1e17, 1e20, 4)
    rows = [(c, n, 0.2 * math.exp(0.02 * math.log(n / (0.1 * c**0.45)) ** 2)) for c in budgets for n in sizes]
    result = laws.isoflop(*zip(*rows, strict=True))
    assert result.exponent == pytest.approx(0.45, abs=0.01)
    assert {m.state for m in result.minima.values()} == {"interior"}
    edge = laws.isoflop_minimum(sizes, 0.2 * np.exp(0.02 * np.log(sizes / 1e10) ** 2))
    assert edge.state == "edge"
    assert math.isnan(edge.size)
    assert laws.isoflop_minimum(sizes, 0.2 * np.exp(-0.001 * np.log(sizes / 3e7) ** 2)).state == "no minimum"
    assert laws.isoflop_minimum(sizes[:2], [0.2, 0.1]).state == "too few sizes"


CLAIMS = {  # an independent re-analysis: ResNet over ViT compute at equal error, with its 90% interval
    "mean of five": (FIVE, 2.7, 8.7),
    "ImageNet": (["imagenet"], 1.5, 3.4),
}


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("how", ["M1", "M2", "auto", "fronts"])
def test_table_6_compute_ratio(name: str, how: str) -> None:
    tasks, low, high = CLAIMS[name]
    resnet, vit = published("resnet", tasks), published("vit", tasks)
    if how == "fronts":
        ratio = laws.front_ratio(resnet, vit)
    else:
        ratio = laws.compute_ratio(laws.fit(*resnet, form=how), laws.fit(*vit, form=how))
    line = ", ".join(f"{at.ratio:.1f} at {100 * at.error:.1f}%" for at in ratio.at)
    print(
        f"{name}, {how}: ResNet needs {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times the compute of ViT ({line})"
    )
    assert low <= ratio.value <= high
    assert ratio.low > 1, "ViT needs significantly less"
    assert ratio.low < ratio.value < ratio.high


def test_table_6_ratio_is_smaller_without_flowers() -> None:
    def ratio(tasks: list[str]) -> float:
        return laws.compute_ratio(
            laws.fit(*published("resnet", tasks), form="M1"), laws.fit(*published("vit", tasks), form="M1")
        ).value

    assert ratio(FIVE[:-1]) == pytest.approx(3.2, abs=0.5)
    assert ratio(FIVE[:-1]) < ratio(FIVE)
