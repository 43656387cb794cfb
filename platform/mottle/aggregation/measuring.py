"""Tensor side of statistics: measures rows and lays the sums out for all rows of the round, also those that were left out.

Letters: N rows given, V rows measured, P points.
"""

from collections.abc import Sequence

import numpy as np

from mottle.aggregation.decisions.base import Measurement
from mottle.aggregation.decisions.statistics import Statistics, num_points, sizes
from mottle.aggregation.kernels import sums
from mottle.aggregation.rows import Rows


def measure(rows: Rows, what: Measurement, companions: sums.Companions, excluded: Sequence[int]) -> Statistics:
    """Exact sums over the coordinates of these rows.

    Args:
        rows: the rows that are there; malformed and missing ones count as excluded.
        excluded: rows, by index among those given, that are known to be invalid and take no part.
    """
    out = sorted({*excluded, *(set(range(rows.num_given)) - set(rows.positions))})
    kept = [position for position in rows.positions if position not in out]
    nonfinite = [0] * rows.num_given
    laid_out = {part: [0] * size for part, size in sizes(what, rows.num_given).items()}
    if kept:
        finite, totals = sums.measure(rows.given(kept), what, companions)
        for position, fine in zip(kept, finite, strict=True):
            nonfinite[position] = int(not fine)
        for part, values in totals.items():
            _scatter(laid_out[part], values, _places(part, what, kept, rows.num_given))
    return Statistics(what, rows.num_given, tuple(nonfinite), tuple(value for part in laid_out.values() for value in part), tuple(out))


def _scatter(target: list[int], values: Sequence[int], places: Sequence[int]) -> None:
    for place, value in zip(places, values, strict=True):
        target[place] = value


def _places(part: str, what: Measurement, kept: Sequence[int], num_given: int) -> list[int]:
    """Where the sums over the kept rows stand among those over all rows."""
    if part == "norms":
        return list(kept)
    if part == "dots":
        return [*kept, num_given]
    extra = num_points(what, num_given) - num_given if part == "gram" else 0
    points = [*kept, *range(num_given, num_given + extra)]
    diagonal = 0 if part == "gram" else 1
    place = np.zeros((num_given + extra, num_given + extra), dtype=np.int64)
    upper = np.triu_indices(num_given + extra, diagonal)
    place[upper] = np.arange(len(upper[0]))
    sub_place = place[np.ix_(points, points)]
    return [int(each) for each in sub_place[np.triu_indices(len(points), diagonal)]]
