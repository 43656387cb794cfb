"""Copies of what the followers of a gang keep from order to order, each in the process of another: one that is lost takes nothing along.

A follower hands on what the next order begins with before the update of this one is pushed. So whenever a process is lost there is a copy
of what it had before the order at hand, which is where all of the gang go back to. Two copies are held, for an order may come to nothing
while it is pushed. The leader's part needs none: the gang does not outlive it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mottle.actors.gang_state import Patch

INNER_LOST = "two processes of the gang are gone together: the inner optimizer begins anew, as a new worker's does"


class Packed(NamedTuple):
    """A patch on its way: an array where numpy has its dtype, for those cross between processes without being pickled."""

    name: str
    start: int | None
    values: Any


def pack(patches: Sequence[Patch]) -> list[Packed]:
    """Ready to be sent."""
    known = (torch.float32, torch.float64, torch.int64)
    return [Packed(name, start, values.numpy() if values.dtype in known else values) for name, start, values in patches]


def unpack(packed: Sequence[Packed]) -> list[Patch]:
    """In memory of its own: what was sent may lie in Ray's."""
    own = (torch.from_numpy(np.array(each.values)) if isinstance(each.values, np.ndarray) else each.values.clone() for each in packed)
    return [Patch(each.name, each.start, values) for each, values in zip(packed, own, strict=True)]


class Copies:
    """Those that one process holds for others."""

    def __init__(self) -> None:
        self._of: dict[int, list[tuple[int, list[Patch]]]] = {}

    def hold(self, rank: int, after: int, packed: Sequence[Packed]) -> None:
        """What a process keeps now.

        Args:
            after: the order that it is the outcome of; what was told of it or of a later one before was of an order that came to nothing.
        """
        older = [each for each in self._of.get(rank, []) if each[0] < after]
        self._of[rank] = [*older[-1:], (after, unpack(packed))]

    def of(self, rank: int, before: int) -> list[Patch] | None:
        """What a process kept before an order; None where nothing is known of it."""
        return next((patches for after, patches in reversed(self._of.get(rank, [])) if after < before), None)

    def drop(self) -> None:
        """The gang stands anew, and everybody has what is held here."""
        self._of = {}


def keepers(order: Sequence[int], nodes: Mapping[int, str]) -> dict[int, int]:
    """Which process holds a follower's copy: the next one on another host if there is such a one, else the next one.

    Args:
        order: ranks, by stage; the leader's is 0.
        nodes: of each rank.
    """
    found = {}
    for stage, rank in enumerate(order):
        others = [*order[stage + 1 :], *order[:stage]]
        if rank and others:
            found[rank] = next((other for other in others if nodes[other] != nodes[rank]), others[0])
    return found
