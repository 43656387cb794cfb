"""What `mottle.tune` is given to search over: a job file, or a `Trainer`, which is taken apart into the fields of one.

The objects of a trainer (model, loss, data, metrics) stand in the job under names such as `trainer:model`, so that every other field can be
searched and is checked as that of a file. They travel to the trials by pickling: a data set that is large is better given as a function.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import cloudpickle

from mottle.actors.job import WorkerGroup
from mottle.core.errors import ConfigError
from mottle.sdk import Trainer, Until, jobfile
from mottle.sdk.jobfile import JobFile
from mottle.tune.fields import plain

_SPECS = ("optimizer", "lr_schedule", "strategy", "rule", "codec", "batch_policy")
_COUNTS = ("batch_size", "micro_batch_size", "seed", "shards", "replicas", "evaluate_every", "rule_samples")
_OTHERS = ("collusion", "seed_samples", "max_grad_norm", "max_grad_norm_per_worker", "retry_rejected", "lease_floor_s")
_OBJECTS = ("model", "loss", "train_data", "validation_data", "test_data", "collate_fn")
DROPPED = ("attack", "scaling_config", "run_config", "folder", "loggers", "checkpoint_every")
"""Arguments of a trainer that are in its groups already, or are Ray Tune's to say for a trial."""


class Carried(Mapping[str, Any]):
    """Objects that travel to another process and are unpacked there when they are asked for.

    By then that process looks for modules where this one does: Ray unpickles a trial before anybody could tell it where to look.
    """

    def __init__(self, objects: Mapping[str, Any]) -> None:
        self._objects: Mapping[str, Any] | None = objects
        self._folders: list[str] = []
        self._packed = b""

    def __getitem__(self, name: str) -> Any:
        return self._unpacked()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._unpacked())

    def __len__(self) -> int:
        return len(self._unpacked())

    def _unpacked(self) -> Mapping[str, Any]:
        if self._objects is None:
            sys.path.extend(folder for folder in self._folders if folder not in sys.path)
            self._objects = cloudpickle.loads(self._packed)
        return self._objects

    def __getstate__(self) -> dict[str, Any]:
        packed = cloudpickle.dumps(dict(self._unpacked()))  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
        return {"_objects": None, "_folders": [folder for folder in sys.path if folder], "_packed": packed}


def job_of(given: Any) -> JobFile:
    """The job to search over.

    Args:
        given: a `Trainer`, a job that `mottle.sdk.jobfile.read` read, or the path of a job file.
    Raises:
        ConfigError: none of these, a trainer that no job file could describe, or a job that measures nothing.
    """
    if isinstance(given, Trainer):
        job = _taken_apart(given)
    elif isinstance(given, JobFile):
        job = given
    elif isinstance(given, str | Path):
        job = jobfile.read(given)
    else:
        raise ConfigError(f"wanted a Trainer, a job file or its path, got {type(given).__name__}")
    if job.spec.test_data is None:
        raise ConfigError("a sweep compares what jobs measure, and this one measures nothing; give it test_data")
    return job


def _taken_apart(trainer: Trainer) -> JobFile:
    """The trainer as a job file would describe it."""
    given = trainer.arguments
    objects = {f"trainer:{name}": given[name] for name in _OBJECTS if given[name] is not None}
    data: dict[str, Any] = {name: f"trainer:{name}" for name in _OBJECTS if given[name] is not None}
    metrics: Mapping[str, Any] = given["metrics"] or {}
    objects |= {f"trainer:metrics.m{index}": metric for index, metric in enumerate(metrics.values())}
    data["metrics"] = {name: f"trainer:metrics.m{index}" for index, name in enumerate(metrics)}
    for name in _SPECS:
        if given[name] is not None and not isinstance(given[name], str | Mapping):
            raise ConfigError(
                f"{name} is searched by its name and options, got an object ({type(given[name]).__name__}); write {{name: {{...}}}}"
            )
    data |= {name: plain(given[name]) for name in (*_SPECS, *_COUNTS, *_OTHERS)}
    data["health"] = None if given["health"] is None else asdict(given["health"])
    data["until"] = {name: plain(value) for name, value in asdict(Until.of(given["until"])).items() if value is not None}
    data["fleet"] = [_group(group) for group in trainer.job.groups]
    return jobfile.described(Path.cwd() / trainer.settings.name, data, "the trainer", Carried(objects))


def _group(group: WorkerGroup) -> dict[str, Any]:
    """A group of the fleet, as a job file says it."""
    fields = {name: plain(value) for name, value in asdict(group).items() if name not in ("count", "max_count")}
    return {**fields, "count": group.count if group.max_count is None else [group.count, group.max_count]}
