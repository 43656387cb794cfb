"""The front door of shared fleets: `Arbiter` starts the workers of a job's fleet once, and trials borrow them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from mottle.actors import hosts
from mottle.actors.fleet import CrewError
from mottle.actors.job import WorkerGroup
from mottle.actors.launching import environment
from mottle.core.errors import ConfigError
from mottle.sdk.jobfile import JobFile
from mottle.sdk.local import ensure_ray, missing_resources
from mottle.tune import crew
from mottle.tune.given import job_of
from mottle.tune.owner import FleetOwner
from mottle.tune.shares import Policy, policy_of
from mottle.tune.usage import FleetUsage

THREADS = 64
"""Of the owner: each trial's `enter`, `over` and questions are short; none waits for another."""


@dataclass(frozen=True)
class Loan:
    """How trials reach a shared fleet; it travels with the trainable.

    Attributes:
        owner: actor, see `FleetOwner`.
        groups: the fleet.
        crew: smallest and largest crew of a trial that does not say otherwise.
    """

    owner: Any
    groups: tuple[WorkerGroup, ...]
    crew: tuple[int, int]

    @property
    def num_workers(self) -> int:
        return sum(group.count for group in self.groups)


class Arbiter:
    """A fleet of workers that trials share: they grow and shrink while they run, and no process is started for it.

        with Arbiter("job.yaml", policy="equal") as fleet:
            Tuner(trainable("job.yaml", fleet), ...).fit()
            print(fleet.usage())

    A trial asks Ray Tune for nothing then: how many run side by side is `max_concurrent_trials`, and those whose minimum has no room wait.

    Args:
        trainer_or_job: as `trainable` takes it: `count` workers of each group of its fleet are started.
        policy: who gets the workers beyond everybody's minimum: `equal`, `halving` (more the further a trial has come) or `marginal` (to
            whom it speeds up most), or one of these with options: `{"halving": {"reduction": 3}}`.
        min_workers: with which a trial begins, and below which it is not brought for others; a trial may search `scaling.min_workers`.
        max_workers: of a trial; the whole fleet if None. A trial may search `scaling.max_workers`.
        stay_s: least time that a worker stays where it is, unless a trial cannot begin without it or its own is over.
        max_deaths: workers that a trial may lose between two evaluations before it fails; each is replaced.
    Raises:
        ConfigError: an unknown policy, numbers that cannot be, or a fleet smaller than `min_workers`.
    """

    def __init__(
        self,
        trainer_or_job: Any,
        *,
        policy: Mapping[str, Any] | str | Policy = "equal",
        min_workers: int = 1,
        max_workers: int | None = None,
        stay_s: float = 2.0,
        max_deaths: int = 2,
    ) -> None:
        job: JobFile = job_of(trainer_or_job)
        self._groups = crew.groups_of(job)
        self._policy = policy_of(policy)
        self._stay_s, self._max_deaths = stay_s, max_deaths
        size = sum(group.count for group in self._groups)
        if not (max_deaths >= 1 and stay_s >= 0):
            raise ConfigError(f"an arbiter needs max_deaths >= 1 and stay_s >= 0, got {max_deaths} and {stay_s}")
        self._crew = checked_crew(min_workers, size if max_workers is None else max_workers, size)
        self._owner: Any = None

    def start(self, *, address: str | None = None) -> "Arbiter":
        """Start the workers and wait for them.

        Args:
            address: of a Ray cluster; by default the one at hand, else a Ray is started.
        Raises:
            CrewError: the cluster is smaller than the fleet, or a worker could not start.
        """
        ensure_ray(self._groups, address)
        if lacking := missing_resources(self._groups):
            raise CrewError(f"the fleet needs {lacking}; ask for fewer workers or resources, or add machines")
        options = {"num_cpus": 0, "max_concurrency": THREADS, "runtime_env": environment(), **hosts.here()}
        owner: Any = ray.remote(FleetOwner)
        self._owner = owner.options(**options).remote(self._groups, self._policy, self._stay_s, self._max_deaths)
        try:
            trouble = ray.get(self._owner.stand.remote())
        except BaseException:
            self.stop()
            raise
        if trouble:
            self.stop()
            raise CrewError(f"the fleet could not start: {trouble}")
        return self

    def stop(self) -> None:
        """End all workers."""
        if self._owner is not None:
            ray.kill(self._owner)
            self._owner = None

    def __enter__(self) -> "Arbiter":
        return self.start() if self._owner is None else self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    @property
    def loan(self) -> Loan:
        """For trainables."""
        if self._owner is None:
            raise ConfigError("the fleet has not started; use `with Arbiter(...) as fleet:`, or call start()")
        return Loan(self._owner, self._groups, self._crew)

    def usage(self) -> FleetUsage:
        """How busy the fleet was, worker by worker."""
        usage: FleetUsage = ray.get(self.loan.owner.usage.remote())
        return usage


def checked_crew(minimum: Any, maximum: Any, size: int) -> tuple[int, int]:
    """Smallest and largest crew of a trial.

    Raises:
        CrewError: the fleet is smaller than the minimum.
        ConfigError: not 1 <= minimum <= maximum.
    """
    if not (isinstance(minimum, int) and isinstance(maximum, int) and minimum >= 1):
        raise ConfigError(f"a trial's crew needs whole numbers with 1 <= min_workers <= max_workers, got {minimum!r} and {maximum!r}")
    if minimum > size:
        raise CrewError(f"a trial needs {minimum} workers and the fleet has {size}; lower min_workers or declare more workers")
    if maximum < minimum:
        raise ConfigError(f"a trial's crew needs whole numbers with 1 <= min_workers <= max_workers, got {minimum} and {maximum}")
    return minimum, min(maximum, size)
