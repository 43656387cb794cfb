"""Exact sums over all coordinates of some rows, compiled or in plain torch.

Letters: N rows, P points of the Gram matrix, B blocks, K sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mottle.aggregation.decisions.base import Floats, Measurement
from mottle.aggregation.decisions.statistics import sizes
from mottle.aggregation.kernels import eager, engine, native
from mottle.aggregation.kernels.pieces import PIECE, in_pieces
from mottle.aggregation.kernels.programs import column_program
from mottle.aggregation.rows import Rows, spans
from mottle.core.exactsum import exact_sums

Totals = dict[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Companions:
    """Vectors beside the rows, already in the working dtype."""

    center: Tensor | None = None
    reference: Tensor | None = None


def measure(rows: Rows, what: Measurement, companions: Companions) -> tuple[npt.NDArray[np.bool_], Totals]:
    """The sums of a measurement by part, and which rows are finite; sums with a row that is not mean nothing.

    With a Gram matrix about the median no sum means anything unless all rows are finite.
    """
    library = native.statistics_library() if rows.device.type == "cpu" else None
    if library is not None:
        return _Compiled(library, rows, what, companions).measure()
    finite = engine.finite_rows(rows)
    totals: Totals = {}
    for start, stop in spans(rows.length, eager.columns_at_once(rows.device)):
        block = [row if fine else torch.zeros_like(row) for row, fine in zip(rows.block(start, stop), finite, strict=True)]
        for part, sums_BK in _piece_sums(block, what, companions, start, stop):
            more = exact_sums(sums_BK)
            totals[part] = tuple(map(int.__add__, totals[part], more)) if part in totals else more
    return finite, totals


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
    origin = center if what.gram.origin == "center" else engine.run_program(column_program(engine.MEDIAN, len(block)), block)[0]
    extra = [] if what.gram.point is None else [zero if what.gram.point == "zero" else center]
    return [*block, *extra], origin


def _tame_gram(sums_BK: Floats) -> Floats:
    """+inf on the diagonal where a square overflowed, 0 for the products that then have no value: nobody reads them."""
    num_points = int(np.sqrt(2 * sums_BK.shape[1]))
    on_diagonal = np.equal(*np.triu_indices(num_points))
    return np.where(np.isfinite(sums_BK), sums_BK, np.where(on_diagonal, np.inf, 0.0))


@dataclass(frozen=True, eq=False)
class _Compiled:
    library: native.Library
    rows: Rows
    what: Measurement
    companions: Companions

    def measure(self) -> tuple[npt.NDArray[np.bool_], Totals]:
        num_rows = len(self.rows.vectors)
        tallies = {
            part: native.Tally(num_rows + (part == "dots"), size) for part, size in sizes(self.what, num_rows).items() if self._asked(part)
        }
        origin, median = self._origin()

        def work(start: int, stop: int) -> None:
            block, lo, hi = engine.piece(self.rows, start, stop)
            center, reference, here = (
                vector if vector is None or self.rows.direct else vector[start:stop]
                for vector in (self.companions.center, self.companions.reference, origin)
            )
            if self.what.distances:
                native.add_distances(self.library, block, lo, hi, tallies["distances"])
            if self.what.gram:
                extra = [] if self.what.gram.point is None else [center if self.what.gram.point == "center" else None]
                native.add_gram(self.library, [*block, *extra], num_rows, median, here, lo, hi, tallies["gram"])
            if self.what.norms:
                native.add_dots(self.library, block, None, lo, hi, tallies["norms"])
            if self.what.dots:
                assert reference is not None
                native.add_dots(self.library, [*block, reference], reference, lo, hi, tallies["dots"])

        in_pieces(self.rows.length, PIECE, work)
        totals = {part: tally.totals() for part, tally in tallies.items()}
        finite = np.all([each[1][:num_rows] for each in totals.values()], axis=0)
        return finite, {part: each[0] for part, each in totals.items()}

    def _asked(self, part: str) -> bool:
        return bool(getattr(self.what, part))

    def _origin(self) -> tuple[Tensor | None, native.Function | None]:
        """Origin of the Gram matrix: a vector, or the program that finds the median block by block."""
        if self.what.gram is None or self.what.gram.origin == "center":
            return self.companions.center, None
        columns = engine.Columns(engine.MEDIAN)
        median = engine.compiled_program(self.rows, columns)
        return (None, median) if median is not None else (engine.apply_columns(self.rows, columns)[0], None)
