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
