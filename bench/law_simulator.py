"""Compute ratios on simulated tables with a known truth: how often the interval contains it, and how wide it is.

    python bench/law_simulator.py [--tables 200] [--kind runs --kind sweep ...] [--power]

Every table has two families whose laws differ by one random factor of compute (0.5 to 4) and random noise (2 to 10%). Kinds:
`runs` (one data size, 6 to 48 models a family), `sweep` (three learning rates a model, unequally sharp, one family perhaps not
swept at all), `grid` (models x data sizes, an unequal number of models, missing cells), `lengths` (several lengths of a model,
which share part of their noise). The rows take the way of a study: selection of rows, laws, ratio. --power: the chance that
"2 to 4 times" is called at a true ratio of 3, by the number of runs.
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from orchestrator import results
from orchestrator.spec.claims import Claims, LawForm
from orchestrator.verdicts.compute_ratio_claims import curve_pair, ratio_of
from orchestrator.verdicts.evidence import gather
from orchestrator.verdicts.views import views

KINDS = ("runs", "sweep", "grid", "lengths")
FLOPS = 1e18
PAPERS_RATIO, EXPONENT = 3.0, 0.12  # about those of the ViT paper
RATES = ("lr=3e-4", "lr=1e-3", "lr=3e-3")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Simulated rows, the true compute ratio of ResNet over ViT, and the number of models of each family."""

    rows: pd.DataFrame
    truth: float
    models: int


def table(kind: str, seed: int, *, models: int | None = None, truth: float | None = None, noise: float | None = None) -> Table:
    """A random table of this kind. What is given is not random; with a truth of 3 the exponent is .12."""
    random = np.random.default_rng((seed, KINDS.index(kind)))
    ratio = truth or math.exp(random.uniform(math.log(0.5), math.log(4)))
    spread = noise or random.uniform(0.02, 0.1 if kind != "grid" else 0.05)
    number = models or int(random.choice([6, 12, 24, 48]) if kind == "runs" else random.integers(5, 9))
    make = {"runs": _runs, "sweep": _sweep, "grid": _grid, "lengths": _lengths}[kind]
    rows = make(random, ratio, spread, number)
    return Table(rows=frame(rows), truth=ratio, models=number)


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a results frame: finished fine-tunes of one task."""
    empty = {name: "" if kind == "str" else math.nan if kind == "float64" else 0 for name, kind in results.COLUMNS.items()}
    known = {"dataset": "big", "epochs": 7.0, "phase": "finetune", "task": "t", "finetune_epochs": 8.0, "status": "DONE"}
    full = [{**empty, **known, "test_images": 10**8, "run_id": str(i), **row} for i, row in enumerate(rows)]
    return pd.DataFrame(full).assign(top1=lambda part: 1 - part["error"]).astype(results.COLUMNS)


def _row(family: str, variant: str, flops: float, error: float, **other: Any) -> dict[str, Any]:
    size = {"dataset_size": 300_000_000, "params": 10**7, **other}
    return {"family": family, "variant": variant, "pretrain_flops": flops, "error": min(error, 0.99), **size}


def _runs(random: np.random.Generator, ratio: float, noise: float, models: int) -> list[dict[str, Any]]:
    exponent, rows = EXPONENT if ratio == PAPERS_RATIO else random.uniform(0.1, 0.25), []
    for family, factor in (("vit", 1.0), ("resnet", ratio)):
        flops = np.geomspace(random.uniform(40, 80), random.uniform(2000, 4500), models) * FLOPS
        error = 0.3 * (flops / factor / FLOPS) ** -exponent * np.exp(noise * random.standard_normal(models))
        rows += [_row(family, f"{family}{i}", f, e) for i, (f, e) in enumerate(zip(flops, error, strict=True))]
    return rows


def _sweep(random: np.random.Generator, ratio: float, noise: float, models: int) -> list[dict[str, Any]]:
    rows = []
    swept = random.random(2) < 0.8
    for row, is_swept in zip(_runs(random, ratio, 1e-9, models), np.repeat(swept, models), strict=True):
        sharp, best = (0.02, 0.3)[int(row["family"] == "vit")], int(random.choice([0, 1, 1, 1, 2]))
        rates = range(3) if is_swept else [best]
        for rate in rates:
            error = row["error"] * math.exp(sharp * (rate - best) ** 2 + noise * random.standard_normal())
            rows.append({**row, "variant": f"{row['variant']} {RATES[rate]}", "error": min(error, 0.99)})
    return rows


def _grid(random: np.random.Generator, ratio: float, noise: float, _: int) -> list[dict[str, Any]]:
    floor, by_size, by_data = random.uniform(0.02, 0.1), random.uniform(0.05, 0.3), random.uniform(0.3, 0.7)
    exponents, rows = random.uniform(0.2, 0.4, 2), []
    images = np.sort(random.choice([3e6, 1e7, 3e7, 1e8, 3e8], size=int(random.integers(3, 6)), replace=False))
    for family, factor in (("vit", 1.0), ("resnet", ratio)):
        params = np.geomspace(2e7, 3e8, int(random.integers(3, 6)))
        cells = [(n, d) for n in params for d in images]
        failed = set(random.choice(len(cells), int(random.integers(0, 3)), replace=False).tolist())
        for i, (n, d) in enumerate(cells):
            error = floor + by_size * (n / 2e7) ** -exponents[0] + by_data * (d / 3e6) ** -exponents[1]
            error *= math.exp(noise * random.standard_normal())
            if i not in failed:
                rows.append(_row(family, f"{family}{n:.3g}", 12 * n * d * factor, error, dataset_size=int(d), params=int(n)))
    return rows


def _lengths(random: np.random.Generator, ratio: float, noise: float, models: int) -> list[dict[str, Any]]:
    exponent, rows = random.uniform(0.1, 0.25), []
    for family, factor in (("vit", 1.0), ("resnet", ratio)):
        for i, base in enumerate(np.geomspace(50, 1000, models) * FLOPS):
            common = math.sqrt(0.7) * noise * random.standard_normal()
            for epochs in (7.0, 14.0, 28.0):
                flops = base * epochs / 7
                own = math.sqrt(0.3) * noise * random.standard_normal()
                error = 0.3 * (flops / factor / FLOPS) ** -exponent * math.exp(common + own)
                rows.append(_row(family, f"{family}{i}", flops, error, epochs=epochs))
    return rows


def judged(case: Table, form: LawForm = "M1") -> tuple[float, float, float]:
    """The ratio that a study states for the table, with its 90% interval; nan without one."""
    claims = Claims(form=form)
    (view,) = views(case.rows, claims, {})
    evidence = gather(case.rows, view, claims)
    pair = curve_pair(evidence, "resnet", "vit", form)
    ratio = ratio_of(pair, evidence)[0] if pair else None
    return (ratio.value, ratio.low, ratio.high) if ratio else (math.nan,) * 3


def _coverage(kind: str, tables: int, form: LawForm, models: int | None = None) -> str:
    found, error, width = [], [], []
    for seed in range(tables):
        case = table(kind, seed, models=models)
        value, low, high = judged(case, form)
        if math.isfinite(value):
            found.append(low <= case.truth <= high)
            error.append(math.log(value / case.truth))
            width.append(high / low if low > 0 else math.inf)
    label = f"{kind} {models or ''}".strip()
    return (
        f"{label:<9} {form:<5} tables {len(found)}/{tables} inside {np.mean(found):.3f}  median width {np.median(width):.2f}x  "
        f"bias {np.mean(error):+.3f}  RMSE of log ratio {np.sqrt(np.mean(np.square(error))):.3f}"
    )


def _power(tables: int, form: LawForm) -> str:
    chances = []
    for models in (6, 12, 24, 48):
        cases = [judged(table("runs", seed, models=models, truth=PAPERS_RATIO, noise=0.03), form) for seed in range(tables)]
        chances.append(f"{models} runs {np.mean([low > 2 and high < 4 for _, low, high in cases]):.2f}")
    return f'"2 to 4 times" is called at a true ratio of 3, noise 3%, {form}: {", ".join(chances)}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--form", default="M1", choices=["M1", "M2", "M3", "zhai", "auto"])
    parser.add_argument("--power", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    if arguments.power:
        print(_power(arguments.tables, arguments.form))
        return
    for kind in arguments.kind or KINDS:
        for models in (6, 12, 24, 48) if kind == "runs" else (None,):
            print(_coverage(kind, arguments.tables, arguments.form, models), flush=True)


if __name__ == "__main__":
    main()
