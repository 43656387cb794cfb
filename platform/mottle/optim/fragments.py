"""An optimizer that moves one fragment of a shard's range at a time."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mottle.core.layout import GroupRange, Range
from mottle.optim.outer import build_server
from mottle.optim.slices import SliceOptimizer
from mottle.optim.state import State


class FragmentOptimizers:
    """An outer optimizer for each piece of each fragment; what it keeps (momentum) moves with the fragment's own steps.

    Args:
        spec: as `build_server` takes it; of optimizers that keep one value a coordinate and nothing else.
        params_range: shape (range,); stepped in place.
        group_ranges: of the whole range.
        pieces: of each fragment, inside the range.
    Raises:
        ConfigError: as `build_server`.
    """

    def __init__(self, spec: object, params_range: Tensor, group_ranges: Sequence[GroupRange], pieces: Sequence[Sequence[Range]]) -> None:
        self._range = params_range
        self._steppers = [[_stepper(spec, params_range, group_ranges, piece) for piece in each] for each in pieces]
        whole = build_server(spec, params_range[:0], [])
        self.base_lr, self.wants_mean = whole.base_lr, whole.wants_mean

    def step(self, fragment: int, direction: Tensor, lr: float | None = None, factor: float = 1.0) -> None:
        """One step of a fragment.

        Args:
            direction: the fragment's coordinates that lie in the range, one after the other; may be changed.
        """
        start = 0
        for piece, stepper in self._steppers[fragment]:
            stepper.step(direction[start : start + piece.size], lr, factor)
            start += piece.size

    def set(self, option: str, value: float) -> None:
        """As `SliceOptimizer.set`, of every fragment.

        Raises:
            ConfigError: as there.
        """
        for _, stepper in (each for steppers in self._steppers for each in steppers):
            stepper.set(option, value)

    def state(self) -> State:
        """A copy, in the form of one optimizer on the whole range: zeros where a fragment has not been stepped yet, as before its first."""
        state: State = {}
        for piece, stepper in (each for steppers in self._steppers for each in steppers):
            for name, value in stepper.state().items():
                assert value.dim() == 1, f"{name} is of a whole group: its steps would differ from fragment to fragment"
                state.setdefault(name, torch.zeros_like(self._range))[piece.start : piece.stop] = value
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError as `SliceOptimizer.load_state`."""
        for piece, stepper in (each for steppers in self._steppers for each in steppers):
            stepper.load_state({name: value if value.dim() == 0 else value[piece.start : piece.stop] for name, value in state.items()})


def _stepper(spec: object, params_range: Tensor, group_ranges: Sequence[GroupRange], piece: Range) -> tuple[Range, SliceOptimizer]:
    met = ((max(run.start, piece.start), min(run.stop, piece.stop), run.group) for run in group_ranges)
    inside = [GroupRange(start - piece.start, stop - piece.start, group) for start, stop, group in met if start < stop]
    return piece, build_server(spec, params_range[piece.start : piece.stop], inside)
