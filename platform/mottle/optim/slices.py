"""Server-side optimizers: one step of a `torch.optim` optimizer on the range of coordinates that a shard holds.

The result is that of the same optimizer on the whole model, bit for bit, for any number of shards: torch's element-wise kernels give a
coordinate the same bits wherever it lies. Two choices keep it so and keep it fast on CPUs:

* A range is handed to torch in pieces of `PIECE` coordinates, one "parameter" each. All operations of a step then find the piece in
  the second-level cache, and temporaries are the size of a piece, not of the shard. (One core, 3 M coordinates: Adam 5.3 ms, against
  6.3 ms in one piece and 28 ms in pieces of 3,000.)
* torch's fused CPU kernels are twice as fast again, but their last bits depend on where a range begins (the vector's remainder lanes
  round differently), so they run only for a user who says `fused: true`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from mottle.core.errors import ConfigError
from mottle.core.layout import BUFFER_GROUP, GroupRange, Range
from mottle.optim import catalogue
from mottle.optim.groups import OptimizerSpec, read
from mottle.optim.state import Slots, State

PIECE = 1 << 18
"""Coordinates in a piece: 1 MB of float32, so parameters, direction and two moments of a piece fit a 4 MB share of cache."""


class SliceOptimizer(Protocol):
    """Steps a range of the flat vector in place. Outer optimizers of local methods are of this kind too."""

    @property
    def base_lr(self) -> float:
        """The learning rate that the spec gives: what a schedule's factor multiplies."""

    @property
    def wants_mean(self) -> bool:
        """Whether `direction` must be a mean over samples, because `factor` means something by itself."""

    def step(self, direction: Tensor, lr: float | None = None, factor: float = 1.0) -> None: ...

    def set(self, option: str, value: float) -> None:
        """Change an option other than the learning rate, for all groups, from the next step on."""

    def state(self) -> State: ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


def build(spec: object, params_range: Tensor, group_ranges: Sequence[GroupRange]) -> SliceOptimizer:
    """A `torch.optim` optimizer for one range: a shard's, or all that a worker holds.

    Args:
        spec: `{"sgd": {"lr": 0.1, "momentum": 0.9}}`, with `param_groups` as in `mottle.optim.groups`.
        params_range: shape (range,), float32 or float64, contiguous; stepped in place and never replaced.
        group_ranges: from `Layout.groups_in`: the groups of the range, counted from its start; the buffer tail among them.
    Raises:
        ConfigError: unknown or refused optimizer, unknown option, a value torch refuses, a group the spec does not have.
    """
    return TorchSliceOptimizer(read(spec), params_range, group_ranges)


class TorchSliceOptimizer:
    """An element-wise `torch.optim` optimizer on one range; parameters step, the buffer tail is averaged."""

    wants_mean = False

    def __init__(self, spec: OptimizerSpec, params_range: Tensor, group_ranges: Sequence[GroupRange]) -> None:
        self._spec = spec
        self._class = catalogue.find(spec.name)
        self._slots = [Slots.of(self._class, spec.options_of(group)) for group in range(1 + len(spec.group_options))]
        if beyond := sorted({run.group for run in group_ranges if run.group >= len(self._slots)}):
            raise ConfigError(f"the layout has parameter groups {beyond} unknown to optimizer {spec.name!r}: make both from one spec")
        self._range = params_range
        self._tail = [run for run in group_ranges if run.group == BUFFER_GROUP]
        self._pieces = [piece for run in group_ranges if run.group != BUFFER_GROUP for piece in self._split(run)]
        self._set: dict[str, float] = {}
        self._optimizer = self._fresh()
        self.base_lr = _learning_rate(self._class, spec.options)
        self._lrs = [float(group["lr"]) for group in self._torch_groups]
        if self.base_lr == 0 and any(self._lrs):
            raise ConfigError(f"optimizer {spec.name!r} with lr 0: a group's own lr is kept in proportion to it; give lr a value above 0")

    @torch.no_grad()
    def step(self, direction: Tensor, lr: float | None = None, factor: float = 1.0) -> None:
        """Move the range along a combined direction.

        Args:
            direction: shape, dtype and device of the range: the mean gradient of the parameters and, in the buffer tail, the mean of
                `base - new`, which is subtracted as it is: no learning rate, momentum or clipping touches a buffer.
            lr: learning rate of this step instead of the spec's; groups with their own keep their proportion to it.
            factor: on the gradient, before anything else (clipping); multiplied into `direction` in place unless 1.
        Raises:
            ValueError: a direction of another shape, dtype or device.
        """
        self._check(direction)
        for tail in self._tail:
            self._range[tail.start : tail.stop].sub_(direction[tail.start : tail.stop])
        if self._optimizer is None:
            return
        for group, own in zip(self._torch_groups, self._lrs, strict=True):
            group["lr"] = own if lr is None else lr if own == self.base_lr else own * (lr / self.base_lr)
        for piece in self._pieces:
            gradient = direction[piece.start : piece.stop]
            piece.view.grad = gradient if factor == 1.0 else gradient.mul_(factor)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def set(self, option: str, value: float) -> None:
        """Change an option for all groups, from the next step on.

        Raises:
            ConfigError: the optimizer has no such option.
        """
        for group in self._torch_groups:
            if option not in group:
                raise ConfigError(f"{self._class.__name__} has no option {option!r}")
            group[option] = value
        self._set[option] = value

    def state(self) -> State:
        """A copy of the state; see `State`."""
        state: State = {}
        for piece in self._pieces:
            kept = self._optimizer.state[piece.view] if self._optimizer else {}
            slots = self._slots[piece.group]
            for name in slots.flat & kept.keys():
                if name not in state:  # and not setdefault, which would make one for each piece
                    state[name] = torch.zeros_like(self._range)
                state[name][piece.start : piece.stop] = kept[name]
            state.update({f"{name}.{piece.group}": kept[name].clone() for name in slots.scalar & kept.keys()})
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace the state by a copy of another that is cut to this range; an empty one starts afresh.

        Raises:
            ValueError: state of another optimizer or of other options, or of another length; nothing is changed then.
        """
        needed = {key for piece in self._pieces for key in self._slots[piece.group].keys(piece.group)} if state else set()
        known = {key for group, slots in enumerate(self._slots) for key in slots.keys(group)}
        if not needed <= state.keys() <= known:
            raise ValueError(
                f"{self._class.__name__} keeps {sorted(known)}, got {sorted(state)}: was it saved with another optimizer or options?"
            )
        for name, value in state.items():
            if value.shape not in (torch.Size(()), self._range.shape):
                raise ValueError(
                    f"state {name!r} has shape {tuple(value.shape)}, its range {tuple(self._range.shape)}: cut it to the range first"
                )
        self._optimizer = self._fresh()
        if self._optimizer is not None and state:
            for piece in self._pieces:
                within = Range(piece.start, piece.stop)
                self._optimizer.state[piece.view] = self._slots[piece.group].take(state, piece.group, within, self._range)

    @property
    def _torch_groups(self) -> list[dict[str, Any]]:
        return [] if self._optimizer is None else self._optimizer.param_groups

    def _split(self, run: GroupRange) -> list["_Piece"]:
        whole = self._range.is_cuda or self._spec.options_of(run.group).get("fused")
        length = max(run.stop - run.start, 1) if whole else PIECE
        edges = [*range(run.start, run.stop, length), run.stop]
        return [_Piece(start, stop, run.group, self._range[start:stop]) for start, stop in pairwise(edges)]

    def _fresh(self) -> torch.optim.Optimizer | None:
        """A new torch optimizer over the pieces; None when the range holds no parameter, since torch refuses an empty list."""
        numbers = sorted({piece.group for piece in self._pieces})
        groups = [
            {"params": [piece.view for piece in self._pieces if piece.group == number], **self._spec.options_of(number), **self._set}
            for number in numbers
        ]
        return catalogue.make(self._class, groups, self._spec.options) if groups else None

    def _check(self, direction: Tensor) -> None:
        wanted = (self._range.shape, self._range.dtype, self._range.device)
        came = (direction.shape, direction.dtype, direction.device)
        if wanted != came:
            raise ValueError(f"a direction has the shape, dtype and device of its range, {wanted}; got {came}")


@dataclass(frozen=True)
class _Piece:
    """What torch takes for one parameter: coordinates [start, stop) of the range, all of one group."""

    start: int
    stop: int
    group: int
    view: Tensor


def _learning_rate(optimizer: type[torch.optim.Optimizer], options: Mapping[str, Any]) -> float:
    """That of group 0: the user's, or torch's default for the optimizer."""
    return float(catalogue.make(optimizer, [{"params": [torch.zeros(1)]}], options).defaults["lr"])
