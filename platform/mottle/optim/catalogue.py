"""Which optimizers can run on slices: those of `torch.optim` in which no coordinate looks at another.

A shard holds a range of coordinates that begins and ends anywhere inside a tensor. An optimizer gives the same result on ranges as on
the whole model exactly when its update of a coordinate depends on that coordinate's own gradient and state (and on scalars that are
the same everywhere, such as Adam's step count). The others are refused by name, with what they look at.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from mottle.core.errors import ConfigError, UnknownNameError
from mottle.core.naming import folded, lookup, suggestion

ELEMENTWISE: Mapping[str, type[torch.optim.Optimizer]] = {
    each.__name__: each
    for each in (
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.Adamax,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.ASGD,
    )
}

REFUSED: Mapping[str, str] = {
    "LBFGS": "its line search evaluates the loss again and again and takes inner products over the whole model; use SGD or Adam",
    "SparseAdam": "it wants sparse gradients, and updates travel as dense ranges of the flat vector; use Adam",
    "Muon": "it orthogonalises whole weight matrices, and a shard's range cuts through them; use AdamW",
    "Adafactor": "it keeps row and column sums of whole weight matrices, and a shard's range cuts through them; use AdamW",
}

OURS = ("params", "foreach", "capturable", "differentiable")
"""Arguments of torch's constructors that are not the user's: how a step is carried out on a shard is decided in `slices`."""


def find(name: str) -> type[torch.optim.Optimizer]:
    """The `torch.optim` class of that name, whatever its case and underscores.

    Raises:
        ConfigError: refused, with the reason; or unknown, with the nearest name.
    """
    for refused, reason in REFUSED.items():
        if folded(name) == folded(refused):
            raise ConfigError(f"optimizer {refused} cannot run on slices of a model: {reason}")
    return lookup(name, ELEMENTWISE, "optimizer")


def make(optimizer: type[torch.optim.Optimizer], groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Construct it; torch's own complaints about values come out as ours.

    Raises:
        ConfigError: an unknown option (names the nearest), or a value that torch refuses.
    """
    known = [name for name in inspect.signature(optimizer).parameters if name not in OURS]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"optimizer {optimizer.__name__} has no option {option!r} here; {suggestion(option, known)}")
    try:
        return optimizer(groups, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer {optimizer.__name__}: {error}") from error
