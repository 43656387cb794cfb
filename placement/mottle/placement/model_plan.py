"""`plan`: a model, an example and devices in, a plan out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from mottle.core.errors import ConfigError
from mottle.placement.cluster import Cluster, find_cluster
from mottle.placement.coarsen import Coarsening
from mottle.placement.entry import place
from mottle.placement.plans import Plan
from mottle.placement.problem import CommMode, Device, Link
from mottle.placement.reductions import Activations
from mottle.placement.tracing import DEVICE_CLASSES, PCIE, DeviceClass, GraphKind, Optimizer, Source, TimeTable, capture, declare
from mottle.placement.tracing.local import HOST, here


def plan(
    model: nn.Module,
    example: Any,
    devices: Sequence[str | Device] | None = None,
    *,
    cluster: Cluster | str | None = None,
    algorithm: str = "auto",
    coarsen: Coarsening | None = None,
    budget_s: float | None = 1.0,
    activations: Activations = "auto",
    graph: GraphKind | None = None,
    optimizer: Optimizer = "adam",
    classes: Mapping[str, DeviceClass] = DEVICE_CLASSES,
    measured: TimeTable | None = None,
    default_link: Link = PCIE,
    links: Mapping[tuple[str, str], Link] | None = None,
    comm_mode: CommMode = "parallel",
    source: Source | None = None,
) -> Plan:
    """Decide which device runs which op of a model.

    Nothing is run; the model may lie on the meta device. The plan shows itself in a notebook, and `plan.module(model)` is the model placed.

    Args:
        example: a tensor, a tuple of positional arguments, or a dict of keyword arguments of the model; shapes and dtypes count.
        devices: torch devices of this machine (`cpu`, `cuda:0`), devices elsewhere as `name=class` or `name=class:memory`
            (`gpu0=a100-40gb`, `box=cpu-8:8Gi`), or `Device` objects.
        cluster: in the place of devices, classes and links: those of a cluster, or "auto" for the Ray cluster that this process is
            connected to.
        algorithm, coarsen, budget_s, activations: as `place`.
        graph, optimizer, classes, measured, default_link, links, comm_mode: as `Capture.problem`.
        source: as `capture`.
    Raises:
        ConfigError, ProblemError, InfeasibleError: with messages meant for the user.
    """
    if cluster is not None:
        if devices is not None:
            raise ConfigError("give either devices or a cluster: a cluster has its own devices")
        whole = find_cluster(cluster) if isinstance(cluster, str) else cluster
        devices, classes, default_link = whole.devices, {**classes, **whole.classes}, whole.default_link
        links = {**whole.links, **(links or {})}
    if isinstance(devices, str) or not devices:
        raise ConfigError(f"devices is a list such as ['cuda:0', 'cpu'] or ['gpu0=a100-40gb', 'box=cpu-8']; got {devices!r}")
    listed, known = _devices(devices, classes)
    captured = capture(model, example, source=source)
    problem = captured.problem(
        listed,
        graph=graph,
        optimizer=optimizer,
        classes=known,
        measured=measured,
        default_link=default_link,
        links=links,
        comm_mode=comm_mode,
    )
    return replace(place(problem, algorithm, coarsen=coarsen, budget_s=budget_s, activations=activations), captured=captured)


def _devices(devices: Sequence[str | Device], classes: Mapping[str, DeviceClass]) -> tuple[list[Device], dict[str, DeviceClass]]:
    """Devices, and all classes that they may be of."""
    listed, known = [], dict(classes)
    for each in devices:
        if isinstance(each, Device):
            listed.append(each)
        elif "=" in each:
            listed.append(declare(each, classes))
        else:
            device, kind = here(each, classes)
            listed.append(device)
            if device.kind == HOST:
                known[HOST] = kind
    return listed, known
