"""How long a step of a cut model takes: its schedule, run by the simulator that judges placements."""

from dataclasses import replace

from mottle.placement.pipeline import ScheduleName, StageCost, as_problem
from mottle.placement.plans import Simulation, simulate
from mottle.placement.problem import Device, Link
from mottle.placement.staging.cutting import PLENTY, Cut
from mottle.placement.tracing.capture import PCIE, TICK_NS


def predict_step(cut: Cut, schedule: ScheduleName, microbatches: int, link: Link = PCIE) -> Simulation:
    """A step of so many micro-batches, in nanoseconds.

    Args:
        link: between neighbouring stages, as for `cut_stages`.
    """
    costs = [StageCost(forward, backward, sent=sent) for (forward, backward), sent in zip(cut.times_ns, (*cut.sent, 0), strict=True)]
    devices = [Device(f"stage {s}", "process", PLENTY) for s in range(cut.num_stages)]
    problem, home, priority = as_problem(schedule, costs, microbatches, devices, link._replace(lat=link.lat * TICK_NS))
    return simulate(replace(problem, tick_ns=1), home, priority)
