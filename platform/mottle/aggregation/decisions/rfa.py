"""RFA: a fixed number of smoothed Weiszfeld steps.

Public implementations disagree on the start (zero here, as in the Byzantine-robustness literature; the authors start from the mean), the
number of steps (8; 3 elsewhere) and the smoothing, so all three are parameters.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from mottle.aggregation.decisions.affine import Points
from mottle.aggregation.decisions.base import (
    Choice,
    Evidence,
    Family,
    Floats,
    Gram,
    Input,
    Measurement,
    RuleConfig,
    check_at_least,
    check_whole,
    option,
    remaining_budget,
)
from mottle.aggregation.decisions.weights import CAP_DOC, DEFAULT_CAP, capped, or_ones
from mottle.core.errors import ConfigError


@final
@dataclass(frozen=True, kw_only=True)
class Rfa(RuleConfig):
    """z = z0; T times: b_i = w_i / max(nu, |u_i - z|), z = sum b_i u_i / sum b_i."""

    name: ClassVar[str] = "rfa"
    family: ClassVar[Family] = "gram"
    summary: ClassVar[str] = "a smoothed geometric median in a fixed number of steps"
    condition: ClassVar[str] = "n >= 1"
    guarantee: ClassVar[str] = "as the geometric median once the steps have converged (2q < n)"
    source: ClassVar[str] = "Pillutla, Kakade, Harchaoui, IEEE TSP 2022, arXiv 1912.13445"
    inputs: ClassVar = {"center": "start z0 where z0 is 'center'"}

    iterations: int = option(8, doc="T, steps; all are taken")
    smoothing: float = option(0.1, doc="nu, distances below it count as nu; in the unit of the updates")
    z0: Literal["zero", "mean", "center"] = option("zero", doc="start: zero, the weighted mean of the rows, or the given centre")
    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        check_whole(self.name, "iterations", self.iterations, 1)
        check_at_least(self.name, "smoothing", self.smoothing, 0.0, exclusive=True)
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)
        if self.z0 not in ("zero", "mean", "center"):
            raise ConfigError(f"rfa: z0 is 'zero', 'mean' or 'center', got {self.z0!r}")

    @property
    def measures(self) -> Measurement:
        return Measurement(gram=Gram(origin="median", point=None if self.z0 == "mean" else self.z0))

    @property
    def required(self) -> frozenset[Input]:
        return frozenset({"center"}) if self.z0 == "center" else frozenset()

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(num_rows >= 1, num_rows, budget)

    def decide(self, evidence: Evidence) -> Choice:
        assert evidence.gram is not None
        remaining_budget(self, evidence)
        num_rows = evidence.num_rows
        weights_N = or_ones(capped(evidence.counts, self.weight_cap), num_rows)
        points = Points.of(evidence.gram)
        coefficients_P = self._start(len(points.gram), weights_N)
        for _ in range(self.iterations):
            pull_N = weights_N / np.maximum(self.smoothing, points.distances(coefficients_P)[:num_rows])
            coefficients_P = np.zeros_like(coefficients_P)
            coefficients_P[:num_rows] = pull_N / pull_N.sum()
        return Choice(selected=tuple(range(num_rows)), weights=coefficients_P[:num_rows])

    def _start(self, num_points: int, weights_N: Floats) -> Floats:
        if self.z0 == "mean":
            return np.asarray(weights_N / weights_N.sum())
        return np.asarray(np.eye(num_points)[-1])
