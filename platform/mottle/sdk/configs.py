"""Ray's config classes as Mottle takes them: each field honoured, mapped, or refused by name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray.train

from mottle.actors.job import Spec, WorkerGroup
from mottle.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run takes from Ray's `RunConfig`."""

    name: str
    folder: Path


def settings_of(run_config: Any, folder: str | Path | None) -> RunSettings:
    """From Ray's `RunConfig`, or from nothing; `folder` wins over what it says."""
    if run_config is not None and not isinstance(run_config, ray.train.RunConfig):
        raise ConfigError(f"run_config is a ray.train.RunConfig, got {type(run_config).__module__}.{type(run_config).__name__}")
    if folder is not None:
        return RunSettings(name=(run_config.name if run_config else None) or Path(folder).name, folder=Path(folder))
    name = (run_config.name if run_config else None) or "mottle"
    storage = (run_config.storage_path if run_config else None) or "runs"
    return RunSettings(name=name, folder=Path(storage).expanduser() / name)


def groups_of(scaling_config: Any, attack: Spec | None) -> tuple[WorkerGroup, ...]:
    """Worker groups from Ray's `ScalingConfig`, a `WorkerGroup` or a list of them; two workers if nothing is said."""
    entries = list(scaling_config) if isinstance(scaling_config, Sequence) else [scaling_config]
    groups = [_group(entry, f"workers{index}" if index else "workers") for index, entry in enumerate(entries)]
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise ConfigError(f"worker groups need names of their own, got {', '.join(names)}")
    return tuple(group if attack is None else replace(group, attack=attack) for group in groups)


def _group(entry: Any, name: str) -> WorkerGroup:
    if isinstance(entry, WorkerGroup):
        return entry
    if entry is None:
        return WorkerGroup(name=name, count=2)
    if not isinstance(entry, ray.train.ScalingConfig):
        raise ConfigError(f"scaling_config is a ray.train.ScalingConfig, a WorkerGroup or a list of them, got {type(entry).__name__}")
    scaling: Any = entry  # Ray's annotations allow search spaces, which are gone by now
    low, high = scaling.num_workers if isinstance(scaling.num_workers, tuple) else (scaling.num_workers, None)
    resources = dict(scaling.resources_per_worker or {})
    return WorkerGroup(
        name=name,
        count=low,
        max_count=high,
        num_cpus=resources.pop("CPU", 1),
        num_gpus=resources.pop("GPU", 1 if entry.use_gpu else 0),
        resources=resources,
        accelerator_type=entry.accelerator_type,
    )
