"""Judges claims about scaling from result rows: holds, fails, or cannot tell, with a number, its interval and the rows used.

`judge(frame, evidence, claims)` judges every claim in every view that has rows for it. The headline of a claim is its verdict
in the view that the study selects (`claims.on`), by default in the first view that has rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from orchestrator.results.summary import count, family_name
from orchestrator.spec.claims import ClaimName, Claims
from orchestrator.verdicts import compute_ratio_claims, data_claims, finetune_claims, hybrid_claim, saturation_claim
from orchestrator.verdicts.answers import ClaimVerdict, CurvePoint, Verdict
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.verdict_rules import Judgement, all_runs

Judge = Callable[[Evidence, pd.DataFrame], Judgement | None]

JUDGES: Mapping[ClaimName, Judge] = {
    "larger_needs_data": lambda evidence, _: data_claims.larger_needs_data(evidence),
    "overtakes_with_data": lambda evidence, _: data_claims.overtakes_with_data(evidence),
    "less_compute": lambda evidence, _: compute_ratio_claims.less_compute(evidence),
    "two_to_four_times_less": lambda evidence, _: compute_ratio_claims.two_to_four_times_less(evidence),
    "hybrid_advantage_vanishes": lambda evidence, _: hybrid_claim.hybrid_advantage_vanishes(evidence),
    "few_epochs_suffice": finetune_claims.few_epochs_suffice,
    "no_saturation": lambda evidence, _: saturation_claim.no_saturation(evidence),
}


def claim_text(name: ClaimName, claims: Claims) -> str:
    """The claim as a sentence."""
    challenger, rival, hybrid = (family_name(f) for f in (claims.challenger, claims.rival, claims.hybrid))
    least, most = claims.times_less
    return {
        "larger_needs_data": f"With little data a larger {challenger} is worse than a smaller one",
        "overtakes_with_data": f"{challenger} overtakes {rival} with data",
        "less_compute": f"{challenger} needs less compute than {rival} at equal error",
        "two_to_four_times_less": f"{challenger} needs {least:g} to {most:g} times less compute than {rival}",
        "hybrid_advantage_vanishes": f"The advantage of {hybrid} over {challenger} vanishes with size",
        "few_epochs_suffice": f"A few fine-tune epochs are enough for {challenger}",
        "no_saturation": f"{challenger} does not saturate yet",
    }[name]


def judge(frame: pd.DataFrame, evidence: Sequence[Evidence], claims: Claims) -> tuple[ClaimVerdict, ...]:
    """The verdicts on every selected claim (by default all) in every view with rows for it, headlines first."""
    result: list[ClaimVerdict] = []
    for name in claims.check or JUDGES:
        judgements = [(e, answer) for e in evidence if (answer := JUDGES[name](e, frame)) is not None]
        views = [e.view.name for e, _ in judgements]
        headline_view = claims.on.get(name, views[0] if views else "")
        verdicts = [_verdict(name, e, answer) for e, answer in judgements]
        marked = [replace(verdict, headline=verdict.view == headline_view) for verdict in verdicts]
        result += sorted(marked, key=lambda verdict: not verdict.headline)
    return tuple(result)


def _verdict(name: ClaimName, evidence: Evidence, answer: Judgement) -> ClaimVerdict:
    settle = _settle(answer.points or evidence.of(evidence.claims.challenger)) if _is_provisional(evidence, answer) else ""
    return ClaimVerdict(
        name=name,
        says=claim_text(name, evidence.claims),
        view=evidence.view.name,
        headline=False,
        verdict=answer.verdict,
        number=answer.number,
        parts=answer.parts,
        method=f"{answer.method}; provisional: {settle}" if settle else answer.method,
        sentence=answer.sentence,
        runs=all_runs(answer.points, answer.runs),
        provisional=bool(settle),
        settle=settle,
    )


def _is_provisional(evidence: Evidence, answer: Judgement) -> bool:
    return evidence.is_assumed and answer.needs_seeds and answer.verdict is not Verdict.CANNOT_TELL


def _settle(points: Sequence[CurvePoint]) -> str:
    """The two runs that would measure the spread between seeds: a second seed of the smallest and of the largest model."""
    ordered = sorted(points, key=lambda p: (p.params, p.dataset_size, p.variant))
    if not ordered:
        return "no run was repeated with a second seed"
    ends = dict.fromkeys(f"{p.variant} on {count(p.dataset_size)} images" for p in (ordered[0], ordered[-1]))
    return f"run {' and '.join(ends)} with a second seed to measure the spread"
