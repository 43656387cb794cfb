"""HEFT with memory (specification 2.7): ops by upward rank, each where it finishes first, idle gaps included.

Topcuoglu, Hariri and Wu, "Performance-effective and low-complexity task scheduling for heterogeneous computing", IEEE TPDS 13(3),
2002. The memory rule is ours. Transfers never wait for each other here, whatever the communication mode; SIM judges the result.
"""

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from math import lcm

from mottle.placement.graph import ABSENT, Graph
from mottle.placement.placed import MemoryState, NoRoom, Placement, order_by_start


def heft(graph: Graph, bound: dict[int, int] | None = None, mem: Sequence[int] | None = None) -> Placement | NoRoom:
    """Place by earliest finish; arguments and result as for `list_plain`."""
    memory = MemoryState(graph, bound, mem)
    device, start, end = [-1] * graph.n, [-1] * graph.n, [-1] * graph.n
    gaps = [_Gaps() for _ in graph.devices]
    held = [set[int]() for _ in graph.devices]  # tensors that arrived on a device
    src, sizes, cost, crowded = graph.src_of, graph.bytes_of, graph.cost_rows, False
    runs = graph.group_runs.tolist()
    scaled, _ = scaled_ranks(graph)
    for i in sorted(range(graph.n), key=scaled.__getitem__, reverse=True):  # equal ranks stay in canonical order, also in reverse
        g, tensors, k = graph.group_of[i], graph.inputs[i], graph.k_rows[i]
        inputs = [(end[src[t]], graph.link_class[device[src[t]]], t) for t in tensors]
        best: tuple[int, int, int] | None = None  # finish, device, start
        for d in range(graph.num_devices) if memory.bound[g] < 0 else (memory.bound[g],):
            if not runs[g][d]:
                continue
            if not memory.roomy(d) and not memory.fits(g, d, sum([sizes[t] for t in tensors if device[src[t]] != d and t not in held[d]])):
                crowded = True
                continue
            ready = 0
            for sent, classes, t in inputs:
                arrival = sent + cost[classes[d]][t]
                if arrival > ready:
                    ready = arrival
            if best is not None and ready + k[d] >= best[0]:
                continue  # cannot finish sooner than a device of lower rank
            begin = gaps[d].earliest(ready, k[d])
            if best is None or begin + k[d] < best[0]:
                best = (begin + k[d], d, begin)
        if best is None:
            return NoRoom(i, memory.loads)
        end[i], d, start[i] = best
        device[i] = d
        gaps[d].take(start[i], end[i])
        new = [t for t in tensors if device[src[t]] != d and t not in held[d]]
        held[d].update(new)
        memory.commit(g, d, sum([sizes[t] for t in new]))
    return Placement(device, order_by_start(start), start, crowded)


def upward_ranks(graph: Graph) -> list[Fraction]:
    """rank_u: mean time of the op plus the longest mean path below it, exact."""
    scaled, scale = scaled_ranks(graph)
    return [Fraction(rank, scale) for rank in scaled]


def scaled_ranks(graph: Graph) -> tuple[list[int], int]:
    """Upward ranks times a common denominator, and that denominator: exact and much faster than fractions."""
    num_devices = graph.num_devices
    pairs = num_devices * (num_devices - 1)
    present = (graph.k < ABSENT).sum(axis=1).tolist()
    scale = lcm(max(pairs, 1), *set(present))
    comm = [0] * len(graph.src_of)
    weights: dict[int, int] = {}
    for u, row in enumerate(graph.link_class):
        for v, c in enumerate(row):
            if u != v:
                weights[c] = weights.get(c, 0) + scale // pairs
    for c, weight in weights.items():
        comm = [total + weight * ticks for total, ticks in zip(comm, graph.cost_rows[c], strict=True)]
    ranks = [0] * graph.n
    for i in range(graph.n - 1, -1, -1):
        below = 0
        for t in graph.outputs[i]:
            below = max(below, comm[t] + max([ranks[j] for j in graph.consumers[t]]))
        ranks[i] = scale // present[i] * sum([k for k in graph.k_rows[i] if k < ABSENT]) + below
    return ranks, scale


class _Gaps:
    """Idle intervals of one device, in order; the last one never ends."""

    def __init__(self) -> None:
        self.starts = [0]
        self.ends = [ABSENT]

    def earliest(self, ready: int, length: int) -> int:
        """First moment from `ready` on with `length` idle ticks."""
        x = bisect_left(self.ends, ready + length)
        begin = max(ready, self.starts[x])
        while begin + length > self.ends[x]:
            x += 1
            begin = self.starts[x] if self.starts[x] > ready else ready
        return begin

    def take(self, begin: int, end: int) -> None:
        """Occupy [begin, end), which lies inside one gap."""
        x = bisect_left(self.ends, end)
        left, right = self.starts[x], self.ends[x]
        pieces = [(a, b) for a, b in ((left, begin), (end, right)) if a < b]
        self.starts[x : x + 1] = [a for a, _ in pieces]
        self.ends[x : x + 1] = [b for _, b in pieces]
