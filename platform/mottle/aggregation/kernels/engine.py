"""Runs kernels over whole rows: compiled where that is possible, in plain torch otherwise.

Whatever runs, a block of 4096 coordinates gives the same partial sums and a coordinate the same result, and partial sums add exactly; so
pieces, threads and shards can be cut anywhere between blocks.

Letters: N rows, D coordinates.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mottle.aggregation.decisions.base import ColumnPlan, Floats
from mottle.aggregation.kernels import eager, host, native
from mottle.aggregation.kernels.pieces import PIECE, in_pieces
from mottle.aggregation.kernels.programs import Program, column_program
from mottle.aggregation.rows import Rows, spans

Interpreter = eager.Interpreter | host.Interpreter

MEDIAN = ColumnPlan(kind="median")

WORTH_COMPILING = 1 << 20
"""Values in a call from which a column program is compiled (about a second of one processor); below, plain torch takes milliseconds."""

_HEADROOM = 2.0**-16
"""Scale at which a column is computed again when a sum of finite values overflowed; a power of two, so it changes nothing else."""


@dataclass(frozen=True, eq=False)
class Columns:
    """One plan on rows, or on mixtures of them."""

    plan: ColumnPlan
    weights: Floats | None = None
    mixing: Floats | None = None

    def program(self, num_rows: int) -> Program:
        return column_program(self.plan, num_rows if self.mixing is None else len(self.mixing), weighted=self.weights is not None)

    def interpreter(self, rows: Rows, width: int) -> Interpreter:
        """What runs the program without a compiler, on blocks of at most so many columns."""
        like = torch.empty(0, dtype=rows.work_dtype, device=rows.device)
        return _interpreter(self.program(len(rows.vectors)), like, width, self.scaled_weights)

    @property
    def scaled_weights(self) -> Floats | None:
        """Weights of at most 1, so that they cannot make a sum overflow; only their ratios count."""
        return None if self.weights is None else self.weights / self.weights.max()


def _interpreter(program: Program, like: Tensor, width: int, weights: Floats | None) -> Interpreter:
    if like.device.type == "cpu":
        return host.Interpreter(program, like.dtype, width, weights)
    return eager.Interpreter(program, like, width, weights)


def run_program(program: Program, block: Sequence[Tensor], weights: Floats | None = None) -> tuple[Tensor, Tensor]:
    """One block of columns without a compiler: the result (C,), and for each column whether nothing overflowed."""
    interpreter = _interpreter(program, block[0], len(block[0]), weights)
    interpreter.load(block)
    return interpreter.run()


def piece(rows: Rows, start: int, stop: int) -> tuple[Sequence[Tensor], int, int]:
    """Vectors that a compiled kernel can read, and where columns [start, stop) are in them."""
    if rows.direct:
        return rows.vectors, start, stop
    return [vector.contiguous() for vector in rows.block(start, stop)], 0, stop - start


def finite_rows(rows: Rows) -> npt.NDArray[np.bool_]:
    """Which rows hold neither NaN nor infinity."""
    library = native.statistics_library() if rows.device.type == "cpu" else None
    bad = np.zeros(len(rows.vectors), dtype=np.uint8)
    if library is None:
        for start, stop in spans(rows.length, eager.columns_at_once(rows.device)):
            bad |= ~np.array(eager.finite_rows(rows.block(start, stop)), dtype=bool)
    elif len(bad):
        # Threads only ever set a flag, so it does not matter which of them writes last.
        in_pieces(rows.length, PIECE, lambda start, stop: native.mark_bad(library, *piece(rows, start, stop), bad))
    return np.equal(bad, 0)


def apply_columns(rows: Rows, columns: Columns) -> tuple[Tensor, bool]:
    """The plan at every coordinate; and whether all rows were finite (if not, the result means nothing).

    Returns:
        Shape (D,), working dtype.
    """
    out = torch.empty(rows.length, dtype=rows.work_dtype, device=rows.device)
    compiled = _CompiledColumns.find(rows, columns)
    if compiled is not None:
        return out, compiled.run(rows, out)
    return out, _interpret(rows, columns, out)


def _interpret(rows: Rows, columns: Columns, out: Tensor) -> bool:
    """Without a compiler, in blocks too small for the libraries' own threads, which would cost more than they bring."""
    size = host.COLUMNS if rows.device.type == "cpu" else eager.DEVICE_PROGRAM_COLUMNS
    own = threading.local()
    spoilt: list[int] = []

    def work(start: int, stop: int) -> None:
        if spoilt:
            return
        if not hasattr(own, "interpreter"):
            own.interpreter = columns.interpreter(rows, min(size, rows.length))
        if columns.mixing is None:
            own.interpreter.load(rows.views(start, stop))
            finite = own.interpreter.finite()
        else:
            block = rows.block(start, stop)
            own.interpreter.load(eager.mix(block, columns.mixing))
            finite = eager.finite(block)
        if finite:
            out[start:stop] = _loaded(rows, start, stop, columns, own.interpreter)
        else:
            spoilt.append(start)

    _in_blocks(rows, size, work)
    return not spoilt


def _in_blocks(rows: Rows, size: int, work: Callable[[int, int], None]) -> None:
    """On several threads in main memory; one after the other on an accelerator, which is one for all threads, and so is its memory."""
    if rows.device.type == "cpu":
        in_pieces(rows.length, size, work)
    else:
        for start, stop in spans(rows.length, size):
            work(start, stop)


def compiled_program(rows: Rows, columns: Columns) -> native.Function | None:
    """The compiled form if it is at hand; asks for it, for a later call, where it is worth while."""
    if rows.device.type != "cpu" or rows.length * len(rows.vectors) < WORTH_COMPILING:
        return None
    return native.columns_function(columns.program(len(rows.vectors)), rows.work_dtype)


@dataclass(frozen=True, eq=False)
class _CompiledColumns:
    columns: Columns
    function: native.Function
    library: native.Library

    @classmethod
    def find(cls, rows: Rows, columns: Columns) -> "_CompiledColumns | None":
        function = compiled_program(rows, columns)
        library = native.apply_library()
        return None if function is None or library is None else cls(columns, function, library)

    def run(self, rows: Rows, out: Tensor) -> bool:
        spoilt: list[int] = []

        def work(start: int, stop: int) -> None:
            if spoilt:
                return
            finite, fine = self._piece(rows, start, stop, out[start:stop])
            if finite and fine:
                return
            block = rows.block(start, stop)
            # A mixture of finite rows may overflow; then the flag says nothing about the rows themselves.
            if finite or (self.columns.mixing is not None and eager.finite(block)):
                interpreter = self.columns.interpreter(rows, stop - start)
                interpreter.load(_mixed(block, self.columns))
                out[start:stop] = _loaded(rows, start, stop, self.columns, interpreter)
            else:
                spoilt.append(start)

        in_pieces(rows.length, PIECE, work)
        return not spoilt

    def _piece(self, rows: Rows, start: int, stop: int, out: Tensor) -> tuple[bool, bool]:
        block, lo, hi = piece(rows, start, stop)
        weights, mixing = self.columns.scaled_weights, self.columns.mixing
        if mixing is None:
            return native.run_columns(self.function, block, weights, lo, hi, out)
        return native.run_mixed_columns(self.library, self.function, block, mixing, weights, lo, hi, out)


def _loaded(rows: Rows, start: int, stop: int, columns: Columns, interpreter: Interpreter) -> Tensor:
    """The program on the block that is loaded; what overflowed is computed again on a smaller scale."""
    result, fine = interpreter.run()
    mixture_overflowed = columns.mixing is not None and not interpreter.finite()
    if bool(fine.all()) and not mixture_overflowed:
        return result
    block = rows.block(start, stop)
    if mixture_overflowed:
        fine = fine & torch.isfinite(torch.stack(_mixed(block, columns))).all(dim=0)
    again = torch.nonzero(~fine).squeeze(1)
    # The first result must be out of the buffers before they are used again.
    result = result.clone()
    interpreter.load(_mixed([row[again] * _HEADROOM for row in block], columns))
    result[again] = interpreter.run()[0] / _HEADROOM
    return result


def _mixed(block: list[Tensor], columns: Columns) -> list[Tensor]:
    return block if columns.mixing is None else eager.mix(block, columns.mixing)


def apply_weights(rows: Rows, weights: Floats, divisor: float, center: Tensor | None, center_weight: float) -> Tensor:
    """(sum of weights[i] * row i + center_weight * center) / divisor; shape (D,), working dtype, computed in float64.

    Rows without weight are not read: a huge one would spoil the sum. NaN and infinity in the others reach the result.
    """
    out = torch.empty(rows.length, dtype=rows.work_dtype, device=rows.device)
    chosen = np.flatnonzero(weights)
    extra = [] if center is None or not center_weight else [center]
    factors = np.append(weights[chosen], [center_weight] * len(extra)).astype(np.float64)
    if not len(factors):
        return out.zero_()
    part = rows.only(chosen.tolist())
    if len(factors) == 1 and not extra and factors[0] == divisor:
        return out.copy_(part.vectors[0])  # to multiply and to divide by the same number may change the last bit
    library = native.apply_library() if rows.device.type == "cpu" else None
    if library is None:

        def add(start: int, stop: int) -> None:
            block = [*part.block(start, stop), *(vector[start:stop] for vector in extra)]
            out[start:stop] = eager.combine(block, factors.tolist(), divisor)

        _in_blocks(rows, eager.COMBINED_COLUMNS if rows.device.type == "cpu" else eager.columns_at_once(rows.device), add)
        return out

    def work(start: int, stop: int) -> None:
        block, lo, hi = piece(part, start, stop)
        beside = extra if part.direct else [vector[start:stop] for vector in extra]
        native.combine(library, [*block, *beside], factors, divisor, lo, hi, out[start:stop])

    in_pieces(rows.length, PIECE, work)
    return out
