"""Claims about data: larger models need more data, and one family overtakes another with more data.

Pure functions of one view's evidence. They return None if the view has no rows for the claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.results.summary import count, family_name
from orchestrator.verdicts.answers import CurvePoint, Measure, Verdict
from orchestrator.verdicts.curves import longest
from orchestrator.verdicts.data_ratio import ratio_measures
from orchestrator.verdicts.differences import Gap, best_variant, difference, higher_or_lower, mean_gap
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.verdict_rules import Judgement, compare, is_above

DRAWS = 2000
SEED = 20223


def larger_needs_data(evidence: Evidence) -> Judgement | None:
    """With the fewest images the larger variant has the larger error."""
    points, critical_value = longest(evidence.of(evidence.claims.challenger)), evidence.critical_value
    pairs = evidence.claims.pairs or _largest_and_smallest(points)
    sizes = sorted({p.dataset_size for p in points})
    gaps = {size: {pair: gap for pair in pairs if (gap := _pair_gap(points, pair, size, evidence))} for size in sizes}
    sizes = [size for size in sizes if gaps[size]]
    if len(sizes) < 2:
        return None
    least, most = sizes[0], sizes[-1]
    number = mean_gap(list(gaps[least].values())).percent(f"larger over smaller at {count(least)} images", critical_value)
    parts = [gap.percent(f"{a} over {b} at {count(least)} images", critical_value) for (a, b), gap in gaps[least].items()]
    last = mean_gap(list(gaps[most].values())).percent(f"larger over smaller at {count(most)} images", critical_value)
    names = ", ".join(f"{a} against {b}" for a, b in gaps[least])
    verdict = compare(number)
    conclusion = {
        Verdict.HOLDS: f"is {number.value:.1f}% higher",
        Verdict.FAILS: f"is {-number.value:.1f}% lower",
        Verdict.CANNOT_TELL: f"differs by {number}, the sign is uncertain",
    }[verdict]
    used = [p for p in points if p.dataset_size in (least, most) and any(p.variant in pair for pair in gaps[p.dataset_size])]
    return Judgement(
        verdict=verdict,
        number=number,
        parts=(*parts, last),
        method=f"difference at the fewest images, {evidence.seed_text}",
        sentence=f"Pretrained on {count(least)} images, the error of the larger model {conclusion} ({names}); "
        f"on {count(most)} images it is {higher_or_lower(last)}.",
        points=tuple(used),
        needs_seeds=True,
    )


def _largest_and_smallest(points: Sequence[CurvePoint]) -> tuple[tuple[str, str], ...]:
    """(largest, smallest) variant of each patch size (the part after the slash) that has several variants."""
    patches: dict[str, dict[str, int]] = {}
    for p in points:
        patches.setdefault(p.variant.partition("/")[2], {})[p.variant] = p.params
    ordered = [sorted(variants, key=lambda name: (variants[name], name)) for _, variants in sorted(patches.items())]
    return tuple((names[-1], names[0]) for names in ordered if len(names) > 1)


def _pair_gap(points: Sequence[CurvePoint], pair: tuple[str, str], size: int, evidence: Evidence) -> Gap | None:
    larger, smaller = ([p for p in points if p.variant == name and p.dataset_size == size] for name in pair)
    return difference(larger, smaller, evidence) if larger and smaller else None


def overtakes_with_data(evidence: Evidence) -> Judgement | None:
    """The rival has the lower error with the fewest images, the challenger with the most: best variants at each size."""
    challenger, rival = (longest(evidence.of(name)) for name in (evidence.claims.challenger, evidence.claims.rival))
    sizes = sorted({p.dataset_size for p in challenger} & {p.dataset_size for p in rival})
    if len(sizes) < 2:
        return None
    best = [
        [best_variant([p for p in points if p.dataset_size == size], evidence) for points in (challenger, rival)]
        for size in sizes
    ]
    gaps = [difference(one, two, evidence) for one, two in best]
    first, last = (gaps[i].percent(f"error at {count(sizes[i])} images", evidence.critical_value) for i in (0, -1))
    crossing = _crossing(gaps, sizes, evidence.claims.level)
    names = family_name(evidence.claims.challenger), family_name(evidence.claims.rival)
    verdict = Verdict.CANNOT_TELL
    if is_above(first.low, 0) and is_above(0, last.high):
        verdict = Verdict.HOLDS
    elif is_above(last.low, 0):
        verdict = Verdict.FAILS
    has_crossing = 0 < crossing.value < math.inf
    where = f"; they cross at about {_images(crossing)}" if has_crossing else ""
    start, end = (f"with {count(sizes[i])} images" for i in (0, -1))
    ends = f"{start} the error of {names[0]} is {higher_or_lower(first)} than that of {names[1]}, {end} it is"
    return Judgement(
        verdict=verdict,
        number=last,
        parts=(first, crossing, *ratio_measures(evidence)),
        method=f"best variants at each size, {evidence.seed_text}",
        sentence=f"By the best variants, {ends} {higher_or_lower(last)}{where}{_uncertainty(verdict, first, *names)}.",
        points=tuple(p for pair in best for group in pair for p in group),
        needs_seeds=True,
    )


def _crossing(gaps: Sequence[Gap], sizes: Sequence[int], level: float) -> Measure:
    """The images at which the gap, interpolated linearly in logarithms, falls below zero for the last time."""
    line = np.log(np.array(sizes, dtype=float))
    values, spreads = np.array([g.value for g in gaps]), np.array([g.spread for g in gaps])
    middle = _last_fall(values, line)
    noise = np.random.default_rng(SEED).standard_normal((DRAWS, len(sizes)))
    drawn = np.array([_last_fall(row, line) for row in values + spreads * noise])
    ends = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2), method="nearest")
    value, low, high = (float(np.exp(end)) for end in (middle, *ends))
    return Measure(what="images at the crossing", value=value, low=low, high=high, unit="images")


def _last_fall(gaps: np.ndarray, line: np.ndarray) -> float:
    """log x of the last fall through zero; inf: the last gap is above zero, -inf: no gap is above zero."""
    falls = np.flatnonzero((gaps[:-1] > 0) & (gaps[1:] <= 0))
    if not len(falls) or gaps[-1] > 0:
        return math.inf if gaps[-1] > 0 else -math.inf
    i = falls[-1]
    return float(line[i] + gaps[i] / (gaps[i] - gaps[i + 1]) * (line[i + 1] - line[i]))


def _images(crossing: Measure) -> str:
    high = count(crossing.high) if math.isfinite(crossing.high) else "no upper bound"
    low = count(crossing.low) if crossing.low > 0 else "no lower bound"
    return f"{count(crossing.value)} images [{low}, {high}]"


def _uncertainty(verdict: Verdict, first: Measure, challenger: str, rival: str) -> str:
    if verdict is not Verdict.CANNOT_TELL:
        return ""
    if is_above(0, first.high):
        return f"; {challenger} is ahead at the fewest images already, so the rows do not show where it overtook {rival}"
    return "; one of the two differences may be noise"
