"""A problem as arrays in canonical order, the form that every algorithm works on.

Index letters: `i`, `j` ops by topo(i) (specification 2.1), so an op's index *is* its canonical position; `d`, `u`, `v` devices by
rank; `t` tensors sorted by (producer, name), so comparing two tensor indices is comparing (topo(producer), name); `g` groups
by the canonical position of their first member. Numpy arrays serve the vectorised parts, the list twins the inner loops, where
indexing a list is several times faster than indexing an array.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mottle.placement.arrays import Ints, int_list, int_rows, max_by, split_rows, sum_by
from mottle.placement.errors import ProblemError

if TYPE_CHECKING:
    from mottle.placement.problem import CommMode, MemMode

ABSENT = 1 << 61
"""k(i,d) of an op that device d cannot run; larger than any time, and adding two of them stays inside 64 bits."""


@dataclass(frozen=True, eq=False)
class Graph:
    """See the module. `k` is (n, D) ticks; `cost` is (L, T) ticks per link class; `link_class` is (D, D), class 0 = same device."""

    names: list[str]
    devices: list[str]
    k: Ints
    perm: Ints
    temp: Ints
    out: Ints
    keep: NDArray[np.bool_]
    group: Ints
    group_names: list[str]
    """Name of the group, or of its only op."""
    tensor_src: Ints
    tensor_bytes: Ints
    tensor_comm: Ints
    tensor_names: list[str]
    edge_tensor: Ints
    """(E,) sorted; with `edge_dst` the (tensor, consumer) pairs."""
    edge_dst: Ints
    mem: list[int]
    link_class: list[list[int]]
    cost: Ints
    comm_mode: "CommMode"
    mem_mode: "MemMode"

    @cached_property
    def n(self) -> int:
        """Number of ops."""
        return len(self.names)

    @cached_property
    def num_devices(self) -> int:
        """D."""
        return len(self.devices)

    @cached_property
    def num_groups(self) -> int:
        """Colocation groups, single ops included."""
        return len(self.group_names)

    # --- lists for the inner loops -----------------------------------------------------------------------------

    @cached_property
    def k_rows(self) -> list[tuple[int, ...]]:
        return int_rows(self.k)

    @cached_property
    def group_of(self) -> list[int]:
        return int_list(self.group)

    @cached_property
    def src_of(self) -> list[int]:
        """Producer of a tensor."""
        return int_list(self.tensor_src)

    @cached_property
    def bytes_of(self) -> list[int]:
        return int_list(self.tensor_bytes)

    @cached_property
    def cost_rows(self) -> list[list[int]]:
        """link class -> tensor -> ticks."""
        return [int_list(row) for row in self.cost]

    @cached_property
    def consumers(self) -> list[tuple[int, ...]]:
        """Tensor -> ops that consume it, increasing."""
        return split_rows(self.edge_dst, self.edge_tensor, len(self.tensor_names))

    @cached_property
    def inputs(self) -> list[tuple[int, ...]]:
        """Op -> tensors it consumes, increasing."""
        order = np.lexsort((self.edge_tensor, self.edge_dst))
        return split_rows(self.edge_tensor[order], self.edge_dst[order], self.n)

    @cached_property
    def outputs(self) -> list[tuple[int, ...]]:
        """Op -> tensors it emits, increasing."""
        return split_rows(np.arange(len(self.tensor_names)), self.tensor_src, self.n)

    @cached_property
    def successors(self) -> list[tuple[int, ...]]:
        """Op -> distinct consumers of its tensors, increasing."""
        pairs = np.unique(self.tensor_src[self.edge_tensor] * self.n + self.edge_dst)
        return split_rows(pairs % self.n, pairs // self.n, self.n)

    @cached_property
    def predecessors(self) -> list[tuple[int, ...]]:
        """Op -> distinct producers of its inputs, increasing."""
        pairs = np.unique(self.edge_dst * self.n + self.tensor_src[self.edge_tensor])
        return split_rows(pairs % self.n, pairs // self.n, self.n)

    @cached_property
    def members(self) -> list[tuple[int, ...]]:
        """Group -> its ops, increasing."""
        order = np.argsort(self.group, kind="stable")
        return split_rows(order, self.group[order], self.num_groups)

    # --- what the memory rules need (1.4) ----------------------------------------------------------------------

    @cached_property
    def base(self) -> Ints:
        """(G,) sum of perm + out over the group."""
        return sum_by(self.group, self.perm + self.out, self.num_groups)

    @cached_property
    def scratch(self) -> Ints:
        """(G,) largest temp of the group."""
        return max_by(self.group, self.temp, self.num_groups)

    @cached_property
    def need(self) -> Ints:
        """(G,) base + scratch."""
        return self.base + self.scratch

    @cached_property
    def most_demand(self) -> tuple[int, int]:
        """(resident bytes, scratch) that placing one op adds at most: its whole group and every input."""
        inputs = sum_by(self.edge_dst, self.tensor_bytes[self.edge_tensor], self.n)
        return int(self.base.max()) + int(inputs.max()), int(self.scratch.max())

    @cached_property
    def group_runs(self) -> NDArray[np.bool_]:
        """(G, D) every member of the group is present on the device."""
        runs = np.ones((self.num_groups, self.num_devices), bool)
        np.logical_and.at(runs, self.group, self.k < ABSENT)
        return runs

    # --- what several algorithms share -------------------------------------------------------------------------

    @cached_property
    def k_min(self) -> Ints:
        """(n,) fastest time of each op."""
        fastest: Ints = self.k.min(axis=1)
        return fastest

    @cached_property
    def cost_max(self) -> Ints:
        """(T,) largest transfer time over device pairs; 0 with one device."""
        used = sorted({c for row in self.link_class for c in row})
        largest: Ints = self.cost[used].max(axis=0)
        return largest

    @cached_property
    def identical_devices(self) -> bool:
        """Every op takes the same time everywhere."""
        return bool((self.k == self.k[:, :1]).all())

    @cached_property
    def depth(self) -> list[int]:
        """Op -> edges on the longest path to it."""
        depth = [0] * self.n
        for i, parents in enumerate(self.predecessors):
            if parents:
                depth[i] = 1 + max([depth[p] for p in parents])
        return depth

    @cached_property
    def typical_width(self) -> int:
        """Ops that are as far from the sources as the average op, itself included."""
        return int((np.bincount(self.depth) ** 2).sum()) // self.n

    @cached_property
    def uniform_links(self) -> bool:
        """One link class joins every pair of devices."""
        return len({c for row in self.link_class for c in row} - {0}) <= 1

    def check_runnable(self) -> None:
        """Raise ProblemError for ops that no device runs and groups without a common device."""
        nowhere = np.flatnonzero((self.k >= ABSENT).all(axis=1))
        faults = [f"op {self.names[i]!r} runs on no device: its times and pins leave none of {self._some_devices()}" for i in nowhere]
        if faults:
            raise ProblemError(faults)
        for g in int_list(np.flatnonzero(~self.group_runs.any(axis=1))):
            where = "; ".join(
                f"{self.names[i]!r} on {[self.devices[d] for d in np.flatnonzero(self.k[i] < ABSENT)]}" for i in self.members[g][:6]
            )
            faults.append(f"group {self.group_names[g]!r} cannot be kept together, no device runs all of its ops: {where}")
        if faults:
            raise ProblemError(faults)

    def _some_devices(self) -> str:
        return ", ".join(self.devices[:8]) + (", ..." if self.num_devices > 8 else "")
