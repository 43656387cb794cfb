"""An optimizer that moves one fragment of a shard's range at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mottle.core.layout import GroupRange, Range
from mottle.optim.outer import build_server
from mottle.optim.slices import SliceOptimizer
from mottle.optim.state import State


class FragmentOptimizers:
    """An optimizer for each piece of each fragment; what it keeps (momentum) moves with the fragment's own steps.

    Args:
        spec: as `build_server` takes it. One that keeps something for a whole parameter group, as Adam does its count of steps, needs
            groups that lie in one fragment each.
        params_range: shape (range,); stepped in place.
        group_ranges: of the whole range.
        pieces: of each fragment, inside the range.
    Raises:
        ConfigError: as `build_server`.
    """

    def __init__(self, spec: object, params_range: Tensor, group_ranges: Sequence[GroupRange], pieces: Sequence[Sequence[Range]]) -> None:
        self._range = params_range
        self._steppers = [[_Piece.of(spec, params_range, group_ranges, piece) for piece in each] for each in pieces]
        whole = build_server(spec, params_range[:0], [])
        self.base_lr, self.wants_mean = whole.base_lr, whole.wants_mean

    def step(self, fragment: int, direction: Tensor, lr: float | None = None, factor: float = 1.0) -> None:
        """One step of a fragment.

        Args:
            direction: the fragment's coordinates that lie in the range, one after the other; may be changed.
        """
        start = 0
        for piece in self._steppers[fragment]:
            piece.stepper.step(direction[start : start + piece.within.size], lr, factor)
            start += piece.within.size

    def set(self, option: str, value: float) -> None:
        """As `SliceOptimizer.set`, of every fragment.

        Raises:
            ConfigError: as there.
        """
        for piece in self._all:
            piece.stepper.set(option, value)

    def state(self) -> State:
        """A copy, in the form of one optimizer on the whole range: zeros where a fragment has not been stepped yet, as before its first."""
        state: State = {}
        for piece in self._all:
            for name, value in piece.stepper.state().items():
                if value.dim() == 1:
                    state.setdefault(name, torch.zeros_like(self._range))[piece.within.start : piece.within.stop] = value
                else:
                    assert name not in state, f"{name} is of a whole group: its steps would differ from fragment to fragment"
                    state[name] = value
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError as `SliceOptimizer.load_state`."""
        for piece in self._all:
            piece.stepper.load_state(piece.own(state))

    @property
    def _all(self) -> list["_Piece"]:
        return [piece for pieces in self._steppers for piece in pieces]


@dataclass(frozen=True)
class _Piece:
    """A part of the range that has an optimizer of its own."""

    within: Range
    groups: frozenset[str]
    stepper: SliceOptimizer

    @classmethod
    def of(cls, spec: object, params_range: Tensor, group_ranges: Sequence[GroupRange], within: Range) -> "_Piece":
        met = ((max(run.start, within.start), min(run.stop, within.stop), run.group) for run in group_ranges)
        inside = [GroupRange(start - within.start, stop - within.start, group) for start, stop, group in met if start < stop]
        groups = frozenset(str(run.group) for run in inside)
        return cls(within, groups, build_server(spec, params_range[within.start : within.stop], inside))

    def own(self, state: Mapping[str, Tensor]) -> State:
        """Its part of the whole range's state: nothing, where zeros stand for steps that it has not taken yet."""
        flat = {name: value[self.within.start : self.within.stop] for name, value in state.items() if value.dim()}
        scalar = {name: value for name, value in state.items() if not value.dim() and name.rpartition(".")[2] in self.groups}
        return {**flat, **scalar} if scalar or any(value.any() for value in flat.values()) else {}
