"""The claim about fine-tuning: a few epochs are enough."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.stats import t

from orchestrator.results import summary
from orchestrator.results.summary import family_name
from orchestrator.verdicts.answers import Verdict
from orchestrator.verdicts.common import Gap, Judged, errs, side
from orchestrator.verdicts.evidence import Evidence

CELL = ["variant", "dataset", "dataset_size", "epochs", "seed"]


def few_epochs_suffice(found: Evidence, frame: pd.DataFrame) -> Judged | None:
    """After few epochs the challenger errs at most a little (`few_epochs_excess`) more than after the most epochs.

    Few: `few_epochs`, else the most of the study's that are at most half of its longest fine-tuning. Compared within each
    pretraining, so neither its seed nor its size matters.
    """
    if found.view.phase != "finetune":
        return None
    claims, done = found.claims, summary.finished(frame)
    rows = done[(done["phase"] == "finetune") & (done["family"] == claims.challenger) & done["task"].isin(found.view.tasks)]
    epochs = sorted(rows["finetune_epochs"].dropna().unique())
    shorter = [e for e in epochs if e <= epochs[-1] / 2] if claims.few_epochs is None else [claims.few_epochs]
    if not shorter or shorter[-1] not in epochs[:-1]:
        return None
    few, most = float(shorter[-1]), float(epochs[-1])
    pairs = _pairs(rows, few, most, found)
    if not len(pairs):
        return None
    gap, reach = _mean(pairs, found)
    family = family_name(claims.challenger)
    number = gap.percent(f"{family}, error after {few:g} over {most:g} fine-tune epochs", reach)
    line = 100 * claims.few_epochs_excess
    verdict = side(number, line, holds_above=False)
    words = {
        Verdict.HOLDS: f"within {line:g}%: enough",
        Verdict.FAILS: f"more than {line:g}%: not enough",
        Verdict.CANNOT_TELL: f"whether within {line:g}% cannot be told",
    }[verdict]
    cells = f"{len(pairs)} pretrained model{'s' if len(pairs) > 1 else ''}"
    used = rows[rows["finetune_epochs"].isin([few, most])]
    return Judged(
        verdict=verdict,
        number=number,
        method=f"paired within {cells}",
        sentence=f"After {few:g} fine-tune epochs {family} {errs(number)} than after {most:g}, {words}.",
        points=(),
        runs=tuple(used["run_id"]),
    )


def _pairs(rows: pd.DataFrame, few: float, most: float, found: Evidence) -> np.ndarray:
    """(cells, 2): log error after few over most epochs, mean over the view's tasks, and its variance by finite test sets."""
    images = rows["test_images"].astype("float64").fillna(rows["task"].map(found.claims.test_images))
    error = rows["error"].clip(lower=(0.5 / images).fillna(1e-6))
    rows = rows.assign(error=error, variance=(error * (1 - error) / images).fillna(0.0))
    pairs = []
    for _, cell in rows.groupby(CELL, dropna=False):
        ends = [cell[cell["finetune_epochs"] == value] for value in (few, most)]
        if any(set(end["task"]) != set(found.view.tasks) for end in ends):
            continue
        means = [float(end["error"].mean()) for end in ends]
        noise = [float(end["variance"].sum()) / len(end) ** 2 / mean**2 for end, mean in zip(ends, means, strict=True)]
        pairs.append((math.log(means[0] / means[1]), sum(noise)))
    return np.array(pairs).reshape(-1, 2)


def _mean(pairs: np.ndarray, found: Evidence) -> tuple[Gap, float]:
    """The mean over cells and how many standard deviations its interval reaches: by the cells' own scatter where there are
    several, else by the noise of the test set and of seeds.

    All cells are judged on the same test images, so that part of the noise does not average out.
    """
    value, common = float(pairs[:, 0].mean()), float(pairs[:, 1].min())
    if len(pairs) < 2:
        return Gap(value=value, spread=math.sqrt(common + 2 * found.seed_spread**2)), found.reach
    scatter = float(pairs[:, 0].std(ddof=1)) / math.sqrt(len(pairs))
    return Gap(value=value, spread=max(scatter, math.sqrt(common / len(pairs)))), float(
        t.ppf((1 + found.claims.level) / 2, len(pairs) - 1)
    )
