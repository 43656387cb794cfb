"""REPAIR: a new plan after devices came, went or shrank, that leaves alone what need not move (specification 7.3).

Groups on devices that vanished are placed again around the rest, which stays bound. Weights that do not move need not be fetched, and
placing a few groups is quicker than placing all of them.
"""

from dataclasses import dataclass, replace

from mottle.placement.budget import affordable_effort
from mottle.placement.errors import InfeasibleError
from mottle.placement.graph import Graph
from mottle.placement.judge import run
from mottle.placement.list_fast import list_fast
from mottle.placement.list_plain import list_plain
from mottle.placement.local_search import CHAIN_EFFORT, local_search
from mottle.placement.lower_bounds import memory_faults
from mottle.placement.placed import NoRoom, Placement, positions
from mottle.placement.plans import Plan, make_plan
from mottle.placement.portfolio import place_auto
from mottle.placement.problem import Device, Problem
from mottle.placement.static_ledger import StaticLedger

RETRIES = 8
"""Groups displaced beyond what is needed before the repair gives way to a full replan."""
NOWHERE = -1


@dataclass(frozen=True)
class Repair:
    """A plan on the new devices, and what it cost to get there."""

    plan: Plan
    displaced: frozenset[str]
    """Ops that had to find a new device."""
    moved: frozenset[str]
    """Ops whose weights must be fetched: their device differs from the old one."""
    full_replan: bool
    """Repairing found no room, everything was placed anew."""


def repair(plan: Plan, devices: tuple[Device, ...], *, budget_s: float = 0.08) -> Repair:
    """Adapt a plan to a new list of devices.

    Args:
        plan: the plan in force; devices are matched by id.
        devices: all devices from now on, by rank.
        budget_s: for local search over the displaced groups, by estimate as in `place_auto`.
    Returns:
        Every group that was not displaced is where it was; without any displacement the old plan, judged on the new devices.
    Raises:
        ProblemError: an op has no device left to run on.
        InfeasibleError: what is left cannot hold the model.
    """
    problem = plan.problem.with_devices(devices)
    graph = problem.graph
    if faults := memory_faults(graph):
        raise InfeasibleError(faults)
    rank = {name: d for d, name in enumerate(graph.devices)}
    old = [rank.get(plan.assignment[graph.names[members[0]]], NOWHERE) for members in graph.members]
    home = [d if d != NOWHERE and graph.group_runs[g, d] else NOWHERE for g, d in enumerate(old)]
    _shed(plan, graph, home)
    displaced = {g for g, d in enumerate(home) if d == NOWHERE}
    if not displaced:
        return _keep(plan, problem)
    placement = _place_around(graph, home, displaced)
    if placement is not None:
        effort = affordable_effort(graph, budget_s * 1e6)
        if effort > CHAIN_EFFORT:
            placement = local_search(graph, placement, effort=effort, movable=displaced).placement
        trace = run(graph, placement.device, positions(placement.order))
        if trace.valid:
            result = _like(plan, make_plan(problem, trace, placement.order, "repair"))
            return _report(plan, result, {graph.names[i] for g in displaced for i in graph.members[g]}, full=False)
    fresh = place_auto(plan.given.with_devices(devices))
    fresh = replace(fresh, notes=("repair found no room: everything was placed anew", *fresh.notes))
    return _report(plan, fresh, set(graph.names), full=True)


def _keep(plan: Plan, problem: Problem) -> Repair:
    """The old assignment and order on the new devices."""
    graph = problem.graph
    rank = {name: d for d, name in enumerate(graph.devices)}
    index = {name: i for i, name in enumerate(graph.names)}
    order = [index[name] for name in plan.priority]
    trace = run(graph, [rank[plan.assignment[name]] for name in graph.names], positions(order))
    return _report(plan, _like(plan, make_plan(problem, trace, order, plan.algorithm, plan.notes)), set(), full=False)


def _like(old: Plan, new: Plan) -> Plan:
    """With the reductions of the old plan, which its problem has in it."""
    given = None if old.unreduced is None else old.unreduced.with_devices(new.problem.devices)
    return replace(new, reductions=old.reductions, unreduced=given)


def _report(old: Plan, new: Plan, displaced: set[str], *, full: bool) -> Repair:
    moved = frozenset(name for name, device in new.assignment.items() if old.assignment.get(name, device) != device)
    return Repair(new, frozenset(displaced), moved, full)


def _shed(plan: Plan, graph: Graph, home: list[int]) -> None:
    """Displace groups from devices that can no longer hold theirs, least time per byte first (ties: canonical order).

    Under dynamic accounting the old simulated peak counts, and a group is taken to free its resident bytes.
    """
    before = {device.id: device.mem for device in plan.problem.devices}
    if all(before.get(name, mem) <= mem for name, mem in zip(graph.devices, graph.mem, strict=True)):
        return  # the plan in force fits, and nothing was added to any device
    ledger = StaticLedger(graph, [home[g] for g in graph.group_of])
    for d, name in enumerate(graph.devices):
        if graph.mem_mode == "static":
            excess = ledger.peak(d) - graph.mem[d]
        else:
            excess = plan.simulation.peaks.get(name, 0) - graph.mem[d]
        if excess <= 0:
            continue
        for g in sorted(ledger.groups[d], key=lambda g: (_time_per_byte(graph, g, d), g)):
            ledger.move(g, NOWHERE)
            home[g] = NOWHERE
            excess = ledger.peak(d) - graph.mem[d] if graph.mem_mode == "static" else excess - int(graph.base[g])
            if excess <= 0:
                break


def _time_per_byte(graph: Graph, g: int, d: int) -> float:
    need = int(graph.need[g])
    return sum(graph.k_rows[i][d] for i in graph.members[g]) / need if need else float("inf")


def _place_around(graph: Graph, home: list[int], displaced: set[int]) -> Placement | None:
    """m-ETF with all other groups bound; gives up more groups of the fullest device, the largest first, while there is no room."""
    schedule = list_fast if graph.comm_mode == "parallel" else list_plain
    for _ in range(RETRIES + 1):
        bound = {g: d for g, d in enumerate(home) if g not in displaced}
        # Under dynamic accounting static sums over-estimate: what stays may exceed its budget, and SIM decides in the end.
        mem = graph.mem if graph.mem_mode == "static" else [8 * m for m in graph.mem]
        result = schedule(graph, None, bound, mem, reserve=True)
        if isinstance(result, Placement):
            return result
        fullest = _fullest(graph, result)
        candidates = [g for g, d in bound.items() if d == fullest]
        if not candidates:
            return None
        displaced.add(max(candidates, key=lambda g: (int(graph.need[g]), -g)))
    return None


def _fullest(graph: Graph, result: NoRoom) -> int:
    """The device with the largest share of its budget in use."""
    return max(range(graph.num_devices), key=lambda d: (result.loads[d] / max(1, graph.mem[d]), -d))
