"""The ready ops of the fast list engine as columns of arrays, one row a device (specification 2.13).

In `parallel` mode the data-ready time of an op is final when the op becomes ready, and a pair that lacks memory never gets it back, so
a commit changes one row only: the free time and the bytes of one device.
"""

import numpy as np

from mottle.placement.arrays import int_list
from mottle.placement.graph import ABSENT, Graph
from mottle.placement.placed import MemoryState

# D devices, C capacity; the first `size` columns are in use


class ReadyTable:
    """Data-ready time, compute time and missing bytes of every ready op on every device; infeasible pairs are ready at ABSENT."""

    def __init__(self, graph: Graph, memory: MemoryState, capacity: int = 64) -> None:
        self.graph, self.memory = graph, memory
        self.size = 0
        self.crowded = False
        self.slot: dict[int, int] = {}
        self.op_C = np.zeros(capacity, np.int64)
        self.ready_DC = np.zeros((graph.num_devices, capacity), np.int64)
        self.k_DC = np.zeros((graph.num_devices, capacity), np.int64)
        self.new_DC = np.zeros((graph.num_devices, capacity), np.int64)  # bytes of copies that the op would bring
        self.base_C = np.zeros(capacity, np.int64)
        self.scratch_C = np.zeros(capacity, np.int64)
        self.group_runs: list[list[bool]] = graph.group_runs.tolist()

    def add(self, i: int, ready: list[int], new: list[int]) -> bool:
        """Take in a ready op with its (D,) data-ready times and missing bytes; False when no device has room for it."""
        if self.size == len(self.op_C):
            self._grow()
        graph, memory, g, s = self.graph, self.memory, self.graph.group_of[i], self.size
        only = memory.bound[g]
        base, scratch = (memory.base[g], memory.scratch[g]) if only < 0 else (0, 0)  # a bound group is reserved already
        for d, runs in enumerate(self.group_runs[g]):
            if not runs or only not in (-1, d):
                ready[d] = ABSENT
            elif memory.resident[d] + base + new[d] + max(memory.largest[d], scratch) > memory.mem[d]:
                ready[d] = ABSENT
                self.crowded = True
        self.ready_DC[:, s] = ready
        self.k_DC[:, s] = graph.k_rows[i]
        self.new_DC[:, s] = new
        self.op_C[s], self.base_C[s], self.scratch_C[s] = i, base, scratch
        self.slot[i] = s
        self.size += 1
        return min(ready) < ABSENT

    def remove(self, i: int) -> None:
        """Drop an op; the last column takes its place."""
        s, last = self.slot.pop(i), self.size - 1
        self.size = last
        if s != last:
            for array in (self.ready_DC, self.k_DC, self.new_DC):
                array[:, s] = array[:, last]
            for column in (self.op_C, self.base_C, self.scratch_C):
                column[s] = column[last]
            self.slot[int(self.op_C[s])] = s

    def received(self, t: int, d: int) -> None:
        """A copy of tensor t is on its way to d: its other consumers need not bring it."""
        for j in self.graph.consumers[t]:
            if (s := self.slot.get(j)) is not None:
                self.new_DC[d, s] -= self.graph.bytes_of[t]

    def block(self, d: int) -> bool:
        """Rule out d for every op that no longer fits there; False when some op is left without a device."""
        m, memory = self.size, self.memory
        if m == 0 or memory.roomy(d):
            return True
        room = memory.mem[d] - memory.resident[d]
        demand = self.base_C[:m] + self.new_DC[d, :m] + np.maximum(self.scratch_C[:m], memory.largest[d])
        over = (demand > room) & (self.ready_DC[d, :m] < ABSENT)
        if not over.any():
            return True
        self.crowded = True
        self.ready_DC[d, :m][over] = ABSENT
        return bool((self.ready_DC[:, :m].min(axis=0) < ABSENT).all())

    def ops(self) -> list[int]:
        """The ops in the table, in no order."""
        return int_list(self.op_C[: self.size])

    def _grow(self) -> None:
        self.op_C, self.base_C, self.scratch_C = (np.concatenate([a, np.zeros_like(a)]) for a in (self.op_C, self.base_C, self.scratch_C))
        self.ready_DC, self.k_DC, self.new_DC = (
            np.concatenate([a, np.zeros_like(a)], axis=1) for a in (self.ready_DC, self.k_DC, self.new_DC)
        )
