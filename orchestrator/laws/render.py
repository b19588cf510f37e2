"""A law as plain data and as text: parameters with intervals, roll-out error, diagnostics."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.laws import Law
from orchestrator.laws.intervals import FLOORS, Interval, intervals_of, parameter_intervals

__all__ = ["law_as_data", "law_as_text", "parameter_intervals", "parameters_as_text", "weights_as_text"]
SMALL_WEIGHT = 0.05


def law_as_data(law: Law, level: float = 0.9) -> dict[str, Any]:
    """The law as plain data for JSON, with intervals and diagnostics; unknown numbers are None."""
    diagnostics, rollout = law.diagnostics, law.diagnostics.rollout
    intervals = intervals_of(law, level)
    return {
        "form": law.form,
        "formula": law.formula,
        "params": {
            name: {
                "value": _plain(value),
                "low": _plain(intervals[name].low),
                "high": _plain(intervals[name].high),
                "identified": intervals[name].identified,
            }
            for name, value in law.params.items()
        },
        "level": level,
        "x_range": list(law.x_range),
        "points": diagnostics.points,
        "trend": diagnostics.trend,
        "noise": _plain(diagnostics.noise),
        "rollout": {"rmse": _plain(rollout.rmse), "bias": _plain(rollout.bias), "cuts": rollout.cuts},
        "weights": {name: round(weight, 4) for name, weight in diagnostics.weights.items()},
        "candidates": {name: _plain(value) for name, value in diagnostics.candidates.items()},
        "converged": diagnostics.converged,
        "bounds_hit": list(diagnostics.bounds_hit),
        "unidentified": [name for name, interval in intervals.items() if not interval.identified],
        "short_range": diagnostics.short_range,
    }


def parameters_as_text(law: Law, level: float = 0.9) -> dict[str, str]:
    """Each parameter with its interval; of one that the data do not identify, only what they say about it."""
    return {name: _parameter(name, law.params[name], interval) for name, interval in intervals_of(law, level).items()}


def weights_as_text(law: Law) -> str:
    """The weights of the averaged forms, the largest first; those below 5% in one sum."""
    weights = sorted(law.diagnostics.weights.items(), key=lambda item: -item[1])
    large = [f"{name} {weight:.0%}" for name, weight in weights if weight >= SMALL_WEIGHT]
    rest = sum(weight for _, weight in weights if weight < SMALL_WEIGHT)
    return ", ".join([*large, f"others {rest:.0%}"] if rest else large)


def _parameter(name: str, value: float, interval: Interval) -> str:
    low, high = interval.low, interval.high
    if interval.identified:
        return f"{value:<10.4g} [{low:.4g}, {high:.4g}]"
    if name in FLOORS:
        return f"not identified: between {low:.4g} and {high:.4g}"
    return "not identified by the data"


def law_as_text(law: Law, level: float = 0.9) -> str:
    """The law as a few lines of text for a terminal."""
    diagnostics, rollout = law.diagnostics, law.diagnostics.rollout
    names = {"c": "exponent", "e": "floor"}
    lines = [f"{law.form}: {law.formula}   ({diagnostics.points} points, {diagnostics.trend})"]
    lines += [f"  {name:7} {text}  {names.get(name, '')}".rstrip() for name, text in parameters_as_text(law, level).items()]
    if law.is_floor_left_out:
        lines.append("  floor   at 0, left out; the intervals allow for one")
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
    if diagnostics.weights:
        lines.append("  predictions average forms, weights by roll-out: " + weights_as_text(law))
    warnings = ["short range: x spans less than a decade"] if diagnostics.short_range else []
    warnings += [f"at a bound of the search: {', '.join(diagnostics.bounds_hit)}"] if diagnostics.bounds_hit else []
    warnings += [] if diagnostics.converged else ["the search did not converge"]
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in warnings)])


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
