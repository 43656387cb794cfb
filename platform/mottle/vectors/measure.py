"""Norms and inner products of a range, as exact sums of block sums.

Inside a block of 4096 coordinates the sum is taken in the vector's own precision (float32 lanes), across blocks exactly. Blocks begin at
multiples of 4096 of the flat vector, as shards do, so a total does not depend on how the vector is cut.
"""

import numpy as np
import torch
from torch import Tensor

from mottle.core import exactsum
from mottle.core.layout import BLOCK


def block_dots(first_D: Tensor, second_D: Tensor) -> Tensor:
    """Inner product of each block: shape (ceil(D / 4096),), float64 on the CPU. The range begins at a block."""
    whole = len(first_D) // BLOCK * BLOCK
    dots: Tensor = torch.linalg.vecdot(first_D[:whole].view(-1, BLOCK), second_D[:whole].view(-1, BLOCK))
    if whole < len(first_D):
        dots = torch.cat([dots, torch.linalg.vecdot(first_D[whole:], second_D[whole:]).reshape(1)])
    return dots.to("cpu", torch.float64)


def exact_dot(first_D: Tensor, second_D: Tensor) -> int:
    """Exact sum of the block sums, in the units of `mottle.core.exactsum`.

    Raises:
        ValueError: a value that is not finite, or blocks that overflow with both signs.
    """
    return exactsum.exact_sum(np.asarray(block_dots(first_D, second_D)))


def squared_norm(vector_D: Tensor) -> tuple[bool, int]:
    """Whether every value is finite, and the exact sum of the squared norms of the blocks (0 where it is not finite).

    One pass over the data: only when a block's sum is not finite is the vector looked at again, to tell an overflow from a NaN. A vector
    whose squared norm overflows counts as not finite: nothing useful can be decided about it.
    """
    blocks = block_dots(vector_D, vector_D)
    if not bool(torch.isfinite(blocks).all()):
        return False, 0
    return True, exactsum.exact_sum(np.asarray(blocks))
