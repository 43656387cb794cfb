"""A model in one process on several devices, as a plan says: same names, same numbers, another place."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mottle.core.errors import ConfigError
from mottle.placement.execution.homes import carry_over, other_mode, settle
from mottle.placement.execution.hooked import HookedModule
from mottle.placement.execution.program import Program
from mottle.placement.execution.regions import Region
from mottle.placement.execution.targets import targets_of
from mottle.placement.plans import Plan
from mottle.placement.reductions import DONE, Reduction
from mottle.placement.tracing.capture import Capture
from mottle.placement.tracing.trace import Traced
from mottle.placement.tracing.watch import paths_of


class PlacedModule(nn.Module):
    """The model with every op on its device.

    It takes over the model's parameters and buffers, which move to their devices, under their own names: `state_dict`, `parameters` and
    optimizers see what they saw before. Calls take and give what the model takes and gives, with the shapes of the example. Results are
    on the device of the first tensor that is passed in, unless `output` says otherwise. Results have the same bits; gradients of a value
    that three or more ops read may be added in another order where those are on several devices. Evaluation mode runs a graph of its
    own, with the weights where they are and every other op beside what it reads. What the plan has recomputed or offloaded is, in training.

    Args:
        model: what was captured.
        plan: a placement of a problem made by `captured`.
        devices: device of the plan -> torch device; None: the plan's names are torch devices. Several names may mean one torch device.
        output: where results go.
    Raises:
        ConfigError: a device is missing, or plan and capture do not belong together.
    """

    def __init__(
        self,
        model: nn.Module,
        captured: Capture,
        plan: Plan,
        *,
        devices: Mapping[str, str | torch.device] | None = None,
        output: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        check(model, captured, plan)
        if not isinstance(captured.traced, Traced):
            raise ConfigError("a model that was watched has no graph to run: use place_model, which runs its own Python")
        # one set of names for both: whatever is registered, loaded or moved in one is so in the other
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.training = captured.traced.training
        self.plan = plan
        targets = targets_of(plan.devices_used, devices)
        # in a list, or the model would be registered as a part of itself
        self._model, self._targets, self._output = [model], targets, None if output is None else torch.device(output)
        self._planned, self._regions = captured.traced.training, regions_of(captured, plan.reductions)
        self._traced = {captured.traced.training: captured.traced}
        self._home = {captured.traced.training: {node: plan.assignment[unit.id] for unit in captured.units for node in unit.nodes}}
        self.device_of = settle(model, captured.traced, self._home[self.training], targets)
        """Parameter or buffer -> device of the plan."""
        self._programs: dict[tuple[bool, torch.device], Program] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own."""
        return self.program(self._output_for(args, kwargs))(self._model[0], args, kwargs)

    def program(self, output: torch.device) -> Program:
        """What runs in the present mode, with results on a device; made at first use."""
        key = (self.training, output)
        if key not in self._programs:
            if self.training not in self._traced:
                traced, units = other_mode(next(iter(self._traced.values())))
                self._traced[self.training] = traced
                self._home[self.training] = carry_over(traced, units, self.device_of)
            regions = self._regions if self.training == self._planned else []
            self._programs[key] = Program(
                self._traced[self.training], self._home[self.training], self._targets, self._model[0], output, regions
            )
        return self._programs[key]

    def _output_for(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device:
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return self._output or (leaves[0].device if leaves else next(iter(self._targets.values())).device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        raise ConfigError("a placed model stays where its plan put it, in the dtype it was captured in: change the model before placing it")


def check(model: nn.Module, captured: Capture, plan: Plan) -> None:
    """Raise ConfigError unless the plan places what was captured, and what was captured is this model, with values."""
    missing = [unit.id for unit in captured.units if unit.id not in plan.assignment]
    if missing:
        raise ConfigError(
            f"the plan places no op {missing[0]!r} ({len(missing)} missing of {len(captured.units)}): it was made for another capture"
        )
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    wanted = {name: tuple(parameter.shape) for name, parameter in captured.traced.model.named_parameters()}
    if shapes != wanted:
        differing = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        raise ConfigError(f"the model is not the one that was captured: parameters {differing[:5]} differ")
    meta = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if meta:
        raise ConfigError(f"parameter {meta[0]!r} is on the meta device and has no values: load the model before placing it")


def regions_of(captured: Capture, reductions: Sequence[Reduction]) -> list[Region]:
    """What a plan's reductions are in the graph.

    Raises:
        ConfigError: one names ops that were not captured, or that must not run twice.
    """
    units = {unit.id: unit for unit in captured.units}
    regions = []
    for reduction in reductions:
        unknown = [name for name in reduction.ops if name not in units]
        once = [name for name in reduction.ops if name in units and reduction.means == "recompute" and not units[name].repeatable]
        if unknown or once:
            why = f"op {unknown[0]!r} was not captured" if unknown else f"op {once[0]!r} writes memory that others read, and must run once"
            raise ConfigError(f"the plan wants {reduction.segment!r} {DONE[reduction.means]}, but {why}: plan anew")
        nodes = frozenset(node for name in reduction.ops for node in units[name].nodes)
        regions.append(Region(reduction.segment, reduction.means, nodes))
    return regions


def place_model(
    model: nn.Module,
    captured: Capture,
    plan: Plan,
    *,
    devices: Mapping[str, str | torch.device] | None = None,
    output: str | torch.device | None = None,
) -> "PlacedModule | HookedModule":
    """The planned model on its devices: run as a graph where there is one, else by its own Python with hooks.

    Args and errors: as `PlacedModule`.
    """
    if isinstance(captured.traced, Traced):
        return PlacedModule(model, captured, plan, devices=devices, output=output)
    check(model, captured, plan)
    if plan.reductions:
        raise ConfigError(
            f"the plan wants {plan.reductions[0].segment!r} {DONE[plan.reductions[0].means]}, which takes a static graph: "
            f"{'; '.join(captured.reasons)}. Plan with activations='keep'"
        )
    targets = targets_of(plan.devices_used, devices)
    return HookedModule(model, paths_of(captured.units, plan.assignment), targets, None if output is None else torch.device(output))
