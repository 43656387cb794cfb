"""A job file: a whole run in YAML, with `module:attribute` for what only Python can say. Documented in `docs/jobs.md`.

    job = read("job.yaml", ["until.epochs=1"])
    job.trainer(folder="runs/first").fit()

Everything that is wrong with a file is reported at once, each with file, line and key. Paths in the file are relative to the file.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import ray.train
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from mottle import aggregation, attacks, compression, optim, strategies
from mottle.actors.job import WorkerGroup
from mottle.core.errors import ConfigError, UnknownNameError
from mottle.core.health import HealthConfig
from mottle.core.naming import suggestion
from mottle.data.arrow_files import ArrowFiles
from mottle.optim import catalogue, schedule
from mottle.sdk.configs import groups_of
from mottle.sdk.schema import (
    FILES_TAG,
    REFERENCE_TAG,
    Document,
    Fault,
    Files,
    Group,
    Job,
    JobFileError,
    KeyPath,
    dotted,
    read_document,
    resolve,
    shown,
)
from mottle.sdk.trainer import Trainer
from mottle.storage import Folder
from mottle.strategies import batch_policy

RECORD_FILE = "job.json"
RECORD_FORMAT = 1


@dataclass(frozen=True)
class JobFile:
    """A job file that has been read and checked.

    Attributes:
        file: it, absolute.
        spec: its content, defaults filled in.
        objects: what references mean that stand for objects at hand and not for something to import.
    """

    file: Path
    spec: Job
    _document: Document
    objects: Mapping[str, Any] = field(default_factory=dict)

    @property
    def out(self) -> str:
        """The run's folder if nobody says otherwise: the file's own `out`, or `runs/NAME` under the working directory."""
        if self.spec.out is None:
            return str(Path("runs") / self.file.stem)
        return self._located(self.spec.out)

    @property
    def data(self) -> dict[str, Any]:
        """Its content as it was written: a copy."""
        return copy.deepcopy(self._document.data)

    def changed(self, data: Mapping[str, Any], origin: str) -> "JobFile":
        """The same file with another content, checked anew.

        Args:
            origin: where the content comes from, for messages.
        Raises:
            JobFileError: as `read`.
        """
        return described(self.file, data, origin, self.objects)

    def trainer(self, *, folder: str | Path | None = None) -> Trainer:
        """The trainer that the file describes.

        Args:
            folder: of the run; `out` by default.
        Raises:
            JobFileError: a name that cannot be imported, or anything that `Trainer` refuses.
        """
        spec = self.spec
        named = self._resolved()
        where = str(folder if folder is not None else self.out)
        try:
            return Trainer(
                named["model"],
                named["loss"],
                named["train_data"],
                validation_data=named["validation_data"],
                test_data=named["test_data"],
                metrics={name: named[f"metrics.{name}"] for name in spec.metrics},
                collate_fn=named["collate_fn"],
                optimizer=spec.optimizer,
                lr_schedule=spec.lr_schedule,
                batch_size=spec.batch_size,
                batch_policy=spec.batch_policy,
                micro_batch_size=spec.micro_batch_size,
                until=spec.until.model_dump(exclude_none=True),
                strategy=spec.strategy,
                rule=spec.rule,
                codec=spec.codec,
                attack=spec.attack,
                collusion=spec.collusion,
                seed=spec.seed,
                seed_samples=spec.seed_samples,
                scaling_config=[worker_group(group) for group in spec.fleet],
                run_config=_run_config(spec, where),
                folder=where,
                shards=spec.shards,
                replicas=spec.replicas,
                loggers=[named[f"loggers.{index}"]() for index in range(len(spec.loggers))],
                evaluate_every=spec.evaluate_every,
                checkpoint_every=spec.checkpoint.every,
                max_grad_norm=spec.max_grad_norm,
                max_grad_norm_per_worker=spec.max_grad_norm_per_worker,
                retry_rejected=spec.retry_rejected,
                rule_samples=spec.rule_samples,
                lease_floor_s=spec.lease_floor_s,
                health=None if spec.health is None else HealthConfig(**spec.health.model_dump()),
            )
        except ConfigError as error:
            raise JobFileError([Fault(self._document.name, "", str(error))]) from error

    def record(self, folder: str | Path) -> None:
        """Note the job in a run's folder, so that `recorded` can take it up from there."""
        content = {"format": RECORD_FORMAT, "file": str(self.file), "job": self._document.data}
        Folder.at(folder).write_text(RECORD_FILE, json.dumps(content, indent=1) + "\n")

    def _resolved(self) -> dict[str, Any]:
        """Everything that the file names in Python, by dotted key."""
        spec, named, faults = self.spec, dict[str, Any](), list[Fault]()
        wanted: dict[KeyPath, Any] = {(key,): getattr(spec, key) for key in ("model", "loss", "collate_fn")}
        wanted |= {(key,): getattr(spec, key) for key in ("train_data", "validation_data", "test_data")}
        wanted |= {("metrics", name): value for name, value in spec.metrics.items()}
        wanted |= {("loggers", index): value for index, value in enumerate(spec.loggers)}
        for path, value in wanted.items():
            try:
                named[dotted(path)] = self._made(value)
            except ConfigError as error:
                faults.append(self._document.fault(path, str(error)))
        if faults:
            raise JobFileError(faults)
        return named

    def _made(self, value: Any) -> Any:
        if isinstance(value, Files):
            paths = [self._located(path) for path in ([value.files] if isinstance(value.files, str) else value.files)]
            return ArrowFiles(paths=paths, columns=None if value.columns is None else tuple(value.columns), cache_blocks=value.cache_blocks)
        return None if value is None else resolve(value, self.file.parent, self.objects)

    def _located(self, path: str) -> str:
        return path if "://" in path else str(self.file.parent / Path(path).expanduser())


def read(file: str | Path, settings: Sequence[str] = ()) -> JobFile:
    """Read and check a job file.

    Args:
        file: YAML.
        settings: `key.sub=value` each, set over what the file says.
    Raises:
        JobFileError: everything that is wrong, each with its place.
    """
    return _checked(Path(file).absolute(), read_document(Path(file), such_as="model: and loss:"), settings)


def described(file: Path, data: Mapping[str, Any], origin: str, objects: Mapping[str, Any]) -> JobFile:
    """A job from plain data, as if it had been read.

    Args:
        file: where it would lie: its folder is what relative paths and modules are looked for in.
        data: the keys of a job file.
        origin: where the data comes from, for messages.
        objects: see `JobFile`.
    Raises:
        JobFileError: as `read`.
    """
    return replace(_checked(file, Document(origin, dict(data)), ()), objects=objects)


def recorded(folder: str | Path, settings: Sequence[str] = ()) -> JobFile:
    """The job of a run, as `JobFile.record` left it in the run's folder.

    Raises:
        JobFileError: there is none, or it is damaged; or as `read`.
    """
    where = Folder.at(folder)
    name = f"{where.path}/{RECORD_FILE}"
    if not where.has(RECORD_FILE):
        raise JobFileError([Fault(name, "", "is not there: this is no folder of a run that a job file described")])
    try:
        content = json.loads(where.read_text(RECORD_FILE))
        found, file, plain = content["format"], Path(content["file"]), dict(content["job"])
    except (ValueError, KeyError, TypeError) as error:
        raise JobFileError([Fault(name, "", f"is damaged: {error}")]) from error
    if found != RECORD_FORMAT:
        raise JobFileError([Fault(name, "", f"has format {found}, this Mottle reads {RECORD_FORMAT}; use the Mottle that wrote it")])
    return _checked(file, Document(name, plain), settings)


# --- checks ---------------------------------------------------------------------------------------------------------------------------


def _checked(file: Path, document: Document, settings: Sequence[str]) -> JobFile:
    for assignment in settings:
        document.set(assignment)
    try:
        spec = Job.model_validate(document.data)
    except ValidationError as error:
        found = sorted((_fault(document, each) for each in error.errors()), key=lambda fault: fault.line)
        raise JobFileError(found) from error
    if faults := sorted(_catalogue_faults(spec, document), key=lambda fault: fault.line):
        raise JobFileError(faults)
    return JobFile(file, spec, document)


def _fault(document: Document, error: Any) -> Fault:
    """Pydantic's error as ours: its place without pydantic's own steps, and the message in the words of the house."""
    path = tuple(step for step in error["loc"] if step not in (FILES_TAG, REFERENCE_TAG))
    parent, got = _section(error["loc"][:-1]), error["input"]
    match error["type"]:
        case "extra_forbidden":
            message = f"unknown key {path[-1]!r}; {suggestion(str(path[-1]), parent.model_fields)}"
        case "missing":
            message = "is needed; there is no default"
        case "wanted":
            message = error["msg"]
        case _:
            wanted = error["msg"].replace("Input should be greater", "wanted a number greater").replace("Input should be", "wanted")
            message = f"{wanted}, got {shown(got)}"
    return document.fault(path, message, unknown=error["type"] == "extra_forbidden")


def _section(path: KeyPath) -> type[BaseModel]:
    """The model that checks what lies at that path."""
    model: type[BaseModel] = Job
    for step in path:
        if step == FILES_TAG:
            model = Files
        elif isinstance(step, str) and step in model.model_fields:
            model = next(_models(model.model_fields[step].annotation), model)
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (list, Union, UnionType, Annotated):
        for inner in get_args(annotation):
            yield from _models(inner)


def _catalogue_faults(spec: Job, document: Document) -> Iterator[Fault]:
    """What the catalogues say about names and options, each at its place in the file."""
    defaults = {"batch_size": spec.batch_size, "lr": _lr(spec.optimizer), "optimizer": spec.optimizer, "rule": spec.rule}
    given = {name: value for name, value in defaults.items() if value is not None}
    checks: list[tuple[KeyPath, Any, Callable[[Any], object]]] = [
        (("optimizer",), spec.optimizer, _check_optimizer),
        (("strategy",), spec.strategy, partial(strategies.build, defaults=given)),
        (("batch_policy",), spec.batch_policy, partial(batch_policy.check, batch_size=spec.batch_size)),
        (("lr_schedule",), spec.lr_schedule, schedule.build),
        (("codec",), spec.codec, compression.build),
        (("rule",), spec.rule, aggregation.build),
        (("attack",), spec.attack, attacks.build),
    ]
    for index, group in enumerate(spec.fleet):
        checks.append((("fleet", index, "attack"), group.attack, attacks.build))
        checks.append((("fleet", index), replace(worker_group(group), attack=None), lambda each: groups_of(each, None)))
    for path, value, check in checks:
        if value is None:
            continue
        try:
            check(value)
        except ConfigError as error:
            yield document.fault(_narrowed(path, value, str(error)), str(error), unknown=isinstance(error, UnknownNameError))


def _narrowed(path: KeyPath, value: Any, message: str) -> KeyPath:
    """The option that the message quotes first, if the value has one of that name; else the path itself."""
    if isinstance(value, dict):
        ((name, options),) = value.items()
        quoted = [(message.index(repr(option)), option) for option in options or {} if repr(option) in message]
        if quoted:
            return (*path, name, min(quoted)[1])
    return path


def _check_optimizer(spec: Any) -> None:
    read_spec = optim.read(spec)
    cls = catalogue.find(read_spec.name)
    for group in range(len(read_spec.group_options) + 1):
        catalogue.make(cls, [{"params": [nn.Parameter(torch.zeros(1))]}], read_spec.options_of(group))


def _lr(spec: Any) -> Any:
    """The learning rate of an optimizer's spec; None where it has none or is no spec at all, which its own check tells."""
    try:
        return optim.read(spec).options.get("lr")
    except ConfigError:
        return None


# --- from sections to what the trainer takes ------------------------------------------------------------------------------------------


def worker_group(group: Group) -> WorkerGroup:
    """A group of the fleet, as the trainer takes it."""
    low, high = group.count if isinstance(group.count, list) else (group.count, None)
    return WorkerGroup(**{**group.model_dump(exclude={"count"}), "count": low, "max_count": high})


def _run_config(spec: Job, folder: str) -> ray.train.RunConfig:
    kept = spec.checkpoint
    return ray.train.RunConfig(
        name=folder.rstrip("/").rsplit("/", 1)[-1],
        failure_config=ray.train.FailureConfig(max_failures=spec.max_failures),
        checkpoint_config=ray.train.CheckpointConfig(
            num_to_keep=kept.num_to_keep, checkpoint_score_attribute=kept.score_attribute, checkpoint_score_order=kept.score_order
        ),
    )
