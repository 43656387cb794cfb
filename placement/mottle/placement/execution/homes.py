"""Which device holds which parameter, and which runs what in the mode that was not planned."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mottle.placement.execution.targets import Target
from mottle.placement.tracing.inplace import work_out
from mottle.placement.tracing.trace import Traced, trace
from mottle.placement.tracing.units import Unit, build_units


class Slot(NamedTuple):
    """Where a module keeps one parameter or buffer."""

    name: str
    module: nn.Module
    key: str
    tensor: Tensor


def slots(model: nn.Module) -> Iterator[Slot]:
    """Every parameter and buffer under each of its names."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield Slot(f"{prefix}.{key}" if prefix else key, module, key, tensor)


def settle(model: nn.Module, traced: Traced, home: Mapping[str, str], targets: Mapping[str, Target]) -> dict[str, str]:
    """Move parameters and buffers to the ops that use them; unused ones to the first device.

    Returns:
        Parameter or buffer, by each of its names -> device of the plan.
    """
    by_tensor = _readers(traced, home)
    of_twin = {slot.name: slot.tensor for slot in slots(traced.model)}
    homes = {}
    for slot in slots(model):
        homes[slot.name] = by_tensor.get(id(of_twin[slot.name]), next(iter(targets)))
        move(slot, targets[homes[slot.name]].device)
    return homes


def move(slot: Slot, device: torch.device) -> None:
    """Put a parameter or buffer on a device."""
    if isinstance(slot.tensor, nn.Parameter):
        slot.tensor.data = slot.tensor.data.to(device)  # the same object, which optimizers may hold already
    else:
        slot.module._buffers[slot.key] = slot.tensor.to(device)


def _readers(traced: Traced, home: Mapping[str, str]) -> dict[int, str]:
    """Tensor of the twin -> device of what reads it, or of the op that it is."""
    found: dict[int, str] = {}
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            readers = [home[each.name] for each in (node, *node.users) if each.name in home]
            tensors = [traced.attribute(str(node.target))] if readers else []
        elif node.op == "call_module":
            module: nn.Module = traced.attribute(str(node.target))
            readers, tensors = [home[node.name]], [*module.parameters(), *module.buffers()]
        else:
            continue
        for tensor in tensors:
            found.setdefault(id(tensor), readers[0])
    return found


def other_mode(traced: Traced) -> tuple[Traced, Sequence[Unit]]:
    """The graph of the same model in evaluation mode if this one is of training mode, and the other way round."""
    twin, training = traced.model, traced.training
    modes = [(module, module.training) for module in twin.modules()]
    try:
        other = trace(twin.train(not training), traced.call, source=traced.source)
    finally:
        for module, mode in modes:
            module.training = mode
    return other, build_units(other, work_out(other))


def carry_over(traced: Traced, units: Sequence[Unit], device_of: Mapping[str, str]) -> dict[str, str]:
    """Devices for another graph of the model: ops with state are where it is, the others beside what they read, sources beside a reader."""
    names = {id(slot.tensor): slot.name for slot in slots(traced.model)}
    by_node = {node.name: node for node in traced.graph.nodes}
    home: dict[str, str] = {}  # of a group, or of a unit alone
    for unit in units:
        for node in (by_node[name] for name in unit.nodes):
            tensors = [traced.attribute(str(each.target)) for each in (node, *node.all_input_nodes) if each.op == "get_attr"]
            if node.op == "call_module":
                tensors += list(traced.attribute(str(node.target)).parameters())
            for name in (names[id(tensor)] for tensor in tensors if id(tensor) in names):
                home.setdefault(_key(unit), device_of[name])
    key = {unit.id: _key(unit) for unit in units}
    for sweep in (units, units[::-1], units):
        for unit in sweep:
            for flow in unit.inputs:
                giver, taker = key[flow.producer], _key(unit)
                if sweep is units and giver in home:
                    home.setdefault(taker, home[giver])
                elif sweep is not units and taker in home:
                    home.setdefault(giver, home[taker])
    anywhere = next(iter(device_of.values()))
    return {node: home.get(_key(unit), anywhere) for unit in units for node in unit.nodes}


def _key(unit: Unit) -> str:
    return unit.group or unit.id
