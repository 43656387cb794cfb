"""Losses on trusted data for Zeno: how much each row lowers the server's own loss.

Letters: N rows, D coordinates.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mottle.aggregation.decisions.base import Floats
from mottle.aggregation.errors import InputError
from mottle.aggregation.kernels import eager
from mottle.aggregation.rows import Rows

Loss = Callable[[Tensor | None], float]
"""Mean trusted loss of the model after an update (D,) was applied, before any for None; the same examples every time, evaluation mode."""

Score = Loss | npt.ArrayLike
"""The loss, or for each row the loss before minus the loss after it."""


def descents(score: Score, rows: Rows, num_given: int, valid: Sequence[int], mixing: Floats | None = None) -> Floats:
    """Loss before minus loss after each row, float64, for all rows given; NaN for those not asked about.

    Args:
        valid: indices (among the rows given) of the rows that passed the gate.
        mixing: with nearest-neighbour mixing, the unnormalised mixtures of the valid rows to score instead of the rows.
    Raises:
        InputError: descents of the wrong number; or the loss before any update is not finite.
    """
    if not callable(score):
        given_N = np.asarray(score, dtype=np.float64)
        if given_N.shape != (num_given,):
            raise InputError(f"score is a function or one descent for each of the {num_given} rows, got shape {given_N.shape}")
        if mixing is not None:
            raise InputError("with nnm the mixed rows are scored, and only the rule knows them: give score as a function")
        return given_N
    before = float(score(None))
    if not np.isfinite(before):
        raise InputError(f"the trusted loss is {before} before any update: the model is destroyed already; restore a checkpoint")
    result_N = np.full(num_given, np.nan)
    candidates = rows.given(valid)
    for place, position in enumerate(valid):
        row = candidates.vectors[place] if mixing is None else _mixed(candidates, mixing[place])
        result_N[position] = before - float(score(row))
    return result_N


def _mixed(rows: Rows, mixing_V: Floats) -> Tensor:
    kept = np.flatnonzero(mixing_V)
    block = [rows.vectors[row] for row in kept]
    return eager.combine(block, mixing_V[kept].tolist(), float(mixing_V.sum())).to(rows.dtype)
