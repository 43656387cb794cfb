"""Where actors go: Ray options of coordinator, shards, validator and workers. Idle ones made alike are taken up before new ones start."""

import os
import sys
from typing import Any

import ray

from mottle.actors import hosts
from mottle.actors.job import WorkerGroup
from mottle.actors.reserve import RESERVE
from mottle.actors.shard import ParameterShard
from mottle.actors.validator import Validator
from mottle.actors.worker import TrainingWorker

NAMESPACE = "mottle"
"""Ray namespace of detached runs."""


def environment() -> dict[str, Any]:
    """What the actors' processes start with.

    One thread each: the actors of a host share its cores, and torch would start a pool as wide as the host in every one. They find the
    modules that this process finds, so that a job's model may live beside its file; folders that another host lacks do no harm there.
    """
    return {
        "env_vars": {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder),
            # Gradients are freed and allocated in every step. By default the C library gives large blocks back to the kernel each time,
            # and the fresh pages cost more than the gradients themselves.
            "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
            "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
            # Threads other than the first allocate from heaps of 64 MiB, which go back whole however high that threshold is, unless the
            # padding wanted at their top is as large. It costs addresses, not memory.
            "MALLOC_TOP_PAD_": str(64 << 20),
        }
    }


_remote: Any = ray.remote  # its annotations leave out concurrency_groups

# Methods of one concurrency group share its threads; a group of one thread keeps the order of its callers' messages.
_WORKER = _remote(concurrency_groups={"mail": 1, "run": 1})(TrainingWorker)
_SHARD = _remote(num_cpus=0, concurrency_groups={"watch": 1})(ParameterShard)
_VALIDATOR = _remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Validator)


def make_worker(group: WorkerGroup) -> Any:
    """A worker's actor, with the resources that its group declares."""
    resources = dict(group.resources)
    options: dict[str, Any] = {
        "num_cpus": group.num_cpus,
        "num_gpus": group.num_gpus,
        "memory": resources.pop("memory", None),  # Ray has it as an option of its own and refuses it among the custom ones
        "resources": resources or None,
        "runtime_env": environment(),
    }
    if group.accelerator_type is not None:
        options["accelerator_type"] = group.accelerator_type
    if group.label_selector:
        options["label_selector"] = dict(group.label_selector)
    return RESERVE.get("worker", _WORKER, options)


def make_shard(host: str) -> Any:
    """A shard's actor on a host: no CPU of Ray's count, one thread, and one that only waits."""
    return RESERVE.get("shard", _SHARD, {"runtime_env": environment(), **hosts.near(host)})


def make_validator() -> Any:
    """A validator's actor: no CPU of Ray's count. It keeps nothing, so one that dies is made again and its calls are repeated."""
    return RESERVE.get("validator", _VALIDATOR, {"runtime_env": environment(), **hosts.here()})


def make_coordinator(cls: type, name: str | None = None) -> Any:
    """The coordinator's actor: events in order on one thread, people's questions on others. With a name it outlives its maker."""
    remote = _remote(num_cpus=0, concurrency_groups={"events": 1, "control": 8})(cls)
    options = {"runtime_env": environment(), **hosts.here()}
    if name is None:
        return RESERVE.get("coordinator", remote, options)
    return remote.options(name=name, namespace=NAMESPACE, lifetime="detached", **options).remote()
