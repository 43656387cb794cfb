"""What a worker's inner steps are made of: an optimizer of `torch.optim`, or one of the methods that share a second vector.

A method sees the whole flat vector, which it steps in place, and the one where the round began. What it gives at the end is in the form
`base - end`: averaged over workers and subtracted from the base, it is the method's global step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mottle import optim
from mottle.core.layout import Layout
from mottle.core.naming import configured, folded, parse
from mottle.engines.companions import companions
from mottle.optim.state import State


class InnerMethod(Protocol):
    """One worker's. Vectors have shape (layout.size,)."""

    @property
    def base_lr(self) -> float:
        """The learning rate before the schedule."""

    def begin(self, values_D: Tensor, lrs: list[float]) -> None:
        """A round begins at `values_D`.

        Args:
            lrs: rates of the steps that are planned.
        """

    def step(self, values_D: Tensor, base_D: Tensor, direction_D: Tensor, lr: float) -> None:
        """Take a step in place.

        Args:
            direction_D: mean gradient, in the buffer tail the mean of `before - after`; may be changed.
        """

    def difference(self, values_D: Tensor, base_D: Tensor) -> Tensor:
        """What the round gave, in memory of its own."""

    def reset(self) -> None:
        """Forget what is kept from round to round."""

    def state(self) -> State:
        """A copy of what is kept from round to round; empty where nothing is."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up a copy of another one's.

        Raises:
            ValueError: it is of another method.
        """


class _Torch:
    """An optimizer of `torch.optim`."""

    def __init__(self, spec: Any, layout: Layout, values_D: Tensor) -> None:
        self._optimizer = optim.build(spec, values_D, layout.group_ranges)
        self.base_lr = self._optimizer.base_lr

    def begin(self, values_D: Tensor, lrs: list[float]) -> None:
        """It goes on from where it was."""

    def step(self, values_D: Tensor, base_D: Tensor, direction_D: Tensor, lr: float) -> None:
        self._optimizer.step(direction_D, None if lr == self.base_lr else lr)

    def difference(self, values_D: Tensor, base_D: Tensor) -> Tensor:
        return base_D - values_D

    def reset(self) -> None:
        self._optimizer.load_state({})

    def state(self) -> State:
        return self._optimizer.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._optimizer.load_state(state)


class _Stateless:
    """All that a method keeps is shared, or begins anew in every round."""

    def reset(self) -> None:
        """There is nothing to forget."""

    def state(self) -> State:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if state:
            raise ValueError(
                f"{type(self).__name__} keeps nothing from round to round, got {sorted(state)}: was it saved with another optimizer?"
            )


@dataclass(frozen=True, kw_only=True)
class AdaAlterOptions:
    """AdaGrad with a denominator that lags, so that it can be shared now and then."""

    lr: float
    eps2: float
    weight_decay: float
    placeholder: Literal["paper", "code"]


class _AdaAlter(_Stateless):
    """x <- x - eta (g / sqrt(h + k eps2) + wd x);  A <- A + g g.  h: A where the round began; k: the step in the round, or 1.

    Xie et al. 2019, arXiv 1911.09030; `local-steps.md` 2. A is the companion.
    """

    def __init__(self, options: AdaAlterOptions, layout: Layout) -> None:
        self._options = options
        self.base_lr = options.lr
        self._pairs = companions(layout)
        self._tail = slice(layout.num_params, None)
        self._num_steps = 0

    def begin(self, values_D: Tensor, lrs: list[float]) -> None:
        self._num_steps = 0

    @torch.no_grad()
    def step(self, values_D: Tensor, base_D: Tensor, direction_D: Tensor, lr: float) -> None:
        self._num_steps += 1
        values_D[self._tail].sub_(direction_D[self._tail])
        waiting = self._options.eps2 * (self._num_steps if self._options.placeholder == "paper" else 1)
        for params, accumulators in self._pairs:
            gradient, x = direction_D[params.start : params.stop], values_D[params.start : params.stop]
            denominator = base_D[accumulators.start : accumulators.stop].add(waiting).sqrt_()
            x.mul_(1 - lr * self._options.weight_decay).addcdiv_(gradient, denominator, value=-lr)
            values_D[accumulators.start : accumulators.stop].addcmul_(gradient, gradient)

    def difference(self, values_D: Tensor, base_D: Tensor) -> Tensor:
        return base_D - values_D


@dataclass(frozen=True, kw_only=True)
class DOMOOptions:
    """Local and server momentum, fused."""

    lr: float
    local_momentum: float  # beta_l
    server_momentum: float  # beta_s
    fusion: float  # beta
    alpha: float
    variant: Literal["pre", "intra"]


class _DOMO(_Stateless):
    """v <- bl v + g;  z <- z - eta v (intra-fusion: and - eta beta m), from y = x - eta K beta m (intra-fusion: from x);  v = 0 at first.

    With d = (y - z) / (eta K), less beta m in intra-fusion, the server's m <- bs m + d and x <- x - alpha eta K m are linear in d: each
    worker gives what they would be with its own d, and the mean over workers is theirs. eta K is the sum of the rates of the steps: of
    those planned for y and x, of those taken for d. Xu, Huang 2021, arXiv 2102.03970; `local-steps.md` 6. m is the companion.
    """

    def __init__(self, options: DOMOOptions, layout: Layout) -> None:
        self._options = options
        self.base_lr = options.lr
        self._pairs = companions(layout)
        self._params, self._tail = slice(0, layout.num_params), slice(layout.num_params, None)
        self._velocity_D: Tensor | None = None
        self._planned = 0.0
        self._taken = 0.0

    @torch.no_grad()
    def begin(self, values_D: Tensor, lrs: list[float]) -> None:
        self._planned, self._taken = sum(lrs), 0.0
        self._velocity_D = torch.zeros_like(values_D[self._params])
        if self._options.variant == "pre":
            self._fuse(values_D, values_D, self._planned)

    def _fuse(self, values_D: Tensor, base_D: Tensor, rate: float) -> None:
        """Move along the server's momentum."""
        for params, momentum in self._pairs:
            values_D[params.start : params.stop].sub_(base_D[momentum.start : momentum.stop], alpha=rate * self._options.fusion)

    @torch.no_grad()
    def step(self, values_D: Tensor, base_D: Tensor, direction_D: Tensor, lr: float) -> None:
        assert self._velocity_D is not None
        values_D[self._tail].sub_(direction_D[self._tail])
        self._velocity_D.mul_(self._options.local_momentum).add_(direction_D[self._params])
        values_D[self._params].sub_(self._velocity_D, alpha=lr)
        if self._options.variant == "intra":
            self._fuse(values_D, base_D, lr)
        self._taken += lr

    @torch.no_grad()
    def difference(self, values_D: Tensor, base_D: Tensor) -> Tensor:
        options, difference_D = self._options, base_D - values_D
        if self._taken == 0:
            return difference_D.zero_()
        # Both variants have moved by beta m as well: in pre-fusion before the first step, in intra-fusion with each of those taken.
        fused = options.fusion * (self._planned if options.variant == "pre" else self._taken)
        for params, momentum in self._pairs:
            at, beside = slice(params.start, params.stop), slice(momentum.start, momentum.stop)
            m = base_D[beside]
            new_m = difference_D[at].sub(m, alpha=fused).div_(self._taken).add_(m, alpha=options.server_momentum)
            difference_D[beside] = m - new_m
            difference_D[at] = new_m.mul_(options.alpha * self._planned)
        return difference_D


_METHODS: Mapping[str, tuple[type[Any], Callable[[Any, Layout], InnerMethod]]] = {
    "adaalter": (AdaAlterOptions, _AdaAlter),
    "domo": (DOMOOptions, _DOMO),
}


def build_inner(spec: object, layout: Layout, values_D: Tensor) -> InnerMethod:
    """A method from its name, or the `torch.optim` optimizer that the spec names.

    Raises:
        ConfigError: unknown name or option; a method that shares a vector, and a model without one.
    """
    if isinstance(spec, str | Mapping):
        name, options = parse(spec, "optimizer")
        for known, (config, method) in _METHODS.items():
            if folded(name) == folded(known):
                return method(configured(config, options, f"optimizer {known}"), layout)
    return _Torch(spec, layout, values_D)
