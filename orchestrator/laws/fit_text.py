"""Fits of a table as plain data for JSON and as text for a terminal."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.laws.isoflop_fit import MIN_SIZES, IsoFlop
from orchestrator.laws.joint import FORMULA, NAMES
from orchestrator.laws.optimum import Optimum
from orchestrator.laws.render import law_as_data, law_as_text
from orchestrator.laws.table_fits import JOINT, AnyFit, JointFit
from orchestrator.laws.tables import GroupLaw

LEVEL = 0.9
Interval = tuple[float, float]


def as_data(group: GroupLaw) -> dict[str, Any]:
    """A group as plain data; unknown numbers are None."""
    return {**group.keys, "law": None if group.law is None else _fit_as_data(group.law), "refused": group.refused}


def as_text(fit: AnyFit) -> str:
    """A fit as a few lines."""
    if isinstance(fit, JointFit):
        return _joint_as_text(fit)
    return _isoflop_as_text(fit) if isinstance(fit, IsoFlop) else law_as_text(fit)


def _fit_as_data(fit: AnyFit) -> dict[str, Any]:
    if isinstance(fit, JointFit):
        return _joint_as_data(fit)
    return _isoflop_as_data(fit) if isinstance(fit, IsoFlop) else law_as_data(fit)


def _joint_as_data(fit: JointFit) -> dict[str, Any]:
    law, intervals = fit.law, fit.law.parameter_intervals(LEVEL)
    return {
        "form": JOINT,
        "formula": FORMULA,
        "params": {name: _value(law.params[name], intervals[name]) for name in NAMES},
        "level": LEVEL,
        "points": law.rows,
        "blocks": law.blocks,
        "weights": "equal",
        "loss": _loss(fit),
        "rmse": law.rmse,
        "converged": law.converged,
        "unidentified": list(law.unidentified(LEVEL)),
        "optimum": None if fit.optimum is None else _optimum_as_data(fit.optimum),
        "refused": fit.refused,
    }


def _optimum_as_data(best: Optimum) -> dict[str, Any]:
    return {
        "compute": {"factor": best.cost.factor, "power": best.cost.power},
        "size": {"exponent": _value(best.size_exponent, best.size_exponent_interval), "factor": best.size_factor},
        "data": {"exponent": _value(best.data_exponent, best.data_exponent_interval), "factor": best.data_factor},
        "at": [
            {
                "compute": at.compute,
                "size": _value(at.size, at.size_interval),
                "data": _value(at.data, at.data_interval),
                "y": at.y,
            }
            for at in best.at
        ],
    }


def _isoflop_as_data(fit: IsoFlop) -> dict[str, Any]:
    return {
        "form": "IsoFLOP",
        "formula": "size = factor compute^exponent",
        "params": {
            "exponent": _value(fit.exponent, fit.exponent_interval),
            "factor": {"value": _plain(fit.factor), "low": None, "high": None},
        },
        "level": LEVEL,
        "noise": _plain(fit.noise),
        "minima": [
            {
                "compute": compute,
                "state": minimum.state,
                "rows": minimum.rows,
                "size": _value(minimum.size, minimum.interval),
                "y": _plain(minimum.error),
            }
            for compute, minimum in fit.minima.items()
        ],
    }


def _joint_as_text(fit: JointFit) -> str:
    law, intervals, unknown = fit.law, fit.law.parameter_intervals(LEVEL), fit.law.unidentified(LEVEL)
    rows = f"{law.rows} rows" + ("" if law.blocks == law.rows else f" in {law.blocks} blocks")
    lines = [f"{JOINT}: {FORMULA}   ({rows}, equal weights, {_loss(fit)})"]
    for name in NAMES:
        shown = "not determined by these rows" if name in unknown else _interval(intervals[name])
        lines.append(f"  {name:7} {law.params[name]:<10.4g} {shown}")
    lines.append(f"  error of log y: {100 * law.rmse:.2f}%")
    lines += [] if law.converged else ["  warning: the search did not converge"]
    return "\n".join([*lines, *(_optimum_lines(fit.optimum) if fit.optimum else [f"  no best allocation: {fit.refused}"])])


def _optimum_lines(best: Optimum) -> list[str]:
    power = "" if best.cost.power == 1 else f"^{best.cost.power:.3g}"
    lines = [
        f"  least y at a given compute C = {best.cost.factor:.4g} N{power} D:",
        f"    N = {best.size_factor:.3g} C^{best.size_exponent:.3f} {_interval(best.size_exponent_interval, '.3f')}",
        f"    D = {best.data_factor:.3g} C^{best.data_exponent:.3f} {_interval(best.data_exponent_interval, '.3f')}",
    ]
    for at in best.at:
        size, data = _interval(at.size_interval, ".3g"), _interval(at.data_interval, ".3g")
        lines.append(f"    C {at.compute:.0e}: N {at.size:.3g} {size}, D {at.data:.3g} {data}, y {at.y:.4g}")
    return lines


def _isoflop_as_text(fit: IsoFlop) -> str:
    lines = ["IsoFLOP: the best size at each compute, by a parabola in log size"]
    few = [minimum for minimum in fit.minima.values() if minimum.state == "too few sizes"]
    for compute, minimum in fit.minima.items():
        if minimum.state == "too few sizes":
            continue
        best = f"best size {minimum.size:.3g} {_interval(minimum.interval, '.3g')}, y {minimum.error:.4g}"
        found = best if minimum.state == "interior" else f"no best size: {minimum.state}"
        lines.append(f"  C {compute:.3g} ({minimum.rows} rows): {found}")
    if few:
        lines.append(f"  {sum(m.rows for m in few)} rows at {len(few)} other computes: fewer than {MIN_SIZES} sizes each")
    if math.isnan(fit.exponent):
        return "\n".join([*lines, "  no law: fewer than two curves have a minimum inside their sizes"])
    interval = _interval(fit.exponent_interval, ".3f")
    lines.append(f"  size = {fit.factor:.3g} C^{fit.exponent:.3f} {interval}, through the minima inside their sizes")
    return "\n".join(lines)


def _loss(fit: JointFit) -> str:
    return f"huber, delta {fit.law.delta:g}" if math.isfinite(fit.law.delta) else "squared"


def _interval(interval: Interval, digits: str = ".4g") -> str:
    low, high = interval
    return f"[{low:{digits}}, {high:{digits}}]" if math.isfinite(low) and math.isfinite(high) else "[unknown]"


def _value(value: float, interval: Interval) -> dict[str, float | None]:
    return {"value": _plain(value), "low": _plain(interval[0]), "high": _plain(interval[1])}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
