"""The placers by name, all of one shape: (graph, groups bound beforehand, budgets) -> placement."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from mottle.placement.favourites import Favourites, favour_by_lp, favour_critical
from mottle.placement.graph import Graph
from mottle.placement.heft import heft
from mottle.placement.ladder import Placer
from mottle.placement.list_fast import list_fast
from mottle.placement.list_plain import list_plain
from mottle.placement.placed import NoRoom, Placement

ListAlgorithm = Literal["m-etf", "m-sct", "m-sct-lp", "heft"]


def placer_for(algorithm: ListAlgorithm, graph: Graph, favourites: Favourites | None = None) -> Placer:
    """The placer, with the favourite children it needs worked out once for the graph.

    Args:
        favourites: op -> favourite child for m-SCT, in place of the default rule.
    """
    if algorithm == "heft":
        return heft
    if algorithm == "m-etf":
        return partial(_list_schedule, favourites=None)
    if favourites is None:
        favourites = favour_critical(graph) if algorithm == "m-sct" else favour_by_lp(graph)
    return partial(_list_schedule, favourites=favourites)


def _list_schedule(
    graph: Graph, bound: dict[int, int] | None, mem: Sequence[int] | None, *, favourites: Favourites | None
) -> Placement | NoRoom:
    form = list_fast if graph.comm_mode == "parallel" else list_plain
    return form(graph, favourites, bound, mem)


def estimate_us(algorithm: ListAlgorithm, graph: Graph) -> int:
    """Microseconds that one run of a placer takes, roughly, on one slow core.

    A budget is spent by these estimates and not by a clock, so that what is evaluated, and with it the plan, depends on the problem
    alone. The coefficients were fitted to layered and block-shaped graphs of 1,000 to 100,000 ops.
    """
    n, num_devices, num_edges = graph.n, graph.num_devices, len(graph.edge_dst)
    if algorithm == "heft":
        return n * (6 + num_devices) + num_edges * num_devices * 3 // 10
    sources = sum(1 for parents in graph.predecessors if not parents)
    ready = n // graph.num_levels + sources // 4
    if graph.comm_mode != "parallel":
        return ready * num_devices * (2 * n + num_edges)
    step = 35 if algorithm == "m-etf" else 90
    return n * (step + ready * num_devices // 400) + num_edges * num_devices // 4
