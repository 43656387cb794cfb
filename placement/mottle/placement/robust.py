"""A plan that stays good when profiles are wrong (specification 7.6).

Times of ops and transfers are perturbed in a number of scenarios, ops of one device class alike, and each device as a whole besides, for
errors of a profile go together. The plan with the smallest robust value is taken: half the mean over scenarios, half the mean of the worst
quarter of them.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from mottle.core.errors import ConfigError
from mottle.placement.arrays import Ints
from mottle.placement.entry import place
from mottle.placement.errors import InfeasibleError
from mottle.placement.graph import ABSENT, Graph
from mottle.placement.judge import run
from mottle.placement.ladder import climb
from mottle.placement.placed import Placement, positions
from mottle.placement.placers import placer_for
from mottle.placement.plans import Plan, make_plan
from mottle.placement.problem import Problem

NOMINAL = ("single", "m-topo", "m-etf", "m-sct", "heft")
"""Placers whose plans for the nominal problem are compared, beside `auto`."""
PERTURBED = 3
"""Scenarios that m-ETF makes a plan for."""


@dataclass(frozen=True)
class RobustPlan:
    """The plan that was taken, and what was compared."""

    plan: Plan
    """Judged, as every plan, on the nominal problem."""
    value: float
    """Robust value in ticks."""
    worst: int
    """Longest step among the scenarios."""
    compared: tuple[tuple[str, float], ...]
    """(name, robust value) of every plan that fits."""


def place_robust(
    problem: Problem,
    *,
    epsilon: float = 0.2,
    device_epsilon: float = 0.1,
    scenarios: int = 16,
    seed: int = 0,
    budget_s: float | None = 1.0,
) -> RobustPlan:
    """The plan of smallest robust value.

    Args:
        epsilon: how far the time of an op or transfer may be off, as a share of it.
        device_epsilon: the same for a device as a whole.
        scenarios: number of them; the first is unperturbed.
        budget_s: of `auto` on the nominal problem.
    Returns:
        The same for the same arguments, on any machine.
    Raises:
        ConfigError: shares outside [0, 1), or no scenario.
        InfeasibleError: nothing fits.
    """
    if not (0 <= epsilon < 1 and 0 <= device_epsilon < 1 and scenarios >= 1):
        raise ConfigError(f"wanted shares in [0, 1) and a scenario at least; got {epsilon}, {device_epsilon} and {scenarios} scenarios")
    made = [scenario(problem, q, epsilon, device_epsilon, seed) for q in range(scenarios)]
    best: tuple[float, int, Plan] | None = None
    compared = []
    for plan in _candidates(problem, made, budget_s):
        steps = _steps(plan, made)
        value = robust_value(steps)
        compared.append((plan.algorithm, value))
        if best is None or value < best[0]:
            best = value, max(steps), plan
    assert best is not None, "`auto` is among the candidates"
    return RobustPlan(best[2], best[0], best[1], tuple(compared))


def robust_value(steps: list[int]) -> float:
    """Half the mean, half the mean of the worst quarter (at least one)."""
    worst = sorted(steps)[-ceil(len(steps) / 4) :]
    return 0.5 * sum(steps) / len(steps) + 0.5 * sum(worst) / len(worst)


def scenario(problem: Problem, number: int, epsilon: float, device_epsilon: float, seed: int = 0) -> Graph:
    """The problem's arrays with perturbed times; number 0 is the problem itself."""
    graph = problem.graph
    if number == 0:
        return graph
    kinds = [device.kind for device in problem.devices]
    of_op = {kind: _draws(seed, number, "op", graph.names, kind) for kind in sorted(set(kinds))}
    of_device = np.array([_draw(seed, number, "device", device.id, device.kind) for device in problem.devices])
    factors = (1 + epsilon * np.stack([of_op[kind] for kind in kinds], axis=1)) * (1 + device_epsilon * of_device)
    tensors = [f"{graph.names[src]}/{name}" for src, name in zip(graph.src_of, graph.tensor_names, strict=True)]
    of_tensor = 1 + epsilon * _draws(seed, number, "tensor", tensors, "")
    k = np.where(graph.k < ABSENT, np.maximum(1, _half_up(np.minimum(graph.k, ABSENT - 1) * factors)), graph.k)
    cost = np.where(graph.cost > 0, np.maximum(1, _half_up(graph.cost * of_tensor)), 0)
    return replace(graph, k=k, cost=cost)


def _half_up(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Ints:
    whole: Ints = np.floor(values + 0.5).astype(np.int64)
    return whole


def _draws(seed: int, number: int, kind: str, ids: list[str], device_class: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([_draw(seed, number, kind, each, device_class) for each in ids])


def _draw(seed: int, number: int, kind: str, id_: str, device_class: str) -> float:
    """Uniform in [-1, 1)."""
    digest = hashlib.sha256(f"{seed}|{number}|{kind}|{id_}|{device_class}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / (1 << 63) - 1


def _candidates(problem: Problem, made: list[Graph], budget_s: float | None) -> Iterator[Plan]:
    """Plans that fit, the nominal ones first."""
    yield place(problem, "auto", budget_s=budget_s)
    for name in NOMINAL:
        try:
            yield place(problem, name)
        except InfeasibleError:
            continue
    for number, graph in enumerate(made[1 : 1 + PERTURBED], start=1):
        placement, _ = climb(graph, placer_for("m-etf", graph))
        if isinstance(placement, Placement):
            trace = run(problem.graph, placement.device, positions(placement.order))
            if trace.valid:
                yield make_plan(problem, trace, placement.order, f"m-etf, scenario {number}")


def _steps(plan: Plan, made: list[Graph]) -> list[int]:
    """Length of a step in every scenario; a device takes what is ready, as it does when times are not what the order was made for."""
    graph = plan.problem.graph
    rank = {name: x for x, name in enumerate(plan.priority)}
    device = [graph.devices.index(plan.assignment[name]) for name in graph.names]
    priority = [rank[name] for name in graph.names]
    return [run(each, device, priority, "ready").makespan for each in made]
