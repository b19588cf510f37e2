"""Comparisons of measured numbers: values that differ only by rounding are equal. Pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-5  # relative difference of the same number, computed or written in two ways


def group_numbers(values: ArrayLike, relative: float = ROUNDING) -> NDArray[np.int64]:
    """The group (n,) of each positive value, numbered from 0 in ascending order; (n, k): of each row, by all its columns.

    A group contains every value that is at most `relative` above the smallest value of the group.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim == 2:
        columns = np.column_stack([group_numbers(column, relative) for column in numbers.T])
        return np.unique(columns, axis=0, return_inverse=True)[1].ravel().astype(np.int64)
    groups = np.zeros(len(numbers), dtype=np.int64)
    smallest, number = np.nan, -1
    for index in np.argsort(numbers, kind="stable"):
        if not numbers[index] <= smallest * (1 + relative):
            smallest, number = numbers[index], number + 1
        groups[index] = number
    return groups


def snap(values: ArrayLike, relative: float = ROUNDING) -> NDArray[np.float64]:
    """The values (n,), with one number, the smallest, for all values of a group; values that are not positive are unchanged."""
    numbers = np.array(values, dtype=float)
    is_positive = numbers > 0
    groups = group_numbers(numbers[is_positive], relative)
    smallest = np.full(len(groups), np.inf)
    np.minimum.at(smallest, groups, numbers[is_positive])
    numbers[is_positive] = smallest[groups]
    return numbers


def count_distinct(values: ArrayLike, relative: float = ROUNDING) -> int:
    """How many values (n,) or rows (n, k) differ by more than rounding."""
    groups = group_numbers(values, relative)
    return int(groups.max()) + 1 if len(groups) else 0
