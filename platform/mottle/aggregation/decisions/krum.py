"""Krum and Multi-Krum: rows that lie close to many others.

The papers and public implementations disagree on how many neighbours are counted (n-f-2 here and in the paper; n-f-1 and n-f elsewhere),
whether distances are squared (yes), and whether a row is its own neighbour (no). Each choice picks other rows on some input.

Letters: N rows, K neighbours.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from mottle.aggregation.decisions.base import (
    Choice,
    Evidence,
    Family,
    Floats,
    Measurement,
    RuleConfig,
    check_at_least,
    check_budget,
    check_whole,
    option,
    remaining_budget,
    resolve_share,
)
from mottle.aggregation.decisions.weights import CAP_DOC, DEFAULT_CAP, capped, only, or_ones

SOURCE = "Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, arXiv 1703.02757"


def krum_scores(distances_NN: Floats, num_neighbours: int) -> Floats:
    """Sum of the `num_neighbours` smallest squared distances of each row to the others, added in ascending order.

    Args:
        distances_NN: symmetric, +inf allowed; the diagonal is not read.
    """
    num_rows = len(distances_NN)
    if num_neighbours <= 0:
        return np.zeros(num_rows)
    others_NN = distances_NN.copy()
    np.fill_diagonal(others_NN, np.inf)
    nearest_NK = np.sort(others_NN, axis=1)[:, :num_neighbours]
    return np.asarray(np.cumsum(nearest_NK, axis=1)[:, -1])


def rank(keys_N: Floats) -> tuple[int, ...]:
    """Row indices by (key, index), smallest first."""
    return tuple(int(row) for row in np.argsort(keys_N, kind="stable"))


@dataclass(frozen=True, kw_only=True)
class _Krum(RuleConfig):
    family: ClassVar[Family] = "gram"
    condition: ClassVar[str] = "n >= 2f + 3 (f is `num_byzantine`)"
    source: ClassVar[str] = SOURCE

    num_byzantine: float = option(doc="f, faulty rows tolerated; a count, or a share of the round")

    def __post_init__(self) -> None:
        check_budget(self.name, "num_byzantine", self.num_byzantine)

    @property
    def measures(self) -> Measurement:
        return Measurement(distances=True)

    def budget(self, num_rows: int) -> int:
        return resolve_share(self.num_byzantine, num_rows)

    def largest_budget(self, num_rows: int) -> int:
        return (num_rows - 3) // 2

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(num_rows >= 2 * (budget or 0) + 3, num_rows, budget)

    def _scores(self, evidence: Evidence, budget: int) -> Floats:
        assert evidence.distances is not None
        return krum_scores(evidence.distances, evidence.num_rows - budget - 2)


@final
@dataclass(frozen=True, kw_only=True)
class Krum(_Krum):
    """The row with the smallest sum of squared distances to its n-f-2 nearest others. Counts change nothing."""

    name: ClassVar[str] = "krum"
    summary: ClassVar[str] = "the one row that is closest to its n-f-2 nearest others"
    guarantee: ClassVar[str] = "a row near the honest ones while q <= f; it may be a faulty one"

    def decide(self, evidence: Evidence) -> Choice:
        scores_N = self._scores(evidence, remaining_budget(self, evidence))
        best = rank(scores_N)[:1]
        return Choice(selected=best, order=best, weights=only(np.ones(evidence.num_rows), best), scores=scores_N)


@final
@dataclass(frozen=True, kw_only=True)
class MultiKrum(_Krum):
    """The mean of the m rows with the smallest Krum scores; scores are computed once, not anew after each pick."""

    name: ClassVar[str] = "multi_krum"
    summary: ClassVar[str] = "the mean of the m rows with the best Krum scores"
    guarantee: ClassVar[str] = "a mean of rows near the honest ones while q <= f and m <= n-f-2"
    source: ClassVar[str] = SOURCE + "; El Mhamdi, Guerraoui, Rouault, arXiv 1905.04374"

    num_selected: int | None = option(None, doc="m, rows averaged; n-f-2 by default, at most n-f")
    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)
        if self.num_selected is not None:
            check_whole(self.name, "num_selected", self.num_selected, 1)

    def check(self, num_rows: int, budget: int | None) -> None:
        super().check(num_rows, budget)
        selected, left = self.num_selected or 1, num_rows - (budget or 0)
        self._require(selected <= left, num_rows, budget, advice=f"num_selected is {selected}, more than the n-f={left} rows allowed")
        if selected > left - 2:
            warnings.warn(
                f"multi_krum: num_selected={selected} is above n-f-2={left - 2}, the range its analysis covers; "
                f"faulty rows may be among the selected",
                stacklevel=2,
            )

    def decide(self, evidence: Evidence) -> Choice:
        budget = remaining_budget(self, evidence)
        scores_N = self._scores(evidence, budget)
        order = rank(scores_N)[: self.num_selected or evidence.num_rows - budget - 2]
        weights_N = only(or_ones(capped(evidence.counts, self.weight_cap), evidence.num_rows), order)
        return Choice(selected=tuple(sorted(order)), order=order, weights=weights_N, divisor=float(weights_N.sum()), scores=scores_N)
