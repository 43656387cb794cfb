"""What becomes of every field of Ray Train's config classes (Ray 2.60): honoured, mapped to something of Mottle's, or refused.

None is ignored. A refused field may keep Ray's default; any other value is an error that names the field and gives the reason below. A
field that a newer Ray adds is refused as unknown until it has a row here. `docs/ray-configs.md` is written from this table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import ray.train

Fate = Literal["honoured", "mapped", "refused"]


@dataclass(frozen=True)
class Field:
    """One field's fate."""

    fate: Fate
    text: str
    """What it does here; for a refused one, why it cannot do anything, and what to use instead."""


def _honoured(text: str) -> Field:
    return Field("honoured", text)


def _mapped(text: str) -> Field:
    return Field("mapped", text)


def _refused(text: str) -> Field:
    return Field("refused", text)


_GONE_IN_RAY = "Ray Train took it away"
_NO_RESTART = "a worker that is preempted or dies never stops the run"

FIELDS: Mapping[str, Mapping[str, Field]] = {
    "ScalingConfig": {
        "num_workers": _honoured(
            "workers to start; with (min, max), min start and the group may grow to max. 0, Ray's local mode, is refused"
        ),
        "resources_per_worker": _honoured(
            "resources of each worker's actor, custom ones and `memory` included; as in Ray, what a given dict leaves out is not reserved"
        ),
        "use_gpu": _honoured("one GPU a worker unless `resources_per_worker` says otherwise"),
        "accelerator_type": _honoured("workers go to nodes with that accelerator"),
        "label_selector": _honoured(
            "workers go to nodes with those labels; a list has one selector a worker and becomes one worker group for each that differs"
        ),
        "placement_strategy": _refused(
            "a placement group cannot be resized, so each worker is an actor of its own, which Ray packs by default; "
            "steer workers with label_selector"
        ),
        "elastic_resize_monitor_interval_s": _refused("nothing is polled: a worker joins at the moment its process stands"),
        "use_tpu": _refused("workers compute on CPU or CUDA"),
        "topology": _refused("it names slices of TPUs, and workers compute on CPU or CUDA"),
        "trainer_resources": _refused(f"{_GONE_IN_RAY}; coordinator, shards and validator take no CPU of Ray's count"),
    },
    "RunConfig": {
        "name": _mapped("the run's name, and the last part of its folder"),
        "storage_path": _mapped("the run's folder is storage_path/name; a local path, or a URI that pyarrow knows"),
        "storage_filesystem": _refused("actors open the storage by its address; give a URI such as s3://bucket/runs as storage_path"),
        "failure_config": _honoured("see FailureConfig"),
        "checkpoint_config": _honoured("see CheckpointConfig"),
        "callbacks": _honoured("each `ray.train.UserCallback` is told of every evaluation, with one merged dict of metrics"),
        "worker_runtime_env": _refused(
            "workers start in the environment of the Ray job; give it once, as ray.init(runtime_env=...) before the trainer starts"
        ),
        "logging_config": _refused("it sets the level of Ray Train's own controller logs, and that controller does not run here"),
        "sync_config": _refused(_GONE_IN_RAY),
        "verbose": _refused(_GONE_IN_RAY),
        "stop": _refused(f"{_GONE_IN_RAY}; say when to stop with until"),
        "progress_reporter": _refused(f"{_GONE_IN_RAY}; watch a run with Run.watch and mottle.observe.Display"),
        "log_to_file": _refused(_GONE_IN_RAY),
    },
    "CheckpointConfig": {
        "num_to_keep": _honoured("complete checkpoints kept; None keeps all"),
        "checkpoint_score_attribute": _honoured("the metric that decides which ones stay; without it the newest stay"),
        "checkpoint_score_order": _honoured("whether a high (`max`) or a low (`min`) value of that metric is the better one"),
        "checkpoint_frequency": _refused(_GONE_IN_RAY),
        "checkpoint_at_end": _refused(_GONE_IN_RAY),
    },
    "FailureConfig": {
        "max_failures": _honoured(
            "times that fit() and `mottle train` go on from the newest checkpoint after a failure that stopped the run; "
            "-1 is without limit. "
            f"Only such failures count: {_NO_RESTART}"
        ),
        "fail_fast": _refused(f"{_GONE_IN_RAY}; max_failures=0 is the same"),
        "controller_failure_limit": _refused("there is no such controller; a lost coordinator is replaced by itself, however often"),
        "max_preemption_failures": _refused(f"{_NO_RESTART}, so there is nothing to count"),
        "relax_collectives_on_preemption": _mapped("always so: no step waits for a worker that is gone, whatever is set"),
        "preemption_grace_s": _mapped("always without end: workers that are not preempted go on, whatever is set"),
    },
}


def ray_class(name: str) -> type[Any]:
    """The installed class of that name."""
    found: type[Any] = getattr(ray.train, name)
    return found


def refusals(config: Any) -> list[str]:
    """A sentence for every field of a Ray config that is set to something and refused; empty if there is none.

    Set means: different from what a fresh config has, so that a default which Ray fills in is never held against the user.
    """
    cls = _named(type(config).__mro__)
    fresh = ray_class(cls)()
    sentences = []
    for field in fields(fresh):
        value = getattr(config, field.name)
        fate = FIELDS[cls].get(field.name, _refused("this Mottle does not know it yet"))
        if fate.fate == "refused" and value != getattr(fresh, field.name):
            sentences.append(f"{cls}.{field.name}={value!r} is refused: {fate.text}")
    return sentences


def _named(classes: Iterable[type]) -> str:
    return next(cls.__name__ for cls in classes if FIELDS.get(cls.__name__) is not None and cls is ray_class(cls.__name__))


def markdown() -> str:
    """`docs/ray-configs.md`."""
    lines = [
        "# Ray's config classes, field by field",
        "",
        "`Trainer` takes `scaling_config` and `run_config` as Ray Train has them (Ray 2.60). Every field is **honoured** (it means what",
        "Ray says it means), **mapped** (it means the nearest thing that Mottle has) or **refused** (any value but Ray's default is an",
        "error that names the field and the reason). None is ignored, and a test fails when Ray adds one.",
        "",
        "A `ray.tune.RunConfig` belongs to `ray.tune.Tuner` and is refused as `run_config`; so is a `RunConfig` of either package that",
        "carries sub-configs of the other.",
    ]
    for cls, table in FIELDS.items():
        lines += ["", f"## {cls}", "", "| field | fate | what becomes of it |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {field.fate} | {field.text} |" for name, field in table.items()]
    lines += ["", "This page is written by `python -m mottle.sdk.schema`."]
    return "\n".join(lines) + "\n"
