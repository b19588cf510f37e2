"""A law as plain data and as text: parameters with intervals, roll-out error, diagnostics."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.laws import Law
from orchestrator.laws.intervals import parameter_intervals


def law_as_data(law: Law, level: float = 0.9) -> dict[str, Any]:
    """The law as plain data for JSON, with intervals and diagnostics; unknown numbers are None."""
    diagnostics, rollout = law.diagnostics, law.diagnostics.rollout
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
        "points": diagnostics.points,
        "trend": diagnostics.trend,
        "noise": _plain(diagnostics.noise),
        "rollout": {"rmse": _plain(rollout.rmse), "bias": _plain(rollout.bias), "cuts": rollout.cuts},
        "candidates": {name: _plain(value) for name, value in diagnostics.candidates.items()},
        "converged": diagnostics.converged,
        "bounds_hit": list(diagnostics.bounds_hit),
        "unidentified": list(diagnostics.unidentified),
    }


def law_as_text(law: Law, level: float = 0.9) -> str:
    """The law as a few lines of text for a terminal."""
    diagnostics, rollout = law.diagnostics, law.diagnostics.rollout
    intervals = parameter_intervals(law, level)
    names = {"c": "exponent", "e": "floor"}
    lines = [f"{law.form}: {law.formula}   ({diagnostics.points} points, {diagnostics.trend})"]
    for name, value in law.params.items():
        low, high = intervals[name]
        lines.append(f"  {name:7} {value:<10.4g} [{low:.4g}, {high:.4g}]  {names.get(name, '')}".rstrip())
    error = f"error {100 * rollout.rmse:.1f}%, bias {100 * rollout.bias:+.1f}%, over {rollout.cuts} cuts"
    lines.append(
        f"  roll-out (fitted up to a cut, scored on the next factor of two): {error if rollout.cuts else 'too few points'}"
    )
    lines.append(f"  noise of a point {100 * diagnostics.noise:.1f}%")
    if diagnostics.candidates:
        scores = ", ".join(
            f"{name} {'?' if math.isnan(v) else f'{100 * v:.1f}%'}" for name, v in diagnostics.candidates.items()
        )
        lines.append(f"  roll-out error by form: {scores}")
    warnings = [f"at a bound of the search: {', '.join(diagnostics.bounds_hit)}"] if diagnostics.bounds_hit else []
    warnings += [f"not determined by the data: {', '.join(diagnostics.unidentified)}"] if diagnostics.unidentified else []
    warnings += [] if diagnostics.converged else ["the search did not converge"]
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in warnings)])


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
