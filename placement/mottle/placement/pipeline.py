"""Pipeline schedules as pure state machines: which microbatch a stage runs next, GPipe or 1F1B (specification 4.5).

A stage runs its list strictly in order; it starts an item as soon as it is idle and what the item needs has arrived: a forward pass its
input from the stage before, a backward pass its gradient from the stage after (the last stage makes its own). Who drives a machine
carries the messages and keeps the clock. `as_problem` unrolls a schedule for the simulator that judges placements.

    GPipe  F0 F1 ... F(M-1)  B(M-1) ... B1 B0            keeps M activations
    1F1B   min(M, S-1-s) F, then F B in turn, then B     keeps at most min(M, S-s)

For equal stages either leaves a stage idle for (S-1)/(M+S-1) of the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from mottle.core.errors import ConfigError, ProtocolError
from mottle.core.naming import suggestion
from mottle.placement.problem import Device, Edge, Link, Op, Problem

ScheduleName = Literal["gpipe", "1f1b"]
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
Pass = Literal["forward", "backward"]


class Work(NamedTuple):
    """One pass of one microbatch through a stage."""

    what: Pass
    microbatch: int


class Arrived(NamedTuple):
    """Event: what a pass needs is there."""

    work: Work


class Finished(NamedTuple):
    """Event: the stage has run it."""

    work: Work


class Run(NamedTuple):
    """Command: run it now."""

    work: Work


class Send(NamedTuple):
    """Command: hand the result to another stage, where it makes `work` possible."""

    stage: int
    work: Work


Event = Arrived | Finished
Command = Run | Send


def order_of(schedule: ScheduleName, stage: int, num_stages: int, microbatches: int) -> list[Work]:
    """What a stage runs, first to last.

    Raises:
        ConfigError: an unknown schedule, no microbatch, or a stage that is not there.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule {schedule!r} is unknown; {suggestion(schedule, SCHEDULES)}")
    if microbatches < 1 or not 0 <= stage < num_stages:
        raise ConfigError(
            f"wanted 0 <= stage < stages and at least one microbatch; got stage {stage} of {num_stages}, {microbatches} microbatches"
        )
    forward = [Work("forward", m) for m in range(microbatches)]
    backward = [Work("backward", m) for m in range(microbatches)]
    if schedule == "gpipe":
        return forward + backward[::-1]
    ahead = min(microbatches, num_stages - 1 - stage)
    pairs = [work for pair in zip(forward[ahead:], backward, strict=False) for work in pair]
    return forward[:ahead] + pairs + backward[microbatches - ahead :]


class StageMachine:
    """One stage of a pipeline for one step. Knows no clock, tensor or peer."""

    def __init__(self, schedule: ScheduleName, stage: int, num_stages: int, microbatches: int) -> None:
        self.stage, self.num_stages = stage, num_stages
        self.order = order_of(schedule, stage, num_stages, microbatches)
        self.running: Work | None = None
        self.stash: set[int] = set()
        """Microbatches whose activations are kept."""
        self.largest_stash = 0
        self._position = 0
        first = stage == 0
        self._there = {work for work in self.order if first and work.what == "forward"}
        self._seen: list[Event] = []

    @property
    def done(self) -> bool:
        """Everything has run."""
        return self._position == len(self.order) and self.running is None

    @property
    def coming(self) -> Sequence[Work]:
        """What has not begun yet, in order."""
        return self.order[self._position :]

    def start(self) -> list[Command]:
        """What can be run before anything has arrived."""
        return self._next()

    def handle(self, event: Event) -> list[Command]:
        """Take in an event; the answer is in the order in which to obey it.

        Raises:
            ProtocolError: something arrives twice or is not expected, or what finishes does not run.
        """
        self._seen.append(event)
        if isinstance(event, Arrived):
            if event.work in self._there or event.work not in self.order:
                raise ProtocolError(f"stage {self.stage}: {event.work} arrived twice or is not of this step; so far {self._seen}")
            self._there.add(event.work)
            return self._next()
        if event.work != self.running:
            raise ProtocolError(f"stage {self.stage}: {event.work} finished, but {self.running} was running; so far {self._seen}")
        self.running = None
        return self._hand_on(event.work) + self._next()

    def _hand_on(self, work: Work) -> list[Command]:
        if work.what == "backward":
            self.stash.discard(work.microbatch)
            return [Send(self.stage - 1, work)] if self.stage else []
        if self.stage + 1 < self.num_stages:
            return [Send(self.stage + 1, work)]
        self._there.add(Work("backward", work.microbatch))  # the loss is here
        return []

    def _next(self) -> list[Command]:
        if self.running is not None or self._position == len(self.order) or self.order[self._position] not in self._there:
            return []
        self.running = self.order[self._position]
        self._position += 1
        if self.running.what == "forward":
            self.stash.add(self.running.microbatch)
            self.largest_stash = max(self.largest_stash, len(self.stash))
        return [Run(self.running)]


@dataclass(frozen=True)
class StageCost:
    """Of one microbatch on one stage, in ticks and bytes."""

    forward: int
    backward: int
    activations: int = 0
    """Kept from the forward to the backward pass."""
    resident: int = 0
    """Weights and their state."""
    sent: int = 0
    """Passed on to the next stage; the gradient that comes back is as large."""


def as_problem(
    schedule: ScheduleName, stages: Sequence[StageCost], microbatches: int, devices: Sequence[Device], link: Link | None = None
) -> tuple[Problem, dict[str, str], dict[str, float]]:
    """A step of a pipeline for `simulate`: (problem, assignment, priority); stage s is pinned to device s.

    Raises:
        ConfigError: not one device a stage.
    """
    if len(devices) != len(stages):
        raise ConfigError(f"a pipeline has one device a stage; got {len(stages)} stages and {len(devices)} devices")
    ops, edges, home, place = [], [], {}, {}
    last = len(stages) - 1
    for s, cost in enumerate(stages):
        for position, work in enumerate(order_of(schedule, s, len(stages), microbatches)):
            name, m = _name(work, s), work.microbatch
            ticks = cost.forward if work.what == "forward" else cost.backward
            resident = cost.resident if position == 0 else 0
            kept = cost.activations if work.what == "forward" else 0
            ops.append(Op(name, ticks, resident, out=kept, pin=(devices[s].id,)))
            home[name], place[name] = devices[s].id, float(position * len(stages) + s)
            if work.what == "forward":
                edges.append(Edge(name, _name(Work("backward", m), s), 0, tensor="kept"))
                if s < last:
                    edges.append(Edge(name, _name(work, s + 1), cost.sent, tensor="sent"))
            elif s:
                edges.append(Edge(name, _name(work, s - 1), stages[s - 1].sent, tensor="sent"))
    problem = Problem(
        ops=tuple(ops), edges=tuple(edges), devices=tuple(devices), default_link=link or Link(), mem_mode="dynamic", comm_mode="link"
    )
    return problem, home, place


def bubble(stages: int, microbatches: int) -> float:
    """Share of a step that a stage is idle when all stages take equally long: (S-1)/(M+S-1)."""
    return (stages - 1) / (microbatches + stages - 1)


def _name(work: Work, stage: int) -> str:
    return f"{work.what} {work.microbatch} on {stage}"
