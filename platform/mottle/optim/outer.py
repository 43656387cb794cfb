"""What shards step with where workers take local steps: the direction is a mean of `start - end`, the pseudo-gradient, not of gradients.

Named in a strategy, never in a job: a job's `optimizer` is then that of the workers' inner steps.

* `outer_sgd`: torch's SGD on pseudo-gradients at a rate of its own, which no schedule and no change of the inner rate touches. With rate 1
  and no momentum it is plain averaging; with Nesterov momentum DiLoCo's (`local-steps.md` 1 and 4).
* `slow_momentum`, `sign_momentum`: divide the pseudo-gradient by gamma, the workers' learning rate at their last inner step, so that it is
  of the size of a sum of gradients; gamma is the rate that the shard is told (`local-steps.md` 3).
* `mixing`: the direction is a mean of whole models, and the parameters move to it by a share (`asynchronous.md` B2).
* `merging`: the direction is a weighted sum of whole models, which becomes the model (`local-steps.md` 8).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mottle.core.errors import ConfigError
from mottle.core.layout import BUFFER_GROUP, GroupRange
from mottle.core.naming import configured, folded, parse
from mottle.optim.slices import SliceOptimizer, build
from mottle.optim.state import State

MOMENTUM = "momentum_buffer"
"""torch's name of the same thing."""


class Rule(Protocol):
    """How parameters and a momentum move; both are changed in place."""

    @property
    def lr(self) -> float:
        """gamma, before the schedule."""

    def move(self, params_D: Tensor, momentum_D: Tensor, delta_D: Tensor, gamma: float) -> None:
        """Take one step.

        Args:
            delta_D: mean pseudo-gradient over gamma, shape (D,); may be changed.
            gamma: above 0.
        """


@dataclass(frozen=True, kw_only=True)
class SlowMomentum:
    """m <- beta m + d; x <- x - alpha gamma m. Wang et al. 2019, arXiv 1910.00643."""

    lr: float
    beta: float
    alpha: float

    def move(self, params_D: Tensor, momentum_D: Tensor, delta_D: Tensor, gamma: float) -> None:
        momentum_D.mul_(self.beta).add_(delta_D)
        params_D.sub_(momentum_D, alpha=self.alpha * gamma)


@dataclass(frozen=True, kw_only=True)
class SignMomentum:
    """u = beta1 m + (1 - beta1) d; x <- (1 - lam eta gamma) x - eta gamma sign(u); m <- beta2 m + (1 - beta2) d. sign(0) = 0.

    Yu et al. 2024, arXiv 2411.17866; with one step of SGD by one worker it is Lion.
    """

    lr: float
    beta1: float
    beta2: float
    weight_decay: float  # lam
    eta: float

    def move(self, params_D: Tensor, momentum_D: Tensor, delta_D: Tensor, gamma: float) -> None:
        sign_D = momentum_D.mul(self.beta1).add_(delta_D, alpha=1 - self.beta1).sign_()
        params_D.mul_(1 - self.weight_decay * self.eta * gamma).sub_(sign_D, alpha=self.eta * gamma)
        momentum_D.mul_(self.beta2).add_(delta_D, alpha=1 - self.beta2)


RULES: Mapping[str, Any] = {"slow_momentum": SlowMomentum, "sign_momentum": SignMomentum}


def build_server(spec: object, params_range: Tensor, group_ranges: Sequence[GroupRange]) -> SliceOptimizer:
    """What a shard steps with: an outer optimizer by its name above, else one of `torch.optim` as `build` makes it.

    Raises:
        ConfigError: as `build`.
    """
    if not isinstance(spec, str | Mapping):
        return build(spec, params_range, group_ranges)
    name, options = parse(spec, "optimizer")
    if folded(name) == "outersgd":
        return _FixedRate(build({"sgd": options}, params_range, _one_group(group_ranges)))
    if folded(name) == "mixing":
        return _Mixing(params_range)
    if folded(name) == "merging":
        return _Merging(params_range, group_ranges)
    for known, rule in RULES.items():
        if folded(name) == folded(known):
            return _WithMomentum(configured(rule, options, f"optimizer {known}"), params_range, group_ranges)
    return build(spec, params_range, group_ranges)


def _one_group(group_ranges: Sequence[GroupRange]) -> list[GroupRange]:
    """An outer step treats all parameters alike; their groups are the inner optimizer's."""
    return [run if run.group == BUFFER_GROUP else GroupRange(run.start, run.stop, 0) for run in group_ranges]


class _FixedRate:
    """Another optimizer that hears of no learning rate but its own."""

    wants_mean = False

    def __init__(self, inner: SliceOptimizer) -> None:
        self._inner = inner
        self.base_lr = inner.base_lr

    def step(self, direction: Tensor, lr: float | None = None, factor: float = 1.0) -> None:
        self._inner.step(direction, None, factor)

    def set(self, option: str, value: float) -> None:
        self._inner.set(option, value)

    def state(self) -> State:
        return self._inner.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._inner.load_state(state)


class _WithMomentum:
    """A `Rule` on one range; parameters move, the buffer tail is averaged."""

    wants_mean = False

    def __init__(self, rule: Rule, params_range: Tensor, group_ranges: Sequence[GroupRange]) -> None:
        self._rule = rule
        self.base_lr = rule.lr
        self._range = params_range
        self._momentum: Tensor | None = None
        self._tail = [run for run in group_ranges if run.group == BUFFER_GROUP]
        self._params = [run for run in group_ranges if run.group != BUFFER_GROUP]

    @torch.no_grad()
    def step(self, direction: Tensor, lr: float | None = None, factor: float = 1.0) -> None:
        """With gamma 0 no inner step moved anything, so nothing does."""
        gamma = self.base_lr if lr is None else lr
        for run in self._tail:
            self._range[run.start : run.stop].sub_(direction[run.start : run.stop])
        if gamma == 0:
            return
        if self._momentum is None:
            self._momentum = torch.zeros_like(self._range)
        for run in self._params:
            part = slice(run.start, run.stop)
            self._rule.move(self._range[part], self._momentum[part], direction[part].mul_(factor / gamma), gamma)

    def set(self, option: str, value: float) -> None:
        raise ConfigError(f"an outer optimizer's {option} is its strategy's to say")

    def state(self) -> State:
        return {} if self._momentum is None else {MOMENTUM: self._momentum.clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError for a state of another optimizer."""
        if not state.keys() <= {MOMENTUM}:
            raise ValueError(f"{type(self._rule).__name__} keeps {MOMENTUM}, got {sorted(state)}: was it saved with another optimizer?")
        self._momentum = state[MOMENTUM].to(self._range, copy=True) if state else None


class _Mixing:
    """x <- (1 - factor) x + factor * direction, buffers as parameters."""

    base_lr = 1.0
    wants_mean = True

    def __init__(self, params_range: Tensor) -> None:
        self._range = params_range

    @torch.no_grad()
    def step(self, direction: Tensor, lr: float | None = None, factor: float = 1.0) -> None:
        self._range.lerp_(direction, factor)

    def set(self, option: str, value: float) -> None:
        raise ConfigError(f"whole models are mixed in: there is no {option}")

    def state(self) -> State:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing is kept."""


class _Merging:
    """x <- factor * direction; buffers become the direction's, which are a mean already."""

    base_lr = 1.0
    wants_mean = False

    def __init__(self, params_range: Tensor, group_ranges: Sequence[GroupRange]) -> None:
        self._range = params_range
        self._params = [slice(run.start, run.stop) for run in group_ranges if run.group != BUFFER_GROUP]

    @torch.no_grad()
    def step(self, direction: Tensor, lr: float | None = None, factor: float = 1.0) -> None:
        for part in self._params:
            direction[part].mul_(factor)
        self._range.copy_(direction)

    def set(self, option: str, value: float) -> None:
        raise ConfigError(f"whole models are merged: there is no {option}")

    def state(self) -> State:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing is kept."""
