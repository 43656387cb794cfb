"""Which engines there are, and one from its name in a job."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from mottle.core.errors import ConfigError
from mottle.core.layout import Layout
from mottle.core.naming import configured, lookup, parse
from mottle.engines.base import Engine, Loss
from mottle.engines.placed.config import PlacedConfig
from mottle.engines.torch_engine import TorchConfig, TorchEngine


def _gang_only(*arguments: object, **options: object) -> Engine:
    raise ConfigError(
        "engine 'placed' is a gang of processes, which a run makes for a worker group; in one process, use the module of a plan"
    )


CATALOGUE: Mapping[str, tuple[type[Any], Callable[..., Engine]]] = {
    "torch": (TorchConfig, TorchEngine),
    "placed": (PlacedConfig, _gang_only),
}
"""Name -> its options, and what is called with (model, loss, layout, device, **options)."""


def config_of(spec: object) -> Any:
    """The options of the engine that a spec names, checked without a model at hand.

    Raises:
        ConfigError: unknown name or option (names the nearest), a missing option, or a value out of range.
    """
    name, options = parse(spec, "engine")
    config, _ = lookup(name, CATALOGUE, "engine")
    return configured(config, options, f"engine {name!r}")


def build(spec: object, model: nn.Module, loss: Loss, layout: Layout, device: torch.device | str) -> Engine:
    """An engine from its name: `{"torch": {"micro_batch_size": 32, "autocast": "bf16"}}`.

    Raises:
        ConfigError: as `config_of`, or the layout is of another model.
    """
    config = config_of(spec)
    _, engine = lookup(parse(spec, "engine")[0], CATALOGUE, "engine")
    return engine(model, loss, layout, device, **asdict(config))
