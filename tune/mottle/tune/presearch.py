"""A cheap fidelity: points of a space are tried on the simulator, and only the best are run.

The simulator trains a job for real, with the machines' own decisions, on virtual time, so what it foretells is the time to a target on the
fleet that the job declares: how strategies, their options and fleets compare, before any worker is started. What it does not know is in
`sample_s`: how long a sample takes on a machine without a declared delay.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.tune.search import Searcher
from ray.tune.search.variant_generator import generate_variants

from mottle.actors.job import Job
from mottle.core.errors import ConfigError
from mottle.data import Positions
from mottle.engines.batches import to_device
from mottle.sdk.jobfile import JobFile
from mottle.sdk.schema import JobFileError
from mottle.sdk.simulating import task_of
from mottle.simulate import Fleet, Workers
from mottle.simulate.compare import limited
from mottle.simulate.outcome import outcome_of
from mottle.tune.borrowing import parted
from mottle.tune.fields import plain
from mottle.tune.ranking import Mode
from mottle.tune.space import job_with

TIMED = 5
"""Micro-batches that a sample's time is measured on; the fastest counts."""


@dataclass(frozen=True, kw_only=True)
class Simulate:
    """`fidelity: {simulate: {...}}`.

    Attributes:
        candidates: points that are simulated.
        target: value of the sweep's metric whose time is foretold; without it, points are compared by the metric at their end, then by the
            time that they took.
        sample_s: time of a sample on a worker without a declared delay; measured on this machine if None.
    """

    candidates: int = 64
    target: float | None = None
    sample_s: float | None = None

    def __post_init__(self) -> None:
        if self.candidates < 1 or (self.sample_s is not None and not self.sample_s > 0):
            raise ConfigError(f"simulate needs candidates >= 1 and sample_s > 0, got {self.candidates} and {self.sample_s}")


@dataclass(frozen=True)
class Forecast:
    """What the simulator says of one point."""

    values: Mapping[str, Any]
    seconds: float
    """Until the target was measured, or to the end."""
    reached: bool
    score: float | None
    """The metric's best value on the way to a target, else its last one; None if it could not be simulated."""
    trouble: str = ""


def points(space: Mapping[str, Any], number: int, seed: int) -> Iterator[dict[str, Any]]:
    """That many points of a space, as `ray.tune.Tuner` takes it: drawn, and each grid gone through."""
    state, given = np.random.RandomState(seed), 0
    while given < number:
        for _, values in generate_variants(dict(space), random_state=state):
            if given == number:
                return
            given += 1
            yield dict(values)


def forecast(job: JobFile, values: Mapping[str, Any], metric: str, how: Simulate, *, shared: bool = False) -> Forecast:
    """Simulate a job with these values on its own fleet; a point that cannot be says why, and nothing is raised.

    Args:
        shared: trials share the job's fleet, so `scaling` is not of the job but the trial's part of it, which is left out of account.
    """
    try:
        described = job_with(job, parted(values)[0] if shared else values).trainer(folder="unused").job
        fleet = fleet_of(described, how.sample_s or measured_sample_s(described))
        task = limited(task_of(described, fleet), seconds=None, target=None if how.target is None else (metric, how.target))
        goal = task.config.target
        outcome = outcome_of(task.run(fleet, described.strategy), "", goal)
    except (ConfigError, JobFileError) as error:
        return Forecast(values, 0.0, reached=False, score=None, trouble=str(error))
    if goal is not None and outcome.target is not None:
        reached_s = outcome.target.seconds
        return Forecast(values, outcome.seconds if reached_s is None else reached_s, reached_s is not None, outcome.target.best)
    return Forecast(values, outcome.seconds, reached=False, score=outcome.metrics.get(metric))


def ranked(forecasts: Sequence[Forecast], mode: Mode) -> list[Forecast]:
    """The best first: who reaches the target, the fastest first; then by the metric, then by time; what cannot be comes last."""

    def key(each: Forecast) -> tuple[bool, float, float]:
        if each.reached:
            return False, float("-inf"), each.seconds
        worst = each.score is None or each.score != each.score
        return True, float("inf") if worst or each.score is None else -each.score if mode == "max" else each.score, each.seconds

    return sorted(forecasts, key=key)


def presearch(
    job: JobFile,
    space: Mapping[str, Any],
    keep: int,
    *,
    metric: str,
    mode: Mode,
    how: Simulate | None = None,
    seed: int = 0,
    shared: bool = False,
    told: Callable[[Forecast], None] = lambda forecast: None,
) -> list[Forecast]:
    """Simulate points of a space and keep the best; `Given` has Ray Tune run their values.

    Args:
        keep: at most so many.
        shared: as in `forecast`.
        told: called after each.
    Raises:
        ConfigError: a target for a metric that falls, or no point that could be simulated, with the last reason.
    """
    how = how or Simulate()
    if how.target is not None and mode != "max":
        raise ConfigError("a target is reached from below: give it for a metric that grows (mode: max), or leave it out")
    if how.sample_s is None:
        how = replace(how, sample_s=measured_sample_s(job.trainer(folder="unused").job))
    done = []
    for values in points(space, how.candidates, seed):
        done.append(forecast(job, values, metric, how, shared=shared))
        told(done[-1])
    sound = [each for each in ranked(done, mode) if not each.trouble]
    if not sound:
        raise ConfigError(f"none of {len(done)} points could be simulated; the last one: {done[-1].trouble}")
    return sound[:keep]


class Given(Searcher):
    """Proposes these points, in their order, and no others. (Ray's own generator takes no choice whose values have options.)"""

    def __init__(self, points: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self._left = [plain(each) for each in points]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True  # the space has been drawn from already

    def suggest(self, trial_id: str) -> Any:
        return self._left.pop(0) if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """What comes of a point changes nothing."""

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text(json.dumps(self._left), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        self._left = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))


def fleet_of(job: Job, sample_s: float) -> Fleet:
    """The fleet that a job declares: every worker takes that long over a sample, and its declared delay."""
    groups = [Workers(name=each.name, count=each.count, sample_s=sample_s + each.delay_s, attack=each.attack) for each in job.groups]
    return Fleet(workers=tuple(groups), seed=job.seed, collusion=job.collusion)


def measured_sample_s(job: Job) -> float:
    """Forward and backward of one sample of a micro-batch on this machine, in seconds."""
    model, size = job.model(), min(job.micro_batch_size, job.brain.num_positions)
    batch = to_device(job.loader.load(Positions(0, 0, size)), torch.device("cpu"))
    taken = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(TIMED):
            began = time.perf_counter()
            returned = job.loss(model, batch)
            mean: Any = returned[0] if isinstance(returned, tuple) else returned
            mean.backward()
            taken.append(time.perf_counter() - began)
    return max(min(taken) / size, 1e-9)
