"""Bulyan: rows picked one by one by Krum's score, then, coordinate by coordinate, the values closest to their median.

Public variants run n-2f-2 steps, average several rows at each step, or keep one value less. Here theta = n - 2f rows are picked, one a
step, scores computed anew among the remaining rows, and theta - 2f values kept.

The key of a step is (score, total distance to all remaining rows, index). The second part is not in the paper: when one neighbour is left
to count, two mutual nearest neighbours have equal scores by construction, and without it the result would depend on the order of the rows.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from mottle.aggregation.decisions.base import (
    Choice,
    ColumnPlan,
    Evidence,
    Family,
    Floats,
    Measurement,
    RuleConfig,
    check_at_least,
    check_budget,
    option,
    remaining_budget,
    resolve_share,
)
from mottle.aggregation.decisions.weights import CAP_DOC, DEFAULT_CAP, capped, or_ones


def selection_order(distances_NN: Floats, num_byzantine: int) -> tuple[int, ...]:
    """The n - 2f rows in the order in which they are picked. Cost n^2 a step, after one sort of every row.

    Args:
        distances_NN: symmetric squared distances, +inf allowed; the diagonal is not read.
        num_byzantine: f.
    """
    num_rows = len(distances_NN)
    others_NN = distances_NN.copy()
    np.fill_diagonal(others_NN, np.inf)
    by_distance_NN = np.argsort(others_NN, axis=1, kind="stable")[:, : num_rows - 1]
    sorted_NN = np.take_along_axis(others_NN, by_distance_NN, axis=1)
    remaining_N = np.ones(num_rows, dtype=bool)
    order: list[int] = []
    for _ in range(num_rows - 2 * num_byzantine):
        # Adding zeros in between leaves a running sum in ascending order of its terms as it is.
        there_NN = remaining_N[by_distance_NN] & remaining_N[:, None]
        num_neighbours = max(0, int(remaining_N.sum()) - num_byzantine - 2)
        counted_NN = there_NN & (np.cumsum(there_NN, axis=1) <= num_neighbours)
        score_N = _sums(sorted_NN, counted_NN)
        total_N = _sums(sorted_NN, there_NN)
        rows = np.flatnonzero(remaining_N)
        best = int(rows[np.lexsort((rows, total_N[rows], score_N[rows]))[0]])
        order.append(best)
        remaining_N[best] = False
    return tuple(order)


def _sums(terms_NN: Floats, counted_NN: np.ndarray) -> Floats:
    if terms_NN.shape[1] == 0:
        return np.zeros(len(terms_NN))
    return np.asarray(np.cumsum(np.where(counted_NN, terms_NN, 0.0), axis=1)[:, -1])


@final
@dataclass(frozen=True, kw_only=True)
class Bulyan(RuleConfig):
    """Select theta = n-2f rows by repeated Krum, then average, per coordinate, the theta-2f values closest to their median."""

    name: ClassVar[str] = "bulyan"
    family: ClassVar[Family] = "gram"
    summary: ClassVar[str] = "n-2f rows picked by Krum one by one, then per coordinate the n-4f values closest to their median"
    condition: ClassVar[str] = "n >= 4f + 3 (f is `num_byzantine`)"
    guarantee: ClassVar[str] = "bounded error at every coordinate while q <= f"
    source: ClassVar[str] = "El Mhamdi, Guerraoui, Rouault, ICML 2018, arXiv 1802.07927"

    num_byzantine: float = option(doc="f, faulty rows tolerated; a count, or a share of the round")
    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        check_budget(self.name, "num_byzantine", self.num_byzantine)
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)

    @property
    def measures(self) -> Measurement:
        return Measurement(distances=True)

    def budget(self, num_rows: int) -> int:
        return resolve_share(self.num_byzantine, num_rows)

    def largest_budget(self, num_rows: int) -> int:
        return (num_rows - 3) // 4

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(num_rows >= 4 * (budget or 0) + 3, num_rows, budget)

    def decide(self, evidence: Evidence) -> Choice:
        assert evidence.distances is not None
        budget = remaining_budget(self, evidence)
        order = selection_order(evidence.distances, budget)
        rows = tuple(sorted(order))
        weights_N = capped(evidence.counts, self.weight_cap)
        if budget == 0:
            weights_N = or_ones(weights_N, evidence.num_rows)
            return Choice(selected=rows, order=order, weights=weights_N, divisor=float(weights_N.sum()))
        return Choice(
            selected=rows,
            order=order,
            columns=ColumnPlan(kind="near_median", drop=2 * budget),
            column_rows=rows,
            column_weights=None if weights_N is None else weights_N[list(rows)],
        )
