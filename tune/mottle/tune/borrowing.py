"""A trial's side of a shared fleet: which crew it asks for, and what it tells the fleet's owner on the way."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray

from mottle.actors.fleet import CrewError
from mottle.sdk import Run
from mottle.sdk.jobfile import JobFile
from mottle.sdk.schema import Fault, JobFileError
from mottle.tune.arbiter import Loan, checked_crew
from mottle.tune.crew import groups_of
from mottle.tune.fields import ORIGIN, SCALING
from mottle.tune.space import job_with

SHARE = "a trial's share of a fleet has min_workers, max_workers and num_workers"


def parted(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trial's values without those of its share of the fleet, and these by the last step of their keys."""
    others = {key: value for key, value in values.items() if key.split(".")[0] != SCALING}
    scaling = dict(values.get(SCALING, {}))
    return others, scaling | {key.partition(".")[2]: values[key] for key in values if key.startswith(f"{SCALING}.")}


def job_and_crew(job: JobFile, values: Mapping[str, Any], loan: Loan) -> tuple[JobFile, tuple[int, int]]:
    """A trial's job, and its smallest and largest crew.

    `scaling.min_workers`, `scaling.max_workers` and `scaling.num_workers` (both) are a trial's share of the fleet here; which workers there
    are is the fleet's to say.

    Raises:
        JobFileError: keys or values that cannot be.
        CrewError: the fleet is smaller than the trial's minimum.
    """
    others, scaling = parted(values)
    if unknown := scaling.keys() - {"num_workers", "min_workers", "max_workers"}:
        raise JobFileError([Fault(ORIGIN, f"{SCALING}.{key}", SHARE, unknown=True) for key in sorted(unknown)])
    made = job_with(job, others)
    if groups_of(made) != loan.groups:
        raise JobFileError([Fault(ORIGIN, "fleet", "trials share one fleet, which is as it was started; search scaling.max_workers")])
    low, high = loan.crew
    minimum = scaling.get("min_workers", scaling.get("num_workers", low))
    maximum = scaling.get("max_workers", scaling.get("num_workers", max(high, minimum) if isinstance(minimum, int) else high))
    return made, checked_crew(minimum, maximum, loan.num_workers)


class Borrowing:
    """One run of a trial on a shared fleet.

    Args:
        key: the run's folder, by which the owner knows it.
    """

    def __init__(self, loan: Loan, key: str, minimum: int, maximum: int) -> None:
        self._owner, self._key = loan.owner, key
        self._crew = (minimum, maximum)
        self._open = False

    def begin(self, run: Run) -> None:
        """The run stands: lend it workers."""
        self._open = True
        self._call("enter", run.coordinator, *self._crew)

    def reported(self, samples: int) -> None:
        """It was evaluated after that many samples."""
        self._call("reported", samples)

    def fault(self) -> str:
        """Why the trial has to fail; empty if it need not."""
        return str(self._call("fault"))

    def over(self) -> None:
        """It computes nothing more; a second time this does nothing."""
        if self._open:
            self._open = False
            with suppress(CrewError):  # nobody is left to give anything back to
                self._call("over")

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._owner, method).remote(self._key, *arguments))
        except ray.exceptions.RayActorError as error:
            raise CrewError("the shared fleet is gone: its Arbiter was stopped, or the driver that started it has ended") from error
