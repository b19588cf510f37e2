"""The claim about fine-tuning: a few epochs are enough."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.stats import t

from orchestrator.laws.tolerance import snap
from orchestrator.results import summary
from orchestrator.results.summary import SAME_BUDGET, family_name
from orchestrator.verdicts.answers import Verdict
from orchestrator.verdicts.differences import Gap, higher_or_lower
from orchestrator.verdicts.evidence import Evidence, with_test_noise
from orchestrator.verdicts.verdict_rules import Judgement, compare

PRETRAINING = ["variant", "dataset", "dataset_size", "epochs", "seed"]  # the columns that identify one in a family


def few_epochs_suffice(evidence: Evidence, frame: pd.DataFrame) -> Judgement | None:
    """After few epochs, the challenger's error is at most `few_epochs_excess` above that after the most epochs.

    Few: `few_epochs`, or the largest number in the study that is at most half of the most. The two are compared for each
    pretrained model, so its size and its seed do not matter.
    """
    if evidence.view.phase != "finetune":
        return None
    claims, done = evidence.claims, summary.finished(frame)
    rows = done[(done["phase"] == "finetune") & (done["family"] == claims.challenger) & done["task"].isin(evidence.view.tasks)]
    rows = rows.assign(**{name: snap(rows[name], SAME_BUDGET) for name in ("finetune_epochs", "epochs")})
    ends = _few_and_most(rows, claims.few_epochs)
    if ends is None:
        return None
    few, most = ends
    pairs = _paired_gaps(rows, few, most, evidence)
    if not len(pairs):
        return None
    gap, critical_value = _mean(pairs, evidence)
    family = family_name(claims.challenger)
    number = gap.percent(f"{family}, error after {few:g} over {most:g} fine-tune epochs", critical_value)
    limit = 100 * claims.few_epochs_excess
    verdict = compare(number, limit, holds_above=False)
    conclusion = {
        Verdict.HOLDS: f"within {limit:g}%: {few:g} epochs are enough",
        Verdict.FAILS: f"more than {limit:g}%: {few:g} epochs are not enough",
        Verdict.CANNOT_TELL: f"whether it is within {limit:g}% is uncertain",
    }[verdict]
    models = f"{len(pairs)} pretrained model{'s' if len(pairs) > 1 else ''}"
    used = rows[rows["finetune_epochs"].isin([few, most])]
    return Judgement(
        verdict=verdict,
        number=number,
        method=f"paired differences of {models}",
        sentence=f"After {few:g} fine-tune epochs the error of {family} is {higher_or_lower(number)} than after {most:g}; "
        f"{conclusion}.",
        points=(),
        runs=tuple(used["run_id"]),
        needs_seeds=len(pairs) < 2,
    )


def _few_and_most(rows: pd.DataFrame, requested: float | None) -> tuple[float, float] | None:
    """The two numbers of fine-tune epochs to compare; None if the rows do not have both."""
    epochs = sorted(rows["finetune_epochs"].dropna().unique())
    if requested is None:
        shorter = [e for e in epochs if e <= epochs[-1] / 2 * (1 + SAME_BUDGET)]
    else:
        shorter = [e for e in epochs[:-1] if math.isclose(e, requested, rel_tol=SAME_BUDGET)]
    return (float(shorter[-1]), float(epochs[-1])) if shorter else None


def _paired_gaps(rows: pd.DataFrame, few: float, most: float, evidence: Evidence) -> np.ndarray:
    """(models, 2): log error after few over most epochs, mean over the view's tasks, and its variance by finite test sets."""
    pairs = []
    for _, model in with_test_noise(rows, evidence.claims).groupby(PRETRAINING, dropna=False):
        ends = [model[model["finetune_epochs"] == value] for value in (few, most)]
        if any(set(end["task"]) != set(evidence.view.tasks) for end in ends):
            continue
        means = [float(end["error"].mean()) for end in ends]
        noise = [float(end["variance"].sum()) / len(end) ** 2 / mean**2 for end, mean in zip(ends, means, strict=True)]
        pairs.append((math.log(means[0] / means[1]), sum(noise)))
    return np.array(pairs).reshape(-1, 2)


def _mean(pairs: np.ndarray, evidence: Evidence) -> tuple[Gap, float]:
    """The mean over models and the critical value of its interval: from the scatter of several models, else from the noise.

    All models are evaluated on the same test images, so averaging does not reduce that part of the noise.
    """
    value, common = float(pairs[:, 0].mean()), float(pairs[:, 1].min())
    if len(pairs) < 2:
        return Gap(value=value, spread=math.sqrt(common + 2 * evidence.seed_spread**2)), evidence.critical_value
    scatter = float(pairs[:, 0].std(ddof=1)) / math.sqrt(len(pairs))
    return Gap(value=value, spread=max(scatter, math.sqrt(common / len(pairs)))), float(
        t.ppf((1 + evidence.claims.level) / 2, len(pairs) - 1)
    )
