"""Nearest-neighbour mixing: every row is replaced by the mean of its n-f nearest rows, itself among them, then any other rule is applied.

The inner rule decides on the mixed rows, but nothing is measured twice: distances, inner products and norms of mixed rows follow from those
of the rows. Its choice is folded back, so that shards apply one decision.

Letters: N rows (and mixed rows), P points (rows, then perhaps one more).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from mottle.aggregation.decisions.affine import squared_distances
from mottle.aggregation.decisions.base import (
    Choice,
    Evidence,
    Family,
    Floats,
    Input,
    Measurement,
    RuleConfig,
    check_at_least,
    check_budget,
    option,
    remaining_budget,
    resolve_share,
)
from mottle.aggregation.decisions.weights import CAP_DOC, DEFAULT_CAP, capped, or_ones
from mottle.core.errors import ConfigError


def mixing_matrix(distances_NN: Floats, num_neighbours: int, weights_N: Floats) -> Floats:
    """Row i: the weights of the `num_neighbours` rows with the smallest key (squared distance, 0 if it is i itself, index), 0 elsewhere.

    Not normalised: mixed row i is row i of the matrix times the rows, over the sum of that row.
    """
    num_rows = len(distances_NN)
    index_N = np.arange(num_rows)
    mixing_NN = np.zeros((num_rows, num_rows))
    for row in range(num_rows):
        nearest = np.lexsort((index_N, index_N != row, distances_NN[row]))[:num_neighbours]
        mixing_NN[row, nearest] = weights_N[nearest]
    return mixing_NN


def mixed_distances(mixing_NN: Floats, distances_NN: Floats) -> Floats:
    """Squared distances between mixed rows: -1/2 e.D e with e the difference of two normalised mixing rows.

    Taken on differences, so that a far row in both mixtures drops out before it can cancel.
    """
    share_NN = mixing_NN / mixing_NN.sum(axis=1, keepdims=True)
    near_NN = np.where(np.isfinite(distances_NN), distances_NN, 0.0)
    first, second = np.triu_indices(len(share_NN), 1)
    difference_QN = share_NN[first] - share_NN[second]
    values_Q = np.maximum(-0.5 * np.einsum("qi,qi->q", difference_QN @ near_NN, difference_QN), 0.0)
    apart_QN = (difference_QN != 0).astype(np.float64)
    values_Q[np.einsum("qi,qi->q", apart_QN @ (~np.isfinite(distances_NN)).astype(np.float64), apart_QN) > 0] = np.inf
    mixed_NN = np.zeros_like(distances_NN)
    mixed_NN[first, second] = mixed_NN[second, first] = values_Q
    return mixed_NN


@final
@dataclass(frozen=True, kw_only=True)
class Nnm(RuleConfig):
    """`inner` applied to the means of every row's n-f nearest rows. The inner rule runs unweighted: counts act in the mixing."""

    name: ClassVar[str] = "nnm"
    family: ClassVar[Family] = "gram"
    summary: ClassVar[str] = "every row mixed with its nearest neighbours, then another rule"
    condition: ClassVar[str] = "2f < n (f is `num_byzantine`)"
    guarantee: ClassVar[str] = "that of the inner rule, on rows whose spread is reduced"
    source: ClassVar[str] = "Allouah et al., AISTATS 2023, arXiv 2302.01772"
    inputs: ClassVar = {"center": "for the inner rule", "reference": "for the inner rule", "score": "for the inner rule, as a function"}

    num_byzantine: float = option(doc="f, faulty rows tolerated; a count, or a share of the round")
    inner: RuleConfig = option(  # noqa: RUF009 - `option` is `field`; the rule is fooled by the abstract type
        doc="the rule for the mixed rows, named as a rule is; its own budget is this f unless it has one"
    )
    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        check_budget(self.name, "num_byzantine", self.num_byzantine)
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)
        if isinstance(self.inner, Nnm):
            raise ConfigError("nnm: the inner rule is nnm itself; mix once and give the rule that is to follow")

    @property
    def measures(self) -> Measurement:
        inner = self.inner.measures
        return replace(inner, distances=inner.gram is None or inner.gram.origin == "center")

    @property
    def required(self) -> frozenset[Input]:
        return self.inner.required

    def budget(self, num_rows: int) -> int:
        return resolve_share(self.num_byzantine, num_rows)

    def largest_budget(self, num_rows: int) -> int:
        return min((num_rows - 1) // 2, self.inner.largest_budget(num_rows))

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(2 * (budget or 0) < num_rows, num_rows, budget)

    def mixing(self, evidence: Evidence) -> Floats:
        """Which rows are averaged into which; see `mixing_matrix`."""
        num_rows, budget = evidence.num_rows, remaining_budget(self, evidence)
        distances_NN = evidence.distances
        if distances_NN is None:
            assert evidence.gram is not None
            distances_NN = squared_distances(evidence.gram[:num_rows, :num_rows])
        return mixing_matrix(distances_NN, num_rows - budget, or_ones(capped(evidence.counts, self.weight_cap), num_rows))

    def decide(self, evidence: Evidence) -> Choice:
        mixing_NN = self.mixing(evidence)
        return _fold_back(self.inner.decide(mixed_evidence(mixing_NN, evidence)), mixing_NN)


def mixed_evidence(mixing_NN: Floats, evidence: Evidence) -> Evidence:
    """The same facts about the mixed rows; the loss descents are taken as theirs already."""
    share_NN = mixing_NN / mixing_NN.sum(axis=1, keepdims=True)
    distances_NN, norms_N, gram_PP = evidence.distances, evidence.norms, evidence.gram
    if norms_N is not None:
        assert distances_NN is not None
        spread_N = 0.5 * np.einsum("ij,jk,ik->i", share_NN, np.where(np.isfinite(distances_NN), distances_NN, 0.0), share_NN)
        norms_N = np.maximum(_product(share_NN, norms_N) - spread_N, 0.0)
    if gram_PP is not None:
        extended_PP = np.eye(len(gram_PP))
        extended_PP[: len(share_NN), : len(share_NN)] = share_NN
        gram_PP = _mixed_gram(extended_PP, gram_PP)
    return replace(
        evidence,
        counts=None,
        distances=None if distances_NN is None else mixed_distances(mixing_NN, distances_NN),
        gram=gram_PP,
        norms=norms_N,
        dots=None if evidence.dots is None else _product(share_NN, evidence.dots),
    )


def _product(share_NN: Floats, values_N: Floats) -> Floats:
    """share @ values in which an infinite value reaches only the rows that it has a share in."""
    finite_N = np.isfinite(values_N)
    reached_N = (share_NN[:, ~finite_N] > 0).any(axis=1)
    return np.where(reached_N, np.inf, share_NN @ np.where(finite_N, values_N, 0.0))


def _mixed_gram(share_PP: Floats, gram_PP: Floats) -> Floats:
    far_P = ~np.isfinite(np.diagonal(gram_PP))
    tame_PP = np.where(far_P[:, None] | far_P[None, :], 0.0, gram_PP)
    mixed_PP = share_PP @ tame_PP @ share_PP.T
    reached_P = (share_PP[:, far_P] > 0).any(axis=1)
    mixed_PP[reached_P, :] = np.inf
    mixed_PP[:, reached_P] = np.inf
    return np.asarray(mixed_PP)


def _fold_back(inner: Choice, mixing_NN: Floats) -> Choice:
    """A choice about mixed rows as one about rows."""
    if inner.weights is not None:
        share_NN = mixing_NN / mixing_NN.sum(axis=1, keepdims=True)
        part_N = inner.weights / inner.divisor
        weights_N = np.asarray(part_N @ share_NN)
        selected = tuple(int(row) for row in np.flatnonzero(weights_N))
        return replace(inner, selected=selected, weights=weights_N, divisor=1.0, mixing=None)
    mixing_MN = mixing_NN[list(inner.column_rows)]
    selected = tuple(int(row) for row in np.flatnonzero(mixing_MN.any(axis=0)))
    return replace(inner, selected=selected, mixing=mixing_MN)
