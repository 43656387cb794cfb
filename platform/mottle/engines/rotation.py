"""Values of models that lie side by side in one flat vector (`mottle.core.rotation`)."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mottle.core.rotation import Rotation
from mottle.engines.base import Engine
from mottle.engines.flat import flatten, unflatten

# D coordinates of one model


def side_by_side(models: Sequence[Tensor], rotation: Rotation) -> Tensor:
    """The flat vector of all of them, shape (rotation.size,).

    Args:
        models: each in its own layout, shape (D,).
    """
    flat = models[0].new_zeros(rotation.size)
    for model, values_D in enumerate(models):
        start = 0
        for piece in rotation.ranges(model):
            flat[piece.start : piece.stop] = values_D[start : start + piece.size]
            start += piece.size
    return flat


def one_of(flat: Tensor, rotation: Rotation, model: int) -> Tensor:
    """One of them in its own layout, shape (D,); a view where it is one piece."""
    pieces = [flat[piece.start : piece.stop] for piece in rotation.ranges(model)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def tensors_of_model(flat: Tensor, rotation: Rotation, model: int) -> dict[str, Tensor]:
    """Its parameters and buffers under their own names."""
    return unflatten(one_of(flat, rotation, model), rotation.layout)


class Models:
    """All of them in one process, and an engine that holds one at a time.

    Args:
        engine: of one model.
    """

    def __init__(self, rotation: Rotation, engine: Engine) -> None:
        self._rotation = rotation
        self._engine = engine
        self._flat = torch.zeros(rotation.size, dtype=getattr(torch, rotation.layout.dtype))

    def load(self, flat_piece: Tensor, start: int) -> None:
        """Copy a range of the flat vector of all of them, from coordinate `start` on."""
        self._flat[start : start + flat_piece.numel()].copy_(flat_piece)

    def each(self) -> Iterator[int]:
        """Load one after the other into the engine; the number of the one that it holds."""
        for model in range(self._rotation.number):
            self._engine.load(one_of(self._flat, self._rotation, model), 0)
            self._engine.zero()
            yield model

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of all of them, as a `torch.nn.ModuleList` calls them."""
        return unflatten(self._flat, self._rotation.stacked)


def begun(make: Callable[[], nn.Module], rotation: Rotation, seeds: Sequence[int]) -> Tensor:
    """The flat vector of models that are made each with a seed of its own, as a run with that seed would begin."""
    models = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.append(flatten(make(), rotation.layout))
    return side_by_side(models, rotation)
