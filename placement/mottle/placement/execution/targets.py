"""Where a plan's devices are in this process, and how tensors get from one to another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mottle.core.errors import ConfigError


@dataclass(frozen=True)
class Target:
    """A device of a plan. Several may share one torch device; they are apart all the same, and what passes between them is copied."""

    id: str
    device: torch.device

    def take(self, value: Any) -> Any:
        """A copy of every tensor in a value, here; differentiable, so that gradients travel back the same way."""
        return pytree.tree_map(lambda leaf: self._copy(leaf) if isinstance(leaf, Tensor) else leaf, value)

    def _copy(self, tensor: Tensor) -> Tensor:
        if tensor.device == self.device:
            return tensor.clone()
        # a copy to the host that does not wait would be read before it is there
        return tensor.to(self.device, non_blocking=self.device.type != "cpu")


def targets_of(names: Sequence[str], devices: Mapping[str, str | torch.device] | None) -> dict[str, Target]:
    """The target of every device of a plan.

    Args:
        names: the plan's devices.
        devices: name -> torch device; None: the names are torch devices themselves, such as `cpu` or `cuda:0`.
    Raises:
        ConfigError: a device is not in the map, no torch device, or not in this machine.
    """
    found, faults = {}, []
    for name in names:
        place = name if devices is None else devices.get(name)
        if place is None:
            faults.append(f"device {name!r} of the plan is not in `devices`, which has {sorted(devices or ())}")
            continue
        try:
            found[name] = Target(name, _existing(torch.device(place)))
        except RuntimeError as error:
            hint = "" if devices else "; say where it is with devices={name: torch device}"
            faults.append(f"device {name!r} of the plan cannot be used: {str(error).splitlines()[0]}{hint}")
    if faults:
        raise ConfigError("; ".join(faults))
    return found


def _existing(device: torch.device) -> torch.device:
    """The device as its tensors report it. Raises RuntimeError where there is none."""
    return torch.empty(0, device=device).device
