"""The devices of a cluster: what a plan for all of it is made on. Found by whoever knows the cluster; nothing here does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from mottle.core.errors import ConfigError
from mottle.core.naming import lookup
from mottle.placement.problem import Device, Link
from mottle.placement.tracing.rates import DeviceClass

FINDERS: Mapping[str, str] = {"auto": "mottle.actors.discovery:discover"}
"""Name -> function that finds a cluster, loaded when it is asked for: placement itself knows of no runtime."""


@dataclass(frozen=True)
class Cluster:
    """Devices by rank: (node, GPU before CPU, index) (specification 7.1)."""

    devices: tuple[Device, ...]
    classes: Mapping[str, DeviceClass]
    """Measured rates, or a table's, of every class among the devices."""
    nodes: Mapping[str, str]
    """Device -> node: what fails together."""
    links: Mapping[tuple[str, str], Link]
    """Between devices, measured."""
    default_link: Link


def find_cluster(name: str) -> Cluster:
    """The cluster that a name stands for: `auto` is the Ray cluster that this process is connected to.

    Raises:
        ConfigError: no such name, or no cluster there.
    """
    module, function = lookup(name, FINDERS, "cluster").split(":")
    find: Callable[[], Cluster] = getattr(import_module(module), function)
    try:
        return find()
    except ImportError as error:
        raise ConfigError(f"cluster {name!r} cannot be looked at: {error}") from error
