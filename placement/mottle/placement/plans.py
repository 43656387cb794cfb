"""A plan: which op runs where, in which order, and what SIM says about it. Names in, names out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mottle.core.errors import ConfigError
from mottle.placement.arrays import Ints
from mottle.placement.errors import ProblemError
from mottle.placement.graph import ABSENT
from mottle.placement.judge import Dispatch, Trace, run
from mottle.placement.pg1 import Priority, dump_problem, dump_reduction, load_file, placement_faults, write_json
from mottle.placement.problem import Problem
from mottle.placement.reductions import Reduction

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mottle.placement.execution import HookedModule, PlacedModule
    from mottle.placement.tracing import Capture

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
"""One a device, from the Okabe-Ito palette, which stays apart for colour-blind readers."""
TRANSFER_COLOUR = "#BBBBBB"


class Transfer(NamedTuple):
    """One copy of a tensor from device to device, [start, end) in ticks."""

    producer: str
    tensor: str
    src: str
    dst: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Simulation:
    """What one simulated step looks like, by name."""

    trace: Trace

    @property
    def makespan(self) -> int:
        """Ticks to the end of the last op."""
        return self.trace.makespan

    @property
    def deadlock(self) -> bool:
        """Some op never ran; its start and end read -1."""
        return self.trace.deadlock

    @property
    def valid(self) -> bool:
        """It ran to the end, and every device holds what it is asked to, in the problem's accounting mode."""
        return self.trace.valid

    @cached_property
    def start(self) -> dict[str, int]:
        """op -> tick."""
        return dict(zip(self.trace.graph.names, self.trace.start.tolist(), strict=True))

    @cached_property
    def end(self) -> dict[str, int]:
        """op -> tick."""
        return dict(zip(self.trace.graph.names, self.trace.end.tolist(), strict=True))

    @cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """Every copy, by (start, producer, tensor, destination rank)."""
        graph, rows = self.trace.graph, self.trace.transfers
        names, devices, src = graph.names, graph.devices, graph.src_of
        return tuple(
            Transfer(names[src[t]], graph.tensor_names[t], devices[u], devices[v], start, end)
            for t, u, v, start, end in zip(*(column.tolist() for column in rows), strict=True)
        )

    @property
    def peaks(self) -> dict[str, int]:
        """device -> bytes, in the problem's accounting mode."""
        return dict(zip(self.trace.graph.devices, self.trace.peaks, strict=True))

    @property
    def static_peaks(self) -> dict[str, int]:
        """device -> bytes, static accounting."""
        return dict(zip(self.trace.graph.devices, self.trace.static_peaks, strict=True))

    @property
    def dynamic_peaks(self) -> dict[str, int]:
        """device -> bytes, dynamic accounting."""
        return dict(zip(self.trace.graph.devices, self.trace.dynamic_peaks, strict=True))


@dataclass(frozen=True, eq=False)
class Plan:
    """The answer of a placer.

    `assignment` and `priority` are all that running it needs; `simulation` is SIM's verdict on the original problem. Every plan that a
    placer returns is valid.
    """

    problem: Problem
    assignment: Mapping[str, str]
    """op -> device."""
    priority: tuple[str, ...]
    """Op ids, first to run first; each device runs its own in this order."""
    algorithm: str
    """What made it, for example `m-sct, guarded, local search`."""
    simulation: Simulation
    notes: tuple[str, ...] = ()
    """What was skipped and why, what was retried."""
    candidates: tuple["Candidate", ...] = ()
    """What `auto` compared, in its order."""
    reductions: tuple[Reduction, ...] = ()
    """What is recomputed or offloaded; it is part of `problem`, as ops of its own."""
    unreduced: Problem | None = None
    """The problem without that, as it was given; None: there are no reductions, or the plan was read from a file."""
    captured: "Capture | None" = None
    """The model that the problem was made of, where it was made of one."""

    @property
    def makespan(self) -> int:
        """Predicted ticks of one step."""
        return self.simulation.makespan

    @property
    def given(self) -> Problem:
        """The problem that was asked for, without reductions where that is known."""
        return self.problem if self.unreduced is None else self.unreduced

    @property
    def devices_used(self) -> tuple[str, ...]:
        """Devices that run at least one op, by rank."""
        used = set(self.assignment.values())
        return tuple(d.id for d in self.problem.devices if d.id in used)

    def module(
        self, model: "nn.Module", *, devices: "Mapping[str, str | torch.device] | None" = None, output: "str | torch.device | None" = None
    ) -> "PlacedModule | HookedModule":
        """The planned model on its devices, in this process: see `PlacedModule` (`HookedModule` for a model without a static graph).

        Raises:
            ConfigError: the plan was not made of a model (by `plan`), or its devices are not here.
        """
        from mottle.placement.execution import place_model  # here, because it needs torch, which plans do not

        if self.captured is None:
            raise ConfigError("this plan was made of a problem, not of a model: mottle.placement.plan(model, example, devices) makes one")
        return place_model(model, self.captured, self, devices=devices, output=output)

    def _repr_html_(self) -> str:
        """For notebooks."""
        from mottle.placement.notebook import plan_html  # here, because it compares the plan with others, which are plans

        return plan_html(self)


class Candidate(NamedTuple):
    """One row of the comparison behind `auto`."""

    name: str
    makespan: int | None
    """By SIM on the graph named by `judged_on`; None: it found no placement that fits."""
    devices: int
    judged_on: str
    """`original`, or the coarsened graph on which it was ranked."""


def simulate(
    problem: Problem, assignment: Mapping[str, str], priority: Priority | None = None, *, dispatch: Dispatch = "order"
) -> Simulation:
    """Judge a placement: SIM of specification 1.5.

    Args:
        assignment: op id -> device id, for every op.
        priority: op ids in order, or op id -> number (lower first, ties in canonical order); None: canonical order.
        dispatch: `order`: each device runs its ops strictly by priority; `ready`: an idle device takes its best op with all inputs.
    Raises:
        ProblemError: unknown or missing names, an op on a device that cannot run it, or a group that is split.
    """
    faults = placement_faults(problem, assignment, priority)
    if faults:
        raise ProblemError(faults)
    graph = problem.graph
    rank = {name: d for d, name in enumerate(graph.devices)}
    device = [rank[assignment[name]] for name in graph.names]
    faults = [
        f"op {name!r} is assigned to {graph.devices[d]!r}, which cannot run it"
        for name, d, row in zip(graph.names, device, graph.k_rows, strict=True)
        if row[d] >= ABSENT
    ]
    for g, members in enumerate(graph.members):
        if len(used := sorted({device[i] for i in members})) > 1:
            faults.append(f"group {graph.group_names[g]!r} is split over {[graph.devices[d] for d in used]}: a group shares one device")
    if faults:
        raise ProblemError(faults)
    return Simulation(run(graph, device, None if priority is None else _ranks(graph.names, priority), dispatch))


def _ranks(names: list[str], priority: Priority) -> Ints:
    """(n,) dense ranks, equal where the numbers are."""
    if isinstance(priority, Sequence):
        place = {name: x for x, name in enumerate(priority)}
        return np.array([place[name] for name in names], np.int64)
    rank = {value: x for x, value in enumerate(sorted(set(priority.values())))}
    return np.array([rank[priority[name]] for name in names], np.int64)


def make_plan(problem: Problem, trace: Trace, order: Sequence[int], algorithm: str, notes: Sequence[str] = ()) -> Plan:
    """Name what a placer found. `order` holds op indices, first to run first."""
    graph = problem.graph
    assignment = {graph.names[i]: graph.devices[d] for i, d in enumerate(trace.device.tolist())}
    return Plan(problem, assignment, tuple(graph.names[i] for i in order), algorithm, Simulation(trace), tuple(notes))


def dump_plan(plan: Plan) -> dict[str, Any]:
    """The pg1 object of a plan: its problem, `assignment`, `priority`, and the prediction under `result`."""
    return dump_problem(plan.problem) | {
        "assignment": dict(plan.assignment),
        "priority": list(plan.priority),
        **({"reductions": [dump_reduction(each) for each in plan.reductions]} if plan.reductions else {}),
        "result": {
            "algorithm": plan.algorithm,
            "makespan": plan.makespan,
            "peaks": plan.simulation.peaks,
            "notes": list(plan.notes),
        },
    }


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan as pg1."""
    write_json(dump_plan(plan), path)


def load_plan(path: str | Path) -> Plan:
    """Read a plan and judge it again; nothing in the file is believed but problem, reductions, assignment and priority.

    Raises:
        ProblemError: the file carries no placement, or a malformed one.
    """
    file = load_file(path)
    if file.assignment is None:
        raise ProblemError([f"{path} holds a problem without 'assignment': place it first"])
    simulation = simulate(file.problem, file.assignment, file.priority)
    graph = file.problem.graph
    ranks = np.arange(graph.n) if file.priority is None else _ranks(graph.names, file.priority)
    priority = tuple(graph.names[i] for i in np.argsort(ranks, kind="stable").tolist())
    return Plan(file.problem, file.assignment, priority, "read from a file", simulation, reductions=file.reductions)
