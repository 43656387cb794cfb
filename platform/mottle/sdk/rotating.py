"""What a job is made of whose strategy trains several models in rotation (`mottle.core.rotation`)."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from mottle import optim
from mottle.actors.job import WorkerGroup, placed_config
from mottle.core.errors import ConfigError
from mottle.core.layout import Layout
from mottle.core.naming import Spec
from mottle.core.rotation import Rotation
from mottle.core.strategy import Rotating, Strategy
from mottle.engines.rotation import begun
from mottle.optim.groups import in_rotation

SEED = "seed"


def models_of(strategy: Strategy) -> tuple[dict[str, Any], ...]:
    """What is each model's own; empty for a strategy that trains one."""
    return tuple(map(dict, strategy.models)) if isinstance(strategy, Rotating) else ()


def rotation_of(strategy: Strategy, layout: Layout) -> Rotation | None:
    """How models of that layout lie side by side; None for a strategy that trains one."""
    models = models_of(strategy)
    return Rotation(layout, len(models)) if models else None


def server_optimizer(strategy: Strategy, optimizer: Spec) -> Spec | None:
    """What the shards step with, where that is not the job's optimizer.

    Raises:
        ConfigError: rates of a model's parameter groups that cannot be kept in proportion.
    """
    if models := models_of(strategy):
        return dict(in_rotation(optimizer, [{name: value for name, value in own.items() if name != SEED} for own in models]))
    return strategy.server_optimizer


def beginnings(strategy: Strategy, make: Callable[[], nn.Module], rotation: Rotation, seed: int) -> Tensor:
    """The flat vector of all models before their first steps: model k as a run with the seed `seed + k` would begin, or with its own."""
    return begun(make, rotation, [own.get(SEED, seed + number) for number, own in enumerate(models_of(strategy))])


def check_rotation(
    strategy: Strategy, optimizer: Spec, rotation: Rotation, values: Tensor, groups: Sequence[WorkerGroup], *, made: bool
) -> None:
    """Refuse what does not go with several models.

    Args:
        made: whether the user gave a module, of which every model is then a copy.
    Raises:
        ConfigError: says what to do.
    """
    if gangs := [group.name for group in groups if placed_config(group) is not None]:
        raise ConfigError(f"workers that are gangs ({', '.join(gangs)}) train one model: leave out models, or use single processes")
    if made and (seeded := [str(number) for number, own in enumerate(models_of(strategy)) if SEED in own]):
        raise ConfigError(
            f"models {', '.join(seeded)} have a seed of their own, and the module is made already: give a function that makes it"
        )
    optim.build(server_optimizer(strategy, optimizer), values.clone(), rotation.stacked.group_ranges)
