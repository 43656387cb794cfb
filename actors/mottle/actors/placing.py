"""Where actors go: Ray options of coordinator, shards, validator and workers. Idle ones made alike are taken up before new ones start."""

import secrets
from contextlib import suppress
from typing import Any

import ray

from mottle.actors import hosts
from mottle.actors.children import child
from mottle.actors.copies import CopyError
from mottle.actors.job import WorkerGroup
from mottle.actors.launching import environment, options_of
from mottle.actors.reserve import RESERVE
from mottle.actors.shard import ParameterShard
from mottle.actors.validator import Validator
from mottle.actors.worker import TrainingWorker

NAMESPACE = "mottle"
"""Ray namespace of detached runs."""
RUNS = "mottle-runs"
"""Ray namespace of all other coordinators, by which runs of different processes find each other."""


_remote: Any = ray.remote  # its annotations leave out concurrency_groups

# Methods of one concurrency group share its threads; a group of one thread keeps the order of its callers' messages.
_WORKER = _remote(concurrency_groups={"mail": 1, "run": 1, "watch": 2})(TrainingWorker)
_SHARD = _remote(num_cpus=0, concurrency_groups={"watch": 2, "offers": 2})(ParameterShard)
_VALIDATOR = _remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Validator)


def make_worker(group: WorkerGroup, slot: int) -> Any:
    """A worker's actor, with the resources that its group declares."""
    return RESERVE.get("worker", _WORKER, options_of(group), *child("worker", slot, group.name))


def make_worker_to_lend(group: WorkerGroup) -> Any:
    """The same, for whoever lends it to one run after another; it ends with its maker, which nobody replaces."""
    return _WORKER.options(**options_of(group)).remote()


def make_shard(host: str) -> Any:
    """A shard's actor on a host: no CPU of Ray's count, one thread, and one that only waits."""
    return RESERVE.get("shard", _SHARD, {"runtime_env": environment(), **hosts.near(host)}, *child("shard"))


def make_validator() -> Any:
    """A validator's actor: no CPU of Ray's count. It keeps nothing, so one that dies is made again and its calls are repeated."""
    return RESERVE.get("validator", _VALIDATOR, {"runtime_env": environment(), **hosts.here()}, *child("validator"))


def make_coordinator(cls: type, name: str | None = None) -> Any:
    """The coordinator's actor: events in order on one thread, people's questions on others. With a name it outlives its maker.

    A process of it that is lost is made again, and takes over from the one before (`mottle.actors.comeback`).
    """
    remote = _remote(num_cpus=0, max_restarts=-1, concurrency_groups={"events": 1, "control": 8, "lives": 1})(cls)
    options = {"runtime_env": environment(), **hosts.home()}
    if name is None:
        own = {"name": f"coordinator/{secrets.token_hex(8)}", "namespace": RUNS}
        return RESERVE.get("coordinator", remote, options, own)
    return remote.options(name=name, namespace=NAMESPACE, lifetime="detached", **options).remote()


def find_coordinator(name: str) -> Any:
    """The coordinator that Ray knows by that name.

    Raises:
        CopyError: it is gone, and its run with it.
    """
    for namespace in (RUNS, NAMESPACE):
        with suppress(ValueError):
            return ray.get_actor(name, namespace=namespace)
    raise CopyError(f"the run of {name} is gone")


def stands(name: str) -> bool:
    """Whether there is a coordinator of that name."""
    try:
        find_coordinator(name)
    except CopyError:
        return False
    return True
