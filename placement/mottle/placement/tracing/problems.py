"""From captured units to placement problems: the forward graph, the joint graph of a training step, or inference.

Names in a joint graph: `u` is the forward pass of unit u, `u:backward` its backward pass, `g:update` the optimizer's step on group g.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Literal, NamedTuple

from mottle.placement.problem import Device, Edge, Op, Segment
from mottle.placement.tracing.costs import Work
from mottle.placement.tracing.rates import DeviceClass
from mottle.placement.tracing.segments import part_into_segments
from mottle.placement.tracing.units import Unit

GraphKind = Literal["joint", "forward", "inference"]
Optimizer = Literal["sgd", "momentum", "adam"]
GRAPHS: tuple[GraphKind, ...] = ("joint", "forward", "inference")
SLOTS: Mapping[Optimizer, int] = {"sgd": 0, "momentum": 1, "adam": 2}
"""Numbers that an optimizer keeps for each parameter."""
LOSS = "loss"


class Times(NamedTuple):
    """Nanoseconds of a unit's passes on one device class."""

    forward: float
    backward: float


TimeTable = Mapping[str, Mapping[str, Times]]
"""Device class -> unit -> times."""


def time_table(units: Sequence[Unit], classes: Mapping[str, DeviceClass]) -> dict[str, dict[str, Times]]:
    """Roofline times of all units on the classes."""
    return {
        name: {u.id: Times(kind.time_ns(u.cost.forward, u.dtype), kind.time_ns(u.cost.backward, u.dtype)) for u in units}
        for name, kind in classes.items()
    }


class Builder:
    """Ops and edges of one problem."""

    def __init__(
        self,
        units: Sequence[Unit],
        outputs: Sequence[str],
        classes: Mapping[str, DeviceClass],
        times: TimeTable,
        optimizer: Optimizer,
        tick_ns: int,
    ) -> None:
        self.units, self.outputs, self.classes, self.times = units, outputs, classes, times
        self.slots, self.tick_ns = SLOTS[optimizer], tick_ns
        self.ops: list[Op] = []
        self.edges: list[Edge] = []

    def inference(self) -> None:
        """Outputs live until their last reader has run."""
        for unit in self.units:
            state = unit.state.trainable + unit.state.frozen
            self.ops.append(Op(unit.id, self._ticks(unit, lambda t: t.forward), perm=state, out=unit.out, group=unit.group))
            self._forward_edges(unit)

    def forward(self) -> None:
        """Forward ops that stand for the whole training step of a unit; sizes as in the table of 1.4."""
        for unit in self.units:
            kept = unit.out + unit.cost.saved_inside
            taken = sum(flow.bytes for flow in unit.inputs)
            temp = unit.out + unit.state.trainable + max(unit.cost.saved_inside, taken)
            self.ops.append(Op(unit.id, self._step_ticks(unit), perm=self._resident(unit), temp=temp, out=kept, group=unit.group))
            self._forward_edges(unit)

    def joint(self) -> None:
        """Forward, backward and update ops; what a backward pass reads stays until it has run."""
        differentiated = self._differentiated()
        for unit in self.units:
            group = unit.group or unit.id
            kept = unit.out + unit.cost.saved_inside
            self.ops.append(Op(unit.id, self._ticks(unit, lambda t: t.forward), perm=self._resident(unit), out=kept, group=group))
            self._forward_edges(unit)
            if unit.id in differentiated:
                self._backward(unit, group, differentiated)
        self._loss(differentiated)
        self._updates(differentiated)

    def segments(self) -> tuple[Segment, ...]:
        """Of a joint graph: what may be recomputed or offloaded."""
        return part_into_segments(self.units, self._differentiated())

    def _forward_edges(self, unit: Unit) -> None:
        self.edges += [Edge(flow.producer, unit.id, flow.bytes, tensor=flow.node) for flow in unit.inputs]

    def _differentiated(self) -> set[str]:
        """Units through which a gradient flows: those that an output depends on differentiably."""
        wanted = set(self.outputs)
        reached: set[str] = set()
        for unit in reversed(self.units):
            if unit.id in wanted and unit.cost.has_backward:
                reached.add(unit.id)
                wanted |= {flow.producer for flow in unit.inputs if flow.differentiable}
        return reached

    def _backward(self, unit: Unit, group: str, differentiated: set[str]) -> None:
        name = f"{unit.id}:backward"
        self.ops.append(Op(name, self._ticks(unit, lambda t: t.backward), out=unit.cost.gradients, group=group))
        if unit.cost.saves_outputs or unit.cost.saved_inside:
            self.edges.append(Edge(unit.id, name, 0, tensor="kept for backward"))
        for flow in unit.inputs:
            if flow.saved:
                self.edges.append(Edge(flow.producer, name, flow.bytes, tensor=flow.node))
            if flow.differentiable and flow.producer in differentiated:
                self.edges.append(Edge(name, f"{flow.producer}:backward", flow.bytes, tensor=f"gradient of {flow.node}"))

    def _loss(self, differentiated: set[str]) -> None:
        """One tick between the last forward op and the first backward op, beside the first output."""
        heads = [unit for unit in self.units if unit.id in self.outputs and unit.id in differentiated]
        if not heads:
            return
        self.ops.append(Op(LOSS, 0, out=sum(unit.out for unit in heads), group=heads[0].group or heads[0].id))
        for unit in heads:
            self.edges.append(Edge(unit.id, LOSS, unit.out, tensor="output"))
            self.edges.append(Edge(LOSS, f"{unit.id}:backward", unit.out, tensor=f"gradient of {unit.id}"))

    def _updates(self, differentiated: set[str]) -> None:
        members: dict[str, list[Unit]] = defaultdict(list)
        for unit in self.units:
            members[unit.group or unit.id].append(unit)
        for group, units in members.items():
            before = [unit for unit in units if unit.id in differentiated]
            if not before or not any(unit.state.trainable for unit in units):
                continue
            name = f"{group}:update"
            work = Work({}, sum(self._update_traffic(unit) for unit in units))
            ticks = {kind: self._whole_ticks(spec.time_ns(work, "float32")) for kind, spec in self.classes.items()}
            self.ops.append(Op(name, ticks, group=group))
            self.edges += [Edge(f"{unit.id}:backward", name, 0, tensor="weight gradient") for unit in before]

    def _update_traffic(self, unit: Unit) -> int:
        """Weight and gradient read, weight written, every slot read and written."""
        return (3 + 2 * self.slots) * unit.state.trainable

    def _resident(self, unit: Unit) -> int:
        """Weights, gradients, optimizer state (16-bit weights: float32 state and a float32 master copy), frozen state."""
        state = unit.state
        narrow = 0 < state.trainable < 4 * state.trainable_values
        slots = 4 * (self.slots + 1) * state.trainable_values if narrow else self.slots * state.trainable
        return 2 * state.trainable + slots + state.frozen

    def _step_ticks(self, unit: Unit) -> dict[str, int]:
        """Forward, backward and update together."""
        update = Work({}, self._update_traffic(unit)) if unit.state.trainable else Work()
        return {
            kind: self._whole_ticks(table[unit.id].forward + table[unit.id].backward + self.classes[kind].time_ns(update, "float32"))
            for kind, table in self.times.items()
        }

    def _ticks(self, unit: Unit, part: Callable[[Times], float]) -> dict[str, int]:
        return {kind: self._whole_ticks(part(table[unit.id])) for kind, table in self.times.items()}

    def _whole_ticks(self, time_ns: float) -> int:
        return ceil(time_ns / self.tick_ns)


def classes_of(devices: Sequence[Device], classes: Mapping[str, DeviceClass]) -> dict[str, DeviceClass]:
    """The classes that occur among the devices."""
    return {device.kind: classes[device.kind] for device in devices if device.kind in classes}
