"""How often the intervals of laws contain the truth, on simulated curves with and without a floor.

    python bench/law_coverage.py [--form M2 --form auto] [--sizes 5 8 12 24] [--curves 400] [--noise 0.03] [--correlation 0.5]

One row per form, floor and number of points: the share of 90% intervals of the exponent, the floor, and the law (inside the
data and at twice the largest x) that contain the truth, the share in which the estimate is inside, and the share of fits whose
exponent and floor are identified. A floor that the law leaves out counts as the interval of M2. Exponents, floors and ranges
of x are drawn anew for every curve.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator import laws
from orchestrator.laws.intervals import intervals_of

Array = NDArray[np.float64]
EXPONENTS, FLOORS, SPANS = (0.2, 0.6), (0.2, 0.7), (30.0, 3000.0)  # floors: over the error at the largest x
COLUMNS = ("exponent", "floor", "law", "estimate_inside", "exponent_identified", "floor_identified")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Curves to simulate: points, standard deviation and correlation of log error, whether they have a floor."""

    form: str
    points: int
    has_floor: bool
    noise: float = 0.03
    correlation: float = 0.0


def coverage(setting: Setting, curves: int, seed: int = 0) -> dict[str, float]:
    """The mean of each of COLUMNS over simulated curves, and the share of curves without a law ("refused")."""
    random, rows, refused = np.random.default_rng(seed), [], 0
    for _ in range(curves):
        try:
            rows.append(_one(setting, random))
        except laws.LawError:
            refused += 1
    means = np.nanmean(np.array(rows, dtype=float), axis=0)
    return {**dict(zip(COLUMNS, means.tolist(), strict=True)), "refused": refused / curves}


def _one(setting: Setting, random: np.random.Generator) -> tuple[float, ...]:
    exponent, span = random.uniform(*EXPONENTS), np.exp(random.uniform(*np.log(SPANS)))
    share = random.uniform(*FLOORS) if setting.has_floor else 0.0
    x = np.geomspace(1, span, setting.points)

    def truth(at: Array) -> Array:
        return np.asarray(0.2 * (share + (1 - share) * (at / span) ** -exponent))

    noise = random.standard_normal(len(x))
    for i in range(1, len(x)):
        noise[i] = setting.correlation * noise[i - 1] + np.sqrt(1 - setting.correlation**2) * noise[i]
    law = laws.fit(x, truth(x) * np.exp(setting.noise * noise), setting.form)
    if law.form == "flat":
        raise laws.LawError("flat", reason="no solution")
    at = np.array([span**0.5, span, 2 * span])
    low, high = law.interval(at)
    found = intervals_of(law)
    everything = law.problem.form.natural(law.theta, law.log_scale, law.centre)
    floor = intervals_of(replace(law, params=everything)).get("e")
    inside = [found[name].low <= value <= found[name].high for name, value in law.params.items()]
    return (
        found["c"].low <= exponent <= found["c"].high,
        np.nan if floor is None else floor.low <= 0.2 * share <= floor.high,
        float(np.mean((low <= truth(at)) & (truth(at) <= high))),
        all(inside) and bool(((low <= law.predict(at)) & (law.predict(at) <= high)).all()),
        found["c"].identified,
        np.nan if floor is None else floor.identified,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--form", action="append", choices=["auto", "M1", "M2", "M3", "zhai"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[5, 8, 12, 24])
    parser.add_argument("--curves", type=int, default=400)
    parser.add_argument("--noise", type=float, default=0.03)
    parser.add_argument("--correlation", type=float, default=0.0)
    options = parser.parse_args()
    print(f"form  floor points {' '.join(COLUMNS)} refused")
    for form in options.form or ["M2", "auto"]:
        for has_floor in (True, False):
            for points in options.sizes:
                setting = Setting(
                    form=form, points=points, has_floor=has_floor, noise=options.noise, correlation=options.correlation
                )
                found = coverage(setting, options.curves)
                values = " ".join(f"{found[name]:>{len(name)}.2f}" for name in (*COLUMNS, "refused"))
                print(f"{form:5} {'yes' if has_floor else 'no':5} {points:6} {values}", flush=True)


if __name__ == "__main__":
    main()
