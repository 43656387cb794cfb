"""From sums to a decision: the validity gate, then the rule's own choice on the rows that passed.

A row that is not finite, is missing, or declares a count that is no positive whole number does not vote, and uses up one unit of the
budget: it was going to be faulty anyway. So the number of rows that survive a rule does not change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mottle.aggregation.decisions.base import Choice, ColumnPlan, Evidence, Floats, RuleConfig, budget_exceeded
from mottle.aggregation.decisions.statistics import Statistics, with_sums
from mottle.aggregation.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """What to do with the rows of a round, the same for every shard. Everything in `choice` counts the rows that passed, `rows`."""

    rule: str
    num_rows: int
    """Rows given, valid or not."""
    num_expected: int
    rows: tuple[int, ...]
    """Rows that passed the gate, ascending."""
    choice: Choice
    fault_budget_exceeded: bool = False
    """More rows were invalid than declared, and the rule went on without any budget (only when it is not strict)."""

    @property
    def invalid(self) -> tuple[int, ...]:
        """Rows that the gate removed, ascending."""
        return tuple(sorted(set(range(self.num_rows)) - set(self.rows)))

    @property
    def selected(self) -> tuple[int, ...]:
        """Rows with a part in the result, ascending; the others are spent without effect."""
        return tuple(self.rows[row] for row in self.choice.selected)

    def to_settings(self) -> dict[str, Any]:
        """As plain lists, numbers and strings, for a command to a shard or a log."""
        choice = self.choice
        return {
            "rule": self.rule,
            "num_rows": self.num_rows,
            "num_expected": self.num_expected,
            "rows": list(self.rows),
            "fault_budget_exceeded": self.fault_budget_exceeded,
            "selected": list(choice.selected),
            "order": list(choice.order),
            "weights": _plain(choice.weights),
            "divisor": choice.divisor,
            "center_weight": choice.center_weight,
            "columns": None if choice.columns is None else {"kind": choice.columns.kind, "drop": choice.columns.drop},
            "column_rows": list(choice.column_rows),
            "column_weights": _plain(choice.column_weights),
            "mixing": _plain(choice.mixing),
            "scores": _plain(choice.scores),
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Decision":
        """Back from `to_settings`, bit for bit."""
        columns = settings["columns"]
        choice = Choice(
            selected=tuple(settings["selected"]),
            order=tuple(settings["order"]),
            weights=_array(settings["weights"]),
            divisor=settings["divisor"],
            center_weight=settings["center_weight"],
            columns=None if columns is None else ColumnPlan(**columns),
            column_rows=tuple(settings["column_rows"]),
            column_weights=_array(settings["column_weights"]),
            mixing=_array(settings["mixing"]),
            scores=_array(settings["scores"]),
        )
        return cls(
            rule=settings["rule"],
            num_rows=settings["num_rows"],
            num_expected=settings["num_expected"],
            rows=tuple(settings["rows"]),
            choice=choice,
            fault_budget_exceeded=settings["fault_budget_exceeded"],
        )


def _plain(values: Floats | None) -> list[Any] | None:
    return None if values is None else values.tolist()


def _array(values: Sequence[Any] | None) -> Floats | None:
    return None if values is None else np.asarray(values, dtype=np.float64)


def valid_counts(counts: npt.ArrayLike, num_rows: int, *, whole: bool = True) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Sample counts as float64, and which of them are positive whole numbers (or positive, for the units of a loss that has its own).

    Raises:
        InputError: not one number for each row.
    """
    counts_N = np.asarray(counts)
    if counts_N.dtype == object and all(type(count) is int for count in counts_N.flat):
        counts_N = counts_N.astype(np.float64)  # whole numbers beyond 64 bits
    if counts_N.shape != (num_rows,) or counts_N.dtype.kind not in "iuf":
        raise InputError(
            f"weights are one sample count for each of the {num_rows} rows, got shape {counts_N.shape}, dtype {counts_N.dtype}"
        )
    counts_N = counts_N.astype(np.float64)
    good_N = np.isfinite(counts_N) & (counts_N > 0)
    return counts_N, good_N & (np.floor(counts_N) == counts_N) if whole else good_N


def gather(
    rule: RuleConfig,
    num_rows: int,
    *,
    statistics: Statistics | None = None,
    finite: npt.NDArray[np.bool_] | None = None,
    counts: npt.ArrayLike | None = None,
    descents: npt.ArrayLike | None = None,
    num_expected: int | None = None,
    strict: bool = True,
    whole: bool = True,
) -> tuple[Evidence, tuple[int, ...]]:
    """Gate the rows and collect what is known of those that pass; also returns which those are. Arguments as for `decide`."""
    expected = num_rows if num_expected is None else num_expected
    if expected < num_rows:
        raise InputError(f"num_expected counts all rows the server waited for: at least the {num_rows} given, got {expected}")
    if not rule.measures.nothing and statistics is None:
        raise InputError(f"{rule.name} decides on sums over the rows; measure them and pass statistics")
    passed_N = np.ones(num_rows, dtype=bool) if finite is None else finite.copy()
    if statistics is not None:
        passed_N &= statistics.finite
    counts_N = None
    if counts is not None:
        counts_N, good_N = valid_counts(counts, num_rows, whole=whole)
        if not rule.gated and not good_N.all():
            raise InputError(f"{rule.name} has no gate: weights must be positive whole sample counts, got {counts_N[~good_N][0]!r}")
        passed_N &= good_N
    rows = tuple(int(row) for row in np.flatnonzero(passed_N))
    kept = list(rows)
    evidence = Evidence(
        num_rows=len(rows),
        num_expected=expected,
        strict=strict,
        counts=None if counts_N is None else counts_N[kept],
        descents=None if descents is None else np.asarray(descents, dtype=np.float64)[kept],
    )
    if statistics is not None:
        evidence = with_sums(evidence, statistics, rows)
    return evidence, rows


def decide(
    rule: RuleConfig,
    num_rows: int,
    *,
    statistics: Statistics | None = None,
    finite: npt.NDArray[np.bool_] | None = None,
    counts: npt.ArrayLike | None = None,
    descents: npt.ArrayLike | None = None,
    num_expected: int | None = None,
    strict: bool = True,
    whole: bool = True,
) -> Decision:
    """The decision of a rule on sums over all shards. Pure; needs numpy only.

    Args:
        rule: its configuration, see `build_config`.
        num_rows: rows given, in ascending worker id.
        statistics: the total over shards; needed unless `rule.measures.nothing`.
        finite: rows without NaN and infinity (the AND over shards), for rules that measure nothing; all, if not given.
        counts: sample count of each row; equal ones if not given.
        descents: for Zeno: trusted loss before minus after each row; anything not finite where a loss was not.
        num_expected: rows the server set out to wait for, where some are missing altogether.
        strict: raise, or go on without a budget, when more rows are invalid than were declared.
        whole: counts are of samples; else any positive numbers, the units of a loss that has its own.
    Raises:
        ConditionError: too few valid rows for the rule or its budget.
        InputError: something the rule needs is missing or malformed.
    """
    evidence, rows = gather(
        rule,
        num_rows,
        statistics=statistics,
        finite=finite,
        counts=counts,
        descents=descents,
        num_expected=num_expected,
        strict=strict,
        whole=whole,
    )
    if statistics is not None and statistics.outdated:
        raise InputError(
            f"rows {np.flatnonzero(np.asarray(statistics.nonfinite)).tolist()} are not finite, and the origin of the Gram matrix was "
            f"placed with them; measure again without them"
        )
    return Decision(
        rule=rule.name,
        num_rows=num_rows,
        num_expected=evidence.num_expected,
        rows=rows,
        choice=rule.decide(evidence),
        fault_budget_exceeded=budget_exceeded(rule, evidence),
    )
