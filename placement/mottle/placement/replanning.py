"""Repair or a full replan, whichever costs less until the devices change again (specification 7.3).

    cost = migration + horizon * step        migration = restart + the longest time that a device takes to fetch its new weights

Weights come from where they were, or, where that device is gone, over the default link: from the parameter shards of a training run, which
have all of them, or from a checkpoint.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from mottle.core.errors import ConfigError
from mottle.placement.errors import InfeasibleError
from mottle.placement.plans import Plan
from mottle.placement.portfolio import place_auto
from mottle.placement.problem import Device, Problem
from mottle.placement.replan import Repair, repair

WORTH_IT = 0.95
"""A full replan is taken if it costs less than this share of the repair."""


@dataclass(frozen=True)
class Replan:
    """What was taken, and what either would have cost, in seconds; None where it found no room."""

    taken: Repair
    repair_s: float | None
    full_s: float | None


def replan(plan: Plan, devices: tuple[Device, ...], *, horizon: int = 200, restart_s: float = 1.0, budget_s: float | None = 0.5) -> Replan:
    """A new plan for devices that joined, left or shrank.

    Args:
        plan: in force.
        devices: all devices from now on, by rank; matched by id.
        horizon: steps until the next change, about.
        restart_s: what moving anything costs at least; nothing moves, nothing is paid.
        budget_s: of the full replan, as `place`.
    Raises:
        ProblemError, InfeasibleError: as `repair`.
        ConfigError: a horizon below 1, or a negative restart.
    """
    if horizon < 1 or not restart_s >= 0:
        raise ConfigError(f"wanted a horizon of at least one step and a restart of no less than 0 s; got {horizon} and {restart_s}")
    repaired = repair(plan, devices)
    cost_s = _cost_s(plan, repaired.plan, horizon, restart_s)
    if repaired.full_replan:
        return Replan(repaired, None, cost_s)
    try:
        fresh = place_auto(plan.given.with_devices(devices), budget_s)
    except InfeasibleError:
        return Replan(repaired, cost_s, None)
    full_s = _cost_s(plan, fresh, horizon, restart_s)
    if full_s >= WORTH_IT * cost_s:
        return Replan(repaired, cost_s, full_s)
    moved = frozenset(name for name, device in fresh.assignment.items() if plan.assignment.get(name, device) != device)
    note = f"everything was placed anew: {full_s:.3g} s against {cost_s:.3g} s over {horizon} steps"
    return Replan(Repair(replace(fresh, notes=(note, *fresh.notes)), repaired.displaced, moved, True), cost_s, full_s)


def migration_s(old: Plan, new: Plan) -> float:
    """Seconds until every device has the weights that are new to it, each fetching its own one after the other."""
    problem = new.problem
    there = {device.id for device in problem.devices}
    spent: dict[str, float] = defaultdict(float)
    for op in problem.ops:
        source, target = old.assignment.get(op.id), new.assignment[op.id]
        if source != target and op.perm:
            spent[target] += op.perm / _bytes_per_s(problem, source if source in there else None, target)
    return max(spent.values(), default=0.0)


def _bytes_per_s(problem: Problem, source: str | None, target: str) -> float:
    link = problem.default_link if source is None else problem.links.get((source, target), problem.default_link)
    return float("inf") if link.bytes_per_s is None else float(link.bytes_per_s)


def _cost_s(old: Plan, new: Plan, horizon: int, restart_s: float) -> float:
    moved = any(old.assignment.get(name, device) != device for name, device in new.assignment.items())
    step_s = new.makespan * new.problem.tick_ns / 1e9
    return horizon * step_s + (restart_s + migration_s(old, new) if moved else 0.0)
