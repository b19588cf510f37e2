"""Arithmetic of the global batch: how it is divided into micro-batches. Pure."""

from __future__ import annotations


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is not above `limit`; 1 for a limit below 1."""
    return next((size for size in range(min(number, limit), 1, -1) if number % size == 0), 1)
