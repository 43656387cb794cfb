"""The kernels in plain torch: the reference arithmetic, and what runs where there is no compiled kernel (yet) or on other devices.

Column programs run on blocks of columns, with buffers used again as soon as a value is dead, so that no (N, D) copy is made; on rows in
main memory `host` runs them faster. Sums over coordinates are taken in float64, one partial sum a block of 4096, by halving: always the
same tree of additions.

Letters: N rows, B blocks, C columns of a piece, K pairs.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mottle.aggregation.decisions.base import Floats
from mottle.aggregation.kernels.programs import Program, slots_of
from mottle.core.layout import BLOCK

_PROCESSOR_COLUMNS = 1 << 13
"""30 rows of it in double precision are 2 MB. Torch runs an operation on up to four times as many on one thread."""

_DEVICE_COLUMNS = 1 << 18
"""On an accelerator all rows of a block in double precision, 50 MB for 25, outlast the launch of an operation."""

DEVICE_PROGRAM_COLUMNS = 1 << 20
"""An operation of a column program is on one row's worth, which must outlast its launch; 27 buffers of it are 110 MB."""


COMBINED_COLUMNS = 1 << 15
"""On longer vectors torch would start threads of its own inside each of those that work on blocks."""


def columns_at_once(device: torch.device) -> int:
    """Columns of a block of all rows, a multiple of 4096."""
    return _PROCESSOR_COLUMNS if device.type == "cpu" else _DEVICE_COLUMNS


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "min": torch.minimum,
    "max": torch.maximum,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "above": torch.gt,
    "equal": torch.eq,
    "both": torch.logical_and,
}


class Interpreter:
    """Runs one program on blocks of columns, in buffers that are made once: `load`, then `finite` and `run`.

    Args:
        like: its dtype and device are those of the blocks.
        width: columns of the widest block.
        weights: one a row, if the program has weights.
    """

    def __init__(self, program: Program, like: Tensor, width: int, weights: Floats | None) -> None:
        self._program = program
        numbers = program.numbers(weights).items()
        self._numbers = {register: torch.tensor(value, dtype=like.dtype, device=like.device) for register, value in numbers}
        self._slots, num_values, num_masks = slots_of(program)
        values = torch.empty(num_values, width, dtype=like.dtype, device=like.device)
        masks = torch.empty(num_masks, width, dtype=torch.bool, device=like.device)
        self._buffers: dict[tuple[bool, int], Tensor] = {(False, slot): row for slot, row in enumerate(values)}
        self._buffers |= {(True, slot): row for slot, row in enumerate(masks)}
        self._block: Sequence[Tensor] = ()

    def load(self, block: Sequence[Tensor]) -> None:
        """Take the rows' values, one vector of C columns a row, C at most the width; they are not written to."""
        self._block = block

    def finite(self) -> bool:
        """Whether the block holds neither NaN nor infinity."""
        return finite(self._block)

    def run(self) -> tuple[Tensor, Tensor]:
        """The result (C,), in a buffer that the next run overwrites, and for each column whether nothing overflowed."""
        program, block, width = self._program, self._block, len(self._block[0])
        registers = dict(enumerate(block)) | self._numbers
        if program.presorted:
            registers |= dict(enumerate(torch.sort(torch.stack(list(block)), dim=0).values, start=program.num_rows))
        registers |= {register: self._buffers[slot][:width] for register, slot in self._slots.items()}
        for kind, target, operands in program.steps:
            if kind == "pick":
                torch.where(*(registers[operand] for operand in operands), out=registers[target])
            else:
                _OPERATIONS[kind](registers[operands[0]], registers[operands[1]], out=registers[target])
        fine = torch.ones_like(block[0], dtype=torch.bool)
        for register in program.watched:
            fine &= torch.isfinite(registers[register])
        return registers[program.result], fine


def mix(block: Sequence[Tensor], mixing_MN: Floats) -> list[Tensor]:
    """Mixed rows: row m is sum over n of mixing[m, n] * row n, over the sum of mixing[m]; terms added in ascending n, zeros skipped."""
    mixed = []
    for mixing_N in mixing_MN:
        total: Tensor | None = None
        for row in np.flatnonzero(mixing_N).tolist():
            weight = float(mixing_N[row])
            term = block[row] if weight == 1.0 else block[row] * torch.tensor(weight, dtype=block[row].dtype, device=block[row].device)
            total = term.clone() if total is None else total.add_(term)
        assert total is not None
        mixed.append(total.div_(torch.tensor(float(mixing_N.sum()), dtype=total.dtype, device=total.device)))
    return mixed


def combine(block: Sequence[Tensor], weights: Sequence[float], divisor: float) -> Tensor:
    """sum of weights[i] * row i, over the divisor, in float64; terms added in the given order."""
    total = torch.zeros_like(block[0], dtype=torch.float64)
    term = torch.empty_like(total)
    for vector, weight in zip(block, weights, strict=True):
        term.copy_(vector)
        total.add_(term if weight == 1.0 else term.mul_(weight))
    return total.div_(divisor)


def finite(block: Sequence[Tensor]) -> bool:
    """Whether no row has NaN or infinity: a sum is finite only if all its terms are; it may overflow, and then each value is looked at."""
    sums = torch.stack([row.sum() for row in block])
    return bool(torch.isfinite(sums).all()) or all(finite_rows(block))


def finite_rows(block: Sequence[Tensor]) -> list[bool]:
    """Which rows have neither NaN nor infinity."""
    return [bool(torch.isfinite(vector).all()) for vector in block]


def block_sums(terms_KC: Tensor) -> Floats:
    """Sums over each block of 4096 columns, shape (B, K), float64; a last block that is not full is filled up with zeros.

    Args:
        terms_KC: float64; overwritten.
    """
    num_terms, num_columns = terms_KC.shape
    missing = -num_columns % BLOCK
    if missing:
        terms_KC = torch.nn.functional.pad(terms_KC, (0, missing))
    tree = terms_KC.view(num_terms, -1, BLOCK)
    half = BLOCK // 2
    while half:
        tree[..., :half] += tree[..., half : 2 * half]
        half //= 2
    sums: Floats = tree[..., 0].T.contiguous().cpu().numpy()  # a copy: a view would keep all terms in memory
    return sums


def distance_sums(block: Sequence[Tensor]) -> Floats:
    """Block sums of squared differences of all pairs i < j, shape (B, K)."""
    parts = []
    for row in range(len(block) - 1):
        others = _stacked(block[row + 1 :])
        others -= block[row].to(torch.float64)
        parts.append(block_sums(others.square_()))
    return np.concatenate(parts, axis=1) if parts else np.zeros((-(-len(block[0]) // BLOCK), 0))


def gram_sums(block: Sequence[Tensor], origin: Tensor) -> Floats:
    """Block sums of (p_i - origin).(p_j - origin) for all pairs i <= j, shape (B, K)."""
    centred_PC = _stacked(block)
    centred_PC -= origin.to(torch.float64)
    return np.concatenate([block_sums(centred_PC[row:] * centred_PC[row]) for row in range(len(block))], axis=1)


def norm_sums(block: Sequence[Tensor]) -> Floats:
    """Block sums of squares of each row, shape (B, N)."""
    return block_sums(_stacked(block).square_())


def dot_sums(block: Sequence[Tensor], reference: Tensor) -> Floats:
    """Block sums of the inner products of each row, and of the reference itself, with the reference, shape (B, N + 1)."""
    vectors_PC = _stacked((*block, reference))
    vectors_PC *= reference.to(torch.float64)
    return block_sums(vectors_PC)


def _stacked(block: Sequence[Tensor]) -> Tensor:
    """The vectors as rows in float64, row by row: casting them all before they are put together would take the memory twice."""
    stacked_PC = torch.empty(len(block), len(block[0]), dtype=torch.float64, device=block[0].device)
    for into_C, vector in zip(stacked_PC, block, strict=True):
        into_C.copy_(vector)
    return stacked_PC
