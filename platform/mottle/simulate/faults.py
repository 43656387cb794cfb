"""Fault scripts: what goes wrong, and when.

A fault fires at a time or once that many samples are spent, whichever is given, and the simulation records that it did.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "join", "remove", "kill_replica", "checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that happens to the fleet.

    `kill` and `remove` take a worker's slot, `join` the speed of the newcomer in nanoseconds a sample, `kill_replica` a (shard, replica).
    """

    kind: Kind
    at_ns: int | None = None
    at_samples: int | None = None
    worker: int = -1
    sample_ns: int = 1_000_000
    replica: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if (self.at_ns is None) == (self.at_samples is None):
            raise ValueError(f"a fault needs either at_ns or at_samples, got {self.at_ns} and {self.at_samples}")
