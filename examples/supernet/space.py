"""What can be chosen: an operator for each layer.

An architecture, a *path* through the supernet, names the operator of every layer by its number in `OPERATORS`; a *space* names those that
each layer may have. Both are plain tuples. Nothing here knows of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

Architecture = tuple[int, ...]
Space = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Operator:
    """A convolution that keeps size and channels, or nothing at all."""

    name: str
    side: int
    """Of the kernel, odd; 0 computes nothing, and the layer passes on what it got."""
    depthwise: bool = False
    """Each channel by itself, instead of all of them to all of them."""


OPERATORS = (Operator("skip", 0), Operator("1x1", 1), Operator("dw3x3", 3, depthwise=True), Operator("3x3", 3), Operator("5x5", 5))


def whole(num_layers: int) -> Space:
    """Every operator in every layer."""
    return (tuple(range(len(OPERATORS))),) * num_layers


def paths(space: Space) -> list[Architecture]:
    """All of them, in lexicographic order."""
    return list(product(*space))


def contains(space: Space, path: Architecture) -> bool:
    return all(operator in allowed for operator, allowed in zip(path, space, strict=True))


def draw(space: Space, generator: torch.Generator | None = None) -> Architecture:
    """Each layer's operator uniformly, apart from the others'.

    Args:
        generator: torch's global one by default. Inside a loss that is what Mottle seeds for each micro-batch by (run, epoch, position), as
            for dropout: so whoever computes the micro-batch, first or again, draws the same path.
    """
    return tuple(allowed[int(torch.randint(len(allowed), (), generator=generator))] for allowed in space)


def sample(space: Space, count: int, seed: int) -> list[Architecture]:
    """That many different paths, in lexicographic order; all of them where there are no more.

    Raises:
        ValueError: count below 1.
    """
    if count < 1:
        raise ValueError(f"a sample has at least one path, got count={count}")
    everything = paths(space)
    drawn = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))[:count]
    return [everything[index] for index in sorted(drawn.tolist())]


def label(path: Sequence[int]) -> str:
    """`3x3 · skip · 5x5 · 1x1`."""
    return " · ".join(OPERATORS[each].name for each in path)
