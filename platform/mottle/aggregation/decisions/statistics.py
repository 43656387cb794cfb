"""What shards measure for a rule, as exact sums: they add in any order, so a decision cannot depend on the cut.

On the wire a statistic is a flat tuple of integers: per row the number of pieces in which it was not finite, then the sums that the rule's
`Measurement` asks for, in the order of its fields (pairs i < j for distances, i <= j for the Gram matrix, both row by row).

Letters: N rows, P points of the Gram matrix.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import add

import numpy as np
import numpy.typing as npt

from mottle.aggregation.decisions.base import Evidence, Floats, Measurement
from mottle.aggregation.errors import InputError
from mottle.core.exactsum import to_float


def num_points(what: Measurement, num_rows: int) -> int:
    """Points of the Gram matrix: the rows, and perhaps one more."""
    return num_rows + (what.gram is not None and what.gram.point is not None)


def sizes(what: Measurement, num_rows: int) -> dict[str, int]:
    """How many sums each part of a measurement has; 0 for what is not measured."""
    points = num_points(what, num_rows)
    return {
        "distances": num_rows * (num_rows - 1) // 2 if what.distances else 0,
        "gram": points * (points + 1) // 2 if what.gram else 0,
        "norms": num_rows if what.norms else 0,
        "dots": num_rows + 1 if what.dots else 0,
    }


@dataclass(frozen=True)
class Statistics:
    """Exact sums over some range of coordinates; `a + b` is the statistic of both ranges."""

    what: Measurement
    num_rows: int
    nonfinite: tuple[int, ...]
    """For each row, in how many pieces it held NaN or infinity; its sums are then without meaning."""
    sums: tuple[int, ...]
    """In units of 2**-1074, see `mottle.core.exactsum`."""
    excluded: tuple[int, ...] = ()
    """Rows left out from the start, because they were known to be invalid."""

    def __post_init__(self) -> None:
        wanted = sum(sizes(self.what, self.num_rows).values())
        if len(self.nonfinite) != self.num_rows or len(self.sums) != wanted:
            raise InputError(
                f"statistics of {self.num_rows} rows have {self.num_rows} flags and {wanted} sums, "
                f"got {len(self.nonfinite)} and {len(self.sums)}; were they measured for another rule or another number of rows?"
            )

    def __add__(self, other: "Statistics") -> "Statistics":
        if (self.what, self.num_rows, self.excluded) != (other.what, other.num_rows, other.excluded):
            raise InputError("statistics of different measurements or rows cannot be added; measure the same rows on every shard")
        return replace(
            self,
            nonfinite=tuple(map(add, self.nonfinite, other.nonfinite)),
            sums=tuple(map(add, self.sums, other.sums)),
        )

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """Rows without NaN or infinity, among those that were not excluded."""
        finite_N: npt.NDArray[np.bool_] = np.asarray(self.nonfinite) == 0
        finite_N[list(self.excluded)] = False
        return finite_N

    @property
    def outdated(self) -> bool:
        """Whether a row that helped to place the origin turned out to be invalid, so that the rest must be measured without it."""
        return self.what.gram is not None and self.what.gram.origin == "median" and any(self.nonfinite)

    def to_wire(self) -> tuple[int, ...]:
        """As plain integers, which shards may add one by one."""
        return (*self.nonfinite, *self.sums)

    @classmethod
    def from_wire(cls, what: Measurement, num_rows: int, values: Sequence[int]) -> "Statistics":
        """Back from integers, or from their sums over shards."""
        return cls(what, num_rows, tuple(values[:num_rows]), tuple(values[num_rows:]))

    def part(self, name: str) -> Floats:
        """The sums of one part, rounded once."""
        parts = sizes(self.what, self.num_rows)
        start = sum(size for other, size in parts.items() if list(parts).index(other) < list(parts).index(name))
        return np.array([to_float(total) for total in self.sums[start : start + parts[name]]], dtype=np.float64)


def total(statistics: Iterable[Statistics]) -> Statistics:
    """Sum over shards, at least one."""
    first, *others = statistics
    for other in others:
        first = first + other
    return first


def with_sums(evidence: Evidence, statistics: Statistics, rows: Sequence[int]) -> Evidence:
    """The evidence completed by what was measured on the given rows."""
    what, kept = statistics.what, list(rows)
    if what.distances:
        evidence = replace(evidence, distances=_square(statistics.part("distances"), statistics.num_rows, 1)[np.ix_(kept, kept)])
    if what.gram:
        points = num_points(what, statistics.num_rows)
        kept_points = [*kept, *range(statistics.num_rows, points)]
        evidence = replace(evidence, gram=_square(statistics.part("gram"), points, 0)[np.ix_(kept_points, kept_points)])
    if what.norms:
        evidence = replace(evidence, norms=statistics.part("norms")[kept])
    if what.dots:
        dots = statistics.part("dots")
        evidence = replace(evidence, dots=dots[kept], reference_norm=float(dots[-1]))
    return evidence


def _square(values: Floats, size: int, diagonal: int) -> Floats:
    """A symmetric matrix from its upper triangle, row by row from the given diagonal on."""
    matrix = np.zeros((size, size))
    upper = np.triu_indices(size, diagonal)
    matrix[upper] = values
    matrix.T[upper] = values
    return matrix
