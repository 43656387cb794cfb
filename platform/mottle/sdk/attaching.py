"""Finding a detached run again."""

import time
from typing import Any

import ray

from mottle.actors.job import Job
from mottle.actors.placing import NAMESPACE
from mottle.core.errors import MottleError
from mottle.sdk.local import connect
from mottle.sdk.run import POLL_S, Run


class RunGoneError(MottleError):
    """There is no such run on the cluster."""


def coordinator_name(run: str) -> str:
    """Name of a detached run's coordinator actor."""
    return f"mottle/{run}"


def _ask_for_job(coordinator: Any) -> Any:
    while True:
        try:
            return ray.get(coordinator.ask.options(concurrency_group="control").remote("job"))
        except ray.exceptions.ActorUnavailableError:  # its process was lost; another one takes over
            time.sleep(POLL_S)


def attach(name: str, *, address: str | None = None) -> Run:
    """The live handle of the detached run of that name.

    Args:
        name: as in the run config.
        address: of the Ray cluster; by default the one that is running on this machine.
    Raises:
        RunGoneError: it has ended or its coordinator is dead, or there is no Ray to ask; says which.
    """
    if not ray.is_initialized():
        try:
            connect(address or "auto")
        except ConnectionError as error:
            raise RunGoneError(f"nobody can be asked for {name!r}: {error}; a run ends with the Ray that it was started on") from error
    try:
        coordinator: Any = ray.get_actor(coordinator_name(name), namespace=NAMESPACE)
        job: Job = _ask_for_job(coordinator)
    except (ValueError, ray.exceptions.RayActorError) as error:
        known = sorted(
            each["name"].removeprefix("mottle/")
            for each in ray.util.list_named_actors(all_namespaces=True)
            if each["namespace"] == NAMESPACE
        )
        raise RunGoneError(
            f"no detached run {name!r} here: it has ended, or was not started detached; running: {known or 'none'}"
        ) from error
    return Run(job, coordinator)
