"""Which host holds which shard. Left to itself Ray puts an actor that asks for no CPU on any host, a spot machine as soon as another.

Coordinator and validator go to the host of whoever started the run, or to one that is meant to stay if that one is not; primaries spread
over the hosts that are meant to stay, and a backup never lies on its primary's host where there is another. All of it is a wish: an actor
whose host is gone goes elsewhere.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray

from mottle.actors import drains
from mottle.core.protocol import ReplicaId

MARKET_LABEL = "ray.io/market-type"
"""Ray's own label of a node: `spot` or `on-demand`."""
ID_LABEL = "ray.io/node-id"
"""Ray's own label of a node: its id."""


class Place(NamedTuple):
    """Where a process of a run is."""

    pid: int
    node: str
    """Ray's id of the host."""
    group: str = ""
    """Of a worker."""


def this_process() -> Place:
    """Where the caller is."""
    return Place(os.getpid(), ray.get_runtime_context().get_node_id())


@dataclass(frozen=True)
class Host:
    """A living node of the cluster."""

    id: str
    stays: bool
    """Whether nobody has said that it may be taken away."""


def living() -> list[Host]:
    """All living hosts that will not be taken away, this process's first, then by id; every one where none would be left."""
    here = ray.get_runtime_context().get_node_id()
    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]  # Ray says nothing of what it returns
    going = drains.draining()
    found = [Host(node["NodeID"], node["Labels"].get(MARKET_LABEL) != "spot") for node in nodes if node["Alive"]]
    found = [host for host in found if host.id not in going] or found
    return sorted(found, key=lambda host: (host.id != here, host.id))


def spread(replicas: Sequence[ReplicaId], hosts: Sequence[Host]) -> dict[ReplicaId, str]:
    """The host of each replica.

    Args:
        hosts: in order of preference, at least one.
    """
    ranked = [host.id for host in hosts if host.stays] or [host.id for host in hosts]
    others = [host.id for host in hosts if host.id not in ranked]
    places = {}
    for replica in replicas:
        primary = ranked[replica.shard % len(ranked)]
        rest = [host for host in (ranked if len(ranked) > 1 else ranked + others) if host != primary] or [primary]
        places[replica] = primary if replica.replica == 0 else rest[replica.shard % len(rest)]
    return places


def apart(taken: Collection[str], hosts: Sequence[Host]) -> str:
    """The host of a newcomer: not where another replica of its shard lies if there is another, best one that is meant to stay.

    Args:
        hosts: in order of preference, at least one.
    """
    return min(hosts, key=lambda host: (host.id in taken, not host.stays)).id


def near(host: str) -> dict[str, Any]:
    """Ray options of an actor that should be on that host, on another one that is meant to stay if it is gone, and else anywhere.

    By labels: a soft node affinity is not heeded for an actor without CPUs (Ray 2.60: two of six went to the other of two hosts).
    """
    elsewhere = {ID_LABEL: f"!{host}"}
    return {
        "label_selector": {ID_LABEL: host},
        "fallback_strategy": [{"label_selector": {**elsewhere, MARKET_LABEL: "!spot"}}, {"label_selector": elsewhere}],
    }


def only(host: str) -> dict[str, Any]:
    """Ray options of a task that makes sense on that host and nowhere else."""
    return {"label_selector": {ID_LABEL: host}}


def home() -> dict[str, Any]:
    """Ray options of an actor that should be on the host of this process, or on one that is meant to stay if this one is not."""
    return near(apart((), living()))


def here() -> dict[str, Any]:
    """Ray options of an actor that should be on the host of this process."""
    return near(ray.get_runtime_context().get_node_id())
