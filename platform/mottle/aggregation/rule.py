"""A rule that can be called on tensors, whole or shard by shard.

Whole: `rule(updates)`. In shards, with the same result for every cut at multiples of 4096 coordinates:

1. every shard: `rule.measure(rows)` (or `rule.finite(rows)`, for rules that measure nothing);
2. one place: add the statistics, `rule.decide(...)`;
3. every shard: `rule.apply(rows, decision)`.

The whole call runs the same three steps with one shard.

Letters: N rows, D coordinates.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mottle.aggregation import measuring
from mottle.aggregation.decisions.base import Family, Input, Measurement, RuleConfig
from mottle.aggregation.decisions.decide import Decision, decide, gather
from mottle.aggregation.decisions.nnm import Nnm
from mottle.aggregation.decisions.registry import build_config
from mottle.aggregation.decisions.statistics import Statistics
from mottle.aggregation.errors import InputError
from mottle.aggregation.kernels import engine, native, sums
from mottle.aggregation.rows import Rows, Updates, collect, companion
from mottle.aggregation.scoring import Score, descents
from mottle.core.naming import Spec


class FaultBudgetWarning(UserWarning):
    """More rows were invalid than declared, and a lenient rule went on without any budget."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """A result and how it came about. Indices are those of the rows given."""

    aggregate: Tensor
    decision: Decision
    chosen: tuple[int, ...]
    """Rows with a part in the result, ascending."""
    order: tuple[int, ...]
    """The same rows in the order in which they were picked, for rules that pick (Krum, Multi-Krum, Bulyan, Zeno)."""
    weights: npt.NDArray[np.float64] | None
    """Share of each row in the result; None where it differs from coordinate to coordinate."""
    scores: npt.NDArray[np.float64] | None
    """Krum scores (small is good), Zeno scores or trust (large is good); NaN for rows that the gate removed."""
    invalid: tuple[int, ...]
    """Rows that the gate removed: missing, malformed, not finite, or with a bad sample count."""
    fault_budget_exceeded: bool


@final
class Rule:
    """See the module. Made by `build`."""

    def __init__(self, config: RuleConfig, *, strict: bool = True) -> None:
        self.config = config
        self.strict = strict

    def __repr__(self) -> str:
        return f"Rule({self.config!r}, strict={self.strict})"

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def family(self) -> Family:
        """Where it runs: `coordinate` on each shard alone, `gram` and `reference` on sums over all shards."""
        return self.config.family

    @property
    def measures(self) -> Measurement:
        return self.config.measures

    def __call__(
        self,
        updates_ND: Updates,
        weights: npt.ArrayLike | None = None,
        center: Tensor | None = None,
        reference: Tensor | None = None,
        score: Score | None = None,
    ) -> Tensor:
        """Aggregate the rows.

        Args:
            updates_ND: matrix (N, D), or N vectors (D,) of which some may be None (missing); float32 or float64 (half types are computed in
                float32), on one device. Not written to.
            weights: sample count of each row, positive whole numbers; equal ones if not given.
            center: (D,), for centred clipping (zero without it) and rfa.
            reference: (D,), for fltrust and first-order zeno.
            score: for zeno, see `mottle.aggregation.scoring.Score`.
        Returns:
            Shape (D,), dtype and device of the rows.
        Raises:
            ConditionError: too few valid rows for the rule or its budget.
            InputError: rows or companions malformed, or an input missing that the rule needs.
        """
        return self.explain(updates_ND, weights=weights, center=center, reference=reference, score=score).aggregate

    def explain(
        self,
        updates_ND: Updates,
        weights: npt.ArrayLike | None = None,
        center: Tensor | None = None,
        reference: Tensor | None = None,
        score: Score | None = None,
        num_expected: int | None = None,
    ) -> Explanation:
        """As a call, with the reasons; `num_expected` counts the rows that were waited for, if more than are given."""
        rows = collect(updates_ND)
        self._check_inputs({"center": center, "reference": reference, "score": score})
        companions = sums.Companions(companion(center, rows, "center"), companion(reference, rows, "reference"))
        facts = _Facts(self, rows, companions, weights, score, num_expected)
        decision, aggregate = facts.aggregate()
        if decision.fault_budget_exceeded:
            warnings.warn(
                f"{self.name}: rows {decision.invalid} are invalid, more than declared; went on with a budget of 0",
                FaultBudgetWarning,
                stacklevel=3,
            )
        return _explained(decision, aggregate)

    def finite(self, rows: Updates) -> npt.NDArray[np.bool_]:
        """The gate's bit for each row of a shard: there, well-formed and finite. AND them over shards."""
        collected = collect(rows)
        finite_N = np.zeros(collected.num_given, dtype=bool)
        finite_N[list(collected.positions)] = engine.finite_rows(collected)
        return finite_N

    def measure(
        self, rows: Updates, *, center: Tensor | None = None, reference: Tensor | None = None, excluded: Sequence[int] = ()
    ) -> Statistics:
        """Exact sums over a shard's coordinates; companions are the shard's part of them.

        Args:
            excluded: rows known to be invalid (on any shard). The geometric median and rfa, which measure from a coordinate-wise median,
                must be told of all of them.
        """
        collected = collect(rows)
        companions = sums.Companions(companion(center, collected, "center"), companion(reference, collected, "reference"))
        return measuring.measure(collected, self.measures, companions, excluded)

    def decide(
        self,
        statistics: Statistics | None,
        num_rows: int,
        *,
        finite: npt.NDArray[np.bool_] | None = None,
        counts: npt.ArrayLike | None = None,
        descents: npt.ArrayLike | None = None,
        num_expected: int | None = None,
    ) -> Decision:
        """One decision for all shards, see `mottle.aggregation.decisions.decide`."""
        return decide(
            self.config,
            num_rows,
            statistics=statistics,
            finite=finite,
            counts=counts,
            descents=descents,
            num_expected=num_expected,
            strict=self.strict,
        )

    def apply(self, rows: Updates, decision: Decision, *, center: Tensor | None = None) -> Tensor:
        """A shard's part of the result."""
        collected = collect(rows)
        part = companion(center, collected, "center")
        return _apply(collected, decision, part)[0]

    def _check_inputs(self, given: dict[Input, object]) -> None:
        missing = [name for name in self.config.required if given[name] is None]
        if missing:
            meaning = {**(self.config.inner.inputs if isinstance(self.config, Nnm) else {}), **self.config.inputs}
            wanted = "; ".join(f"{name}= ({meaning.get(name, 'for the inner rule')})" for name in sorted(missing))
            raise InputError(f"{self.name} needs {wanted}; pass it with the rows")


def build(spec: Spec | RuleConfig, *, strict: bool = True, num_workers: int | None = None) -> Rule:
    """The rule that a spec names: `build({"phocas": {"trim": 2}})`, `build("median")`, or a configuration.

    Args:
        strict: raise when more rows are invalid than declared; else go on with a budget of 0 and a visible flag.
        num_workers: n, if it is known; conditions are then checked now as well.
    Raises:
        ConfigError: unknown rule or parameter, with the nearest name; ConditionError: cannot run with `num_workers`.
    """
    config = build_config(spec, num_workers=num_workers)
    native.prepare()
    return Rule(config, strict=strict)


@dataclass(frozen=True, eq=False)
class _Facts:
    """One whole call: the three steps with a single shard."""

    rule: Rule
    rows: Rows
    companions: sums.Companions
    weights: npt.ArrayLike | None
    score: Score | None
    num_expected: int | None

    def aggregate(self) -> tuple[Decision, Tensor]:
        if not self.rule.measures.nothing:
            decision = self._decide(self._measured(), None)
            return decision, self._applied(decision)[0]
        # The gate shares the pass over the data: take all rows to be finite, and begin again if one was not.
        there_N = np.zeros(self.rows.num_given, dtype=bool)
        there_N[list(self.rows.positions)] = True
        decision = self._decide(None, there_N)
        aggregate, finite = self._applied(decision)
        # A plain mean, which a rule without a budget left comes to, has no flag: its result shows what went into it.
        if not self.rule.config.gated or (finite and (decision.choice.columns or bool(torch.isfinite(aggregate).all()))):
            return decision, aggregate
        return self._gated(there_N)

    def _gated(self, there_N: npt.NDArray[np.bool_]) -> tuple[Decision, Tensor]:
        there_N[list(self.rows.positions)] = engine.finite_rows(self.rows)
        decision = self._decide(None, there_N)
        return decision, self._applied(decision)[0]

    def _measured(self) -> Statistics:
        what = self.rule.measures
        statistics = measuring.measure(self.rows, what, self.companions, ())
        if statistics.outdated:
            bad = [row for row, pieces in enumerate(statistics.nonfinite) if pieces]
            statistics = measuring.measure(self.rows, what, self.companions, bad)
        return statistics

    def _decide(self, statistics: Statistics | None, finite_N: npt.NDArray[np.bool_] | None) -> Decision:
        return self.rule.decide(
            statistics,
            self.rows.num_given,
            finite=finite_N,
            counts=self.weights,
            descents=self._descents(statistics),
            num_expected=self.num_expected,
        )

    def _descents(self, statistics: Statistics | None) -> npt.NDArray[np.float64] | None:
        config = self.rule.config
        if self.score is None or "score" not in config.required:
            return None
        evidence, valid = gather(
            config,
            self.rows.num_given,
            statistics=statistics,
            counts=self.weights,
            num_expected=self.num_expected,
            strict=self.rule.strict,
        )
        mixing = config.mixing(evidence) if isinstance(config, Nnm) else None
        return descents(self.score, self.rows, self.rows.num_given, valid, mixing)

    def _applied(self, decision: Decision) -> tuple[Tensor, bool]:
        return _apply(self.rows, decision, self.companions.center)


def _apply(rows: Rows, decision: Decision, center: Tensor | None) -> tuple[Tensor, bool]:
    """The result in the dtype of the rows; and whether what the plan read was finite."""
    choice = decision.choice
    if choice.columns is None:
        assert choice.weights is not None
        combined = engine.apply_weights(rows.given(decision.rows), choice.weights, choice.divisor, center, choice.center_weight)
        return combined.to(rows.dtype), True
    if choice.mixing is not None:
        taken, mixing = rows.given(decision.rows), choice.mixing
    else:
        taken, mixing = rows.given([decision.rows[row] for row in choice.column_rows]), None
    result, finite = engine.apply_columns(taken, engine.Columns(choice.columns, choice.column_weights, mixing))
    return result.to(rows.dtype), finite


def _explained(decision: Decision, aggregate: Tensor) -> Explanation:
    choice = decision.choice
    return Explanation(
        aggregate=aggregate,
        decision=decision,
        chosen=decision.selected,
        order=tuple(decision.rows[row] for row in choice.order),
        weights=None if choice.weights is None else _spread(choice.weights / choice.divisor, decision, 0.0),
        scores=None if choice.scores is None else _spread(choice.scores, decision, np.nan),
        invalid=decision.invalid,
        fault_budget_exceeded=decision.fault_budget_exceeded,
    )


def _spread(values: npt.NDArray[np.float64], decision: Decision, absent: float) -> npt.NDArray[np.float64]:
    """Values of the rows that passed, at their places among all rows."""
    spread_N = np.full(decision.num_rows, absent)
    spread_N[list(decision.rows)] = values
    return spread_N
