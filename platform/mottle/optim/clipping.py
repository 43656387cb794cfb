"""Gradient clipping by the global norm of the aggregate: each shard measures its part, one factor serves all. Pure: no torch."""

import math
from collections.abc import Iterable

EPSILON = 1e-6
"""Added to the norm, as `torch.nn.utils.clip_grad_norm_` does, so that clipping here and in plain PyTorch agree."""


def clip_factor(partial_squared_norms: Iterable[float], max_norm: float) -> float:
    r"""The factor that brings the whole direction to `max_norm` if it is longer.

    .. math:: \min\left(1, \frac{c}{\sqrt{\sum_s p_s} + 10^{-6}}\right)

    The sum is exact before its one rounding, so it does not depend on the order in which shards report.

    Args:
        partial_squared_norms: p, the squared Euclidean norm of each shard's parameters; the buffer tail is not in it.
        max_norm: c, above 0; infinity clips nothing.
    Returns:
        In [0, 1], float64; 1.0 for a direction that is short enough.
    Raises:
        ValueError: a part is negative or not finite, which the gate of the step should have caught; or `max_norm` is not above 0.
    Example:
        >>> round(clip_factor([9.0, 16.0], max_norm=1.0), 6)
        0.2
    """
    parts = list(partial_squared_norms)
    if wrong := [part for part in parts if not (part >= 0 and math.isfinite(part))]:
        raise ValueError(
            f"squared norms must be finite and not negative, got {wrong[0]} among {len(parts)}; gate the direction before clipping"
        )
    return factor_of_norm(math.sqrt(math.fsum(parts)), max_norm)


def factor_of_norm(norm: float, max_norm: float) -> float:
    """The same from a norm that is known already; raises ValueError as `clip_factor` does for `max_norm`."""
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}; leave it out to clip nothing")
    return min(1.0, max_norm / (norm + EPSILON))
