"""Norms and inner products of a range, as exact sums of block sums.

Inside a block of 4096 coordinates the sum is taken in the vector's own precision (float32 lanes), across blocks exactly. Blocks begin at
multiples of 4096 of the flat vector, as shards do, so a total does not depend on how the vector is cut.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mottle.core import exactsum
from mottle.core.layout import BLOCK

_DISTANCE_COLUMNS = 64 * BLOCK
"""At a time: three such vectors in float64 are 6 MB."""


def block_dots(first_D: Tensor, second_D: Tensor) -> npt.NDArray[np.float64]:
    """Inner product of each block: shape (ceil(D / 4096),). The range begins at a block.

    On the CPU through numpy, whose `vecdot` reads at the speed of memory: `torch.linalg.vecdot` was 15 times slower there (torch 2.13).
    """
    whole = len(first_D) // BLOCK * BLOCK
    heads = [vector[:whole].view(-1, BLOCK) for vector in (first_D, second_D)]
    tails = [vector[whole:] for vector in (first_D, second_D)]
    if first_D.is_cuda:
        dots = torch.bmm(heads[0].unsqueeze(1), heads[1].unsqueeze(2)).flatten()
        return np.asarray(torch.cat([dots, torch.dot(*tails).reshape(1)]).double().cpu())
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told by the result
        dots_B = np.vecdot(*(head.numpy() for head in heads))
        return np.append(dots_B, np.vecdot(*(tail.numpy() for tail in tails))).astype(np.float64)


def exact_dot(first_D: Tensor, second_D: Tensor) -> int:
    """Exact sum of the block sums, in the units of `mottle.core.exactsum`.

    Raises:
        ValueError: a value that is not finite, or blocks that overflow with both signs.
    """
    return exactsum.exact_sum(block_dots(first_D, second_D))


def exact_distance(first_D: Tensor, first_weight: float, second_D: Tensor, second_weight: float) -> int:
    """Exact sum over blocks of |first / its weight - second / its weight|^2, from differences in float64: nearly equal vectors cancel.

    Raises:
        ValueError: a value that is not finite.
    """
    total = 0
    for start in range(0, len(first_D), _DISTANCE_COLUMNS):
        first, second = (vector[start : start + _DISTANCE_COLUMNS].double() for vector in (first_D, second_D))
        difference = first.div(first_weight).sub_(second.div(second_weight))
        total += exact_dot(difference, difference)
    return total


def squared_norm(vector_D: Tensor) -> tuple[bool, int]:
    """Whether every value is finite, and the exact sum of the squared norms of the blocks (0 where it is not finite).

    One pass over the data. A vector with a block whose squared norm overflows counts as not finite: no sum that it enters can be trusted.
    """
    blocks = block_dots(vector_D, vector_D)
    if not np.isfinite(blocks).all():
        return False, 0
    return True, exactsum.exact_sum(blocks)
