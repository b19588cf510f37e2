"""Claims about scaling, each judged by rows: holds, fails, or cannot tell, with a number, its interval and the rows used.

`judge(frame, evidence, claims)` judges every claim on every view that has rows of its kind. A claim's headline is its verdict
on the view that the study asks for (`claims.on`), else on the first that has rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from orchestrator.results.summary import family_name
from orchestrator.spec.claims import ClaimName, Claims
from orchestrator.verdicts import compute_claims, data_claims, finetune_claims
from orchestrator.verdicts.answers import Claim
from orchestrator.verdicts.common import Judged, all_runs
from orchestrator.verdicts.evidence import Evidence

Judge = Callable[[Evidence, pd.DataFrame], Judged | None]

JUDGES: Mapping[ClaimName, Judge] = {
    "larger_needs_data": lambda found, _: data_claims.larger_needs_data(found),
    "overtakes_with_data": lambda found, _: data_claims.overtakes_with_data(found),
    "less_compute": lambda found, _: compute_claims.less_compute(found),
    "two_to_four_times_less": lambda found, _: compute_claims.two_to_four_times_less(found),
    "hybrid_advantage_vanishes": lambda found, _: compute_claims.hybrid_advantage_vanishes(found),
    "few_epochs_suffice": finetune_claims.few_epochs_suffice,
    "no_saturation": lambda found, _: compute_claims.no_saturation(found),
}


def says(name: ClaimName, claims: Claims) -> str:
    """The claim in words."""
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


def judge(frame: pd.DataFrame, evidence: Sequence[Evidence], claims: Claims) -> tuple[Claim, ...]:
    """Every claim asked for (by default all) on every view with rows for it, headlines first."""
    found: list[Claim] = []
    for name in claims.check or JUDGES:
        judged = [(e.view.name, answer) for e in evidence if (answer := JUDGES[name](e, frame)) is not None]
        views = [view for view, _ in judged]
        first = claims.on.get(name, views[0] if views else "")
        own = [_claim(name, claims, view, answer) for view, answer in judged]
        found += sorted((replace(c, headline=c.view == first) for c in own), key=lambda c: not c.headline)
    return tuple(found)


def _claim(name: ClaimName, claims: Claims, view: str, answer: Judged) -> Claim:
    return Claim(
        name=name,
        says=says(name, claims),
        view=view,
        headline=False,
        verdict=answer.verdict,
        number=answer.number,
        parts=answer.parts,
        method=answer.method,
        sentence=answer.sentence,
        runs=all_runs(answer.points, answer.runs),
    )
