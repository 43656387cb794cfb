"""The front door: a job as a trainable for `ray.tune.Tuner`, and the same `Tuner` with every check made before it starts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray.train
import ray.tune

from mottle.actors.fleet import CrewError
from mottle.actors.job import WorkerGroup
from mottle.core.errors import ConfigError
from mottle.sdk.jobfile import JobFile
from mottle.sdk.local import ensure_ray, missing_resources
from mottle.tune import crew
from mottle.tune.arbiter import Arbiter, Loan
from mottle.tune.borrowing import parted
from mottle.tune.given import job_of
from mottle.tune.space import check, check_metric
from mottle.tune.trial import Trial


def trainable(trainer_or_job: Any, fleet: Arbiter | None = None) -> type[Trial]:
    """A trainable for `ray.tune.Tuner`: each trial is a run of the job with some of its fields changed.

    The keys of `param_space` are fields of a job file, dotted: `optimizer.lr`, `strategy`, `fleet.slow.count` (see `docs/tune.md`).

    Args:
        trainer_or_job: a `Trainer`, a job that `mottle.sdk.jobfile.read` read, or the path of a job file.
        fleet: that all trials share, started; without one each trial has a crew of its own.
    Raises:
        ConfigError: none of these, a job without `test_data`, which measures nothing, or one whose fleet is not the shared one.
    """
    job = job_of(trainer_or_job)
    loan = None if fleet is None else fleet.loan
    if loan is not None and crew.groups_of(job) != loan.groups:
        raise ConfigError("the job declares another fleet than the one that trials are to share; start the Arbiter with the same job")
    # Tuner.restore wants a trainable of the same name, so the name is the job's and nothing else.
    return type(re.sub(r"\W", "_", job.file.stem), (Trial,), {"job": job, "loan": loan, "__doc__": f"Trials of {job.file.name}."})


class Tuner(ray.tune.Tuner):
    """`ray.tune.Tuner`, and nothing starts that could not work: every choice of the space is tried on the job on paper.

    Args:
        trainable: what `mottle.tune.trainable` made, or what it takes.
        param_space: fields of the job file, dotted or nested, with Ray Tune's search spaces.
        tune_config: as `ray.tune.Tuner` has it; its metric must be one that the job reports.
        run_config: likewise.
        options: further arguments of `ray.tune.Tuner`.
    Raises:
        ConfigError: an empty space, a metric that the job does not report, or a base job that cannot be.
        JobFileError: fields that do not exist or values that cannot be, all of them.
        CrewError: the Ray that is running is smaller than the crew of one trial.
    """

    def __init__(
        self,
        trainable: Any = None,
        *,
        param_space: Mapping[str, Any] | None = None,
        tune_config: Any = None,
        run_config: Any = None,
        **options: Any,
    ) -> None:
        if "_tuner_internal" not in options:  # Tuner.restore brings a sweep that was checked when it began
            trainable = _as_trainable(trainable)
            check_sweep(trainable.job, param_space, tune_config, run_config, trainable.loan)
            if trainable.loan is not None:
                tune_config = with_room(tune_config, trainable.loan)
        space = None if param_space is None else dict(param_space)
        super().__init__(trainable, param_space=space, tune_config=tune_config, run_config=run_config, **options)


def check_sweep(job: JobFile, space: Mapping[str, Any] | None, tune_config: Any, run_config: Any, loan: Loan | None = None) -> None:
    """Refuse what cannot work: see `Tuner`."""
    if isinstance(run_config, ray.train.RunConfig) and not isinstance(run_config, ray.tune.RunConfig):
        raise ConfigError("run_config is a ray.train.RunConfig, which belongs to a trainer; give the tuner a ray.tune.RunConfig")
    first = check(job, space if loan is None or not space else parted(space)[0] or {"seed": job.spec.seed})
    for part in (tune_config, getattr(tune_config, "scheduler", None), getattr(tune_config, "search_alg", None)):
        check_metric(first, getattr(part, "metric", None))
    if ray.is_initialized():
        check_crew(crew.groups_of(first))
    first.trainer(folder="unused")  # model, loss and data are tried once here rather than in every trial


def with_room(tune_config: Any, loan: Loan) -> Any:
    """As many trials side by side as a shared fleet has room for, unless somebody says otherwise."""
    config = tune_config or ray.tune.TuneConfig()
    return config if config.max_concurrent_trials else replace(config, max_concurrent_trials=loan.num_workers // loan.crew[0])


def check_crew(groups: Sequence[WorkerGroup]) -> None:
    """Refuse a cluster that is smaller than the crew of one trial.

    Raises:
        CrewError: says what it lacks.
    """
    if lacking := missing_resources(tuple(groups)):
        raise CrewError(f"one trial's crew needs {lacking}; ask for fewer workers or resources, or add machines")


def start_ray(groups: Sequence[WorkerGroup], num_trials: int, address: str | None = None) -> str | None:
    """As `ensure_ray`, with room for several trials side by side."""
    return ensure_ray(tuple(groups) * num_trials, address)


def _as_trainable(given: Any) -> type[Trial]:
    return given if isinstance(given, type) and issubclass(given, Trial) else trainable(given)
