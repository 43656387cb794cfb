"""What a cluster of steady machines does in the long run, without simulating it: the oracle that the simulator is tested against.

Source: `heterogeneous.md` 10.1-10.6. All times in seconds; i runs over the n workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Steady:
    """A steady state.

    Attributes:
        period_s: of each worker; one and the same where all step together.
        steps_per_s: versions.
        samples_per_s: of all workers.
        utilisation: share of its time that each worker computes.
        staleness: mean of each worker's updates.
    """

    period_s: tuple[float, ...]
    steps_per_s: float
    samples_per_s: float
    utilisation: tuple[float, ...]
    staleness: tuple[float, ...]


def ring_s(num_bytes: float, bandwidths: Sequence[float], latencies: Sequence[float]) -> float:
    """T_ar = 2 (n - 1) (max L + (M / n) / min B); 0 for one worker (10.1)."""
    n = len(bandwidths)
    return 0.0 if n == 1 else 2 * (n - 1) * (max(latencies) + num_bytes / n / min(bandwidths))


def together(compute_s: Sequence[float], batches: Sequence[int], exchange_s: float) -> Steady:
    """Synchronous SGD, also with balanced batches: P = max t_i + T (10.2).

    Args:
        compute_s: t_i, of its own batch.
        batches: b_i.
        exchange_s: T: a ring all-reduce, or push and pull.
    """
    period_s = max(compute_s) + exchange_s
    utilisation = tuple(t / period_s for t in compute_s)
    return Steady(
        period_s=(period_s,) * len(compute_s),
        steps_per_s=1 / period_s,
        samples_per_s=sum(batches) / period_s,
        utilisation=utilisation,
        staleness=(0.0,) * len(compute_s),
    )


def first_of(compute_s: Sequence[float], batch: int, num_needed: int, exchange_s: float) -> Steady:
    """Synchronous SGD whose step is made of the first `num_needed` updates: P = t_(N) + T (10.3).

    Args:
        compute_s: t_i, each of all that it computes for a step: its share, or with gradient coding the load L of the full batch.
        batch: samples of a step.
        num_needed: N of backup workers, n - s of gradient coding.
        exchange_s: T, as in `together`.
    """
    round_s = sorted(compute_s)[num_needed - 1]
    period_s = round_s + exchange_s
    return Steady(
        period_s=(period_s,) * len(compute_s),
        steps_per_s=1 / period_s,
        samples_per_s=batch / period_s,
        utilisation=tuple(min(t, round_s) / period_s for t in compute_s),
        staleness=(0.0,) * len(compute_s),
    )


def apart(compute_s: Sequence[float], batches: Sequence[int], transfer_s: Sequence[float]) -> Steady:
    """Asynchronous SGD: P_i = t_i + 2 X_i, staleness sum over j != i of P_i / P_j (10.4).

    Args:
        transfer_s: X_i, one way.
    """
    periods = tuple(t + 2 * x for t, x in zip(compute_s, transfer_s, strict=True))
    return Steady(
        period_s=periods,
        steps_per_s=sum(1 / period for period in periods),
        samples_per_s=sum(b / period for b, period in zip(batches, periods, strict=True)),
        utilisation=tuple(t / period for t, period in zip(compute_s, periods, strict=True)),
        staleness=tuple(sum(own / other for j, other in enumerate(periods) if j != i) for i, own in enumerate(periods)),
    )
