"""Inner optimizer steps inside a worker: local SGD and its kin.

The flat vector that an engine computes at is stepped in place; a copy of where it began gives the update `base - end`. Two vectors more
than an engine alone, and the inner optimizer's state, which is this worker's own and is kept from order to order.

Buffers (BatchNorm's running statistics) go along: what a batch made of them is where the next step begins.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mottle.compression.bf16 import narrowed, widened
from mottle.core.fragments import Fragments
from mottle.core.layout import Layout
from mottle.core.protocol import LocalSteps
from mottle.engines.inner import InnerMethod, build_inner
from mottle.optim.schedule import Schedule
from mottle.optim.state import State

INNER = "inner."
"""Names of the inner optimizer's state begin so in a checkpoint."""
VALUES = "values"
"""Name there of a worker's own parameters, where they do not go back to a base between orders."""


class LocalTraining:
    """One worker's inner steps.

    Args:
        values_D: the parameters, shape (layout.size,); stepped in place.
        schedule: factor on the inner learning rate as a function of samples.
        fragments: of the model, where they are sent apart.
    """

    def __init__(self, layout: Layout, values_D: Tensor, schedule: Schedule | None = None, fragments: Fragments | None = None) -> None:
        self._layout = layout
        self._values_D = values_D
        self._schedule = schedule
        self._fragments = fragments
        self._narrow = fragments is not None and fragments.narrow
        self._base_D = torch.empty_like(values_D)
        self._method: InnerMethod | None = None
        self._spec: Any = None
        self._taken_up: State = {}
        """What the method goes on from, once it is known which it is."""
        self._fresh = False
        """Whether every order begins with a new optimizer state."""
        self._wanders = False
        """Whether the values do not go back to a base between orders."""
        self._num_steps = 0
        self.weight = 0.0
        """Of all samples since the base: what the update is multiplied by."""
        self.started = False
        """Whether there is a base that the values may have left."""

    def start(self, order: LocalSteps) -> None:
        """The values are a base now; a round of this order begins at them, where the method does not move them first.

        An order that follows another one begins where that one ended, and its bases are those of the fragments last mixed in.
        """
        if order.follows is None:
            if self._narrow:  # as it is known to those who were here when it moved
                self._values_D.copy_(widened(narrowed(self._values_D)))
            self._base_D.copy_(self._values_D)
            self._go_on_from_checkpoint(order)
        self._wanders = order.send is not None
        self.started = True
        self._num_steps = 0
        self.weight = 0.0
        self._fresh = order.fresh
        if self._method is None or self._spec != order.optimizer:
            self._method, self._spec = build_inner(order.optimizer, self._layout, self._values_D), order.optimizer
            self._method.load_state({name.removeprefix(INNER): value for name, value in self._taken_up.items()})
            self._taken_up = {}
        elif order.fresh:
            self._method.reset()
        self._method.begin(self._values_D, [self._lr(order, self._method, number) for number in range(order.steps)])

    def state(self) -> State:
        """A copy of what is kept from order to order, on the CPU; empty where nothing is."""
        if self._method is None:
            return dict(self._taken_up)
        state = {} if self._fresh else {f"{INNER}{name}": value.to("cpu") for name, value in self._method.state().items()}
        return {**state, VALUES: self._values_D.to("cpu", copy=True)} if self._wanders else state

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state` of a worker that was; before the first order, which raises ValueError if it is of another method."""
        self._taken_up = dict(state)

    def _go_on_from_checkpoint(self, order: LocalSteps) -> None:
        """The first base is the one that the state was saved at: the values leave it for where they were."""
        values_D = self._taken_up.pop(VALUES, None)
        if values_D is not None and order.send is not None:
            self._values_D.copy_(values_D)

    @torch.no_grad()
    def mix(self, fragment: int, theta_F: Tensor, share: float) -> None:
        """x <- share * x + (1 - share) * theta on a fragment, whose next pseudo-gradient is measured from theta.

        Args:
            theta_F: in the fragment's own coordinates; what `narrowed` made of it, where fragments travel so.
            share: alpha of Streaming DiLoCo; 0 gives theta, bit by bit.
        """
        for values_P, base_P, theta_P in self._pieces(fragment, widened(theta_F) if self._narrow else theta_F):
            base_P.copy_(theta_P)
            values_P.copy_(torch.lerp(base_P, values_P, share))

    def _pieces(self, fragment: int, vector_F: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Values, base and a fragment's vector, piece by piece."""
        assert self._fragments is not None, "this model has no fragments"
        start = 0
        for piece in self._fragments.ranges[fragment]:
            place = slice(piece.start, piece.stop)
            yield self._values_D[place], self._base_D[place], vector_F[start : start + piece.size]
            start += piece.size

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

        Of an order that sends a fragment, that fragment's `base - end`, in its own coordinates.

        If it is not finite, which the gate of the step will see, the optimizer's state is worth nothing either and begins anew.
        """
        assert self._method is not None, "no step was taken"
        end_D = self._values_D
        if order.send is not None:
            assert self._fragments is not None, "this model has no fragments"
            update_D = end_D.new_empty(self._fragments.size(order.send))
            for values_P, base_P, update_P in self._pieces(order.send, update_D):
                torch.sub(base_P, values_P, out=update_P).mul_(self.weight)
        else:
            update_D = end_D * self.weight if order.whole else self._method.difference(end_D, self._base_D).mul_(self.weight)
        if not bool(torch.isfinite(update_D).all()):
            self._method.reset()
        return update_D
