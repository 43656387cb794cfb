"""A second vector beside the parameters that the whole crew shares: AdaAlter's accumulators, DOMO's server momentum.

It travels as buffers of the model do, one for every trainable parameter and of its shape: so versions carry it to workers, shards average
what workers made of it, and checkpoints hold it, without any of them knowing what it is. The model's own code never looks at it.
"""

import torch
from torch import nn

from mottle.core.errors import ConfigError
from mottle.core.layout import Layout, Slice

SUFFIX = "__companion"


def add_companions(model: nn.Module, initial: float) -> nn.Module:
    """Register a buffer beside every trainable parameter, of its shape and filled with `initial`; returns the same module."""
    for name, parameter in list(model.named_parameters()):
        if parameter.requires_grad:
            path, _, leaf = name.rpartition(".")
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            companion = torch.full(parameter.shape, initial, dtype=dtype, device=parameter.device)
            model.get_submodule(path).register_buffer(leaf + SUFFIX, companion)
    return model


def companions(layout: Layout) -> list[tuple[Slice, Slice]]:
    """Every parameter with its companion.

    Raises:
        ConfigError: a parameter has none, because the model was made without `add_companions`.
    """
    by_name = {piece.name: piece for piece in layout.buffers}
    missing = [piece.name for piece in layout.parameters if piece.name + SUFFIX not in by_name]
    if missing:
        raise ConfigError(
            f"the strategy shares a second vector, and the model has none beside {', '.join(missing[:5])}; use add_companions"
        )
    return [(piece, by_name[piece.name + SUFFIX]) for piece in layout.parameters]
