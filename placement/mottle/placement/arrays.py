"""Integer arrays, and their list twins for inner loops: indexing a list is several times faster than indexing an array."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def int_list(values: Ints) -> list[int]:
    """A one-dimensional array as Python integers."""
    plain: list[int] = values.tolist()
    return plain


def int_rows(values: Ints) -> list[tuple[int, ...]]:
    """A two-dimensional array as rows of Python integers.

    Tuples of integers, because the cyclic garbage collector stops tracking those: tens of thousands of small lists would be walked
    again and again while a graph is being built.
    """
    return list(zip(*(int_list(column) for column in values.T), strict=True))


def split_rows(values: Ints, owner: Ints, size: int) -> list[tuple[int, ...]]:
    """Rows of `values` by `owner`, which is sorted; row r holds the values whose owner is r. Tuples as in `int_rows`."""
    ends = int_list(np.searchsorted(owner, np.arange(size + 1)))
    flat = tuple(int_list(values))
    return [flat[ends[row] : ends[row + 1]] for row in range(size)]


def sum_by(owner: Ints, values: Ints, size: int) -> Ints:
    """(size,) exact sums of `values` by owner; `np.bincount` would go through floats."""
    total = np.zeros(size, np.int64)
    np.add.at(total, owner, values)
    return total


def max_by(owner: Ints, values: Ints, size: int) -> Ints:
    """(size,) largest of the non-negative `values` by owner, 0 where there is none."""
    largest = np.zeros(size, np.int64)
    np.maximum.at(largest, owner, values)
    return largest
