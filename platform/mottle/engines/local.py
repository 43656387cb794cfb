"""Inner optimizer steps inside a worker: local SGD and its kin.

The flat vector that an engine computes at is stepped in place; a copy of where it began gives the update `base - end`. Two vectors more
than an engine alone, and the inner optimizer's state, which is this worker's own and is kept from order to order.

Buffers (BatchNorm's running statistics) go along: what a batch made of them is where the next step begins.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mottle.core.layout import Layout
from mottle.core.protocol import LocalSteps
from mottle.engines.inner import InnerMethod, build_inner
from mottle.optim.schedule import Schedule
from mottle.optim.state import State

INNER = "inner."
"""Names of the inner optimizer's state begin so in a checkpoint."""


class LocalTraining:
    """One worker's inner steps.

    Args:
        values_D: the parameters, shape (layout.size,); stepped in place.
        schedule: factor on the inner learning rate as a function of samples.
    """

    def __init__(self, layout: Layout, values_D: Tensor, schedule: Schedule | None = None) -> None:
        self._layout = layout
        self._values_D = values_D
        self._schedule = schedule
        self._base_D = torch.empty_like(values_D)
        self._method: InnerMethod | None = None
        self._spec: Any = None
        self._taken_up: State = {}
        """What the method goes on from, once it is known which it is."""
        self._fresh = False
        """Whether every order begins with a new optimizer state."""
        self._num_steps = 0
        self.weight = 0.0
        """Of all samples since the base: what the update is multiplied by."""
        self.started = False
        """Whether there is a base that the values may have left."""

    def start(self, order: LocalSteps) -> None:
        """The values are a base now; a round of this order begins at them, where the method does not move them first."""
        self._base_D.copy_(self._values_D)
        self.started = True
        self._num_steps = 0
        self.weight = 0.0
        self._fresh = order.fresh
        if self._method is None or self._spec != order.optimizer:
            self._method, self._spec = build_inner(order.optimizer, self._layout, self._values_D), order.optimizer
            self._method.load_state(self._taken_up)
            self._taken_up = {}
        elif order.fresh:
            self._method.reset()
        self._method.begin(self._values_D, [self._lr(order, self._method, number) for number in range(order.steps)])

    def state(self) -> State:
        """A copy of what is kept from order to order, on the CPU; empty where nothing is."""
        state = self._taken_up if self._method is None else {} if self._fresh else self._method.state()
        return {f"{INNER}{name}": value.to("cpu") for name, value in state.items()}

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state` of a worker that was; before the first order, which raises ValueError if it is of another method."""
        self._taken_up = {name.removeprefix(INNER): value for name, value in state.items()}

    def rewind(self) -> None:
        """Put the values back to the base."""
        if self.started:
            self._values_D.copy_(self._base_D)

    def forget(self) -> None:
        """The values are about to be overwritten: there is no base to go back to."""
        self.started = False

    @torch.no_grad()
    def step(self, order: LocalSteps, sum_D: Tensor, weight: float) -> None:
        """One inner step on a gradient sum.

        Args:
            sum_D: over the samples of the step, in its buffer tail `weight * (before - after)`; used up.
            weight: what it is divided by; 0 for samples that count for nothing, which are no step.
        """
        assert self._method is not None, "a step before the start"
        if weight > 0:
            direction_D = sum_D.div_(weight)
            if order.pull:
                params = slice(0, self._layout.num_params)
                direction_D[params].add_(self._values_D[params] - self._base_D[params], alpha=order.pull)
            self._method.step(self._values_D, self._base_D, direction_D, self._lr(order, self._method, self._num_steps))
        self._num_steps += 1
        self.weight += weight

    def _lr(self, order: LocalSteps, method: InnerMethod, number: int) -> float:
        """Rate of a step, counted from 0."""
        factor = 1.0 if self._schedule is None else self._schedule(order.samples + number * order.advance)
        return factor * (method.base_lr if order.lr is None else order.lr)

    @torch.no_grad()
    def update(self, order: LocalSteps) -> Tensor:
        """What is pushed, shape (size,), in memory of its own: the weight times `base - end`, or times `end` where whole models are sent.

        If it is not finite, which the gate of the step will see, the optimizer's state is worth nothing either and begins anew.
        """
        assert self._method is not None, "no step was taken"
        end_D = self._values_D
        update_D = end_D * self.weight if order.whole else self._method.difference(end_D, self._base_D).mul_(self.weight)
        if not bool(torch.isfinite(update_D).all()):
            self._method.reset()
        return update_D
