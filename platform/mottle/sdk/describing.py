"""From what the user gave a `Trainer` to the parts of a job, each checked before any process starts."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mottle import compression, data, optim, strategies
from mottle.actors.faulty import check_live
from mottle.actors.job import WorkerGroup
from mottle.core.errors import ConfigError
from mottle.core.health import HealthConfig
from mottle.core.layout import Layout
from mottle.core.naming import Spec, parse
from mottle.core.strategy import Assessing
from mottle.data.source import Source
from mottle.engines import Metric, TorchConfig, add_companions
from mottle.engines.flat import flatten, layout_of
from mottle.optim.groups import OptimizerSpec
from mottle.sdk.configs import groups_of
from mottle.sdk.live_rule import live_rule
from mottle.sdk.until import Until
from mottle.strategies.batch_policy import for_optimizer

Model = nn.Module | Callable[[], nn.Module]

# --- the model and its optimizer ------------------------------------------------------------------------------------------------------


class ModelFactory:
    """Makes the module in another process; a module that was given is copied, so nobody shares it.

    Args:
        companion: what a second vector beside the parameters begins with, for strategies that share one.
    """

    def __init__(self, model: Model, companion: float | None = None) -> None:
        self._model = model
        self._companion = companion

    def __call__(self) -> nn.Module:
        model = self._model
        made = copy.deepcopy(model) if isinstance(model, nn.Module) else model() if callable(model) else model
        if not isinstance(made, nn.Module):
            raise ConfigError(f"model is a torch module or a function without arguments that makes one, got {type(made).__name__}")
        return made if self._companion is None else add_companions(made, self._companion)


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The model before its first step."""

    module: nn.Module
    layout: Layout
    values: Tensor
    """The flat vector, shape (D,)."""
    optimizer: OptimizerSpec

    @classmethod
    def of(cls, make: Callable[[], nn.Module], optimizer: Spec, seed: int) -> "Beginning":
        """Initialise the model with the run's seed and try the optimizer on it.

        Raises:
            ConfigError: no module, one that cannot be trained, or an optimizer, option or parameter group that there is not.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = make()
        spec = optim.read(optimizer)
        layout = layout_of(module, spec.group_patterns)
        values = flatten(module, layout)
        optim.build(optimizer, values.clone(), layout.group_ranges)
        return cls(module=module, layout=layout, values=values, optimizer=spec)


# --- the data -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The job's data."""

    train: Source
    trusted: Source | None
    test: Source | None

    @classmethod
    def of(cls, train: Any, validation: Any, test: Any, collate_fn: Any) -> "Sources":
        """Open what was given.

        Raises:
            ConfigError: nothing that is data, no row in it, or trusted data that shares rows with the test data.
        """
        source = data.build(train, collate_fn)
        trusted, tested = (None if each is None else data.build(each, collate_fn) for each in (validation, test))
        if trusted is not None and tested is not None:
            data.assert_disjoint(trusted, tested)
        return cls(train=source, trusted=trusted, test=tested)

    def check_metrics(self, limits: Until, metrics: Mapping[str, Metric]) -> None:
        """Refuse a metric of the loss's name, and a run that ends when a metric is good which nobody measures."""
        if "loss" in metrics:
            raise ConfigError("metrics: 'loss' cannot be a metric's name, for the mean loss is always reported under it; leave it out")
        measured = [f"test_{name}" for name in ("loss", *metrics)] if self.test is not None else []
        for name in limits.metric or ():
            if name not in measured:
                raise ConfigError(
                    f"until waits for metric {name!r}, and what is measured is {', '.join(measured) or 'nothing without test_data'}"
                )


# --- the strategy ---------------------------------------------------------------------------------------------------------------------


def strategy_defaults(
    strategy: Spec, rule: Spec | None, batch_size: int, optimizer: Spec, trusted: Source | None, batch_policy: Spec | None = None
) -> dict[str, Any]:
    """What the job says outside of the strategy's own options: batch_size, batch_policy, lr, optimizer and rule, those that are given.

    Raises:
        ConfigError: a strategy, rule or option that there is not, or that does not go with the rest of the job.
    """
    name, _ = parse(strategy, "strategy")
    stepper = optim.read(optimizer)
    lr = stepper.options.get("lr")
    local = strategies.takes_local_steps(name)
    if batch_policy is not None and not strategies.takes_batch_policy(name):
        raise ConfigError(
            f"strategy {name!r} has no batch of the whole crew that could follow it, so it takes no batch_policy; use sync, backup or "
            "lb_bsp, or leave it out"
        )
    policy = None if batch_policy is None else for_optimizer(batch_policy, stepper.name)
    resized = policy is not None
    checked_rule = None if rule is None else live_rule(rule, trusted=trusted is not None, lr=lr, local=local, resized=resized)
    given = {"batch_size": batch_size, "batch_policy": policy, "lr": lr, "optimizer": optimizer, "rule": checked_rule}
    defaults = {name: value for name, value in given.items() if value is not None}
    made = strategies.build(strategy, defaults)
    if made.needs_validation and trusted is None:
        raise ConfigError(f"strategy {name!r} tests updates on trusted data; give validation_data, disjoint from test_data")
    if isinstance(made, Assessing) and trusted is None:
        raise ConfigError(f"strategy {name!r} learns from the loss on trusted data; give validation_data, disjoint from test_data")
    if made.needs_validation and stepper.name.lower() != "sgd":
        raise ConfigError(
            f"strategy {name!r} fixes the length of every step, so it takes plain SGD only, got optimizer {stepper.name!r}; use sgd"
        )
    if rule is not None and not strategies.takes_rule(name):
        raise ConfigError(f"strategy {name!r} applies no robust rule; use sync, or leave the rule out")
    return defaults


# --- the fleet ------------------------------------------------------------------------------------------------------------------------


def worker_groups(
    scaling_config: Any, attack: Spec | None, *, collusion: bool, micro_batch_size: int, max_grad_norm: float | None
) -> tuple[WorkerGroup, ...]:
    """The crew's groups.

    Args:
        max_grad_norm: of each worker's mean gradient.
    Raises:
        ConfigError: a group that cannot be, an attack that cannot be done live, or what its engine refuses.
    """
    groups = groups_of(scaling_config, attack)
    for group in groups:
        if group.attack is not None:
            check_live(group.attack, collusion=collusion)
        TorchConfig(micro_batch_size=micro_batch_size, autocast=group.autocast, max_grad_norm_per_worker=max_grad_norm)  # type: ignore[arg-type]  # it names the choices
    return groups


def check_health(health: HealthConfig | None, *, codec: Spec | None, seed_samples: bool) -> None:
    """Refuse spot checks where two honest workers would not compute the same.

    Raises:
        ConfigError: says what stands in the way.
    """
    if health is None or not health.spot_checks:
        return
    if not seed_samples:
        raise ConfigError("health.spot_checks compare what two workers make of the same samples; they need seed_samples=True")
    if compression.remembers(compression.build(codec)):
        raise ConfigError(f"health.spot_checks need a codec that keeps nothing back, such as identity or bf16, got {codec!r}")


# --- numbers --------------------------------------------------------------------------------------------------------------------------


def check_counts(least: int, **counts: Any) -> None:
    """Refuse what is no integer of at least `least`; a value of None was left out.

    Raises:
        ConfigError: names all of them.
    """
    wrong = [
        f"{name} must be an integer of at least {least}, got {value!r}"
        for name, value in counts.items()
        if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and value >= least)
    ]
    if wrong:
        raise ConfigError("; ".join(wrong))
