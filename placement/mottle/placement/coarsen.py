"""Coarsening: which ops to keep together (COPLACE) and which to treat as one (FUSE), specification 3.2.

Greedy placers on fine operator graphs spread constants and tiny ops over the devices at time 0 and then pay for communication.
Joining an op with its only consumer, as Baechi does (SoCC 2020), repairs that; the *guarded* rule joins only where communication
dominates or the pair is a plain chain, so that parallel branches stay apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Literal, get_args

import numpy as np

from mottle.placement.arrays import Ints, int_list, max_by, sum_by
from mottle.placement.canonical import OnDevices, arrange
from mottle.placement.graph import ABSENT, Graph
from mottle.placement.placed import Placement
from mottle.placement.skeleton import Shape, kahn_order, rank_ids

Coarsening = Literal["none", "guarded", "paper"]
COARSENINGS: tuple[Coarsening, ...] = get_args(Coarsening)
MOST_MOVES = 30
"""Blocks and layers of thousands of ops take less than three."""


@dataclass(frozen=True, eq=False)
class Coarse:
    """A fused graph and where each op of the fine one went."""

    fine: Graph
    graph: Graph
    node_of: list[int]
    """(n of the fine graph,) node that holds the op."""

    def expand(self, placement: Placement) -> Placement:
        """The placement of the fine ops: each where its node is, in the order of the nodes, then canonically.

        Planned starts are those of the node: every op of a node starts with it or later.
        """
        place = [0] * self.graph.n
        for position, node in enumerate(placement.order):
            place[node] = position
        order = sorted(range(self.fine.n), key=lambda i: (place[self.node_of[i]], i))
        device = [placement.device[node] for node in self.node_of]
        return Placement(device, order, [placement.start[node] for node in self.node_of], placement.crowded)


def coarsen(graph: Graph, rule: Coarsening, cap: int | None = None) -> Coarse:
    """Coplace by `rule`, then fuse.

    Args:
        rule: `none` returns the graph itself; `guarded` and `paper` are in the module's text.
        cap: most resident bytes of a group that is made here; None: half of the smallest device.
    """
    if rule == "none":
        return Coarse(graph, graph, list(range(graph.n)))
    group = coplace(graph, rule, min(graph.mem) // 2 if cap is None else cap)
    return fuse(graph, group)


def coplace(graph: Graph, rule: Coarsening, cap: int) -> list[int]:
    """(n,) group of every op, named by one of its ops, after joining ops with their only consumer."""
    parent = [graph.members[g][0] for g in graph.group_of]
    base = dict(zip([members[0] for members in graph.members], int_list(graph.base), strict=True))
    bits = 1 << np.arange(graph.num_devices, dtype=object)
    runs = dict(zip(base, [int(bits[row].sum()) for row in graph.group_runs], strict=True))
    fastest, cost_max = int_list(graph.k_min), int_list(graph.cost_max)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, children in enumerate(graph.successors):
        if len(children) != 1:
            continue
        j = children[0]
        a, b = root(i), root(j)
        if a == b or base[a] + base[b] > cap:
            continue
        # The text does not ask for a device that runs both, but a group without one could not be placed at all.
        if not runs[a] & runs[b]:
            continue
        if rule == "guarded" and len(graph.predecessors[j]) != 1 and max([cost_max[t] for t in graph.outputs[i]]) < fastest[i]:
            continue
        parent[max(a, b)] = min(a, b)
        base[min(a, b)] += base[max(a, b)]
        runs[min(a, b)] &= runs[max(a, b)]
    return [root(i) for i in range(graph.n)]


def fuse(graph: Graph, group: Sequence[int]) -> Coarse:
    """Contract edges inside groups where that can make no cycle, lowest (producer, consumer) first; the rest stays colocated.

    Contracting u -> v makes a cycle exactly when a second path leads from u to v, and that needs u to have another successor and v
    another predecessor. An op with thousands of inputs hands them on at every contraction: beyond `MOST_MOVES` neighbours moved for each op
    and edge the rest stays colocated, too.
    """
    after, before = [set(row) for row in graph.successors], [set(row) for row in graph.predecessors]
    into = list(range(graph.n))
    heap = [(u, v) for u, children in enumerate(after) for v in children if group[u] == group[v]]
    heapify(heap)
    left = MOST_MOVES * (graph.n + len(graph.edge_dst))
    while heap and left > 0:
        u, v = heappop(heap)
        if into[u] != u or into[v] != v or v not in after[u] or (len(after[u]) > 1 and len(before[v]) > 1):
            continue
        into[v] = u
        left -= len(after[v]) + len(before[v])
        after[u].discard(v)
        for x in after[v]:
            before[x].discard(v)
            if x not in after[u]:
                after[u].add(x)
                before[x].add(u)
                if group[x] == group[u]:
                    heappush(heap, (u, x))
        before[v].discard(u)
        for x in before[v]:
            after[x].discard(v)
            if x not in before[u]:
                before[u].add(x)
                after[x].add(u)
                if group[x] == group[u]:
                    heappush(heap, (x, u))
    for i in range(graph.n):
        into[i] = _root(into, i)
    return _build(graph, np.array(group, np.int64), into, after)


def _root(into: list[int], i: int) -> int:
    while into[i] != i:
        into[i] = i = into[into[i]]
    return i


def _build(graph: Graph, group: Ints, into: list[int], after: list[set[int]]) -> Coarse:
    """The fused graph; a node is named by its member of lowest canonical position."""
    roots, first, node = np.unique(np.array(into, np.int64), return_index=True, return_inverse=True)
    size = len(roots)
    number = dict(zip(int_list(roots), range(size), strict=True))
    successors = [sorted(number[v] for v in after[u]) for u in int_list(roots)]
    topological, depth = kahn_order(successors)
    ids = [graph.names[i] for i in int_list(first)]
    src = node[graph.tensor_src]
    names = [f"{graph.names[p]}/{name}" for p, name in zip(graph.src_of, graph.tensor_names, strict=True)]
    leaves = np.zeros(len(names), bool)
    outside = src[graph.edge_tensor] != node[graph.edge_dst]
    leaves[graph.edge_tensor[outside]] = True
    kept = np.array(sorted(int_list(np.flatnonzero(leaves)), key=lambda t: (int(src[t]), names[t])), np.int64)
    rank = np.zeros(len(names), np.int64)
    rank[kept] = np.arange(len(kept))
    pairs = np.unique(rank[graph.edge_tensor[outside]] * size + node[graph.edge_dst[outside]])
    k = np.zeros((size, graph.num_devices), np.int64)
    np.add.at(k, node, np.where(graph.k < ABSENT, graph.k, 0))
    absent = np.zeros(k.shape, bool)
    np.logical_or.at(absent, node, graph.k >= ABSENT)
    keep = np.zeros(size, bool)
    np.logical_or.at(keep, node, graph.keep)
    shape = Shape(
        ids=ids,
        id_rank=rank_ids(ids),
        successors=successors,
        topological=topological,
        depth=np.array(depth, np.int64),
        perm=sum_by(node, graph.perm, size),
        temp=max_by(node, graph.temp, size),
        out=sum_by(node, graph.out, size),
        keep=keep,
        group=group[first],
        group_names={},
        tensor_src=src[kept],
        tensor_bytes=graph.tensor_bytes[kept],
        tensor_comm=graph.tensor_comm[kept],
        tensor_names=[names[t] for t in int_list(kept)],
        edge_tensor=pairs // size,
        edge_dst=pairs % size,
    )
    setting = OnDevices(
        k=np.where(absent, ABSENT, k),
        devices=graph.devices,
        mem=graph.mem,
        link_class=graph.link_class,
        cost=graph.cost[:, kept],
        comm_mode=graph.comm_mode,
        mem_mode=graph.mem_mode,
    )
    fused = arrange(shape, setting)
    position = {name: x for x, name in enumerate(fused.names)}
    where = [position[name] for name in ids]
    return Coarse(graph, fused, [where[x] for x in int_list(node)])
