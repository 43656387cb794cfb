"""m-TOPO: fill the devices one after the other in topological order (specification 2.3; Baechi, SoCC 2020)."""

from collections.abc import Sequence

from mottle.placement.graph import Graph
from mottle.placement.judge import run
from mottle.placement.placed import NoRoom, Placement


def m_topo(graph: Graph) -> Placement | NoRoom:
    """Equal shares of memory first, then every device up to its budget.

    Returns:
        A placement that SIM finds valid, executed in canonical order; or NoRoom when neither variant gives one.
    """
    verdict = NoRoom(0, [0] * graph.num_devices)
    for cap in (uniform_caps(graph), graph.mem):
        device = fill(graph, cap)
        if isinstance(device, NoRoom):
            verdict = device
            continue
        trace = run(graph, device)
        if trace.valid:
            return Placement(device, list(range(graph.n)), trace.start.tolist())
        verdict = NoRoom(graph.n - 1, trace.peaks)
    return verdict


def uniform_caps(graph: Graph) -> list[int]:
    """A share of the total need in proportion to memory, plus the largest group, at most the budget."""
    need = graph.need.tolist()
    total, memory = sum(need), sum(graph.mem)
    if len(set(graph.mem)) == 1:
        return [min(total // graph.num_devices + max(need), mem) for mem in graph.mem]
    return [min(total * mem // memory + max(need), mem) for mem in graph.mem]


def fill(graph: Graph, cap: Sequence[int]) -> list[int] | NoRoom:
    """Device of every op: groups in order of their first member, each device left for good once the next group exceeds its cap."""
    need, used, d = graph.need.tolist(), [0] * graph.num_devices, 0
    home = [0] * graph.num_groups
    for g in range(graph.num_groups):
        while d < graph.num_devices and not (used[d] + need[g] <= cap[d] and graph.group_runs[g, d]):
            d += 1
        if d == graph.num_devices:
            return NoRoom(graph.members[g][0], used)
        used[d] += need[g]
        home[g] = d
    return [home[g] for g in graph.group_of]
