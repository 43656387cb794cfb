"""What a job tells the brain."""

import math
from dataclasses import dataclass, field
from typing import Any

from mottle.core.errors import ConfigError
from mottle.core.health import HealthConfig


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
    save_evaluated: bool = False
    """Save a checkpoint along with every evaluation; of the evaluated version wherever no later step has been told by then."""
    worker_state: bool = False
    """Whether workers keep something from order to order that belongs into a checkpoint."""
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
    health: HealthConfig | None = field(default_factory=HealthConfig)
    """Who gets no work for a while (`core.health`); None: nobody."""
    check_samples: int = 32
    """Of a spot check, at most: a micro-batch."""
    least_crew: int = 1
    """Workers without which the strategy takes no step: so many are never put away."""
    rule_crew: int = 1
    """Rows without which the job's robust rule takes no step: the same of them."""
    coordination_epoch: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run can be made of; everything that is wrong is told at once."""
        least = {
            "num_positions": 1,
            "num_shards": 1,
            "replicas": 0,
            "rule_samples": 1,
            "first_lease_ns": 1,
            "least_crew": 1,
            "rule_crew": 1,
            "check_samples": 1,
            "coordination_epoch": 0,
            "seed": 0,
        }
        faults = [_fault(name, getattr(self, name), bound) for name, bound in least.items()]
        optional = ("max_samples", "max_ns", "evaluate_every", "checkpoint_every", "lease_floor_ns")
        faults += [_fault(name, getattr(self, name), 1) for name in optional if getattr(self, name) is not None]
        if self.replicas not in (0, 1):
            faults.append(f"replicas is 0 or 1 further copy of each shard, got {self.replicas!r}")
        norm = self.max_grad_norm
        if norm is not None and not (_is_number(norm) and 0 < norm < math.inf):
            faults.append(f"max_grad_norm must be above 0 and finite, got {norm!r}; leave it out to clip nothing")
        if self.target is not None and not _is_number(self.target[1]):
            faults.append(f"the target of {self.target[0]} must be a number, got {self.target[1]!r}")
        if found := [fault for fault in faults if fault]:
            raise ConfigError("; ".join(found))


def _fault(name: str, value: Any, least: int) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return "" if whole and value >= least else f"{name} must be an integer of at least {least}, got {value!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
