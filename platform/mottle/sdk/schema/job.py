"""The shape of a job file, as pydantic models: what is published as `docs/job.schema.json` and what `mottle.sdk.jobfile` checks against.

Shape only: which strategies, rules, codecs, optimizers and attacks there are, and what options they take, is each catalogue's own, so that
adding one changes no schema. Strict: no number is taken for a string, nor the reverse, and no key is let pass.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, WrapValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def _wanted(form: str) -> WrapValidator:
    """One message in the place of pydantic's several about the members of a union."""

    def check(value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise PydanticCustomError("wanted", "wanted {form}, got {got}", {"form": form, "got": shown(value)}) from None

    return WrapValidator(check)


def shown(value: Any) -> str:
    """A value as a message shows it: on one line, cut where it would fill the screen."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


Options = dict[str, Any] | None

Name = Annotated[str, Field(pattern=r"^[^:\s][^:]*$")]
Spec = Annotated[
    Name | Annotated[dict[str, Options], Field(min_length=1, max_length=1)],
    _wanted("a name such as sync, or one name with its options such as {sync: {quorum: 3}}"),
]

Target = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
Reference = Annotated[
    Target | Annotated[dict[Target, Options], Field(min_length=1, max_length=1)],
    _wanted("module:attribute, or one such name with arguments such as {model:Net: {width: 64}}"),
]

Count = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)],
    _wanted("a count such as 4, or [least, most]"),
]


class Section(BaseModel):
    """What all parts of a job file share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Files(Section):
    """Parquet or Arrow IPC files as data."""

    files: Annotated[str | Annotated[list[str], Field(min_length=1)], _wanted("a path, directory, glob or URI, or a list of them")]
    """Paths, directories, globs or URIs; paths are relative to the job file."""
    columns: list[str] | None = None
    """Columns to read; all if left out."""
    cache_blocks: int = Field(default=4, ge=1)
    """Decoded row groups that each worker keeps, and so mixes in the shuffle."""


REFERENCE_TAG, FILES_TAG = "<reference>", "<files>"
"""Not keys that a job file can have: pydantic puts them between the keys when it says where an error is."""

Data = Annotated[
    Annotated[Reference, _wanted("module:attribute of a dataset or of a function that makes one, or {files: PATHS}"), Tag(REFERENCE_TAG)]
    | Annotated[Files, Tag(FILES_TAG)],
    Discriminator(lambda value: FILES_TAG if isinstance(value, Files) or (isinstance(value, dict) and "files" in value) else REFERENCE_TAG),
]


class Group(Section):
    """Workers that are alike."""

    name: str = Field(default="workers", min_length=1)
    """Name of the group; needed where there are several."""
    count: Count = 1
    """Workers that start; with `[least, most]` the group grows where machines come, for which Ray's autoscaler is asked."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Ray's logical CPUs of each worker."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs of each worker."""
    resources: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Ray's custom resources of each worker; `memory` counts bytes."""
    accelerator_type: str | None = None
    """Only nodes with this accelerator, by Ray's name for it."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Only nodes with these Ray labels."""
    delay_s: float = Field(default=0.0, ge=0)
    """Extra time of each sample, for studies of unequal fleets."""
    attack: Spec | None = None
    """What these workers do to their updates, for studies of hostile fleets."""
    autocast: Literal["bf16", "fp16"] | None = None
    """Compute in this precision."""
    engine: Spec = "torch"
    """`torch`: a worker is one process; `{placed: {stages: 2}}`: a gang, with a stage of the model and these resources for each process."""


class Limits(Section):
    """When the run ends: the first of these to come."""

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training data; a fraction ends within one."""
    samples: int | None = Field(default=None, gt=0)
    """Samples spent."""
    seconds: float | None = Field(default=None, gt=0)
    """Time since training began."""
    metric: Annotated[dict[str, float], Field(min_length=1, max_length=1)] | None = None
    """Stop when this metric reaches that value: `{test_accuracy: 0.97}`."""


class Health(Section):
    """When a worker gets no work for a while."""

    rejected: int | None = Field(default=8, ge=1)
    """Rejected updates in a row, at least; more where the others' are rejected often as well. null: never for that."""
    strikes: int | None = Field(default=3, ge=1)
    """Orders overdue, failed or holding up the others; an update that counts takes away a quarter of one. null: never for that."""
    slow: float | None = Field(default=4.0, gt=1)
    """Times as long as the others' usual order that one may take, above `lease_floor_s`. null: as long as it takes."""
    flaps: int | None = Field(default=3, ge=1)
    """Workers in a row that a machine may lose before any of them has done anything; those that come after wait. null: any number."""
    wait_s: float = Field(default=30.0, gt=0)
    """The first wait, in seconds; each further one is twice as long, up to 64 times."""
    trials: int = Field(default=3, ge=1)
    """Updates of small orders that must count before a worker on probation is like any other."""
    min_crew: int = Field(default=1, ge=1)
    """Workers that are never put away; the robust rule's own least number counts in any case."""
    spot_checks: float = Field(default=0.0, ge=0, le=1)
    """Checks of two workers against each other for silent corruption, as a share of the orders. Each costs both a micro-batch."""
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    """Relative distance at which workers of different kinds agree in a check; those of one kind agree to the bit."""


class Checkpoints(Section):
    """When checkpoints are written, and which stay."""

    every: int | None = Field(default=None, gt=0)
    """Samples between two; only on demand if left out."""
    num_to_keep: int | None = Field(default=None, ge=1)
    """Checkpoints that stay; all if left out."""
    score_attribute: str | None = None
    """Metric by which they are chosen; the newest stay if left out."""
    score_order: Literal["max", "min"] = "max"
    """Whether a high or a low value of that metric is the better one."""


class Job(Section):
    """A job file."""

    model_config = ConfigDict(title="Mottle job file")

    model: Reference
    """A torch module, or a class or function that makes one."""
    loss: Reference
    """`loss(model, batch)`: the mean loss, or `(mean, weight)` where the unit is not the sample."""
    train_data: Data
    """A map-style dataset, a function that makes one, or files."""
    validation_data: Data | None = None
    """Trusted data for strategies that test updates; disjoint from `test_data`."""
    test_data: Data | None = None
    """What the metrics are measured on."""
    collate_fn: Reference | None = None
    """List of samples to batch; torch's default if left out."""
    metrics: dict[str, Reference] = Field(default_factory=dict)
    """By name, `metric(model, batch)`: a mean over the batch, reported as `test_NAME`."""
    optimizer: Spec
    """Element-wise `torch.optim` class by name: `{sgd: {lr: 0.1}}`."""
    lr_schedule: Spec | None = None
    """Factor on the learning rate by samples: `{cosine: {samples: 60000}}`."""
    batch_size: int = Field(ge=1)
    """Samples of one step (synchronous) or of one order (asynchronous)."""
    batch_policy: Spec | None = None
    """When the crew changes: `{linear: {per_worker: 16}}`, `adascale` or `noise_scale`; batch and rate stay if left out."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Samples that go through the model at once; `batch_size` if left out."""
    until: Limits
    """When the run ends."""
    strategy: Spec
    """When the model changes: `sync`, `{zeno++: {rho: 0.002}}`; `auto` chooses for the crew that is there."""
    rule: Spec | None = None
    """Robust rule of a synchronous strategy: `{phocas: {trim: 2}}`."""
    codec: Spec | None = None
    """How updates travel: `bf16`, or `e3m0` (four bits, for local steps); as they are if left out."""
    attack: Spec | None = None
    """What every worker does to its updates; for some of them, put it on a group of the fleet."""
    collusion: bool = False
    """Let attackers see the others' updates, as omniscient attacks need; for studies, it costs a copy of every update."""
    fleet: Annotated[list[Group], Field(min_length=1)] = Field(default_factory=lambda: [Group(count=2)])
    """Groups of workers; two workers of one CPU if left out."""
    shards: int = Field(default=1, ge=1)
    """Actors that hold the parameters, a range each."""
    replicas: int = Field(default=0, ge=0, le=1)
    """Further copies of each shard; with one, training goes on when a shard's process dies."""
    seed: int = Field(default=0, ge=0)
    """Of data order, model and everything else."""
    seed_samples: bool = True
    """Seed augmentation per sample, so that it does not depend on who computes it."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Samples between evaluations; a twentieth of the run if left out."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Clip the aggregate to this global norm."""
    max_grad_norm_per_worker: float | None = Field(default=None, gt=0)
    """Clip each worker's mean gradient to this norm."""
    retry_rejected: bool = True
    """Try a rejected update's samples once more, on another worker."""
    rule_samples: int = Field(default=128, ge=1)
    """Trusted samples of each reference or score that a robust rule needs."""
    lease_floor_s: float | None = Field(default=10.0, gt=0)
    """Least time that a worker is given for an order before others get its samples; above it, its usual times decide. null: for ever."""
    health: Health | None = Field(default_factory=Health)
    """When a worker gets no work for a while; null: never."""
    loggers: list[Reference] = Field(default_factory=list)
    """Classes or functions that make a logger: `{"mottle.observe:TensorBoardLogger": {directory: runs/tb}}`."""
    max_failures: int = Field(default=0, ge=-1)
    """Times that a run which could not go on is taken up from its newest checkpoint; -1 without limit. Worker losses do not count."""
    checkpoint: Checkpoints = Field(default_factory=Checkpoints)
    """When checkpoints are written, and which stay."""
    out: str | None = None
    """The run's folder, relative to the job file, or a URI; `runs/NAME` where the command is given if left out."""


def schema_text() -> str:
    """`docs/job.schema.json`."""
    return json.dumps({"$schema": SCHEMA_ID, **Job.model_json_schema()}, indent=1) + "\n"


def keys_markdown() -> str:
    """The tables of keys in `docs/jobs.md`."""
    parts: dict[str, type[Section]] = {
        "The file": Job,
        "A group of `fleet`": Group,
        "`until`": Limits,
        "`health`": Health,
        "`checkpoint`": Checkpoints,
        "Data in files": Files,
    }
    lines: list[str] = []
    for title, section in parts.items():
        lines += [f"### {title}", "", "| key | default | what it says |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {_default(field)} | {field.description} |" for name, field in section.model_fields.items()]
        lines.append("")
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    """As a reader of the table says it."""
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None or isinstance(value, BaseModel | list | dict) else f"`{json.dumps(value)}`"
