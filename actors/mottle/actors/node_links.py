"""How fast data come from one machine of a Ray cluster to another, by the kind of device on it: round trips over TCP, as in `discovery`.

A worker's own link is what its updates and versions travel over, so of each kind of device the slowest of its machines' links counts. A
machine that is alone in its cluster is timed against itself: that is what processes on one host have.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ray
import torch

from mottle.actors import hosts
from mottle.actors.discovery import LARGE, MOST_PAIRS, Probe
from mottle.actors.launching import environment
from mottle.core.errors import ConfigError
from mottle.placement.problem import Link
from mottle.placement.tracing import TICK_NS


class Speed(NamedTuple):
    """Of a link, one way."""

    latency_s: float
    bandwidth_bytes_per_s: float

    @classmethod
    def of(cls, link: Link) -> "Speed":
        return cls(link.lat * TICK_NS / 1e9, float(link.bytes_per_s or 1))


class LinkProbe(Probe):
    """Says besides what its node has to compute with."""

    def device(self) -> str:
        """As `mottle calibrate` names it."""
        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def time_links() -> dict[str, Speed]:
    """The slowest link of each kind of device in the cluster that this process is connected to.

    Raises:
        ConfigError: it is connected to none.
    """
    if not ray.is_initialized():
        raise ConfigError("links are timed inside a Ray cluster, and this process is connected to none: call ray.init(address=...) first")
    nodes = sorted(host.id for host in hosts.living())
    remote: Any = ray.remote(num_cpus=0)(LinkProbe)
    probes = [remote.options(runtime_env=environment(), label_selector={hosts.ID_LABEL: node}).remote() for node in nodes]
    try:
        kinds = ray.get([probe.device.remote() for probe in probes])
        pairs = list(itertools.combinations(range(len(nodes)), 2))[:MOST_PAIRS] or [(0, 0)]
        between = {(a, b): ray.get(probes[b].time_link.remote(*ray.get(probes[a].echo.remote()))) for a, b in pairs}
    finally:
        for probe in probes:
            ray.kill(probe)
    return slowest(kinds, between)


def slowest(kinds: Sequence[str], between: Mapping[tuple[int, int], Link]) -> dict[str, Speed]:
    """By kind of device, of the links of machines that have it.

    Args:
        kinds: of each machine.
        between: link of two machines, by place.
    """
    found: dict[str, Speed] = {}
    for pair, link in between.items():
        speed = Speed.of(link)
        for kind in {kinds[place] for place in pair}:
            if kind not in found or _transfer_s(speed) > _transfer_s(found[kind]):
                found[kind] = speed
    return found


def _transfer_s(speed: Speed) -> float:
    """Of the large size that was timed."""
    return speed.latency_s + LARGE / speed.bandwidth_bytes_per_s
