"""Coordinate-wise rules: the same small sum at every coordinate, so nothing is measured and shards need nothing from each other.

The one global thing is the gate: a value that is not finite, seen on one shard, removes its row on all of them.
"""

from dataclasses import dataclass
from typing import ClassVar, final

from mottle.aggregation.decisions.base import (
    Choice,
    ColumnPlan,
    Evidence,
    Family,
    RuleConfig,
    check_at_least,
    check_budget,
    option,
    remaining_budget,
    resolve_share,
)
from mottle.aggregation.decisions.weights import CAP_DOC, DEFAULT_CAP, capped, or_ones


def _all_rows(evidence: Evidence) -> tuple[int, ...]:
    return tuple(range(evidence.num_rows))


def _planned(evidence: Evidence, plan: ColumnPlan, cap: float | None) -> Choice:
    """All rows under one plan; the plain mean where nothing is dropped."""
    rows = _all_rows(evidence)
    weights_N = None if cap is None else capped(evidence.counts, cap)
    if plan.kind != "median" and plan.drop == 0:
        weights_N = or_ones(weights_N, evidence.num_rows)
        return Choice(selected=rows, weights=weights_N, divisor=float(weights_N.sum()))
    return Choice(selected=rows, columns=plan, column_rows=rows, column_weights=weights_N)


@final
@dataclass(frozen=True, kw_only=True)
class Mean(RuleConfig):
    """sum m_i u_i / sum m_i: the baseline, on purpose without gate and cap. One row decides it."""

    name: ClassVar[str] = "mean"
    family: ClassVar[Family] = "coordinate"
    summary: ClassVar[str] = "the average of all rows, ungated: what goes wrong without a robust rule"
    condition: ClassVar[str] = "n >= 1"
    guarantee: ClassVar[str] = "none: one faulty row decides the result"
    source: ClassVar[str] = "standard synchronous SGD"
    gated: ClassVar[bool] = False

    def largest_budget(self, num_rows: int) -> int:
        return 0 if num_rows >= 1 else -1

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(num_rows >= 1, num_rows, budget)

    def decide(self, evidence: Evidence) -> Choice:
        self.check(evidence.num_rows, None)
        return _planned(evidence, ColumnPlan(kind="trimmed_mean"), float("inf"))


@final
@dataclass(frozen=True, kw_only=True)
class Median(RuleConfig):
    """The middle value of every coordinate; the midpoint of the two middle ones for an even number of rows. Counts change nothing."""

    name: ClassVar[str] = "median"
    family: ClassVar[Family] = "coordinate"
    summary: ClassVar[str] = "the middle value of every coordinate"
    condition: ClassVar[str] = "n >= 1"
    guarantee: ClassVar[str] = "stays in the honest range of every coordinate while 2q < n"
    source: ClassVar[str] = "Xie, Koyejo, Gupta, arXiv 1802.10116; Yin et al., ICML 2018, arXiv 1803.01498"

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(num_rows >= 1, num_rows, budget)

    def decide(self, evidence: Evidence) -> Choice:
        remaining_budget(self, evidence)
        return _planned(evidence, ColumnPlan(kind="median"), None)


@dataclass(frozen=True, kw_only=True)
class _Trimming(RuleConfig):
    """Base of the rules that declare b values to trim."""

    family: ClassVar[Family] = "coordinate"
    condition: ClassVar[str] = "0 <= b and 2b < n (b is `trim`)"

    trim: float = option(doc="b, values dropped; a count, or a share of the round")
    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        check_budget(self.name, "trim", self.trim)
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)

    def budget(self, num_rows: int) -> int:
        return resolve_share(self.trim, num_rows)

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(2 * (budget or 0) < num_rows, num_rows, budget)


@final
@dataclass(frozen=True, kw_only=True)
class TrimmedMean(_Trimming):
    """The mean of every coordinate without its b smallest and b largest values."""

    name: ClassVar[str] = "trimmed_mean"
    summary: ClassVar[str] = "the mean of every coordinate without its b smallest and b largest values"
    guarantee: ClassVar[str] = "stays in the honest range of every coordinate while q <= b"
    source: ClassVar[str] = "Yin et al., ICML 2018, arXiv 1803.01498"

    def decide(self, evidence: Evidence) -> Choice:
        return _planned(evidence, ColumnPlan(kind="trimmed_mean", drop=remaining_budget(self, evidence)), self.weight_cap)


@final
@dataclass(frozen=True, kw_only=True)
class Phocas(_Trimming):
    """The mean, at every coordinate, of the n-b values closest to the trimmed mean."""

    name: ClassVar[str] = "phocas"
    summary: ClassVar[str] = "the mean of the n-b values closest to the trimmed mean, coordinate by coordinate"
    guarantee: ClassVar[str] = "bounded distance to the honest mean while q <= b; may leave the honest range"
    source: ClassVar[str] = "Xie, Koyejo, Gupta, arXiv 1805.09682"

    def decide(self, evidence: Evidence) -> Choice:
        return _planned(evidence, ColumnPlan(kind="near_trimmed_mean", drop=remaining_budget(self, evidence)), self.weight_cap)


@final
@dataclass(frozen=True, kw_only=True)
class MeaMed(RuleConfig):
    """The mean, at every coordinate, of the n-f values closest to the median."""

    name: ClassVar[str] = "mea_med"
    family: ClassVar[Family] = "coordinate"
    summary: ClassVar[str] = "the mean of the n-f values closest to the median, coordinate by coordinate"
    condition: ClassVar[str] = "2f < n (f is `num_byzantine`)"
    guarantee: ClassVar[str] = "bounded distance to the honest mean while q <= f; may leave the honest range"
    source: ClassVar[str] = "Xie, Koyejo, Gupta, arXiv 1802.10116"

    num_byzantine: float = option(doc="f, faulty rows tolerated; a count, or a share of the round")
    weight_cap: float = option(DEFAULT_CAP, doc=CAP_DOC)

    def __post_init__(self) -> None:
        check_budget(self.name, "num_byzantine", self.num_byzantine)
        check_at_least(self.name, "weight_cap", self.weight_cap, 1.0)

    def budget(self, num_rows: int) -> int:
        return resolve_share(self.num_byzantine, num_rows)

    def check(self, num_rows: int, budget: int | None) -> None:
        self._require(2 * (budget or 0) < num_rows, num_rows, budget)

    def decide(self, evidence: Evidence) -> Choice:
        return _planned(evidence, ColumnPlan(kind="near_median", drop=remaining_budget(self, evidence)), self.weight_cap)
