"""Centred clipping: the last aggregate plus the mean of the rows' differences from it, each cut to a radius.

The caller keeps the centre (it is server state, and part of a checkpoint): the result of a round is the centre of the next one.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from mottle.aggregation.decisions.affine import Points
from mottle.aggregation.decisions.base import (
    Choice,
    Evidence,
    Family,
    Gram,
    Measurement,
    RuleConfig,
    check_at_least,
    check_whole,
    option,
    remaining_budget,
)
from mottle.aggregation.decisions.weights import CAP_DOC, DEFAULT_CAP, capped, or_ones


@final
@dataclass(frozen=True, kw_only=True)
class CenteredClipping(RuleConfig):
    """v = centre; L times: v += sum w_i min(1, tau / |u_i - v|) (u_i - v) / sum w_i."""

    name: ClassVar[str] = "centered_clipping"
    family: ClassVar[Family] = "gram"
    summary: ClassVar[str] = "the last aggregate moved by differences cut to a radius"
    condition: ClassVar[str] = "n >= 1"
    guarantee: ClassVar[str] = "no row moves the centre by more than tau w_i / sum w an iteration; analysed for about q <= n/10"
    source: ClassVar[str] = "Karimireddy, He, Jaggi, ICML 2021, arXiv 2012.10333"
    inputs: ClassVar = {"center": "v, the aggregate of the last round; zero if it is not given"}

    radius: float = option(10.0, doc="tau, above 0: largest difference from the centre, in the unit of the updates")
    iterations: int = option(1, doc="L, times the centre is moved")
    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        check_at_least(self.name, "radius", self.radius, 0.0, exclusive=True)
        check_whole(self.name, "iterations", self.iterations, 1)
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)

    @property
    def measures(self) -> Measurement:
        return Measurement(gram=Gram(origin="center"))

    def largest_budget(self, num_rows: int) -> int:
        return num_rows // 10 if num_rows >= 1 else -1

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(num_rows >= 1, num_rows, budget)

    def decide(self, evidence: Evidence) -> Choice:
        assert evidence.gram is not None
        remaining_budget(self, evidence)
        num_rows = evidence.num_rows
        weights_N = or_ones(capped(evidence.counts, self.weight_cap), num_rows)
        share_N = weights_N / weights_N.sum()
        points = Points.of(evidence.gram)
        moved_N = np.zeros(num_rows)
        for _ in range(self.iterations):
            clip_N = share_N * self.radius / np.maximum(self.radius, points.distances(moved_N))
            moved_N = moved_N + clip_N - moved_N * clip_N.sum()
        return Choice(selected=tuple(range(num_rows)), weights=moved_N, center_weight=1.0 - float(moved_N.sum()))
