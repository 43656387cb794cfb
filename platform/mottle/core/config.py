"""What a job tells the brain."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BrainConfig:
    """What the brain must know of a job; all counts in samples, times in nanoseconds."""

    num_positions: int
    """Samples in a data epoch."""
    max_samples: int | None = None
    """Lend no more than this many positions in all."""
    max_ns: int | None = None
    """Stop lending after this time."""
    target: tuple[str, float] | None = None
    """Stop when this metric reaches at least that value."""
    evaluate_every: int | None = None
    """Samples between evaluations of the published model; the first and the last model are always evaluated when this is set."""
    checkpoint_every: int | None = None
    num_shards: int = 1
    replicas: int = 0
    max_grad_norm: float | None = None
    retry_rejected: bool = True
    rule_samples: int = 128
    """Trusted samples of a reference or score that a robust rule needs."""
    weighted_loss: bool = False
    """Whether the loss has units of its own (tokens), so that workers say how many an update is over."""
    lease_floor_ns: int | None = 10_000_000_000
    """Least time that a worker is given for an order; beyond it, its own usual times decide (`core.deadlines`). None waits for ever."""
    first_lease_ns: int = 120_000_000_000
    """Time for a worker's first order, which may include loading data and compiling."""
    coordination_epoch: int = 0
    seed: int = 0
