"""What a rule is on its decision side: a frozen configuration and a pure function from small statistics to a choice.

A rule never sees the rows here. It says what must be measured on them (`Measurement`), gets the sums (`Evidence`) and answers how the rows
are to be put together (`Choice`). Shards measure and apply; whoever holds the sums decides. Needs numpy only.

Letters: N rows that passed the gate, M mixed rows, P points (rows, then perhaps one more).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from mottle.aggregation.errors import ConditionError
from mottle.core.errors import ConfigError

Floats = npt.NDArray[np.float64]
Family = Literal["coordinate", "gram", "reference"]
Input = Literal["center", "reference", "score"]


def option(default: Any = MISSING, *, doc: str) -> Any:
    """A field of a rule's configuration, with the line that the catalogue shows; without a default the user must choose."""
    return field(default=default, metadata={"doc": doc}) if default is not MISSING else field(metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Gram:
    """Inner products of (row - origin); `point` is one more point measured like a row, behind them."""

    origin: Literal["median", "center"]
    """The coordinate-wise median of the rows, which is never far from the bulk of them, or the given centre (zero without one)."""
    point: Literal["zero", "center"] | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Which sums over coordinates a rule decides on."""

    distances: bool = False
    """Squared distances of all pairs of rows, from differences."""
    gram: Gram | None = None
    norms: bool = False
    """Squared norms of the rows."""
    dots: bool = False
    """Inner products of the rows with the reference, and the squared norm of the reference."""

    @property
    def nothing(self) -> bool:
        return not (self.distances or self.gram or self.norms or self.dots)


@dataclass(frozen=True, kw_only=True)
class ColumnPlan:
    """What is done at every coordinate with the values of some rows.

    `near_*` keeps the values closest to a centre: the median, or the mean that trims `drop` values at either end.
    """

    kind: Literal["median", "trimmed_mean", "near_trimmed_mean", "near_median"]
    drop: int = 0
    """Values left out: at either end for `trimmed_mean`, in all for the others; 0 for the median."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What is known of the rows that passed the gate, in ascending order of their index."""

    num_rows: int
    num_expected: int
    """Rows that the server set out to wait for; the missing and the invalid ones use up the fault budget."""
    strict: bool = True
    counts: Floats | None = None
    """Sample counts as declared, not yet capped; None for equal ones."""
    distances: Floats | None = None
    """Squared distances, symmetric, the diagonal 0; +inf where they overflow."""
    gram: Floats | None = None
    norms: Floats | None = None
    dots: Floats | None = None
    reference_norm: float = 0.0
    """Squared norm of the reference."""
    descents: Floats | None = None
    """Loss before minus loss after each row; not finite where a loss was not."""

    @property
    def num_invalid(self) -> int:
        return self.num_expected - self.num_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """How the rows (those of the evidence) are put together; either weights or columns, after an optional mixing.

    With weights: (sum of weights[i] * row i + center_weight * centre) / divisor.
    With columns: the plan on the rows `column_rows`, or on the rows of mixing / its row sums where there is a mixing.
    """

    selected: tuple[int, ...]
    """Rows with a part in the result, ascending."""
    order: tuple[int, ...] = ()
    """The rows in the order in which the rule picked them, where it picks."""
    weights: Floats | None = None
    divisor: float = 1.0
    center_weight: float = 0.0
    columns: ColumnPlan | None = None
    column_rows: tuple[int, ...] = ()
    column_weights: Floats | None = None
    """Capped counts, one for each row of the plan; None for equal ones."""
    mixing: Floats | None = None
    scores: Floats | None = None
    """Krum: sum of squared distances (small is good). Zeno and FLTrust: score, trust (large is good)."""


@dataclass(frozen=True, kw_only=True)
class RuleConfig(ABC):
    """Base of every rule's configuration; fields are the parameters under the names of job files."""

    name: ClassVar[str]
    family: ClassVar[Family]
    summary: ClassVar[str]
    condition: ClassVar[str]
    guarantee: ClassVar[str]
    source: ClassVar[str]
    inputs: ClassVar[Mapping[Input, str]] = {}
    """Inputs beyond rows and weights: what each is for. Whether one must be given depends on the parameters: `required`."""
    gated: ClassVar[bool] = True

    @property
    def measures(self) -> Measurement:
        """Sums that `decide` needs."""
        return Measurement()

    @property
    def required(self) -> frozenset[Input]:
        """Inputs without which the rule cannot run."""
        return frozenset()

    def budget(self, num_rows: int) -> int | None:
        """Declared number of faulty rows among `num_rows` (f, or b); None for a rule that declares none."""
        return None

    def largest_budget(self, num_rows: int) -> int:
        """Largest budget (or, without one, number of faulty rows survived) with `num_rows`; negative where the rule cannot run."""
        return (num_rows - 1) // 2

    @abstractmethod
    def check(self, num_rows: int, budget: int | None) -> None:
        """Raise ConditionError unless the validity condition holds for so many rows and such a budget."""

    @abstractmethod
    def decide(self, evidence: Evidence) -> Choice:
        """The choice; a pure function of the evidence."""

    def _require(self, holds: bool, num_rows: int, budget: int | None, *, advice: str = "") -> None:
        if not holds:
            raise ConditionError(self.name, num_rows=num_rows, budget=budget, condition=self.condition, advice=advice)


def remaining_budget(rule: RuleConfig, evidence: Evidence) -> int:
    """Budget left after the invalid rows have used up theirs; 0 for a rule without one.

    Raises:
        ConditionError: more rows are invalid than were declared, in strict mode; or the condition fails for what is left.
    """
    declared = rule.budget(evidence.num_expected)
    rule.check(evidence.num_expected, declared)
    if declared is not None and evidence.num_invalid > declared and evidence.strict:
        raise ConditionError(
            rule.name,
            num_rows=evidence.num_expected,
            budget=declared,
            condition=f"at most as many invalid rows as were declared, but {evidence.num_invalid} are invalid",
            advice="declare more, or build the rule with strict=False to go on with what is left",
        )
    left = None if declared is None else max(0, declared - evidence.num_invalid)
    rule.check(evidence.num_rows, left)
    return left or 0


def budget_exceeded(rule: RuleConfig, evidence: Evidence) -> bool:
    """Whether more rows are invalid than were declared."""
    declared = rule.budget(evidence.num_expected)
    return declared is not None and evidence.num_invalid > declared


def resolve_share(budget: float, num_rows: int) -> int:
    """A count, or the whole rows in a share of the round: 0.2 of 24 rows is 4.

    The share is read as the decimal it was written as: 0.29 of 100 is 29, where binary floating point gives 28.
    """
    if isinstance(budget, int):
        return budget
    return int(Fraction(repr(budget)) * num_rows)


def check_budget(rule: str, name: str, budget: float) -> None:
    """Raise ConfigError unless it is a count (int >= 0) or a share (float in [0, 1))."""
    is_count = isinstance(budget, int) and not isinstance(budget, bool) and budget >= 0
    is_share = isinstance(budget, float) and 0.0 <= budget < 1.0
    if not (is_count or is_share):
        raise ConfigError(f"{rule}: {name} is a count of rows (int >= 0) or a share of the round (float in [0, 1)), got {budget!r}")


def check_at_least(rule: str, name: str, value: float, least: float, *, exclusive: bool = False) -> None:
    """Raise ConfigError unless `value` is a number of at least (or above) `least`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value > least if exclusive else value >= least):
        raise ConfigError(f"{rule}: {name} must be {'above' if exclusive else 'at least'} {least}, got {value!r}")


def check_whole(rule: str, name: str, value: int, least: int) -> None:
    """Raise ConfigError unless `value` is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{rule}: {name} must be a whole number of at least {least}, got {value!r}")
