"""Geometric median: the point with the smallest sum of distances to the rows, decided on their Gram matrix alone.

Weiszfeld's iteration with the correction of Vardi and Zhang where an iterate meets a row. All iterates are combinations of the rows (and of
the coordinate-wise median, where it starts and about which the Gram matrix is taken), so one matrix serves any number of iterations.

Where the optimum is a row the iteration is slow; that case is found first, by the condition that the pull of all other rows is smaller
than the row's own weight.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from mottle.aggregation.decisions.affine import Points
from mottle.aggregation.decisions.base import (
    Choice,
    Evidence,
    Family,
    Floats,
    Gram,
    Measurement,
    RuleConfig,
    check_at_least,
    check_whole,
    option,
    remaining_budget,
)
from mottle.aggregation.decisions.weights import CAP_DOC, DEFAULT_CAP, capped, or_ones

_ROW_MARGIN = 1e-9
"""A row is taken as the optimum only when the pull on it is clearly below its weight; at equality it is not the only one."""

_SAME = 2.0**-25
"""Distance, relative to the median one, below which a difference of squares has no digit left."""


def optimal_row(points: Points, weights_N: Floats) -> int | None:
    """The row that is the unique minimiser, if one is.

    Row j is, when |sum over rows i not equal to it of w_i (u_i - u_j) / |u_i - u_j|| < total weight of the rows equal to it.
    """
    norms_N = np.diagonal(points.gram)
    distances_NN = np.sqrt(np.maximum(norms_N[:, None] + norms_N[None, :] - 2 * points.gram, 0.0))
    apart_NN = (distances_NN > 0) & points.near
    pull_NN = np.divide(weights_N, distances_NN, out=np.zeros_like(distances_NN), where=apart_NN)
    pull_NN -= np.diag(pull_NN.sum(axis=1))
    strength_N = np.sqrt(np.maximum(0.0, ((pull_NN @ points.gram) * pull_NN).sum(axis=1)))
    own_weight_N = np.where(~apart_NN & points.near, weights_N, 0.0).sum(axis=1)
    optimal = np.flatnonzero(points.near & (strength_N < own_weight_N * (1 - _ROW_MARGIN)))
    return int(optimal[0]) if len(optimal) else None


def weiszfeld(points: Points, weights_N: Floats, *, tol: float, max_iter: int) -> Floats:
    """Coefficients (they add up to 1) of the geometric median in the rows, from a start at the origin of the Gram matrix.

    Stops at a step below `tol` times the mean distance to the rows: at least as strict as tol * max(1, |y|) for rows near each other, and
    it does not depend on the unit or on a common offset.
    """
    at_origin_N = (np.diagonal(points.gram) == 0) & points.near
    # The origin is the same point as any row that lies on it; as a row it has a place among the coefficients.
    coefficients_N = at_origin_N / max(1, int(at_origin_N.sum()))
    for _ in range(max_iter):
        stepped_N = _step(points, weights_N, coefficients_N)
        if stepped_N is None:
            return np.asarray(coefficients_N)
        step = points.length(stepped_N - coefficients_N)
        coefficients_N = stepped_N
        if step <= tol * float(points.distances(stepped_N)[points.near].mean()):
            break
    return np.asarray(coefficients_N)


def _step(points: Points, weights_N: Floats, coefficients_N: Floats) -> Floats | None:
    """One corrected Weiszfeld step; None at the optimum."""
    distances_N = points.distances(coefficients_N)
    # Rows that can hardly be told from here count as here: two of them a hair apart would hold the iteration between them for ever.
    apart_N = points.near.copy()
    apart_N[apart_N] = distances_N[apart_N] > _SAME * np.median(distances_N[apart_N])
    if not apart_N.any():
        return None
    pull_N = np.divide(weights_N, distances_N, out=np.zeros_like(weights_N), where=apart_N)
    target_N = pull_N / pull_N.sum()
    here = float(weights_N[~apart_N & points.near].sum())
    if here == 0:
        return np.asarray(target_N)
    strength = points.length(pull_N - pull_N.sum() * coefficients_N)
    if strength <= here:
        return None
    share = here / strength
    return np.asarray((1 - share) * target_N + share * coefficients_N)


@final
@dataclass(frozen=True, kw_only=True)
class GeometricMedian(RuleConfig):
    """The point y that minimises sum w_i |y - u_i| (unsquared)."""

    name: ClassVar[str] = "geometric_median"
    family: ClassVar[Family] = "gram"
    summary: ClassVar[str] = "the point with the smallest sum of distances to all rows"
    condition: ClassVar[str] = "n >= 1"
    guarantee: ClassVar[str] = "stays bounded while the faulty rows hold less than half of the weight (2q < n; 3q < n with unequal counts)"
    source: ClassVar[str] = "Xie, Koyejo, Gupta, arXiv 1802.10116; Weiszfeld 1937 with the correction of Vardi and Zhang"

    tol: float = option(1e-12, doc="step, relative to the mean distance to the rows, at which the iteration stops")
    max_iter: int = option(20_000, doc="iterations after which the best point so far is taken")
    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        check_at_least(self.name, "tol", self.tol, 0.0)
        check_whole(self.name, "max_iter", self.max_iter, 1)
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)

    @property
    def measures(self) -> Measurement:
        return Measurement(gram=Gram(origin="median"))

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(num_rows >= 1, num_rows, budget)

    def decide(self, evidence: Evidence) -> Choice:
        assert evidence.gram is not None
        remaining_budget(self, evidence)
        rows = tuple(range(evidence.num_rows))
        weights_N = or_ones(capped(evidence.counts, self.weight_cap), evidence.num_rows)
        points = Points.of(evidence.gram)
        best = optimal_row(points, weights_N)
        if best is not None:
            return Choice(selected=rows, weights=np.eye(evidence.num_rows)[best])
        return Choice(selected=rows, weights=weiszfeld(points, weights_N, tol=self.tol, max_iter=self.max_iter))
