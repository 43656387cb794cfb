"""Runs kernels over whole rows: in pieces of blocks, compiled where that is possible, in plain torch otherwise.

Whatever runs, a block of 4096 coordinates gives the same partial sums and a coordinate the same result, and partial sums add exactly; so
pieces, threads and shards can be cut anywhere between blocks.

Letters: N rows, D coordinates, K sums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mottle.aggregation.decisions.base import ColumnPlan, Floats, Measurement
from mottle.aggregation.kernels import eager
from mottle.aggregation.kernels.programs import Program, column_program
from mottle.aggregation.rows import Rows, spans
from mottle.core.exactsum import exact_sums

MEDIAN = ColumnPlan(kind="median")

_HEADROOM = 2.0**-16
"""Scale at which a column is computed again when a sum of finite values overflowed; a power of two, so it changes nothing else."""


@dataclass(frozen=True, eq=False)
class Companions:
    """Vectors beside the rows, already in the working dtype."""

    center: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Columns:
    """One plan on rows, or on mixtures of them."""

    plan: ColumnPlan
    weights: Floats | None = None
    mixing: Floats | None = None

    def program(self, num_rows: int) -> Program:
        return column_program(self.plan, num_rows if self.mixing is None else len(self.mixing), weighted=self.weights is not None)

    @property
    def scaled_weights(self) -> Floats | None:
        """Weights of at most 1, so that they cannot make a sum overflow; only their ratios count."""
        return None if self.weights is None else self.weights / self.weights.max()


def finite_rows(rows: Rows) -> npt.NDArray[np.bool_]:
    """Which rows hold neither NaN nor infinity."""
    finite = np.ones(len(rows.vectors), dtype=bool)
    for start, stop in spans(rows.length, eager.COLUMNS):
        finite &= eager.finite_rows(rows.block(start, stop))
    return finite


def measure(rows: Rows, what: Measurement, companions: Companions) -> tuple[npt.NDArray[np.bool_], dict[str, tuple[int, ...]]]:
    """The exact sums of a measurement over all coordinates, by part; and which rows are finite (the sums of others mean nothing)."""
    finite = finite_rows(rows)
    totals: dict[str, tuple[int, ...]] = {}
    for start, stop in spans(rows.length, eager.COLUMNS):
        block = [row if fine else torch.zeros_like(row) for row, fine in zip(rows.block(start, stop), finite, strict=True)]
        for part, sums_BK in _piece_sums(block, what, companions, start, stop):
            totals[part] = _add(totals.get(part), exact_sums(sums_BK))
    return finite, totals


def _add(total: tuple[int, ...] | None, more: tuple[int, ...]) -> tuple[int, ...]:
    return more if total is None else tuple(map(int.__add__, total, more))


def _piece_sums(block: list[Tensor], what: Measurement, companions: Companions, start: int, stop: int) -> Iterator[tuple[str, Floats]]:
    if what.distances:
        yield "distances", eager.distance_sums(block)
    if what.gram:
        yield "gram", _tame_gram(eager.gram_sums(*_points(block, what, companions, start, stop)))
    if what.norms:
        yield "norms", eager.norm_sums(block)
    if what.dots:
        assert companions.reference is not None
        yield "dots", np.nan_to_num(eager.dot_sums(block, companions.reference[start:stop]), nan=0.0, posinf=0.0, neginf=0.0)


def _points(block: list[Tensor], what: Measurement, companions: Companions, start: int, stop: int) -> tuple[list[Tensor], Tensor]:
    """The points of the Gram matrix and its origin."""
    assert what.gram is not None
    zero = torch.zeros_like(block[0])
    center = zero if companions.center is None else companions.center[start:stop]
    origin = center if what.gram.origin == "center" else eager.run_columns(column_program(MEDIAN, len(block)), block, None)[0]
    extra = [] if what.gram.point is None else [zero if what.gram.point == "zero" else center]
    return [*block, *extra], origin


def _tame_gram(sums_BK: Floats) -> Floats:
    """+inf on the diagonal where a square overflowed, 0 for the products that then have no value: nobody reads them."""
    num_points = int(np.sqrt(2 * sums_BK.shape[1]))
    on_diagonal = np.equal(*np.triu_indices(num_points))
    return np.where(np.isfinite(sums_BK), sums_BK, np.where(on_diagonal, np.inf, 0.0))


def apply_columns(rows: Rows, columns: Columns) -> tuple[Tensor, bool]:
    """The plan at every coordinate; and whether all rows were finite (if not, the result means nothing).

    Returns:
        Shape (D,), working dtype.
    """
    out = torch.empty(rows.length, dtype=rows.work_dtype, device=rows.device)
    for start, stop in spans(rows.length, eager.COLUMNS):
        block = rows.block(start, stop)
        if not _finite(block):
            return out, False
        out[start:stop] = _columns_of(block, columns)
    return out, True


def _finite(block: Sequence[Tensor]) -> bool:
    """A sum is finite if all its terms are; the other way round it may overflow, and then each value is looked at."""
    sums = torch.stack([row.sum() for row in block])
    return bool(torch.isfinite(sums).all()) or all(eager.finite_rows(block))


def _columns_of(block: list[Tensor], columns: Columns) -> Tensor:
    mixed = block if columns.mixing is None else eager.mix(block, columns.mixing)
    program = columns.program(len(block))
    result, fine = eager.run_columns(program, mixed, columns.scaled_weights)
    if bool(fine.all()):
        return result
    again = torch.nonzero(~fine).squeeze(1)
    scaled = [row[again] * _HEADROOM for row in block]
    mixed = scaled if columns.mixing is None else eager.mix(scaled, columns.mixing)
    repaired, _ = eager.run_columns(program, mixed, columns.scaled_weights)
    result = result.clone()
    result[again] = repaired / _HEADROOM
    return result


def apply_weights(rows: Rows, weights: Floats, divisor: float, center: Tensor | None, center_weight: float) -> Tensor:
    """(sum of weights[i] * row i + center_weight * center) / divisor; shape (D,), working dtype, computed in float64.

    Rows without weight are not read: a huge one would spoil the sum. NaN and infinity in the others reach the result.
    """
    out = torch.empty(rows.length, dtype=rows.work_dtype, device=rows.device)
    chosen = np.flatnonzero(weights)
    factors = [float(weights[row]) for row in chosen] + ([center_weight] if center is not None and center_weight else [])
    if not factors:
        return out.zero_()
    part = rows.only(chosen.tolist())
    for start, stop in spans(rows.length, eager.COLUMNS):
        block = part.block(start, stop)
        if center is not None and center_weight:
            block = [*block, center[start:stop]]
        out[start:stop] = eager.combine(block, factors, divisor)
    return out
