"""What a placer hands on: a placement by index, or the reason why it found no room."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mottle.placement.arrays import Ints, int_list, sum_by
from mottle.placement.graph import Graph


class Placement(NamedTuple):
    """Device and order of every op, by index."""

    device: list[int]
    """(n,) device of each op."""
    order: list[int]
    """Op indices, first to run first; a topological order."""
    start: list[int]
    """(n,) start that the placer planned; in `parallel` mode SIM is never later."""
    crowded: bool = False
    """Memory ruled out at least one device for some op on the way, so that larger budgets could change the result."""


class NoRoom(NamedTuple):
    """No device could take the op."""

    op: int
    loads: list[int]
    """(D,) bytes committed when the placer gave up."""


def order_by_start(start: Sequence[int]) -> list[int]:
    """Priority of a plan: rank of (start, topo)."""
    return sorted(range(len(start)), key=start.__getitem__)


def positions(order: Sequence[int]) -> Ints:
    """(n,) place of every op in an order."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


class MemoryState:
    """Static memory of a partial placement (specification 2.2).

    The first member of a group that is placed binds the group and reserves its whole base; `bound` groups are reserved from the
    beginning.

    Args:
        reserve: count from the beginning the copies that ops of bound groups will receive from elsewhere. Without it, a device may be
            filled with other ops until one that is bound to it finds no room for its inputs.
    """

    def __init__(
        self, graph: Graph, bound: dict[int, int] | None = None, mem: Sequence[int] | None = None, *, reserve: bool = False
    ) -> None:
        self.mem = list(graph.mem if mem is None else mem)
        self.base = int_list(graph.base)
        self.scratch = int_list(graph.scratch)
        self.most_demand = graph.most_demand
        self.resident = [0] * graph.num_devices  # S in the specification
        self.largest = [0] * graph.num_devices  # T
        self.bound = [-1] * graph.num_groups
        for g, d in (bound or {}).items():
            self.bind(g, d)
        self.reserved = self._reserve(graph) if reserve else [0] * len(graph.src_of)  # bits of devices, by tensor

    def _reserve(self, graph: Graph) -> list[int]:
        home = np.array(self.bound, np.int64)[graph.group]
        producer, consumer = home[graph.tensor_src[graph.edge_tensor]], home[graph.edge_dst]
        remote = (consumer >= 0) & (producer != consumer)
        copies = np.unique(graph.edge_tensor[remote] * graph.num_devices + consumer[remote])
        tensor, device = copies // graph.num_devices, copies % graph.num_devices
        for d, size in enumerate(int_list(sum_by(device, graph.tensor_bytes[tensor], graph.num_devices))):
            self.resident[d] += size
        bits = np.zeros(len(graph.src_of), object)
        np.bitwise_or.at(bits, tensor, np.array([1 << d for d in int_list(device)], object))
        reserved: list[int] = bits.tolist()
        return reserved

    def release(self, t: int, d: int, size: int) -> None:
        """A tensor is made on d itself: no copy will come."""
        if self.reserved[t] >> d & 1:
            self.reserved[t] ^= 1 << d
            self.resident[d] -= size

    def bind(self, g: int, d: int) -> None:
        """Reserve room for a whole group."""
        self.bound[g] = d
        self.resident[d] += self.base[g]
        self.largest[d] = max(self.largest[d], self.scratch[g])

    def fits(self, g: int, d: int, new: int) -> bool:
        """Room on d for a member of g that brings `new` bytes of copies; says nothing about whether d runs the group."""
        if self.bound[g] >= 0:
            return self.resident[d] + new + self.largest[d] <= self.mem[d]
        return self.resident[d] + self.base[g] + new + max(self.largest[d], self.scratch[g]) <= self.mem[d]

    def roomy(self, d: int) -> bool:
        """Whatever single op comes next fits d: a quick answer that spares most calls of `fits`."""
        base, scratch = self.most_demand
        return self.resident[d] + base + max(self.largest[d], scratch) <= self.mem[d]

    def commit(self, g: int, d: int, new: int) -> None:
        """Place a member of g on d."""
        if self.bound[g] < 0:
            self.bind(g, d)
        self.resident[d] += new

    @property
    def loads(self) -> list[int]:
        """(D,) bytes in use."""
        return [s + t for s, t in zip(self.resident, self.largest, strict=True)]
