"""What Ray Tune sets aside for a trial: its crew, one bundle a worker, and nothing for the trial's own process.

The crew runs **inside** the placement group that Tune makes of this request. The trial's process is started in the group, with Ray's rule
that what it starts belongs there too; so do coordinator, shards and workers, each started by one that is in the group. Beside the group
they would need the same resources a second time: Tune counts what it has set aside and nobody else. Inside, a trial begins only when its
whole crew has room, Tune's count of concurrent trials is true, and when Tune takes the group away every actor of the trial is gone with it,
even where the trial's process can no longer say so. The price is that a group cannot grow: a trial keeps the crew that it starts with.
Workers that move between trials are owned by somebody outside of all trials, and then a trial asks Tune for nothing.
"""

from collections.abc import Sequence

from ray.tune import PlacementGroupFactory

from mottle.actors.job import WorkerGroup, processes
from mottle.sdk.jobfile import JobFile, worker_group

LEAST_CPU = 0.001
"""Tune wants a trial to ask for something."""
_ACCELERATOR_SHARE = 0.001
"""What Ray itself takes of a node's accelerator label for an actor that names its type."""


def groups_of(job: JobFile) -> tuple[WorkerGroup, ...]:
    """The crew that a job starts with."""
    return tuple(worker_group(group) for group in job.spec.fleet)


def bundles(groups: Sequence[WorkerGroup]) -> list[dict[str, float]]:
    """Ray resources of each worker that the job starts with; at least one bundle, the first one empty for the trial's own process."""
    wanted = [_bundle(group) for group in groups for _ in range(group.count * processes(group))]
    return [{}, *([bundle for bundle in wanted if bundle] or [{"CPU": LEAST_CPU}])]


def selectors(groups: Sequence[WorkerGroup]) -> list[dict[str, str]]:
    """Node labels of each bundle but the first, in the same order; empty where no group asks for any."""
    if not any(group.label_selector for group in groups):
        return []
    return [dict(group.label_selector) for group in groups for _ in range(group.count * processes(group)) if _bundle(group)]


def request(groups: Sequence[WorkerGroup]) -> PlacementGroupFactory:
    """The request for a crew."""
    labels = selectors(groups)
    return PlacementGroupFactory(bundles(groups), strategy="PACK", **({"bundle_label_selector": labels} if labels else {}))


def nothing() -> PlacementGroupFactory:
    """The request of a trial that will not start a crew."""
    return PlacementGroupFactory([{}, {"CPU": LEAST_CPU}])


def lent() -> PlacementGroupFactory:
    """The request of a trial that borrows its crew: a byte of memory, for all CPUs may be the fleet's."""
    return PlacementGroupFactory([{}, {"memory": 1}])


def _bundle(group: WorkerGroup) -> dict[str, float]:
    amounts = {"CPU": group.num_cpus, "GPU": group.num_gpus, **group.resources}
    if group.accelerator_type is not None:
        amounts[f"accelerator_type:{group.accelerator_type}"] = _ACCELERATOR_SHARE
    return {name: amount for name, amount in amounts.items() if amount}
