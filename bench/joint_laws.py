"""Coverage of the 90% intervals of joint laws and IsoFLOP exponents on simulated tables, and Chinchilla's rows if given.

    python bench/joint_laws.py [--tables 60] [--points chinchilla_points.csv]

Truths are drawn from a prior: exponents from 0.2 to 0.6, shares of E, A and B from a Dirichlet distribution, 0.5 to 3% noise,
normal or with the heavy tails of Student's t with three degrees of freedom. Prints the share of tables whose interval contains
the truth, and the share whose parameters are determined.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator import laws
from orchestrator.laws.joint import NAMES
from orchestrator.laws.points import Array

SEED = 5
DESIGNS: dict[str, int | tuple[int, int]] = {
    "grid 4 x 3": (4, 3),
    "grid 4 x 4": (4, 4),
    "grid 5 x 5": (5, 5),
    "24 rows": 24,
    "60 rows": 60,
    "240 rows": 240,
}
ISOFLOPS = ((4, 5, 0.005, 0.02), (4, 7, 0.01, 0.02), (7, 9, 0.003, 0.0), (7, 9, 0.01, 0.05), (9, 15, 0.005, 0.05))


def main() -> None:
    """Print a line for each design."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=60, help="simulated tables of each kind")
    parser.add_argument("--points", type=Path, help="CSV with params, examples_seen, loss")
    arguments = parser.parse_args()
    if arguments.points:
        _published(pd.read_csv(arguments.points))
    for name, design in DESIGNS.items():
        for tails in ("normal", "t3"):
            print(f"{name}, {tails}: {_joint_coverage(design, tails, arguments.tables)}", flush=True)
    for isoflop in ISOFLOPS:
        print("IsoFLOP: {} budgets x {} sizes, noise {}, scatter {}: ".format(*isoflop), end="")
        print(_isoflop_coverage(*isoflop, tables=5 * arguments.tables), flush=True)


def _published(rows: pd.DataFrame) -> None:
    """The law without the five rows of fewest examples for each parameter, as Besiroglu et al. 2024 fitted it."""
    kept = rows.drop((rows["examples_seen"] / rows["params"]).nsmallest(5).index)
    start = time.perf_counter()
    law = laws.fit_joint(kept["params"], kept["examples_seen"], kept["loss"])
    best = laws.optimum(law)
    print(f"{len(kept)} rows, {time.perf_counter() - start:.2f} s with intervals")
    for name, (low, high) in law.parameter_intervals().items():
        print(f"  {name} {law.params[name]:.4g} [{low:.4g}, {high:.4g}]")
    print(
        f"  exponent of N {best.size_exponent:.3f} [{best.size_exponent_interval[0]:.3f}, {best.size_exponent_interval[1]:.3f}]"
    )


def _joint_coverage(design: int | tuple[int, int], tails: str, tables: int) -> str:
    random = np.random.default_rng(SEED)
    inside, determined = [], []
    for _ in range(tables):
        a, b = random.uniform(0.2, 0.6, 2)
        noise = 10 ** random.uniform(-2.3, -1.5)
        size, data = _design(design, random)
        floor, of_size, of_data = 2 * random.dirichlet([2, 2, 2])
        truth = (floor, of_size * np.exp(a * np.log(size).mean()), of_data * np.exp(b * np.log(data).mean()), a, b)
        y = truth[0] + truth[1] * size**-a + truth[2] * data**-b
        rest = random.standard_normal(len(y)) if tails == "normal" else random.standard_t(3, len(y)) / np.sqrt(3)
        law = laws.fit_joint(size, data, y * np.exp(noise * rest))
        intervals, best = law.parameter_intervals(), _size_exponent(law)
        known = [intervals[name][0] <= value <= intervals[name][1] for name, value in zip(NAMES, truth, strict=True)]
        inside.append([*known, best[0] <= b / (a + b) <= best[1] if best else np.nan])
        determined.append([name not in law.unidentified() for name in NAMES])
    covered = zip((*NAMES, "exponent of N"), np.nanmean(inside, axis=0), strict=True)
    shares = zip(NAMES, np.mean(determined, axis=0), strict=True)
    return "inside {}; determined {}".format(*(", ".join(f"{n} {v:.2f}" for n, v in part) for part in (covered, shares)))


def _size_exponent(law: laws.JointLaw) -> tuple[float, float] | None:
    """The interval of the exponent of N; None if a term of the law is 0."""
    try:
        return laws.optimum(law).size_exponent_interval
    except laws.LawError:
        return None


def _design(design: int | tuple[int, int], random: np.random.Generator) -> tuple[Array, Array]:
    """Sizes and data of the rows: a grid over 1.2 to 2.2 decades each, or rows scattered over two decades each."""
    if isinstance(design, int):
        return 10 ** random.uniform(7, 9, design), 10 ** random.uniform(8, 10, design)
    axes = [low * np.geomspace(1, 10 ** random.uniform(1.2, 2.2), n) for low, n in zip((1e7, 1e8), design, strict=True)]
    size, data = np.meshgrid(*axes)
    return size.ravel(), data.ravel()


def _isoflop_coverage(budgets: int, sizes: int, noise: float, scatter: float, *, tables: int) -> str:
    random, inside, widths = np.random.default_rng(SEED), [], []
    for _ in range(tables):
        a, b = random.uniform(0.3, 0.4, 2)
        factor_a, factor_b = 450 * random.uniform(0.7, 1.4), 1500 * random.uniform(0.7, 1.4)
        compute = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes)
        best = (a * factor_a / (b * factor_b)) ** (1 / (a + b)) * (compute / 6) ** (b / (a + b))
        size = best * np.tile(np.geomspace(0.25, 4, sizes), budgets)
        compute = compute * np.exp(random.uniform(-scatter, scatter, len(compute)))
        y = 1.8 + factor_a * size**-a + factor_b * (compute / 6 / size) ** -b
        low, high = laws.isoflop(compute, size, y * np.exp(noise * random.standard_normal(len(y)))).exponent_interval
        inside.append(low <= b / (a + b) <= high)
        widths.append(high - low)
    return f"inside {np.mean(inside):.2f}, median width {np.nanmedian(widths):.3f}"


if __name__ == "__main__":
    main()
