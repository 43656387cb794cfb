"""A model whose control flow depends on values, on several devices: its own Python runs, and hooks bring inputs to the leaf modules.

What happens between leaf modules runs where its first operand is; the other operands follow it. Several plan devices that are one torch
device are not kept apart here: nothing is copied between them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from mottle.core.errors import ConfigError
from mottle.placement.execution.homes import move, slots
from mottle.placement.execution.targets import Target
from mottle.placement.tracing.values import tensors_in
from mottle.placement.tracing.watch import leaves_of


class HookedModule(nn.Module):
    """The model with every leaf module on its device. As `PlacedModule`, without fixed shapes.

    Args:
        home: leaf module -> device of the plan; leaves that the example did not reach go to the first device.
    """

    def __init__(self, model: nn.Module, home: Mapping[str, str], targets: Mapping[str, Target], output: torch.device | None) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.training = model.training
        self._model, self._output = [model], output
        self._first = next(iter(targets.values()))
        self.device_of: dict[str, str] = {}
        """Parameter or buffer -> device of the plan."""
        for path, module in leaves_of(model):
            target = targets[home.get(path or type(module).__name__, self._first.id)]
            module.register_forward_pre_hook(_bring(target.device), with_kwargs=True)
            for slot in slots(module):
                move(slot, target.device)
                self.device_of[f"{path}.{slot.name}" if path else slot.name] = target.id

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own."""
        given = tensors_in((args, kwargs))
        output = self._output or (given[0].device if given else self._first.device)
        with _Together():
            return _on(self._model[0].forward(*args, **kwargs), output)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        raise ConfigError("a placed model stays where its plan put it: change the model before placing it")


class _Together(TorchFunctionMode):
    """Operands on different devices meet where the first one is."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [tensor for tensor in tensors_in((args, kwargs)) if tensor.dim()]  # a single number goes anywhere by itself
        if len({tensor.device for tensor in tensors}) > 1 and func not in _CROSSING:
            args, kwargs = _on((args, kwargs), tensors[0].device)
        return func(*args, **(kwargs or {}))


_CROSSING: Sequence[Any] = (Tensor.copy_, Tensor.to, Tensor.type_as)
"""Functions that are there to take something to another device."""


def _bring(device: torch.device) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return _on((args, kwargs), device)

    return hook


def _on(value: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) and leaf.device != device else leaf, value)
