"""Column programs in numpy, for rows in main memory where there is no compiled kernel (yet).

A program of some 250 elementary operations is as many passes over short vectors, so three things set its speed, and this module is shaped
by them: an operation of numpy starts in 0.4 us where one of torch takes 1 us (and its `fmin` takes two thirds of the time of `minimum`,
which passes NaN on; blocks with one are not run); vectors begin at cache lines; and everything that does not
depend on the data (which function on which buffers) is settled once. One thread is best off with blocks of half the length, whose buffers
fit its cache; several have to wait for the interpreter before each operation, and longer ones make that rarer. It remains what bounds them.

Letters: N rows, C columns of a block.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mottle.aggregation.decisions.base import Floats
from mottle.aggregation.kernels.programs import Program, slots_of

COLUMNS = 1 << 15
"""Columns of a block: 25 rows and 27 buffers of it are 7 MB."""

_LINE_BYTES = 64

Array = npt.NDArray[Any]
_Call = tuple[Callable[..., object], tuple[Any, ...]]

_ARITHMETIC: dict[str, np.ufunc] = {
    "min": np.fmin,
    "max": np.fmax,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
}
_COMPARISONS: dict[str, np.ufunc] = {"above": np.greater, "equal": np.equal}


class Interpreter:
    """Runs one program on blocks of columns, in buffers that are made once: `load`, then `finite` and `run`.

    Args:
        dtype: of the rows, float32 or float64.
        width: columns of the widest block.
        weights: one a row, if the program has weights.
    """

    def __init__(self, program: Program, dtype: torch.dtype, width: int, weights: Floats | None) -> None:
        self._program = program
        self._dtype = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
        # A mask is an integer as wide as a value, all bits set or none, so that values and masks share buffers.
        self._bits = np.dtype(f"i{self._dtype.itemsize}")
        self._slots, num_values, num_masks = slots_of(program)
        self._rows = _aligned(program.num_rows, width, self._dtype)
        self._sorted = _aligned(program.num_rows if program.presorted else 0, width, self._dtype)
        self._values = _aligned(num_values, width, self._dtype)
        self._masks = _aligned(num_masks, width, self._bits)
        self._flags = np.empty(width, dtype=bool)
        self._small = np.empty(width, dtype=np.int8)
        self._numbers = {register: self._dtype.type(value) for register, value in program.numbers(weights).items()}
        self._calls: dict[int, list[_Call]] = {}
        self._width = 0

    def load(self, block: Sequence[Array | Tensor]) -> None:
        """Copy the rows' values, one vector of C columns a row, C at most the width."""
        self._width = len(block[0])
        for buffer, row in zip(self._rows[:, : self._width], block, strict=True):
            np.copyto(buffer, row if isinstance(row, np.ndarray) else row.numpy())

    def finite(self) -> bool:
        """Whether the block holds neither NaN nor infinity; the extremes of each row show both."""
        rows_NC = self._rows[:, : self._width]
        return all(bool(np.isfinite(extreme.reduce(rows_NC, axis=1)).all()) for extreme in (np.maximum, np.minimum))

    def run(self) -> tuple[Tensor, Tensor]:
        """The result (C,), in a buffer that the next run overwrites, and for each column whether nothing overflowed."""
        program, width = self._program, self._width
        if width not in self._calls:
            self._calls[width] = list(self._bound(width))
        with np.errstate(all="ignore"):
            for function, operands in self._calls[width]:
                function(*operands)
            watched = [self._array(register, width) for register in dict.fromkeys(program.watched)]
            fine_C = np.logical_and.reduce([np.isfinite(each) for each in watched])
        return torch.from_numpy(self._array(program.result, width)), torch.from_numpy(fine_C)

    def _array(self, register: int, width: int) -> Any:
        """Where a register lies: a row, a sorted row, a number, or a buffer."""
        program = self._program
        if register in self._numbers:
            return self._numbers[register]
        if register < program.num_rows:
            return self._rows[register, :width]
        if register in self._slots:
            is_mask, slot = self._slots[register]
            return (self._masks if is_mask else self._values)[slot, :width]
        return self._sorted[register - program.num_rows, :width]

    def _bound(self, width: int) -> Iterator[_Call]:
        """The program as calls on the buffers."""
        if self._program.presorted:
            yield np.copyto, (self._sorted[:, :width], self._rows[:, :width])
            yield self._sorted[:, :width].sort, (0,)
        for kind, target, registers in self._program.steps:
            out, operands = self._array(target, width), [self._array(register, width) for register in registers]
            if kind in _ARITHMETIC:
                yield _ARITHMETIC[kind], (*operands, out)
            elif kind in _COMPARISONS:
                flags, small = self._flags[:width], self._small[:width]
                yield _COMPARISONS[kind], (*operands, flags)
                yield np.negative, (flags.view(np.int8), small)
                yield np.copyto, (out, small)
            elif kind == "both":
                yield np.bitwise_and, (*operands, out)
            else:
                mask, chosen, other = operands[0], *(operand.view(self._bits) for operand in operands[1:])
                bits = out.view(self._bits)
                yield np.bitwise_xor, (chosen, other, bits)
                yield np.bitwise_and, (bits, mask, bits)
                yield np.bitwise_xor, (bits, other, bits)


def _aligned(count: int, width: int, dtype: np.dtype[Any]) -> Array:
    """An array (count, width) whose rows begin at cache lines."""
    stride = -(-width * dtype.itemsize // _LINE_BYTES) * _LINE_BYTES
    memory = np.empty(count * stride + _LINE_BYTES, dtype=np.uint8)
    first = -memory.ctypes.data % _LINE_BYTES
    return memory[first : first + count * stride].view(dtype).reshape(count, stride // dtype.itemsize)[:, :width]
