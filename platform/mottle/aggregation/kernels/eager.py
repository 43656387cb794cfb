"""The kernels in plain torch: the reference arithmetic, and what runs where there is no compiled kernel (yet) or on other devices.

Column programs run on blocks of columns that stay in the cache, with buffers used again as soon as a value is dead, so that no (N, D) copy
is made. Sums over coordinates are taken in float64, one partial sum a block of 4096, by halving: always the same tree of additions.

Letters: N rows, B blocks, C columns of a piece, K pairs.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mottle.aggregation.decisions.base import Floats
from mottle.aggregation.kernels.programs import Program
from mottle.core.layout import BLOCK

COLUMNS = 1 << 16
"""Columns of a piece: long enough that an operation is not all overhead, short enough that 30 rows of it fit the last cache (8 MB)."""

_BINARY: dict[str, Callable[..., Tensor]] = {
    "min": torch.minimum,
    "max": torch.maximum,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
}
_MASKS: dict[str, Callable[..., Tensor]] = {"above": torch.gt, "equal": torch.eq, "both": torch.logical_and}


def run_columns(program: Program, block: Sequence[Tensor], weights: Floats | None) -> tuple[Tensor, Tensor]:
    """Run a program on a block of columns.

    Args:
        block: the rows' values, one vector of C columns a row, float32 or float64; not written to.
        weights: one a row, if the program has weights.
    Returns:
        The result (C,), and for each column whether nothing overflowed.
    """
    registers = _inputs(program, block, weights)
    last_use = program.last_uses()
    keep = {program.result, *program.watched, *registers}
    spare: dict[bool, list[Tensor]] = {False: [], True: []}
    like = block[0]
    for position, (kind, target, operands) in enumerate(program.steps):
        values = [registers[operand] for operand in operands]
        is_mask = kind in _MASKS
        out = spare[is_mask].pop() if spare[is_mask] else torch.empty_like(like, dtype=torch.bool if is_mask else like.dtype)
        if kind == "pick":
            torch.where(values[0], values[1], values[2], out=out)
        else:
            (_MASKS if is_mask else _BINARY)[kind](values[0], values[1], out=out)
        registers[target] = out
        for operand in set(operands):
            if last_use[operand] == position and operand not in keep:
                dead = registers.pop(operand)
                spare[dead.dtype == torch.bool].append(dead)
    fine = torch.ones_like(like, dtype=torch.bool)
    for register in program.watched:
        fine &= torch.isfinite(registers[register])
    return registers[program.result], fine


def _inputs(program: Program, block: Sequence[Tensor], weights: Floats | None) -> dict[int, Tensor]:
    like = block[0]
    registers = dict(enumerate(block))
    if program.presorted:
        registers |= dict(enumerate(torch.sort(torch.stack(list(block)), dim=0).values, start=program.num_rows))
    if program.weights:
        assert weights is not None
        registers |= {
            register: torch.tensor(weight, dtype=like.dtype, device=like.device)
            for register, weight in zip(program.weights, weights.tolist(), strict=True)
        }
    for register, value in program.constants:
        registers[register] = torch.tensor(value, dtype=like.dtype, device=like.device)
    return registers


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
    for vector, weight in zip(block, weights, strict=True):
        total.add_(vector.to(torch.float64).mul_(weight) if vector.dtype != torch.float64 else vector * weight)
    return total.div_(divisor)


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
    sums: Floats = tree[..., 0].T.cpu().numpy()
    return sums


def distance_sums(block: Sequence[Tensor]) -> Floats:
    """Block sums of squared differences of all pairs i < j, shape (B, K)."""
    parts = []
    for row in range(len(block) - 1):
        others = torch.stack([vector.to(torch.float64) for vector in block[row + 1 :]])
        others -= block[row].to(torch.float64)
        parts.append(block_sums(others.square_()))
    return np.concatenate(parts, axis=1) if parts else np.zeros((-(-len(block[0]) // BLOCK), 0))


def gram_sums(block: Sequence[Tensor], origin: Tensor) -> Floats:
    """Block sums of (p_i - origin).(p_j - origin) for all pairs i <= j, shape (B, K)."""
    centred_PC = torch.stack([vector.to(torch.float64) for vector in block]) - origin.to(torch.float64)
    return np.concatenate([block_sums(centred_PC[row:] * centred_PC[row]) for row in range(len(block))], axis=1)


def norm_sums(block: Sequence[Tensor]) -> Floats:
    """Block sums of squares of each row, shape (B, N)."""
    return block_sums(torch.stack([vector.to(torch.float64) for vector in block]).square_())


def dot_sums(block: Sequence[Tensor], reference: Tensor) -> Floats:
    """Block sums of the inner products of each row, and of the reference itself, with the reference, shape (B, N + 1)."""
    vectors_PC = torch.stack([vector.to(torch.float64) for vector in (*block, reference)])
    return block_sums(vectors_PC * reference.to(torch.float64))
