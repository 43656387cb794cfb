"""The file that `mottle tune` takes: which fields of a job are searched, in which ranges, by whom, and what the best trial is.

    space:
      optimizer.lr: {loguniform: [1e-3, 1.0]}
      strategy: {choice: [sync, {async: {max_staleness: 8}}]}
      fleet.slow.count: {grid: [0, 2]}
    metric: test_accuracy
    mode: max
    trials: 16
    search: tpe
    scheduler: {asha: {max_evaluations: 10}}

Everything that is wrong is reported at once, each with file, line and key, as for job files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from ray import tune

from mottle.core.errors import ConfigError
from mottle.core.naming import construct, suggestion
from mottle.sdk.jobfile import JobFile
from mottle.sdk.schema import Document, Fault, JobFileError, KeyPath, read_document
from mottle.sdk.schema.job import Section, Spec, shown
from mottle.tune.borrowing import parted
from mottle.tune.presearch import Given, Simulate
from mottle.tune.searching import scheduler_of, search_of
from mottle.tune.shares import policy_of
from mottle.tune.space import check, check_metric

DOMAINS: Mapping[str, tuple[int | None, Callable[..., Any]]] = {
    "choice": (None, lambda *values: tune.choice(list(values))),
    "grid": (None, lambda *values: tune.grid_search(list(values))),
    "uniform": (2, tune.uniform),
    "quniform": (3, tune.quniform),
    "loguniform": (2, tune.loguniform),
    "randint": (2, tune.randint),
    "lograndint": (2, tune.lograndint),
    "normal": (2, tune.randn),
}
"""By name: how many numbers it takes (None: as many values as one likes, at least one), and what makes it."""


class Shape(Section):
    """What such a file holds."""

    space: dict[str, Any] = Field(min_length=1)
    """Fields of the job by dotted key, or nested: each a range, a choice, a grid or one value."""
    metric: str
    """What trials are compared by; one that the job reports, such as `test_loss`."""
    mode: Literal["max", "min"]
    """Whether a high or a low value of it is the better one."""
    trials: int = Field(default=1, ge=1)
    """Times that the space is drawn from; a grid is gone through as often."""
    search: Spec = "random"
    """Who proposes: `random` (and every grid), or `tpe` of Optuna."""
    scheduler: Spec = "fifo"
    """Who stops early: `fifo` (nobody), `asha`, `hyperband`, `median`, `pbt`."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials side by side at most; as many as the cluster has room for if left out."""
    share: Spec | None = None
    """Trials share the job's fleet by that policy: `equal`, `halving`, `marginal`; without it each has a crew of its own."""
    fidelity: Spec = "live"
    """`live`, or `simulate`: points are tried on the simulator first, and the best `trials` of them are run."""
    stop: dict[str, float] = Field(default_factory=dict)
    """End a trial when a metric has reached that value: `{test_accuracy: 0.98}`."""
    seed: int = Field(default=0, ge=0)
    """Of what is drawn."""


@dataclass(frozen=True)
class SpaceFile:
    """A file that has been read and checked by itself.

    Attributes:
        space: as `ray.tune.Tuner` takes it.
    """

    file: Path
    shape: Shape
    space: Mapping[str, Any]
    _document: Document

    def check(self, job: JobFile) -> JobFile:
        """Try every choice on the job; the job of the first one.

        Raises:
            JobFileError: all that is wrong.
        """
        try:
            first = check(job, self.space if self.shape.share is None else parted(self.space)[0] or {"seed": job.spec.seed})
        except JobFileError as error:
            name = self._document.name
            raise JobFileError([Fault(name, fault.key, fault.message, unknown=fault.unknown) for fault in error.faults]) from None
        for key, metric in (("metric", self.shape.metric), *((f"stop.{name}", name) for name in self.shape.stop)):
            try:
                check_metric(first, metric)
            except ConfigError as error:
                raise JobFileError([self._document.fault(tuple(key.split(".", 1)), str(error))]) from None
        return first

    def tune_config(self, points: Sequence[Mapping[str, Any]] | None = None) -> tune.TuneConfig:
        """For `ray.tune.Tuner`.

        Args:
            points: that alone are run.
        """
        shape = self.shape
        searcher = search_of(shape.search, shape.seed) if points is None else Given(points)
        return tune.TuneConfig(
            metric=shape.metric,
            mode=shape.mode,
            num_samples=shape.trials if points is None else len(points),
            search_alg=searcher,
            scheduler=scheduler_of(shape.scheduler, self.space),
            max_concurrent_trials=shape.concurrent,
            reuse_actors=True,
        )


def read(file: str | Path, settings: tuple[str, ...] = ()) -> SpaceFile:
    """Read and check a space file.

    Args:
        settings: `key.sub=value` each, set over what the file says.
    Raises:
        JobFileError: everything that is wrong, each with its place.
    """
    document = read_document(Path(file), such_as="space: and metric:")
    for assignment in settings:
        document.set(assignment)
    try:
        shape = Shape.model_validate(document.data)
    except ValidationError as error:
        raise JobFileError([_fault(document, each) for each in error.errors()]) from error
    faults: list[Fault] = []
    space = dict(_domains(shape.space, ("space",), document, faults))
    faults += _searching_faults(shape, space, document)
    if faults:
        raise JobFileError(sorted(faults, key=lambda fault: fault.line))
    return SpaceFile(Path(file).absolute(), shape, space, document)


def _fault(document: Document, error: Any) -> Fault:
    path = tuple(error["loc"])
    match error["type"]:
        case "extra_forbidden":
            return document.fault(path, f"unknown key {path[-1]!r}; {suggestion(str(path[-1]), Shape.model_fields)}", unknown=True)
        case "missing":
            return document.fault(path, "is needed; there is no default")
        case _:
            return document.fault(path, f"{error['msg'].replace('Input should be', 'wanted')}, got {shown(error['input'])}")


def _domains(space: Mapping[str, Any], at: KeyPath, document: Document, faults: list[Fault]) -> Iterator[tuple[str, Any]]:
    """The space with Ray's domains in the place of their names."""
    for key, value in space.items():
        path = (*at, key)
        if not isinstance(value, dict):
            yield key, value
        elif len(value) == 1 and (name := next(iter(value))) in DOMAINS:
            try:
                yield key, _domain(name, value[name])
            except ConfigError as error:
                faults.append(document.fault(path, str(error)))
        elif len(value) == 1 and isinstance(next(iter(value.values())), list) and get_close_matches(name, DOMAINS, n=1):
            faults.append(document.fault(path, f"unknown range {name!r}; {suggestion(name, DOMAINS)}", unknown=True))
        else:
            yield key, dict(_domains(value, path, document, faults))


def fidelity_of(shape: Shape) -> Simulate | None:
    """How points are tried before they are run; None if they are not.

    Raises:
        ConfigError: a name or option that there is not, or what does not go with it.
    """
    if shape.fidelity == "live":
        return None
    how: Simulate = construct(shape.fidelity, {"simulate": Simulate}, "fidelity")
    if how.target is not None and shape.mode != "max":
        raise ConfigError("a target is reached from below: give it for a metric that grows (mode: max), or leave it out")
    if shape.search != "random":
        raise ConfigError(f"the simulator says which points are run, so there is nothing to search by {shape.search!r}; leave search out")
    if how.candidates < shape.trials:
        raise ConfigError(f"{how.candidates} candidates are fewer than the {shape.trials} trials that are to be kept of them")
    return how


def _domain(name: str, arguments: Any) -> Any:
    num, make = DOMAINS[name]
    if not isinstance(arguments, list) or (len(arguments) != num if num is not None else not arguments):
        raise ConfigError(f"{name} takes a list of {'values' if num is None else f'{num} numbers'}, got {arguments!r}")
    if num is not None and not all(isinstance(each, int | float) and not isinstance(each, bool) for each in arguments):
        raise ConfigError(f"{name} takes numbers, got {arguments!r}")
    if num is not None and name != "normal" and not arguments[0] < arguments[1]:
        raise ConfigError(f"{name} goes from a lower to a higher number, got {arguments!r}")
    try:
        return make(*arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name}: {error}") from error


def _searching_faults(shape: Shape, space: Mapping[str, Any], document: Document) -> Iterator[Fault]:
    grids = [key for key, value in space.items() if isinstance(value, dict) and "grid_search" in value]
    checks: tuple[tuple[str, Callable[[], object]], ...] = (
        ("search", lambda: search_of(shape.search, shape.seed)),
        ("scheduler", lambda: scheduler_of(shape.scheduler, space)),
        ("fidelity", lambda: fidelity_of(shape)),
        ("share", lambda: shape.share is None or policy_of(shape.share)),
    )
    for key, attempt in checks:
        try:
            attempt()
        except ConfigError as error:
            yield document.fault((key,), str(error))
    if shape.search != "random" and grids:
        yield document.fault(("space", grids[0]), "a grid is gone through by the search `random`; make it a choice, or leave search out")
