"""A law as plain data and as text: parameters with intervals, roll-out error, and what the fit has to say of itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from orchestrator.laws import Law


def parameter_intervals(law: Law, level: float = 0.9) -> dict[str, tuple[float, float]]:
    """Each parameter's interval (low, high), from the law's bootstrap draws."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    with np.errstate(over="ignore"):
        drawn = [
            law.task.form.natural(theta, float(scale), law.centre)
            for theta, scale in zip(law.draws.theta, law.draws.log_scale, strict=True)
        ]
    found = {}
    for name in law.params:
        low, high = np.quantile([one[name] for one in drawn], tails)
        found[name] = (float(low), float(high))
    return found


def law_as_data(law: Law, level: float = 0.9) -> dict[str, Any]:
    """Everything a reader needs to judge a law, as plain data; what is unknown is None."""
    facts, rollout = law.diagnostics, law.diagnostics.rollout
    intervals = parameter_intervals(law, level)
    return {
        "form": law.form,
        "formula": law.formula,
        "params": {
            name: {"value": _plain(value), "low": _plain(intervals[name][0]), "high": _plain(intervals[name][1])}
            for name, value in law.params.items()
        },
        "level": level,
        "x_range": list(law.x_range),
        "points": facts.points,
        "trend": facts.trend,
        "noise": _plain(facts.noise),
        "rollout": {"rmse": _plain(rollout.rmse), "bias": _plain(rollout.bias), "cuts": rollout.cuts},
        "candidates": {name: _plain(value) for name, value in facts.candidates.items()},
        "converged": facts.converged,
        "bounds_hit": list(facts.bounds_hit),
        "unidentified": list(facts.unidentified),
    }


def law_as_text(law: Law, level: float = 0.9) -> str:
    """The same for a person, a few lines."""
    facts, rollout = law.diagnostics, law.diagnostics.rollout
    intervals = parameter_intervals(law, level)
    names = {"c": "exponent", "e": "floor"}
    lines = [f"{law.form}: {law.formula}   ({facts.points} points, {facts.trend})"]
    for name, value in law.params.items():
        low, high = intervals[name]
        lines.append(f"  {name:7} {value:<10.4g} [{low:.4g}, {high:.4g}]  {names.get(name, '')}".rstrip())
    ahead = f"{100 * rollout.rmse:.1f}% off, bias {100 * rollout.bias:+.1f}%, over {rollout.cuts} cuts"
    lines.append(
        f"  roll-out (fitted on the past, scored on the next factor of two): {ahead if rollout.cuts else 'too few points'}"
    )
    lines.append(f"  noise of a point {100 * facts.noise:.1f}%")
    if facts.candidates:
        scores = ", ".join(f"{name} {'?' if math.isnan(v) else f'{100 * v:.1f}%'}" for name, v in facts.candidates.items())
        lines.append(f"  roll-out error by form: {scores}")
    doubts = [f"at its bound: {', '.join(facts.bounds_hit)}"] if facts.bounds_hit else []
    doubts += [f"not held by the data: {', '.join(facts.unidentified)}"] if facts.unidentified else []
    doubts += [] if facts.converged else ["the search did not converge"]
    return "\n".join([*lines, *(f"  {doubt}" for doubt in doubts)])


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
