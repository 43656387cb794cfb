"""Checks of a search space before any trial: every choice of every field is tried on the job file, on paper.

A field's values are tried one after the other, with the first value of every other field: all choices of a choice and of a grid, both ends
of a range. What only Python can say (`sample_from`, a define-by-run function) cannot be looked into and is left to the trial.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ray.tune.search.sample import Categorical, Float, Function, Integer

from mottle.core.errors import ConfigError, UnknownNameError
from mottle.core.naming import suggestion
from mottle.sdk.jobfile import JobFile
from mottle.sdk.schema import Fault, JobFileError
from mottle.tune.fields import ORIGIN, applied, leaves

Place = tuple[str, ...]

ALWAYS_REPORTED = ("samples", "version", "wall_s", "workers", "training_iteration", "time_total_s")
"""What a trial reports besides the job's own metrics, and what Ray Tune adds."""


def job_with(job: JobFile, values: Mapping[str, Any]) -> JobFile:
    """The job of one trial.

    Raises:
        JobFileError: keys or values that cannot be, as far as a job file tells.
    """
    return job.changed(applied(job.data, values), ORIGIN)


def check(job: JobFile, space: Mapping[str, Any] | None) -> JobFile:
    """Try every choice of a space.

    Returns:
        The job with the first value of each.
    Raises:
        ConfigError: an empty space.
        JobFileError: all that is wrong.
    """
    found: dict[tuple[str, str], Fault] = {}
    first: JobFile | None = None
    for values in probes(space):
        try:
            made = job_with(job, values)
            first = first or made
        except JobFileError as error:
            found |= {(fault.key, fault.message): fault for fault in error.faults}
    if found:
        raise JobFileError(list(found.values()))
    assert first is not None, "a space that is not empty has a first point"
    return first


def probes(space: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Points of a space: the first value of every field, then each other value in turn.

    Raises:
        ConfigError: no field, or a field without values.
    """
    if not space:
        raise ConfigError("the space is empty; name at least one field to search, such as optimizer.lr")
    values = {place: _values(place, domain) for place, domain in _fields(space)}
    known = {place: each for place, each in values.items() if each}
    first = {place: each[0] for place, each in known.items()}
    yield _nested(first)
    for place, each in known.items():
        for value in each[1:]:
            yield _nested({**first, place: value})


def reported(job: JobFile) -> list[str]:
    """Names of the metrics that a job reports."""
    return [f"test_{name}" for name in ("loss", *job.spec.metrics)]


def check_metric(job: JobFile, metric: str | None) -> None:
    """Refuse to compare trials by what they do not report.

    Raises:
        UnknownNameError: lists what they do.
    """
    known = reported(job)
    if metric is not None and metric not in (*known, *ALWAYS_REPORTED):
        raise UnknownNameError(f"the job does not report {metric!r}; {suggestion(metric, known)}")


def _fields(space: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """What is searched, with its keys; a grid is a mapping of its own in Ray's form."""
    grids = {place[:-1]: value for place, value in leaves(space) if place[-1] == "grid_search"}
    for place, value in leaves(space):
        yield (place[:-1], {"grid_search": value}) if place[:-1] in grids else (place, value)


def _values(place: Place, domain: Any) -> list[Any]:
    """Every choice, or both ends of a range; nothing for what cannot be looked into."""
    if isinstance(domain, dict) and "grid_search" in domain:
        return _some(place, domain["grid_search"])
    if isinstance(domain, Categorical):
        return _some(place, domain.categories)
    if isinstance(domain, Integer):
        return [domain.lower, domain.upper - 1] if domain.upper - 1 > domain.lower else [domain.lower]
    if isinstance(domain, Float):
        return [float(end) for end in (domain.lower, domain.upper) if abs(end) != float("inf")]
    return [] if isinstance(domain, Function) else [domain]


def _some(place: Place, values: Any) -> list[Any]:
    if not values:
        raise ConfigError(f"{'.'.join(place)} has no value to choose from")
    return list(values)


def _nested(values: Mapping[Place, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for place, value in values.items():
        inner = tree
        for key in place[:-1]:
            inner = inner.setdefault(key, {})
        inner[place[-1]] = value
    return tree
