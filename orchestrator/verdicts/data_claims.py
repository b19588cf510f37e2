"""Claims about data: larger models need more of it, and one family overtakes another with it.

Pure functions of one view's evidence; None where the rows are not of the kind that the claim is about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.results.summary import count, family_name
from orchestrator.verdicts.answers import Measure, Point, Verdict
from orchestrator.verdicts.common import Gap, Judged, best_variant, difference, errs, longest, mean_gap, side
from orchestrator.verdicts.evidence import Evidence

DRAWS = 2000
SEED = 20223


def larger_needs_data(found: Evidence) -> Judged | None:
    """With the fewest images the larger variant errs more than the smaller one."""
    rows = longest(found.of(found.claims.challenger))
    pairs = found.claims.pairs or _pairs(rows)
    sizes = sorted({p.dataset_size for p in rows})
    shown = {size: {pair: gap for pair in pairs if (gap := _gap(rows, pair, size, found))} for size in sizes}
    sizes = [size for size in sizes if shown[size]]
    if len(sizes) < 2:
        return None
    least, most = sizes[0], sizes[-1]
    number = mean_gap(list(shown[least].values())).percent(f"larger over smaller at {count(least)} images", found.reach)
    parts = [gap.percent(f"{a} over {b} at {count(least)} images", found.reach) for (a, b), gap in shown[least].items()]
    last = mean_gap(list(shown[most].values())).percent(f"larger over smaller at {count(most)} images", found.reach)
    named = ", ".join(f"{a} against {b}" for a, b in shown[least])
    verdict = side(number)
    sure = {
        Verdict.HOLDS: f"the larger model errs {number.value:.1f}% more",
        Verdict.FAILS: f"the larger model errs {-number.value:.1f}% less",
        Verdict.CANNOT_TELL: f"the larger model errs {number}, both signs are possible",
    }[verdict]
    used = [p for p in rows if p.dataset_size in (least, most) and any(p.variant in pair for pair in shown[p.dataset_size])]
    return Judged(
        verdict=verdict,
        number=number,
        parts=(*parts, last),
        method=f"difference at the fewest images, {found.seeds_said}",
        sentence=f"Pretrained on {count(least)} images, {sure} ({named}); on {count(most)} images it {errs(last)}.",
        points=tuple(used),
    )


def _pairs(rows: Sequence[Point]) -> tuple[tuple[str, str], ...]:
    """(largest, smallest) variant among those of equal patch (what follows the slash), where they differ in size."""
    patches: dict[str, dict[str, int]] = {}
    for p in rows:
        patches.setdefault(p.variant.partition("/")[2], {})[p.variant] = p.params
    ordered = [sorted(variants, key=lambda name: (variants[name], name)) for _, variants in sorted(patches.items())]
    return tuple((names[-1], names[0]) for names in ordered if len(names) > 1)


def _gap(rows: Sequence[Point], pair: tuple[str, str], size: int, found: Evidence) -> Gap | None:
    larger, smaller = ([p for p in rows if p.variant == name and p.dataset_size == size] for name in pair)
    return difference(larger, smaller, found) if larger and smaller else None


# --- one family overtakes another -----------------------------------------------------------------------------


def overtakes_with_data(found: Evidence) -> Judged | None:
    """The rival leads with the fewest images, the challenger with the most: their best variants at each size."""
    challenger, rival = (longest(found.of(name)) for name in (found.claims.challenger, found.claims.rival))
    sizes = sorted({p.dataset_size for p in challenger} & {p.dataset_size for p in rival})
    if len(sizes) < 2:
        return None
    best = [
        [best_variant([p for p in rows if p.dataset_size == size], found) for rows in (challenger, rival)] for size in sizes
    ]
    gaps = [difference(one, two, found) for one, two in best]
    first, last = (gaps[i].percent(f"error at {count(sizes[i])} images", found.reach) for i in (0, -1))
    crossing = _crossing(gaps, sizes, found)
    names = family_name(found.claims.challenger), family_name(found.claims.rival)
    verdict = Verdict.CANNOT_TELL
    if first.low > 0 and last.high < 0:
        verdict = Verdict.HOLDS
    elif last.low > 0:
        verdict = Verdict.FAILS
    crosses = 0 < crossing.value < math.inf
    where = f"; they cross at about {_images(crossing)}" if crosses else ""
    start, end = (f"with {count(sizes[i])} images" for i in (0, -1))
    ends = f"{start} {names[0]} {errs(first)} than {names[1]}, {end}"
    return Judged(
        verdict=verdict,
        number=last,
        parts=(first, crossing),
        method=f"best variants at each size, {found.seeds_said}",
        sentence=f"By their best variants, {ends} it {errs(last)}{where}{_why(verdict, first, *names)}.",
        points=tuple(p for pair in best for group in pair for p in group),
    )


def _at(rows: Sequence[Point], size: int) -> list[Point]:
    return [p for p in rows if p.dataset_size == size]


def _crossing(gaps: Sequence[Gap], sizes: Sequence[int], found: Evidence) -> Measure:
    """The images at which the gap, straight between sizes in logarithms, falls through zero for the last time."""
    line = np.log(np.array(sizes, dtype=float))
    values, spreads = np.array([g.value for g in gaps]), np.array([g.spread for g in gaps])
    middle = _last_fall(values, line)
    noise = np.random.default_rng(SEED).standard_normal((DRAWS, len(sizes)))
    drawn = np.array([_last_fall(row, line) for row in values + spreads * noise])
    tails = ((1 - found.claims.level) / 2, (1 + found.claims.level) / 2)
    ends = np.quantile(drawn, tails, method="nearest")
    value, low, high = (float(np.exp(end)) for end in (middle, *ends))
    return Measure(what="images at the crossing", value=value, low=low, high=high, unit="images")


def _last_fall(gaps: np.ndarray, line: np.ndarray) -> float:
    """log x of the last fall through zero; inf: still above at the end, -inf: below from the start."""
    falls = np.flatnonzero((gaps[:-1] > 0) & (gaps[1:] <= 0))
    if not len(falls) or gaps[-1] > 0:
        return math.inf if gaps[-1] > 0 else -math.inf
    i = falls[-1]
    return float(line[i] + gaps[i] / (gaps[i] - gaps[i + 1]) * (line[i + 1] - line[i]))


def _images(crossing: Measure) -> str:
    high = count(crossing.high) if math.isfinite(crossing.high) else "never"
    low = count(crossing.low) if crossing.low > 0 else "fewer"
    return f"{count(crossing.value)} images [{low}, {high}]"


def _why(verdict: Verdict, first: Measure, challenger: str, rival: str) -> str:
    if verdict is not Verdict.CANNOT_TELL:
        return ""
    if first.high < 0:
        return f"; {challenger} leads from the first size on, so where it overtook {rival} was not seen"
    return "; one of the two leads may be chance"
