"""Scaling laws: from rows to a curve one may extrapolate, with its uncertainty, and comparisons between families.

    law = laws.fit(examples_seen, error)           # the form that would have forecast best
    law.predict(1e9); law.invert(0.2); law.interval(1e9, 0.9, "prediction"); law.params; law.diagnostics
    laws.compute_ratio(resnet, vit); laws.crossing(resnet, vit)

Reads arrays, returns frozen data; deterministic. Whatever cannot carry a law raises LawError, whose `reason` is a word.
The rooms behind this door are in `orchestrator.scaling`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from numpy.typing import ArrayLike

from orchestrator.scaling.compare import (
    Crossing,
    Ratio,
    Reached,
    compute_ratio,
    crossing,
    front_ratio,
    log_draws,
    log_gap_draws,
)
from orchestrator.scaling.fitting import fit_auto, fit_form
from orchestrator.scaling.forms import FORMS
from orchestrator.scaling.fronts import ceilings, isoflop, isoflop_minimum, pareto
from orchestrator.scaling.law import Diagnostics, Law, Rollout
from orchestrator.scaling.points import LawError, noise_weights, points, seed_spread
from orchestrator.scaling.shared import fit_shared
from orchestrator.scaling.solver import Asked, Loss
from vitmodel.config import suggest

__all__ = [
    "FORMS",
    "Crossing",
    "Diagnostics",
    "Law",
    "LawError",
    "Loss",
    "Ratio",
    "Reached",
    "Rollout",
    "ceilings",
    "compute_ratio",
    "crossing",
    "fit",
    "fit_shared",
    "front_ratio",
    "isoflop",
    "isoflop_minimum",
    "log_draws",
    "log_gap_draws",
    "noise_weights",
    "pareto",
    "seed_spread",
]

SQUARED = Loss()


def fit(
    x: ArrayLike,
    y: ArrayLike,
    form: str = "auto",
    weights: ArrayLike | None = None,
    chance: float | None = None,
    *,
    runs: Sequence[Hashable] | None = None,
    growth: float | None = None,
    loss: Loss = SQUARED,
) -> Law:
    """Fit y, an error above zero, as a law of x (n,), or (n, 2) for form "L(N,D)".

    form: a name in FORMS, or "auto" (chosen by roll-out). weights: precision of each log error (`noise_weights`), up to a
    common factor. chance: the error of guessing, for M4; fitted where it is None. runs: which rows come from one run, for
    the bootstrap. growth: weights also grow as x^growth; None means 2, or less where points are few.
    Raises LawError: fewer different x than parameters + 1 or than 4, less than a decade in x, error that rises with x,
    values that are not positive and finite.
    """
    if form != "auto" and form not in FORMS:
        raise LawError(f"no form {form!r}{suggest(form, list(FORMS))}", reason="bad input", allowed=", ".join(["auto", *FORMS]))
    found = points(x, y, weights, runs)
    asked = Asked(loss=loss, chance=chance, growth=growth)
    columns = 1 if form == "auto" else FORMS[form].columns
    if found.x.reshape(len(found.x), -1).shape[1] != columns:
        raise LawError(f"form {form} takes {columns} column(s) of x", reason="bad input")
    if form == "auto":
        return fit_auto(found, asked)
    return fit_form(FORMS[form], found, asked)
