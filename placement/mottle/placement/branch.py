"""Branch and bound over schedules: exact for graphs of a few ops, without a solver (specification 2.8).

Schedules are built by appending ops in non-decreasing (start, topo), every ready op on every device with room. A branch is cut when
the op just placed is too late for what must follow it, or when the work that is left cannot be packed below the best makespan so far.
`parallel` communication, static memory.
"""

from typing import NamedTuple

from mottle.placement.arrays import int_list
from mottle.placement.graph import Graph
from mottle.placement.lower_bounds import tails
from mottle.placement.placed import MemoryState, Placement, order_by_start


class Explored(NamedTuple):
    """Outcome of a search."""

    placement: Placement | None
    """Best placement below the bound; None: there is none (if finished)."""
    nodes: int
    finished: bool
    """The whole tree was covered, so the placement is optimal."""


def branch_and_bound(graph: Graph, *, below: int | None = None, node_limit: int | None = None) -> Explored:
    """Search for the placement of smallest makespan.

    Args:
        below: only makespans smaller than this are of interest; None: any.
        node_limit: appended ops after which to stop with the best found so far; None: cover the tree.
    """
    search = _Search(graph, (1 << 62) if below is None else below, node_limit)
    finished = search.descend(0, -1)
    if search.best is None:
        return Explored(None, search.nodes, finished)
    device, start = search.best
    return Explored(Placement(device, order_by_start(start), start), search.nodes, finished)


class _Search:
    def __init__(self, graph: Graph, limit: int, node_limit: int | None) -> None:
        self.graph, self.limit, self.node_limit = graph, limit, node_limit
        self.nodes = 0
        self.best: tuple[list[int], list[int]] | None = None
        self.memory = MemoryState(graph)
        self.tail = tails(graph)
        self.k_min = int_list(graph.k_min)
        self.left = sum(self.k_min)
        self.free = [0] * graph.num_devices
        self.device, self.start, self.end = [-1] * graph.n, [0] * graph.n, [0] * graph.n
        self.held = [0] * len(graph.src_of)  # bit d: tensor is on d or on its way there
        self.waiting = [len(parents) for parents in graph.predecessors]
        self.ready = [i for i, count in enumerate(self.waiting) if count == 0]
        self.interchangeable = graph.identical_devices and graph.uniform_links and len(set(graph.mem)) == 1

    def descend(self, last_start: int, last_op: int) -> bool:
        """Extend the partial schedule in every way; False when the node limit ends the search."""
        if not self.ready:
            if all(d >= 0 for d in self.device):
                self.limit = max(self.end)
                self.best = (list(self.device), list(self.start))
            return True
        for late, begin, i, d, new in sorted(self._children(last_start, last_op)):
            if begin + late >= self.limit or self._packed_too_full(i, d, begin):
                continue
            if self.nodes == self.node_limit:
                return False
            self.nodes += 1
            if not self._try(i, d, begin, new):
                return False
        return True

    def _children(self, last_start: int, last_op: int) -> list[tuple[int, int, int, int, tuple[int, ...]]]:
        """(tail, start, op, device, tensors to bring), canonical continuations that could still win."""
        children = []
        for i in self.ready:
            g, tried_empty = self.graph.group_of[i], False
            for d in range(self.graph.num_devices):
                if not self.graph.group_runs[g, d] or self.memory.bound[g] not in (-1, d):
                    continue
                if self.interchangeable and self.free[d] == 0 and not self.memory.resident[d]:
                    if tried_empty:
                        continue
                    tried_empty = True
                begin = self._earliest(i, d)
                tail = self.tail[i] - self.k_min[i] + self.graph.k_rows[i][d]
                if (begin, i) < (last_start, last_op) or begin + tail >= self.limit:
                    continue
                new = tuple(t for t in self.graph.inputs[i] if not self.held[t] >> d & 1)
                if self.memory.fits(g, d, sum([self.graph.bytes_of[t] for t in new])):
                    children.append((tail, begin, i, d, new))
        return children

    def _earliest(self, i: int, d: int) -> int:
        graph, begin = self.graph, self.free[d]
        for t in graph.inputs[i]:
            producer = graph.src_of[t]
            arrival = self.end[producer] + graph.cost_rows[graph.link_class[self.device[producer]][d]][t]
            if arrival > begin:
                begin = arrival
        return begin

    def _packed_too_full(self, i: int, d: int, begin: int) -> bool:
        busy: int = sum(self.free) - self.free[d] + begin + self.graph.k_rows[i][d]
        return busy + self.left - self.k_min[i] >= self.limit * self.graph.num_devices

    def _try(self, i: int, d: int, begin: int, new: tuple[int, ...]) -> bool:
        """Append the op, descend, and take it back."""
        graph, memory, g = self.graph, self.memory, self.graph.group_of[i]
        undo = (self.free[d], memory.bound[g], memory.resident[d], memory.largest[d])
        memory.commit(g, d, sum([graph.bytes_of[t] for t in new]))
        for t in new:
            self.held[t] |= 1 << d
        for t in graph.outputs[i]:
            self.held[t] = 1 << d
        self.device[i], self.start[i] = d, begin
        self.end[i] = self.free[d] = begin + graph.k_rows[i][d]
        self.left -= self.k_min[i]
        self.ready.remove(i)
        fresh = []
        for j in graph.successors[i]:
            self.waiting[j] -= 1
            if self.waiting[j] == 0:
                fresh.append(j)
        self.ready += fresh
        finished = self.descend(begin, i)
        for j in fresh:
            self.ready.remove(j)
        for j in graph.successors[i]:
            self.waiting[j] += 1
        self.ready.append(i)
        self.left += self.k_min[i]
        self.device[i] = -1
        for t in new:
            self.held[t] &= ~(1 << d)
        self.free[d], memory.bound[g], memory.resident[d], memory.largest[d] = undo
        return finished
