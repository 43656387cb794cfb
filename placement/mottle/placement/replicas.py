"""Data-parallel replicas of a model that is itself spread over devices (specification 7.4): how many, on which devices, with which shares.

Devices are dealt into islands of about equal speed, each of which holds a whole model; an island's step is affine in its share of the
batch, so shares are water-filled until all islands are done at once. Gradients are exchanged in a ring, as far as backward passes do
not hide it. The number of replicas with the shortest step is taken.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from mottle.core.errors import ConfigError
from mottle.placement.entry import place
from mottle.placement.errors import InfeasibleError, ProblemError
from mottle.placement.graph import ABSENT
from mottle.placement.plans import Plan
from mottle.placement.problem import Device, Link, Problem

ProblemOf = Callable[[int, tuple[Device, ...]], Problem]
"""(samples, devices) -> the problem of one replica's step; `lambda b, devices: capture(model, example(b)).problem(devices)`."""


@dataclass(frozen=True)
class Island:
    """One replica."""

    plan: Plan
    share: int
    """Samples of the batch."""

    @property
    def weight(self) -> int:
        """What its mean gradient counts for, against the other islands': replicas of unequal shares need a weighted mean."""
        return self.share


@dataclass(frozen=True)
class Replicated:
    """The answer."""

    islands: tuple[Island, ...]
    step: int
    """Ticks: the slowest island, and what is seen of the exchange."""
    exposed: int
    """Ticks of the exchange that no backward pass hides."""
    considered: tuple[tuple[int, int | None], ...]
    """(replicas, ticks of a step), None where an island cannot hold the model or would have nothing to do."""


def place_replicated(
    problem_of: ProblemOf,
    devices: Sequence[Device],
    batch: int,
    weight_bytes: int,
    *,
    nodes: Mapping[str, str] | None = None,
    budget_s: float | None = 0.3,
) -> Replicated:
    """The fastest way to spread a batch over replicas.

    Args:
        batch: samples of a step, at least 1.
        weight_bytes: of the gradient that replicas exchange.
        nodes: device -> what it shares a box with; boxes are not divided where that can be helped. None: every device by itself.
        budget_s: of each placement, as `place`.
    Raises:
        ConfigError: no sample, or no device.
        InfeasibleError: not even all devices together hold the model.
    """
    if batch < 1 or not devices:
        raise ConfigError(f"wanted a batch of at least one sample and a device at least; got {batch} and {len(devices)} devices")
    best: Replicated | None = None
    considered: list[tuple[int, int | None]] = []
    reason: Exception | None = None
    for count in range(1, min(len(devices), batch) + 1):
        try:
            found = _with(problem_of, tuple(devices), count, batch, weight_bytes, nodes or {}, budget_s)
        except (InfeasibleError, ProblemError) as error:
            found, reason = None, reason or error
        considered.append((count, None if found is None else found.step))
        if found is not None and (best is None or found.step < best.step):
            best = found
    if best is None:
        raise InfeasibleError([f"no number of replicas fits; one on all devices: {reason}"])
    return Replicated(best.islands, best.step, best.exposed, tuple(considered))


def _with(
    problem_of: ProblemOf,
    devices: tuple[Device, ...],
    count: int,
    batch: int,
    weight_bytes: int,
    nodes: Mapping[str, str],
    budget_s: float | None,
) -> Replicated | None:
    """The best with so many replicas; None where one of them would get no sample."""
    few, many = max(1, batch // (2 * count)), max(2, batch // count)
    whole = problem_of(many, devices)
    speeds = _speeds(whole)
    islands = deal(devices, count, speeds, nodes)
    lines = []
    for island in islands:
        short, long = (place(problem_of(samples, island), budget_s=budget_s).makespan for samples in (few, many))
        slope = Fraction(max(long - short, 1), max(many - few, 1))
        lines.append((short - few * slope, slope))
    shares = water_fill(lines, batch)
    if min(shares) == 0:
        return None
    made = [place(problem_of(share, island), budget_s=budget_s) for share, island in zip(shares, islands, strict=True)]
    exposed = max(0, exchange(whole, islands, weight_bytes) - min(map(_backward, made)))
    step = max(plan.makespan for plan in made) + exposed
    return Replicated(tuple(Island(plan, share) for plan, share in zip(made, shares, strict=True)), step, exposed, ())


def _speeds(problem: Problem) -> dict[str, float]:
    """Whole models a tick that a device would run alone; of one that cannot run all ops, by those that it can."""
    graph = problem.graph
    fastest = int(graph.k_min.sum())
    speeds = {}
    for d, name in enumerate(graph.devices):
        there = graph.k[:, d] < ABSENT
        share = int(graph.k_min[there].sum()) / fastest
        speeds[name] = share / max(1, int(graph.k[there, d].sum()))
    return speeds


def deal(devices: Sequence[Device], count: int, speeds: Mapping[str, float], nodes: Mapping[str, str]) -> list[tuple[Device, ...]]:
    """Devices in islands of about equal speed, snake-wise from the fastest on; boxes stay whole where there are enough of them.

    Returns:
        `count` tuples, each by rank.
    """
    boxes: dict[str, list[Device]] = defaultdict(list)
    for device in devices:
        boxes[nodes.get(device.id, device.id)].append(device)
    hands = list(boxes.values()) if len(boxes) >= count else [[device] for device in devices]
    rank = {device.id: x for x, device in enumerate(devices)}
    hands.sort(key=lambda hand: (-sum(speeds[device.id] for device in hand), rank[hand[0].id]))
    islands: list[list[Device]] = [[] for _ in range(count)]
    for x, hand in enumerate(hands):
        lap, seat = divmod(x, count)
        islands[seat if lap % 2 == 0 else count - 1 - seat] += hand
    return [tuple(sorted(island, key=lambda device: rank[device.id])) for island in islands]


def water_fill(lines: Sequence[tuple[Fraction | int, Fraction | int]], batch: int) -> list[int]:
    """Whole shares of the batch that minimise the largest `A + share * G`, ties to the first.

    Args:
        lines: (A, G) of each island, G above 0.
    """
    order = sorted(range(len(lines)), key=lambda q: (lines[q][0], q))
    level, used = Fraction(0), 0
    for used in range(1, len(order) + 1):  # islands that get water at this level: those that begin below it
        inside = order[:used]
        volume = sum((Fraction(lines[q][0]) / lines[q][1] for q in inside), Fraction(batch))
        level = volume / sum((1 / Fraction(lines[q][1]) for q in inside), Fraction(0))
        if used == len(order) or level <= lines[order[used]][0]:
            break
    exact = [max(Fraction(0), (level - base) / slope) for base, slope in lines]
    shares = [floor(each) for each in exact]
    by_fraction = sorted(range(len(lines)), key=lambda q: (-(exact[q] - shares[q]), q))
    for q in by_fraction[: batch - sum(shares)]:
        shares[q] += 1
    return shares


def exchange(problem: Problem, islands: Sequence[Sequence[Device]], weight_bytes: int) -> int:
    """Ticks of a ring over the islands: 2(r-1)/r of the bytes over the slowest link between any two, and its latency each time."""
    count = len(islands)
    if count == 1:
        return 0
    between = [
        problem.links.get((a.id, b.id), problem.default_link)
        for x, one in enumerate(islands)
        for y, other in enumerate(islands)
        if x != y
        for a in one
        for b in other
    ]
    slowest: Link = min(between, key=lambda link: link.bytes_per_s or float("inf"))
    latency = max(link.lat for link in between)
    bandwidth_ticks = 0 if slowest.bytes_per_s is None else ceil(weight_bytes * 1e9 / (slowest.bytes_per_s * problem.tick_ns))
    return ceil(Fraction(2 * (count - 1), count) * bandwidth_ticks) + 2 * (count - 1) * latency


def _backward(plan: Plan) -> int:
    """Ticks between the first gradient and the end of the step, in which gradients can travel; 0 where the graph has no backward ops."""
    ends = [end for name, end in plan.simulation.end.items() if name.endswith(":backward")]
    return plan.makespan - min(ends) if ends else 0
