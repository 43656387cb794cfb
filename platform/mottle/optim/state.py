"""Optimizer state as flat tensors: what a name means, how the states of shards join, and how one is cut along other borders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mottle.core.layout import Range
from mottle.optim import catalogue

State = dict[str, Tensor]
"""The state of an optimizer on a range.

A name such as `exp_avg` holds one value a coordinate, in the range's length (zeros where none is kept: buffers, a group without it); a
name such as `step.0` holds a scalar of parameter group 0, the same on every shard. Empty before the first step of most optimizers.
"""


def join(states: Sequence[Mapping[str, Tensor]], ranges: Sequence[Range]) -> State:
    """The state of the whole vector from those of its shards, in order.

    A shard without parameters keeps no state and counts as zeros.

    Raises:
        ValueError: a shard's flat tensor is not as long as its range.
    """
    joined: State = {}
    for name in sorted({name for state in states for name in state}):
        sample = next(state[name] for state in states if name in state)
        if sample.dim() == 0:
            joined[name] = sample.clone()
            continue
        parts = [state.get(name, sample.new_zeros(within.size)) for state, within in zip(states, ranges, strict=True)]
        for part, within in zip(parts, ranges, strict=True):
            if part.shape != (within.size,):
                raise ValueError(f"state {name!r} has shape {tuple(part.shape)} on a range of {within.size} coordinates")
        joined[name] = torch.cat(parts)
    return joined


def cut(state: Mapping[str, Tensor], within: Range) -> State:
    """The part of a whole vector's state that belongs to a range (views; scalars as they are)."""
    return {name: value if value.dim() == 0 else value[within.start : within.stop] for name, value in state.items()}


@dataclass(frozen=True)
class Slots:
    """What an optimizer keeps with a given set of options, under torch's names.

    Attributes:
        flat: one value a coordinate.
        scalar: one for the whole parameter group.
    """

    flat: frozenset[str]
    scalar: frozenset[str]

    @classmethod
    def of(cls, optimizer: type[torch.optim.Optimizer], options: Mapping[str, Any]) -> "Slots":
        """Found by taking one step on two coordinates of no interest; raises ConfigError for options that torch refuses."""
        probe = torch.zeros(2)
        stepped = catalogue.make(optimizer, [{"params": [probe]}], options)
        probe.grad = torch.zeros(2)
        stepped.step()
        tensors = {name: value.dim() for name, value in stepped.state[probe].items() if isinstance(value, Tensor)}
        return cls(frozenset(name for name, dim in tensors.items() if dim), frozenset(name for name, dim in tensors.items() if not dim))

    def keys(self, group: int) -> frozenset[str]:
        """Their names in a `State`."""
        return self.flat | {f"{name}.{group}" for name in self.scalar}

    def take(self, state: Mapping[str, Tensor], group: int, within: Range, like: Tensor) -> State:
        """torch's own form of the state of one piece: copies, on the device and in the dtype of `like`; scalars stay on the CPU."""
        flat = {name: state[name][within.start : within.stop].to(like, copy=True) for name in self.flat}
        return flat | {name: state[f"{name}.{group}"].clone() for name in self.scalar}
