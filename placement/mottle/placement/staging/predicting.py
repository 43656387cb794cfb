"""How long a step of a cut model takes: its schedule, run by the simulator that judges placements."""

from dataclasses import replace
from itertools import pairwise
from math import ceil

from mottle.placement.pipeline import ScheduleName, StageCost, as_problem
from mottle.placement.plans import Simulation, simulate
from mottle.placement.problem import Device, Link
from mottle.placement.staging.cutting import PLENTY, Cut
from mottle.placement.tracing.capture import PCIE, TICK_NS


def predict_step(cut: Cut, schedule: ScheduleName, microbatches: int, link: Link = PCIE, *, overlap: bool = True) -> Simulation:
    """A step of so many micro-batches, in nanoseconds.

    Args:
        link: between neighbouring stages, as for `cut_stages`.
        overlap: whether a stage computes while it sends and receives. A process with one core does not: what it computes with copies
            every tensor into and out of the network, which takes as long as the transfer.
    """
    sizes = (0, *cut.sent, 0)
    handling = [0 if overlap else sum(_transfer_ns(link, size) for size in pair if size) for pair in pairwise(sizes)]
    costs = [
        StageCost(forward + extra, backward + extra, sent=sent if overlap else 0)
        for (forward, backward), extra, sent in zip(cut.times_ns, handling, sizes[1:], strict=True)
    ]
    devices = [Device(f"stage {s}", "process", PLENTY) for s in range(cut.num_stages)]
    problem, home, priority = as_problem(schedule, costs, microbatches, devices, link._replace(lat=link.lat * TICK_NS))
    return simulate(replace(problem, tick_ns=1), home, priority)


def _transfer_ns(link: Link, size: int) -> int:
    return link.lat * TICK_NS + (0 if link.bytes_per_s is None else ceil(size * 1e9 / link.bytes_per_s))
