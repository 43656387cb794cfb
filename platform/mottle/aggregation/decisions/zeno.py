"""Zeno: rows ranked by how much they lower the server's own loss, minus a penalty on their length.

The loss is measured on one fresh sample of trusted examples, the same for all rows of a round, with the mean over examples. The penalty
is on the sum of squares (the authors' code takes the mean of squares); ties go to the smaller index.

The first-order form replaces the losses by the inner product with a gradient of that loss: give `reference`, and `gamma`.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

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
from mottle.aggregation.decisions.krum import rank
from mottle.aggregation.decisions.weights import CAP_DOC, DEFAULT_CAP, capped, only, or_ones


def zeno_scores(descents_N: Floats, norms_N: Floats, rho: float) -> Floats:
    """descent - rho |u|^2; -inf where the descent is not finite (a loss was not).

    Args:
        descents_N: loss before the update minus loss after it, or its first-order estimate.
        norms_N: squared norms.
    """
    known_N = np.isfinite(descents_N)
    return np.where(known_N, np.where(known_N, descents_N, 0.0) - rho * norms_N, -np.inf)


@final
@dataclass(frozen=True, kw_only=True)
class Zeno(RuleConfig):
    """The mean of the n-b rows with the best score."""

    name: ClassVar[str] = "zeno"
    family: ClassVar[Family] = "reference"
    summary: ClassVar[str] = "the mean of the n-b rows that lower the server's own loss most"
    condition: ClassVar[str] = "0 <= b < n (b is `trim`)"
    guarantee: ClassVar[str] = "any number of faulty rows up to b, also a majority, with one honest row and a faithful loss"
    source: ClassVar[str] = "Xie, Koyejo, Gupta, ICML 2019, arXiv 1805.10032"
    inputs: ClassVar = {
        "score": "losses on trusted data: a function of an update (None for none), or the n descents",
        "reference": "instead of losses: gradient of the trusted loss at the current model (needs gamma)",
    }

    trim: float = option(doc="b, rows dropped; a count, or a share of the round")
    rho: float = option(doc="weight of the squared norm in the score")
    gamma: float | None = option(None, doc="learning rate of the round; for the first-order form only")
    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        check_budget(self.name, "trim", self.trim)
        check_at_least(self.name, "rho", self.rho, 0.0)
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)
        if self.gamma is not None:
            check_at_least(self.name, "gamma", self.gamma, 0.0, exclusive=True)

    @property
    def measures(self) -> Measurement:
        return Measurement(norms=True, dots=self.gamma is not None)

    @property
    def required(self) -> frozenset[Input]:
        return frozenset({"score"}) if self.gamma is None else frozenset({"reference"})

    def budget(self, num_rows: int) -> int:
        return resolve_share(self.trim, num_rows)

    def largest_budget(self, num_rows: int) -> int:
        return num_rows - 1

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require((budget or 0) < num_rows, num_rows, budget)

    def decide(self, evidence: Evidence) -> Choice:
        assert evidence.norms is not None
        budget = remaining_budget(self, evidence)
        scores_N = zeno_scores(self._descents(evidence), evidence.norms, self.rho)
        order = rank(-scores_N)[: evidence.num_rows - budget]
        weights_N = only(or_ones(capped(evidence.counts, self.weight_cap), evidence.num_rows), order)
        return Choice(selected=tuple(sorted(order)), order=order, weights=weights_N, divisor=float(weights_N.sum()), scores=scores_N)

    def _descents(self, evidence: Evidence) -> Floats:
        if self.gamma is not None:
            assert evidence.dots is not None
            return self.gamma * evidence.dots
        assert evidence.descents is not None
        return evidence.descents
