"""Numbers as people read them."""

from __future__ import annotations

_UNITS = ((2 * 86400, 86400, "d", 0), (2 * 3600, 3600, "h", 1), (120, 60, "min", 0))  # from, size, name, decimals


def duration(seconds: float) -> str:
    """A duration in one unit: `42 s`, `7 min`, `3.5 h`, `12 d`. Negative durations count as 0."""
    for least, size, name, decimals in _UNITS:
        if seconds >= least:
            return f"{seconds / size:.{decimals}f} {name}"
    return f"{max(0.0, seconds):.0f} s"
