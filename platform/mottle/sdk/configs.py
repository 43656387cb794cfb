"""Ray's config classes as Mottle takes them: each field honoured, mapped, or refused by name (the table is `schema/ray_fields.py`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import ray.train

from mottle import attacks
from mottle.actors.job import KeepCheckpoints, Spec, WorkerGroup, placed_config
from mottle.core.errors import ConfigError
from mottle.sdk.schema.ray_fields import FIELDS as FIELDS
from mottle.sdk.schema.ray_fields import refusals

DEFAULT_STORAGE = "runs"
_KEEP_ALL = KeepCheckpoints()
_SUB_CONFIGS = ("checkpoint_config", "failure_config")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run takes from Ray's `RunConfig`."""

    name: str
    folder: str
    """Of the run: a local path or a URI."""
    callbacks: tuple[ray.train.UserCallback, ...] = ()
    max_failures: int = 0
    """Times that a run which could not go on is started again; -1 is without limit. Worker losses do not count."""
    keep: KeepCheckpoints = _KEEP_ALL
    """Which complete checkpoints stay."""


# --- RunConfig ------------------------------------------------------------------------------------------------------------------------


def settings_of(run_config: Any, folder: str | Path | None) -> RunSettings:
    """From Ray's `RunConfig`, or from nothing.

    Args:
        run_config: a `ray.train.RunConfig` or None.
        folder: of the run; wins over the run config's storage path.
    Raises:
        ConfigError: of another class, or with fields that are refused; all of them are named.
    """
    if run_config is None:
        chosen = str(folder) if folder is not None else f"{DEFAULT_STORAGE}/mottle"
        return RunSettings(name=_last_part(chosen), folder=_expanded(chosen))
    check_families(run_config)
    if not isinstance(run_config, ray.train.RunConfig):
        raise ConfigError(f"run_config is a ray.train.RunConfig, got {_qualified(run_config)}")
    failure: Any = run_config.failure_config
    checkpoints: Any = run_config.checkpoint_config
    wrong = [sentence for config in (run_config, failure, checkpoints) for sentence in refusals(config)]
    callbacks: Any = run_config.callbacks or ()
    wrong += _callback_faults(callbacks)
    if failure.max_failures < -1:
        wrong.append(f"FailureConfig.max_failures is -1 (without limit) or more, got {failure.max_failures}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    name, storage = str(run_config.name), str(run_config.storage_path)
    return RunSettings(
        name=name,
        folder=_expanded(str(folder) if folder is not None else f"{storage.rstrip('/')}/{name}"),
        callbacks=tuple(callbacks),
        max_failures=failure.max_failures,
        keep=KeepCheckpoints(
            count=checkpoints.num_to_keep,
            score=checkpoints.checkpoint_score_attribute,
            highest=checkpoints.checkpoint_score_order == "max",
        ),
    )


def check_families(run_config: Any) -> None:
    """Refuse configs of Ray Tune and Ray Train inside each other: the classes share names, but not their fields.

    Raises:
        ConfigError: names both classes.
    """
    family = _family(run_config)
    for field in _SUB_CONFIGS:
        part = getattr(run_config, field, None)
        other = _family(part)
        if family and other and family != other:
            raise ConfigError(
                f"a {family}.RunConfig carries a {_qualified(part)} as {field}; "
                f"use {family}.{type(part).__name__} there, for their fields differ"
            )
    if family == "ray.tune":
        raise ConfigError("run_config is a ray.tune.RunConfig, which belongs to ray.tune.Tuner; give the trainer a ray.train.RunConfig")


def _family(config: Any) -> str | None:
    """The Ray package that a config class comes from; the first of its bases that has one decides, for train's build on older ones."""
    packages = (".".join(cls.__module__.split(".")[:2]) for cls in type(config).__mro__)
    return next((package for package in packages if package in ("ray.tune", "ray.train")), None)


def _callback_faults(callbacks: Sequence[Any]) -> list[str]:
    return [
        f"RunConfig.callbacks holds ray.train.UserCallback objects, got {_qualified(each)}"
        for each in callbacks
        if not isinstance(each, ray.train.UserCallback)
    ]


def _expanded(path: str) -> str:
    """A local path from the root on: the actors that write to it may have started in another directory than this process is in."""
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _last_part(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1] or "mottle"


def _qualified(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"


# --- ScalingConfig --------------------------------------------------------------------------------------------------------------------


def groups_of(scaling_config: Any, attack: Spec | None) -> tuple[WorkerGroup, ...]:
    """Worker groups from Ray's `ScalingConfig`, a `WorkerGroup` or a list of them; two workers if nothing is said.

    Args:
        scaling_config: see above.
        attack: what every worker does to its updates; None leaves each group its own.
    Raises:
        ConfigError: of another class, with fields that are refused, or groups that cannot be.
    """
    several = isinstance(scaling_config, Sequence) and not isinstance(scaling_config, str)
    entries = list(scaling_config) if several else [scaling_config]
    groups = [group for index, entry in enumerate(entries) for group in _groups(entry, f"workers{index}" if index else "workers")]
    groups = [group if attack is None else replace(group, attack=attack) for group in groups]
    wrong = [sentence for group in groups for sentence in _group_faults(group)]
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        wrong.append(f"worker groups need names of their own, got {', '.join(names)}")
    if not wrong and sum(group.count for group in groups) < 1:
        wrong.append("a run starts with at least one worker, and the groups' counts add up to 0")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return tuple(groups)


def _groups(entry: Any, name: str) -> list[WorkerGroup]:
    if entry is None:
        return [WorkerGroup(name=name, count=2)]
    if isinstance(entry, WorkerGroup):
        return [entry]
    if not isinstance(entry, ray.train.ScalingConfig):
        raise ConfigError(f"scaling_config is a ray.train.ScalingConfig, a WorkerGroup or a list of them, got {_qualified(entry)}")
    if wrong := refusals(entry):
        raise ConfigError("; ".join(wrong))
    return _from_ray(entry, name)


def _from_ray(scaling: Any, name: str) -> list[WorkerGroup]:
    """One group, or one for each different label selector of a list."""
    low, high = scaling.num_workers if isinstance(scaling.num_workers, tuple) else (scaling.num_workers, None)
    if low == 0 and not high:
        raise ConfigError("ScalingConfig.num_workers=0 is Ray's local mode, which has no workers to train on; give at least 1")
    given = scaling.resources_per_worker
    resources = dict(given) if given is not None else {} if scaling.use_gpu else {"CPU": 1}
    whole = WorkerGroup(
        name=name,
        count=low,
        max_count=high,
        num_cpus=resources.pop("CPU", 0),
        num_gpus=resources.pop("GPU", 1 if scaling.use_gpu else 0),
        resources=resources,
        accelerator_type=scaling.accelerator_type,
    )
    selector = scaling.label_selector
    if not isinstance(selector, list):
        return [replace(whole, label_selector=dict(selector or {}))]
    return _by_selector(whole, selector)


def _by_selector(whole: WorkerGroup, selectors: list[Mapping[str, str]]) -> list[WorkerGroup]:
    """Ray's list has a selector for each of the most workers there can be; the first `count` of them start."""
    ranked = sorted(enumerate(selectors), key=lambda item: sorted(item[1].items()))
    alike = [list(items) for _, items in groupby(ranked, key=lambda item: sorted(item[1].items()))]
    alike.sort(key=lambda items: items[0][0])  # groups come in the order in which the list names them
    return [
        replace(
            whole,
            name=f"{whole.name}-{number}" if len(alike) > 1 else whole.name,
            count=sum(index < whole.count for index, _ in items),
            max_count=None if whole.max_count is None else len(items),
            label_selector=dict(items[0][1]),
        )
        for number, items in enumerate(alike)
    ]


def _group_faults(group: WorkerGroup) -> list[str]:
    amounts = {"num_cpus": group.num_cpus, "num_gpus": group.num_gpus, "delay_s": group.delay_s, **group.resources}
    faults = [f"{name} must not be negative, got {amount!r}" for name, amount in amounts.items() if not amount >= 0]
    if group.count < 0 or (group.max_count is not None and group.max_count < max(group.count, 1)):
        faults.append(f"wanted 0 <= count <= max_count and room for one worker, got {group.count} and {group.max_count}")
    if "TPU" in group.resources:
        faults.append("workers compute on CPU or CUDA, got resources of TPU")
    if group.attack is not None:
        faults += _refusal(partial(attacks.build, group.attack))
    faults += _refusal(partial(placed_config, group)) or _gang_faults(group)
    return [f"worker group {group.name!r}: {fault}" for fault in faults]


def _gang_faults(group: WorkerGroup) -> list[str]:
    """What a gang of processes cannot do that one process can."""
    if placed_config(group) is None:
        return []
    refused = {"attack": group.attack is not None, "autocast fp16": group.autocast == "fp16"}
    return [
        f"{what} needs the whole update in one process, and with engine 'placed' no process has it; leave it out"
        for what, given in refused.items()
        if given
    ]


def _refusal(build: Callable[[], object]) -> list[str]:
    try:
        build()
    except ConfigError as error:
        return [str(error)]
    return []
