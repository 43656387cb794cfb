"""Time by estimate: what the steps of `auto` cost on one slow core.

A budget is spent by these estimates and not by a clock, so that what is evaluated, and with it the plan, depends on the problem alone.
The coefficients were fitted to layered and block-shaped graphs of 1,000 to 100,000 ops.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mottle.placement.coarsen import MOST_MOVES
from mottle.placement.graph import Graph
from mottle.placement.placers import ListAlgorithm


class Budget:
    """Microseconds, spent by estimates."""

    def __init__(self, budget_s: float | None) -> None:
        self.left_us = float("inf") if budget_s is None else budget_s * 1e6

    @property
    def unlimited(self) -> bool:
        return self.left_us == float("inf")

    @contextmanager
    def aside(self, share: float) -> Iterator[None]:
        """A share of what is left is kept for afterwards."""
        kept = 0.0 if self.unlimited else share * max(0.0, self.left_us)
        self.left_us -= kept
        yield
        self.left_us += kept

    def affords(self, cost_us: float) -> bool:
        return cost_us <= self.left_us

    def spend(self, cost_us: float) -> None:
        self.left_us -= cost_us


def estimate_us(algorithm: ListAlgorithm, graph: Graph) -> int:
    """Microseconds of one run of a placer, roughly."""
    n, num_devices, num_edges = graph.n, graph.num_devices, len(graph.edge_dst)
    if algorithm == "heft":
        return n * (6 + num_devices) + num_edges * num_devices * 3 // 10
    sources = sum(1 for parents in graph.predecessors if not parents)
    ready = graph.typical_width + sources // 4
    if graph.comm_mode != "parallel":
        return ready * num_devices * (2 * n + num_edges) // 3
    step = 35 if algorithm == "m-etf" else 90
    return n * (step + ready * num_devices // 400) + num_edges * num_devices // 4


def sim_us(graph: Graph) -> float:
    """Microseconds of one simulation, roughly."""
    each = 0.3 if graph.comm_mode == "parallel" else 8.0
    return each * (graph.n + len(graph.edge_dst))


def coarsen_us(graph: Graph) -> float:
    """Microseconds of one coarsening, roughly: an op with many inputs hands them on each time it is fused."""
    size = graph.n + len(graph.edge_dst)
    return 12.0 * size + min(0.5 * float((np.bincount(graph.edge_dst) ** 2).sum()), 1.2 * MOST_MOVES * size)


def cut_us(graph: Graph) -> float:
    """Microseconds of one search for the cheapest cuts, roughly."""
    return graph.num_devices * graph.num_groups * (10 + graph.num_groups / 80) + sim_us(graph)


def reduce_us(graph: Graph) -> float:
    """Microseconds of working reductions into a problem and of simulating it, roughly."""
    return 25.0 * (graph.n + len(graph.edge_dst)) + sim_us(graph)


def affordable_effort(graph: Graph, budget_us: float) -> float:
    """Work that a local search may do, in whole simulations, after setting up."""
    return max(0.0, budget_us / sim_us(graph) - 4)
