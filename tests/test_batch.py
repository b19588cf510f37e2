"""How a global batch is divided."""

from __future__ import annotations

import pytest

from vitmodel.config.batch import largest_divisor


@pytest.mark.parametrize(
    ("number", "limit", "divisor"),
    [(64, 16, 16), (60, 16, 15), (60, 100, 60), (7, 6, 1), (12, 1, 1), (12, 0, 1), (12, -3, 1), (1, 1, 1)],
)
def test_largest_divisor(number: int, limit: int, divisor: int) -> None:
    assert largest_divisor(number, limit) == divisor
