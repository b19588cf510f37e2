"""Made-up result rows with known errors, for tests of claims and forecasts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from orchestrator import results
from orchestrator.spec.claims import Claims, Import, Target
from orchestrator.spec.schema import Study
from orchestrator.verdicts import findings
from orchestrator.verdicts.answers import ClaimVerdict, Findings

SIZES = [1000, 4000, 16000, 64000]
PARAMS = {"S/16": 1e6, "L/16": 1e7, "R1": 1e6, "R2": 1e7, "H1": 2e6}


def row(family: str, variant: str, size: int, error: float, **changes: Any) -> dict[str, Any]:
    """A finished fine-tune of a model that was pretrained for 6 epochs."""
    empty = {name: "" if kind == "str" else math.nan if kind == "float64" else 0 for name, kind in results.COLUMNS.items()}
    known = {"family": family, "variant": variant, "params": int(PARAMS[variant]), "dataset": "d", "dataset_size": size}
    known |= {"epochs": 6.0, "pretrain_flops": 6.0 * PARAMS[variant] * size, "phase": "finetune", "task": "t"}
    known |= {"finetune_epochs": 7.0, "error": error, "top1": 1 - error, "status": "DONE", "test_images": 100_000}
    facts = {**empty, **known, **changes}
    key = [facts[name] for name in ("family", "variant", "dataset_size", "task", "finetune_epochs", "seed", "pretrain_flops")]
    return {**facts, "run_id": "-".join(map(str, key))}


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype(results.COLUMNS)


def study_with(**claims: Any) -> Study:
    """A study without runs, with these claims."""
    return Study(name="made-up", imports=(Import(name="none"),), claims=Claims(**claims))


def headline(result: Findings, name: str) -> ClaimVerdict:
    return next(claim for claim in result.claims if claim.name == name and claim.headline)


def judged(rows: list[dict[str, Any]], name: Any, **claims: Any) -> ClaimVerdict:
    return headline(findings.findings(frame(rows), study_with(check=(name,), **claims)), name)


def over_compute(family: str, variant: str, flops: np.ndarray, error: np.ndarray) -> list[dict[str, Any]]:
    """A model trained for different lengths on the same images."""
    pairs = zip(flops.tolist(), error.tolist(), strict=True)
    return [row(family, variant, 64000, e, pretrain_flops=f, epochs=f / 1e15) for f, e in pairs]


def power_law_rows(family: str, variant: str, factor: float, exponent: float = 0.3, seed: int = 0) -> list[dict[str, Any]]:
    """Seven amounts of compute at one dataset size; `factor` times the compute for the same error."""
    noise = 0.01 * np.random.default_rng(seed).standard_normal(7)
    flops = np.geomspace(1e15, 1e18, 7)
    error = 0.4 * (flops / factor / 1e15) ** -exponent * np.exp(noise)
    return over_compute(family, variant, flops, error)


def data_curve_rows(sizes: list[int]) -> list[dict[str, Any]]:
    """One variant on each number of images, with noise of 1%."""
    noise = np.random.default_rng(0).normal(0, 0.01, len(sizes))
    return [
        row("vit", "S/16", n, float((0.05 + 0.5 * (n / 1000) ** -0.4) * math.exp(z))) for n, z in zip(sizes, noise, strict=True)
    ]


def with_target(**target: Any) -> Study:
    study = study_with(check=())
    return study.model_copy(
        update={"targets": (Target(**{"variant": "S/16", "dataset_size": 128_000, "epochs": 6.0, **target}),)}
    )
