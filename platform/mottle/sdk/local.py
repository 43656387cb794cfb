"""Starting a Ray of our own, when none is running in this process.

A bare `ray.init()` may join somebody else's cluster, so without an address Mottle starts a local one with as many logical CPUs as the job
declares, whatever the machine has: workers of a study share the real cores.
"""

import math
import os
from pathlib import Path
from typing import Any

import ray

from mottle.actors.fleet import CrewError
from mottle.actors.job import WorkerGroup, processes
from mottle.clusters import tokens
from mottle.clusters.joining import explain, knock
from mottle.core.errors import ConfigError
from mottle.sdk.ray_messages import put_aside

RAY_ADDRESS = "RAY_ADDRESS"
START_ATTEMPTS = 3
QUIET: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}


def ensure_ray(groups: tuple[WorkerGroup, ...], address: str | None = None) -> str | None:
    """Connect to `address` (or the one in the environment), else start a local Ray; a Ray that this process has already is used as it is.

    Returns:
        A sentence for the user when a local Ray was started, else None.
    Raises:
        ConnectionError: there is no Ray at that address, or it refuses: says why, and which variable is wrong.
        ConfigError: the environment asks for a token and has none.
        CrewError: this machine is too busy to start one.
    """
    if ray.is_initialized():
        return None
    address = address or os.environ.get(RAY_ADDRESS)
    if address is not None:
        connect(address)
        return None
    declared = max(1, math.ceil(sum((group.max_count or group.count) * processes(group) * group.num_cpus for group in groups)))
    start_local(declared)
    return f"started a local Ray with {declared} logical CPUs on {os.cpu_count()} real ones"


def connect(address: str) -> None:
    """Connect this process to a Ray that is running, and say within seconds where there is none.

    Args:
        address: `HOST:PORT`; or `auto`: the one of RAY_ADDRESS, else one that runs on this machine, else the last one started here.
    Raises:
        ConnectionError: there is no Ray at that address, or it refuses: says why, and which variable is wrong.
        ConfigError: the environment asks for a token and has none.
    """
    put_aside()
    home = Path.home()
    if os.environ.get("RAY_AUTH_MODE") == "token" and isinstance(wrong := tokens.source(os.environ, home), str):
        raise ConfigError(f"Ray at {address} cannot be asked: {wrong}")  # Ray itself would end this process
    at = _found() if address == "auto" else address
    try:
        if "://" not in at:  # else another way in, of which Ray says itself what is wrong
            knock(at)
        ray.init(address=at, **QUIET)
    except Exception as error:  # of many kinds, with pages of text
        why = explain(at, str(error), os.environ, home)
        raise ConnectionError(why if at == address else f"{why} ({_why_there()})") from error


def _found() -> str:
    """HOST:PORT of the Ray that `auto` means. Ray's function that looks is private; this is the one place that knows it.

    Raises:
        ConnectionError: none is known here.
    """
    from ray._private.services import canonicalize_bootstrap_address

    found: str = canonicalize_bootstrap_address("auto")  # type: ignore[assignment]
    return found


def _why_there() -> str:
    """Whence Ray has the address that `auto` means."""
    if os.environ.get(RAY_ADDRESS):
        return f"{RAY_ADDRESS} says so"
    return "as Ray remembers the last one that was started on this machine; give the address of one that runs"


def start_local(num_cpus: int) -> None:
    """Start a Ray of this process's own, and try again where the machine is so busy that Ray gives up (it waits for 30 s and no longer).

    Raises:
        CrewError: it gave up three times.
    """
    put_aside()
    for _ in range(START_ATTEMPTS):
        try:
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **QUIET)
        except Exception as error:  # the bare class is what Ray raises here
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
        else:
            return
    raise CrewError(f"Ray did not start in {START_ATTEMPTS} attempts of 30 s: this machine is too busy; wait, or give the address of a Ray")


def missing_resources(groups: tuple[WorkerGroup, ...]) -> str:
    """What the cluster lacks for the crew that the job starts with, in words; empty if nothing. An autoscaler may still bring it."""
    wanted: dict[str, float] = {}
    for group in groups:
        needs = {"CPU": group.num_cpus, "GPU": group.num_gpus, **group.resources}
        for name, amount in needs.items():
            wanted[name] = wanted.get(name, 0.0) + group.count * processes(group) * amount
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    short = [
        f"{amount:g} {name} (the cluster has {has.get(name, 0.0):g})" for name, amount in wanted.items() if amount > has.get(name, 0.0)
    ]
    return ", ".join(short)
