"""Favourite children for m-SCT (specification 2.5): which consumer should follow its producer without waiting for a transfer.

`favour_critical` needs no solver and is the default, because the linear program has many optima and a placement must not depend on
which one a solver returns. `favour_by_lp` rounds the relaxation of Hanen and Munier, "An approximation algorithm for scheduling
dependent tasks on m processors with small communication delays", ETFA 1995, as used by Baechi (SoCC 2020).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mottle.placement.arrays import Ints
from mottle.placement.graph import Graph

Favourites = dict[int, int]
"""op -> its favourite child; no op is the favourite of two."""


class Relaxation(NamedTuple):
    """Optimum of the relaxed SCT program. `x` is 0 where the child is surely a favourite, 1 where it surely is not."""

    makespan: float
    parent: Ints
    child: Ints
    x: NDArray[np.float64]


def favour_critical(graph: Graph) -> Favourites:
    """FAV-CP: take edges by the length of the longest path through them, communication included; longest first."""
    parent, child, comm = dependency_edges(graph)
    k = graph.k_min
    top = np.zeros(graph.n, np.int64)  # longest path that ends before the op
    bottom = k.copy()  # longest path that starts with the op
    edges = list(zip(parent.tolist(), child.tolist(), comm.tolist(), strict=True))
    tops, bottoms, ticks = top.tolist(), bottom.tolist(), k.tolist()
    for i, j, c in edges:  # sorted by parent, so tops[i] is final
        tops[j] = max(tops[j], tops[i] + ticks[i] + c)
    for i, j, c in reversed(edges):
        bottoms[i] = max(bottoms[i], ticks[i] + c + bottoms[j])
    through = np.array(tops)[parent] + k[parent] + comm + np.array(bottoms)[child]
    order = np.lexsort((child, parent, -comm, -through))
    return _accept(parent, child, order[comm[order] > 0])


def favour_by_lp(graph: Graph, threshold: float = 0.5) -> Favourites:
    """Round the relaxed program: the child is a favourite where x < threshold.

    Args:
        threshold: tau in the specification; 0.5 loses least, 0.1 is Baechi's choice.
    """
    relaxed = solve_favourites(graph)
    order = np.lexsort((relaxed.child, relaxed.parent, relaxed.x))
    return _accept(relaxed.parent, relaxed.child, order[relaxed.x[order] < threshold - 1e-6])


def dependency_edges(graph: Graph) -> tuple[Ints, Ints, Ints]:
    """(parent, child, largest transfer time over the tensors between them and the device pairs), sorted by (parent, child)."""
    pairs = graph.tensor_src[graph.edge_tensor] * graph.n + graph.edge_dst
    distinct, inverse = np.unique(pairs, return_inverse=True)
    comm = np.zeros(len(distinct), np.int64)
    np.maximum.at(comm, inverse, graph.cost_max[graph.edge_tensor])
    return distinct // graph.n, distinct % graph.n, comm


def solve_favourites(graph: Graph) -> Relaxation:
    """Solve the relaxed SCT program of 2.5 with HiGHS.

    Variables: x per edge in [0, 1], a start s per op, and w. Times are scaled to a largest of 1, for the solver's tolerances.
    """
    from scipy.optimize import linprog  # here, because importing it takes longer than most placements
    from scipy.sparse import coo_array

    parent, child, comm = dependency_edges(graph)
    n, m = graph.n, len(parent)
    scale = float(max(graph.k_min.max(), comm.max(initial=0)))
    k, c = graph.k_min / scale, comm / scale
    edge, op = np.arange(m), np.arange(n)
    start, finish = m + op, m + n
    children, parents = np.bincount(parent, minlength=n), np.bincount(child, minlength=n)
    rows = np.concatenate([op, op, n + edge, n + edge, n + edge, n + m + parent, 2 * n + m + child])
    columns = np.concatenate([start, np.full(n, finish), m + parent, edge, m + child, edge, edge])
    values = np.concatenate([np.ones(n), -np.ones(n), np.ones(m), c, -np.ones(m), -np.ones(2 * m)])
    limits = np.concatenate([-k, -k[parent], 1.0 - children, 1.0 - parents])
    matrix = coo_array((values, (rows, columns)), shape=(3 * n + m, m + n + 1)).tocsr()
    kept = np.r_[np.ones(n + m, bool), children > 0, parents > 0]
    goal = np.zeros(m + n + 1)
    goal[finish] = 1.0
    ranges = [(0.0, 1.0)] * m + [(0.0, None)] * (n + 1)
    solution = linprog(goal, A_ub=matrix[kept], b_ub=limits[kept], bounds=ranges, method="highs")
    if not solution.success:  # feasible (all x = 1) and bounded (w >= 0): only a solver limit can end here
        raise RuntimeError(f"HiGHS did not solve the favourite-child program: {solution.message}")
    return Relaxation(float(solution.fun) * scale, parent, child, solution.x[:m])


def _accept(parent: Ints, child: Ints, order: Ints) -> Favourites:
    favourite: Favourites = {}
    taken: set[int] = set()
    for e in order.tolist():
        i, j = int(parent[e]), int(child[e])
        if i not in favourite and j not in taken:
            favourite[i] = j
            taken.add(j)
    return favourite
