"""The data ratio: how many times the rival's images the challenger needs at equal error, by the best variants at each size.

Pure functions of one view's evidence.
"""

from __future__ import annotations

import math

from orchestrator import laws
from orchestrator.laws import LawError
from orchestrator.results.summary import family_name
from orchestrator.verdicts.answers import Comparison, CurvePoint, Measure
from orchestrator.verdicts.curves import curve, longest
from orchestrator.verdicts.differences import best_variant
from orchestrator.verdicts.evidence import Evidence


def best_at_sizes(evidence: Evidence, family: str) -> tuple[CurvePoint, ...]:
    """The points of the family's best variant at each number of images, after its longest pretraining."""
    points = longest(evidence.of(family))
    sizes = sorted({p.dataset_size for p in points})
    return tuple(p for size in sizes for p in best_variant([p for p in points if p.dataset_size == size], evidence))


def data_ratio(evidence: Evidence) -> Comparison | None:
    """Images of the challenger over images of the rival at equal error: by laws over data, else by fronts.

    None if a family has fewer than two sizes, or if they reached no error in common.
    """
    claims = evidence.claims
    points = [best_at_sizes(evidence, family) for family in (claims.challenger, claims.rival)]
    if any(len({p.dataset_size for p in group}) < 2 for group in points):
        return None
    one, two = (curve(evidence.view.name, group, "dataset_size", claims.form) for group in points)
    try:
        if one is not None and two is not None and one.law is not None and two.law is not None:
            ratio = laws.compute_ratio(one.law, two.law, level=claims.level)
            method = f"{' and '.join(dict.fromkeys((one.law.form, two.law.form)))} laws over images"
        else:
            ends = [([float(p.dataset_size) for p in group], [p.error for p in group]) for group in points]
            ratio, method = laws.front_ratio(ends[0], ends[1], level=claims.level), "fronts over images"
    except LawError:
        return None
    if math.isnan(ratio.value):
        return None
    return Comparison(
        view=evidence.view.name,
        first=claims.challenger,
        second=claims.rival,
        method=method,
        ratio=ratio,
        axis="dataset_size",
    )


def ratio_measures(evidence: Evidence) -> tuple[Measure, ...]:
    """The data ratio, and the same at the largest and the smallest error that both families reached."""
    found = data_ratio(evidence)
    if found is None:
        return ()
    names = f"images of {family_name(found.first)} over {family_name(found.second)}"
    ratio, ends = found.ratio, (found.ratio.at[0], found.ratio.at[-1])
    mean = Measure(what=f"{names} at equal error, {found.method}", value=ratio.value, low=ratio.low, high=ratio.high, unit="x")
    single = [
        Measure(what=f"{names} at {100 * at.error:.2g}% error", value=at.ratio, low=at.low, high=at.high, unit="x")
        for at in ends
    ]
    return (mean, *(measure for measure in single if math.isfinite(measure.value)))
