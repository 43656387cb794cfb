"""Geometry of affine combinations of rows, from their Gram matrix alone.

With G_ij = (p_i - o).(p_j - o) for points p and an origin o, the point y = o + sum a_j (p_j - o) has distance

    |p_i - y|^2 = G_ii - 2 (G a)_i + a.G a

to point i, whatever the number of coordinates. The origin must lie among the bulk of the points. Then nothing cancels: a point L times too
far away comes with a weight of about 1/L, so that a_i * |p_i - o| stays bounded. Distances D_ij in place of G_ij would cancel.

A point whose squared distance from the origin overflows is infinitely far: it is given no weight, and its row of G is never read.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mottle.aggregation.decisions.base import Floats


@dataclass(frozen=True, eq=False)
class Points:
    """Gram matrix of P points with what overflowed set to 0, and which points are at a finite distance."""

    gram: Floats
    near: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, gram_PP: Floats) -> "Points":
        near_P = np.isfinite(np.diagonal(gram_PP))
        return cls(np.where(near_P[:, None] & near_P[None, :], gram_PP, 0.0), near_P)

    def distances(self, coefficients_P: Floats) -> Floats:
        """Distances of all points to o + sum a_j (p_j - o); infinite for those infinitely far."""
        image_P = self.gram @ coefficients_P
        squared_P = np.diagonal(self.gram) - 2 * image_P + coefficients_P @ image_P
        return np.where(self.near, np.sqrt(np.maximum(squared_P, 0.0)), np.inf)

    def length(self, coefficients_P: Floats) -> float:
        """Norm of sum a_j (p_j - o); of a difference of two points where the coefficients sum to 0."""
        return float(np.sqrt(max(0.0, float(coefficients_P @ self.gram @ coefficients_P))))


def squared_distances(gram_PP: Floats) -> Floats:
    """All pairwise squared distances, the diagonal 0; +inf where a point is infinitely far."""
    points = Points.of(gram_PP)
    norms_P = np.diagonal(points.gram)
    distances_PP = np.maximum(norms_P[:, None] + norms_P[None, :] - 2 * points.gram, 0.0)
    distances_PP[~points.near, :] = np.inf
    distances_PP[:, ~points.near] = np.inf
    np.fill_diagonal(distances_PP, 0.0)
    return distances_PP
