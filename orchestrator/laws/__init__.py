"""Scaling laws: curves with uncertainty fitted to points, for extrapolation, and comparisons of families.

    law = laws.fit(examples_seen, error)           # the form with the best forecasts
    law.predict(1e9); law.invert(0.2); law.interval(1e9, 0.9, "prediction"); law.params; law.diagnostics
    laws.compute_ratio(resnet, vit); laws.crossing(resnet, vit)

Reads arrays, returns frozen data; deterministic. Where no law can be fitted, LawError states why; its `reason` is a fixed
string for code to test.
"""

from orchestrator.laws.crossings import Crossing, crossing
from orchestrator.laws.draws import log_draws, log_gap_draws
from orchestrator.laws.fitting import fit
from orchestrator.laws.forms import FORMS
from orchestrator.laws.isoflop_fit import isoflop, isoflop_minimum
from orchestrator.laws.joint import JointLaw, fit_joint
from orchestrator.laws.law import Diagnostics, Law, Rollout
from orchestrator.laws.optimum import Cost, Optimum, fit_cost, optimum
from orchestrator.laws.pareto_front import pareto
from orchestrator.laws.points import LawError
from orchestrator.laws.problem import Loss
from orchestrator.laws.ratios import Ratio, ReachedBy, compute_ratio, front_ratio
from orchestrator.laws.shared_asymptote import fit_shared
from orchestrator.laws.task_ceilings import ceilings
from orchestrator.laws.weights import noise_weights, seed_spread

__all__ = [
    "FORMS",
    "Cost",
    "Crossing",
    "Diagnostics",
    "JointLaw",
    "Law",
    "LawError",
    "Loss",
    "Optimum",
    "Ratio",
    "ReachedBy",
    "Rollout",
    "ceilings",
    "compute_ratio",
    "crossing",
    "fit",
    "fit_cost",
    "fit_joint",
    "fit_shared",
    "front_ratio",
    "isoflop",
    "isoflop_minimum",
    "log_draws",
    "log_gap_draws",
    "noise_weights",
    "optimum",
    "pareto",
    "seed_spread",
]
