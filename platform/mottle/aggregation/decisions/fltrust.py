"""FLTrust: rows scaled to the length of the server's own update and weighted by how far they point its way.

Where nothing can be trusted (no row points the server's way, or its own update is zero) the result is zero, no step; others average all
rows alike or add a small constant to the denominators.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from mottle.aggregation.decisions.base import (
    Choice,
    Evidence,
    Family,
    Input,
    Measurement,
    RuleConfig,
    check_at_least,
    option,
    remaining_budget,
)
from mottle.aggregation.decisions.weights import CAP_DOC, DEFAULT_CAP, capped, or_ones


@final
@dataclass(frozen=True, kw_only=True)
class FLTrust(RuleConfig):
    """TS_i = max(0, cos(u_i, g0)); sum of TS_i w_i (|g0| / |u_i|) u_i over sum of TS_i w_i."""

    name: ClassVar[str] = "fltrust"
    family: ClassVar[Family] = "reference"
    summary: ClassVar[str] = "rows scaled to the length of a trusted update and weighted by their cosine with it"
    condition: ClassVar[str] = "n >= 1"
    guarantee: ClassVar[str] = "never longer than the trusted update and never against it, whatever the number of faulty rows"
    source: ClassVar[str] = "Cao, Fang, Liu, Gong, NDSS 2021, arXiv 2012.13995"
    inputs: ClassVar = {"reference": "g0, the server's own update on trusted data"}

    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)

    @property
    def measures(self) -> Measurement:
        return Measurement(norms=True, dots=True)

    @property
    def required(self) -> frozenset[Input]:
        return frozenset({"reference"})

    def largest_budget(self, num_rows: int) -> int:
        return num_rows - 1

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(num_rows >= 1, num_rows, budget)

    def decide(self, evidence: Evidence) -> Choice:
        assert evidence.norms is not None
        assert evidence.dots is not None
        remaining_budget(self, evidence)
        lengths_N, own_length = np.sqrt(evidence.norms), np.sqrt(evidence.reference_norm)
        usable_N = (lengths_N > 0) & np.isfinite(lengths_N) & np.isfinite(evidence.dots) & (own_length > 0)
        cosines_N = np.zeros(evidence.num_rows)
        cosines_N[usable_N] = evidence.dots[usable_N] / lengths_N[usable_N] / own_length
        trust_N = np.maximum(cosines_N, 0.0)
        weighted_N = trust_N * or_ones(capped(evidence.counts, self.weight_cap), evidence.num_rows)
        total = float(weighted_N.sum())
        weights_N = np.zeros(evidence.num_rows)
        trusted_N = weighted_N > 0
        weights_N[trusted_N] = weighted_N[trusted_N] / total * (own_length / lengths_N[trusted_N])
        return Choice(selected=tuple(int(row) for row in np.flatnonzero(trusted_N)), weights=weights_N, scores=trust_N)
