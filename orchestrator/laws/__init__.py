"""Scaling laws: from rows to a curve one may extrapolate, with its uncertainty, and comparisons between families.

    law = laws.fit(examples_seen, error)           # the form that would have forecast best
    law.predict(1e9); law.invert(0.2); law.interval(1e9, 0.9, "prediction"); law.params; law.diagnostics
    laws.compute_ratio(resnet, vit); laws.crossing(resnet, vit)

Reads arrays, returns frozen data; deterministic. Whatever cannot carry a law raises LawError, whose `reason` is a word.
"""

from orchestrator.laws.compare import Crossing, Ratio, Reached, compute_ratio, crossing, front_ratio, log_draws, log_gap_draws
from orchestrator.laws.fitting import fit
from orchestrator.laws.forms import FORMS
from orchestrator.laws.fronts import ceilings, isoflop, isoflop_minimum, pareto
from orchestrator.laws.law import Diagnostics, Law, Rollout
from orchestrator.laws.points import LawError, noise_weights, seed_spread
from orchestrator.laws.shared import fit_shared
from orchestrator.laws.solver import Loss

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
