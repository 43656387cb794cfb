"""Unequal sample counts: one row one vote when rows are selected, capped counts when survivors are averaged.

A faulty worker declares any count it likes. The cap is a multiple of a low median of all counts, which a minority cannot raise, so that no
claim is worth more than a few typical workers.
"""

import numpy as np

from mottle.aggregation.decisions.base import Floats

DEFAULT_CAP = 2.0
CAP_DOC = "C, above or equal 1: no row counts for more than C times the lower median of the sample counts"


def capped(counts_N: Floats | None, cap: float) -> Floats | None:
    """min(count, cap * low), low the ceil(n/2)-th smallest count; None stays None (equal counts).

    Args:
        counts_N: positive whole counts of the valid rows.
        cap: C, at least 1; infinity for no cap.
    """
    if counts_N is None or np.isinf(cap):
        return counts_N
    low = np.sort(counts_N)[(len(counts_N) + 1) // 2 - 1]
    return np.asarray(np.minimum(counts_N, cap * low))


def or_ones(weights_N: Floats | None, num_rows: int) -> Floats:
    """The weights; ones where there are none."""
    return np.ones(num_rows) if weights_N is None else weights_N


def only(weights_N: Floats, rows: tuple[int, ...]) -> Floats:
    """The weights of some rows, 0 elsewhere."""
    kept_N = np.zeros_like(weights_N)
    kept_N[list(rows)] = weights_N[list(rows)]
    return kept_N
