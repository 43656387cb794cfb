"""`capture`: any PyTorch model as an operator graph with sizes and times, without running it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from torch import nn

from mottle.core.errors import ConfigError
from mottle.core.naming import suggestion
from mottle.placement.problem import CommMode, Device, Link, Problem
from mottle.placement.tracing.example import Example, as_example
from mottle.placement.tracing.inplace import work_out
from mottle.placement.tracing.problems import GRAPHS, SLOTS, Builder, GraphKind, Optimizer, TimeTable, classes_of, time_table
from mottle.placement.tracing.rates import DEVICE_CLASSES, PCIE_BYTES_PER_S, DeviceClass
from mottle.placement.tracing.trace import NoGraphError, Source, Traced, trace
from mottle.placement.tracing.units import Unit, build_units
from mottle.placement.tracing.watch import Watched, watch

TICK_NS = 100
"""Length of a tick: a fiftieth of what launching an op on a GPU takes."""
PCIE = Link(100, PCIE_BYTES_PER_S)
"""Default link: 10 us and 12 GB/s."""


@dataclass(frozen=True, eq=False)
class Capture:
    """A model's ops, with sizes and work; `problem` sets them before devices."""

    units: tuple[Unit, ...]
    outputs: tuple[str, ...]
    """Units whose results the model returns, in order, without repetition."""
    traced: Traced | Watched

    @property
    def source(self) -> str:
        """What made the graph: `export`, `fx` or `modules`."""
        return self.traced.source

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the better sources would not do."""
        return self.traced.reasons

    def problem(
        self,
        devices: Sequence[Device],
        *,
        graph: GraphKind | None = None,
        optimizer: Optimizer = "adam",
        classes: Mapping[str, DeviceClass] = DEVICE_CLASSES,
        measured: TimeTable | None = None,
        default_link: Link = PCIE,
        links: Mapping[tuple[str, str], Link] | None = None,
        comm_mode: CommMode = "parallel",
        tick_ns: int = TICK_NS,
    ) -> Problem:
        """The placement problem on these devices.

        Args:
            devices: `kind` names an entry of `classes`.
            graph: `joint` (forward, backward and update ops, dynamic memory), `forward` (one op a unit for the whole training step,
                static memory) or `inference`; None: joint for a model in training mode, else inference.
            optimizer: what it keeps for each parameter counts as resident.
            measured: times that replace the roofline's, for some classes and units.
            default_link: latency in ticks and bytes a second between any two devices; `links` where a pair differs.
        Raises:
            ConfigError: an unknown graph, optimizer or device class, or a training graph of a model in evaluation mode.
            ProblemError: as `Problem`.
        """
        kind: GraphKind = graph or ("joint" if self.traced.training else "inference")
        self._check(kind, optimizer, devices, classes)
        used = classes_of(devices, classes)
        times = time_table(self.units, used)
        for name, table in (measured or {}).items():
            if name in times:
                times[name] |= table
        builder = Builder(self.units, self.outputs, used, times, optimizer, tick_ns)
        {"joint": builder.joint, "forward": builder.forward, "inference": builder.inference}[kind]()
        return Problem(
            ops=tuple(builder.ops),
            edges=tuple(builder.edges),
            devices=tuple(devices),
            default_link=default_link,
            links=dict(links or {}),
            tick_ns=tick_ns,
            comm_mode=comm_mode,
            mem_mode="static" if kind == "forward" else "dynamic",
            segments=builder.segments() if kind == "joint" else (),
            host_links=_host_links(used, tick_ns) if kind == "joint" else {},
        )

    def _check(self, kind: str, optimizer: str, devices: Sequence[Device], classes: Mapping[str, DeviceClass]) -> None:
        if kind not in GRAPHS:
            raise ConfigError(f"graph {kind!r} is unknown; {suggestion(kind, GRAPHS)}")
        if optimizer not in SLOTS:
            raise ConfigError(f"optimizer {optimizer!r} is unknown; {suggestion(optimizer, SLOTS)}")
        if kind != "inference" and not self.traced.training:
            raise ConfigError(f"a {kind} graph needs a model in training mode, and this one was captured in evaluation mode: call train()")
        for device in devices:
            if device.kind not in classes:
                raise ConfigError(f"device {device.id!r} is of class {device.kind!r}; {suggestion(device.kind, classes)}")


def _host_links(classes: Mapping[str, DeviceClass], tick_ns: int) -> dict[str, Link]:
    latency = ceil(PCIE.lat * TICK_NS / tick_ns)
    return {
        name: Link(latency, round(kind.host_bytes_per_s)) for name, kind in sorted(classes.items()) if kind.host_bytes_per_s is not None
    }


def capture(model: nn.Module, example: Any, *, source: Source | None = None) -> Capture:
    """The operator graph of a model in its present mode (training or evaluation).

    Nothing is computed and no memory is needed, but in the last resort below: the model may lie on the meta device, and of the example
    only shapes and dtypes count.
    `torch.export` is tried first, symbolic tracing (`torch.fx`) second. A model without a static graph, whose control flow depends on
    values, is watched while it runs, leaf module by leaf module: on fake tensors if that goes, else a copy of it, once, on the example.
    `reasons` tells why each source before the one that served would not do.

    Args:
        example: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        source: `export`, `fx` or `modules`: take this one only.
    Raises:
        ConfigError: the model takes other arguments, or no source serves, with the reason of each.
    """
    call = as_example(example)
    try:
        if source == "modules":
            return _watched(model, call, ())
        traced = trace(model, call, source=source)
    except NoGraphError as error:
        if source is not None:
            raise
        return _watched(model, call, error.reasons)
    values = work_out(traced)
    units = build_units(traced, values)
    unit_of = {node: unit.id for unit in units for node in unit.nodes}
    returned = [node.name for node in next(iter(traced.graph.find_nodes(op="output"))).all_input_nodes]
    return Capture(units, tuple(dict.fromkeys(unit_of[name] for name in returned if name in unit_of)), traced)


def _watched(model: nn.Module, call: Example, reasons: tuple[str, ...]) -> Capture:
    watched, units, outputs = watch(model, call, reasons)
    return Capture(units, outputs, watched)
