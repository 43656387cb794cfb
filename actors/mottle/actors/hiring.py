"""Who is started when a machine comes, and what an autoscaler is asked for. Pure, but for the asking.

A group that declares a `max_count` grows up to it; one that does not takes on as many as it has lost.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mottle.actors.job import WorkerGroup, processes


@dataclass(frozen=True)
class Machine:
    """A node of the cluster, as it came."""

    id: str
    resources: Mapping[str, float]
    """All that it has."""
    labels: Mapping[str, str]


def hires(machine: Machine, groups: Iterable[WorkerGroup], present: Mapping[str, int], vacant: Mapping[str, int]) -> dict[str, int]:
    """Workers to start, by group, in the order of the groups.

    Args:
        machine: that has come and is free.
        present: workers of each group, those included that have yet to join.
        vacant: workers of each group that were lost and not replaced.
    """
    left, hired = dict(machine.resources), dict[str, int]()
    for group in groups:
        room = vacant.get(group.name, 0) if group.max_count is None else group.max_count - present.get(group.name, 0)
        number = min(room, _fitting(group, left, machine.labels))
        if number <= 0:
            continue
        hired[group.name] = number
        for name, amount in needs(group).items():
            left[name] = left.get(name, 0.0) - number * processes(group) * amount
    return hired


def needs(group: WorkerGroup) -> dict[str, float]:
    """Ray resources of each process of a worker, those that are not 0."""
    wanted = {"CPU": group.num_cpus, "GPU": group.num_gpus, **group.resources}
    if group.accelerator_type is not None:
        wanted[f"accelerator_type:{group.accelerator_type}"] = 0.001  # as Ray asks for it
    return {name: amount for name, amount in wanted.items() if amount}


def _fitting(group: WorkerGroup, left: Mapping[str, float], labels: Mapping[str, str]) -> int:
    """Workers that the machine has room for. Labels in Ray's longer forms (`!a`, `in(a, b)`) are left to Ray."""
    plain = {name: value for name, value in group.label_selector.items() if not value.startswith(("!", "in("))}
    if any(labels.get(name) != value for name, value in plain.items()):
        return 0
    rooms = (math.floor(left.get(name, 0.0) / amount / processes(group) + 1e-9) for name, amount in needs(group).items())
    return min(rooms, default=1)


def wishes(groups: Iterable[WorkerGroup]) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """Resources and labels of every worker that there may be; nothing where no group may grow, for the cluster then has what is needed."""
    groups = list(groups)
    if all(group.max_count is None or group.max_count <= group.count for group in groups):
        return [], []
    workers = [group for group in groups for _ in range((group.max_count or group.count) * processes(group))]
    return [needs(group) for group in workers], [dict(group.label_selector) for group in workers]


def ask_autoscaler(bundles: list[dict[str, float]], labels: list[dict[str, str]]) -> None:
    """Have Ray's autoscaler make room for these, where there is one; empty lists take an earlier wish back.

    The wish is the whole cluster's: a later one, of whatever run, takes its place.
    """
    from ray.autoscaler.sdk import request_resources

    request: dict[str, Any] = {"bundles": bundles, "bundle_label_selectors": labels} if bundles else {"num_cpus": 0}
    request_resources(**request)
