"""Losses that run out of memory for real: where the kernel kills the worker, and where the worker is told that there is none.

For the kernel a group of processes is needed that may hold little (the memory controller of cgroups, version 1 or 2, and the right to use
it); pages that a process had before it joined stay counted where they were.
"""

import os
import resource
from pathlib import Path

import ray
from tests.actors import live
from torch import Tensor, nn

GROUPS = Path("/sys/fs/cgroup")
PREFIX = "mottle-test-"
ROOM = 64 << 20
"""Bytes that a worker may take."""


def _parent() -> Path:
    """Where groups of processes with a bound on their memory are made."""
    return GROUPS / "memory" if (GROUPS / "memory").is_dir() else GROUPS


def can_bound() -> bool:
    """Whether this process may make such a group."""
    probe = _parent() / f"{PREFIX}probe-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError:
        return False
    try:
        return any((probe / name).exists() for name in ("memory.limit_in_bytes", "memory.max"))
    finally:
        probe.rmdir()


def clear() -> None:
    """Remove the groups of workers that are gone."""
    for group in _parent().glob(f"{PREFIX}*"):
        if not (group / "cgroup.procs").read_text():
            group.rmdir()


def killed(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """The worker takes memory until the kernel ends it."""
    if _trains(model):
        group = _parent() / f"{PREFIX}{os.getpid()}"
        group.mkdir()
        bounds = {"memory.limit_in_bytes": ROOM, "memory.memsw.limit_in_bytes": ROOM, "memory.max": ROOM, "memory.swap.max": 0}
        for name, value in bounds.items():
            if (group / name).exists():
                (group / name).write_text(str(value))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        _eat()
    return live.cross_entropy(model, batch)


def refused(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """The worker takes memory until the kernel gives it no more: a MemoryError."""
    if _trains(model):
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, hard))
        try:
            _eat()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return live.cross_entropy(model, batch)


def _trains(model: nn.Module) -> bool:
    return ray.get_runtime_context().get_actor_id() is not None and model.training


def _eat() -> None:
    held = []
    while True:
        held.append(b"x" * (8 << 20))
