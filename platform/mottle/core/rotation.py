"""Models that are trained in rotation over one crew: side by side in one flat vector, each of them a fragment of it.

To the shards they are one layout. An order is of one model, its update has that model's coordinates, and a step moves that one with its
part of the optimizer's state; so versions, replicas, replays, checkpoints and other crews are those of fragments
(`mottle.core.fragments`), and only who reads one model need know that there are others. A model is as old as its own last step, however
many the others took since.

Source: Krishnan, Ebrahimi, Khisti, ICLR 2023 (arXiv 2211.13802); `heterogeneous.md` 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from mottle.core.errors import ConfigError
from mottle.core.fragments import Fragments
from mottle.core.layout import BUFFER_GROUP, Layout, Range, Slice, round_up

BEST = "best_model"
"""Metric: number of the model whose metrics stand under their plain names."""


@dataclass(frozen=True)
class Rotation:
    """How they lie side by side.

    Attributes:
        layout: of one of them.
        number: of models, at least 2.
    """

    layout: Layout
    number: int

    @cached_property
    def stacked(self) -> Layout:
        """Of all of them: parameters of one after those of another, each from a block on, then their buffers in the same way.

        Tensors of model k are called `k.NAME`, as in a `torch.nn.ModuleList`. Its parameter group g is group `1 + number * g + k`, so that
        what an optimizer counts by group is each model's own; nothing is in group 0.
        """
        one, size = self.layout, self.size
        return Layout(
            tuple(self._moved(piece, model) for kind in (one.parameters, one.buffers) for model in range(self.number) for piece in kind),
            num_params=(self.number - 1) * round_up(one.num_params) + one.num_params,
            size=size,
            dtype=one.dtype,
            aliases={f"{k}.{alias}": f"{k}.{name}" for k in range(self.number) for alias, name in one.aliases.items()},
        )

    @property
    def size(self) -> int:
        """Coordinates of all of them."""
        return self.ranges(self.number - 1)[-1].stop

    def ranges(self, model: int) -> tuple[Range, ...]:
        """Where one of them lies; one after the other they are its own layout."""
        one, wide = self.layout, round_up(self.layout.num_params)
        if not one.buffers:
            return (Range(model * wide, model * wide + one.num_params),)
        buffers = one.size - one.tail_start
        first = self.number * wide + model * round_up(buffers)
        return (Range(model * wide, (model + 1) * wide), Range(first, first + buffers))

    @cached_property
    def fragments(self) -> Fragments:
        """Fragment k is model k."""
        return Fragments(tuple(map(self.ranges, range(self.number))), apart=True)

    def _moved(self, piece: Slice, model: int) -> Slice:
        ranges, tail = self.ranges(model), self.layout.tail_start
        start = ranges[0].start + piece.start if piece.kind == "parameter" else ranges[-1].start + piece.start - tail
        group = piece.group if piece.group == BUFFER_GROUP else 1 + self.number * piece.group + model
        return replace(piece, name=f"{model}.{piece.name}", start=start, group=group)


def merged(measured: Sequence[Mapping[str, float]], losses: Sequence[float] = ()) -> dict[str, float]:
    """Metrics of models side by side as those of one: `NAME/k` of model k, and under the plain names those of the best.

    Args:
        measured: metrics of each model; among them its `test_loss`, where there is anything.
        losses: of each on validation data, which then say which one is best; else the test losses do.
    """
    if not measured[0]:
        return {}
    judged = list(losses) or [metrics["test_loss"] for metrics in measured]
    best = min(range(len(measured)), key=lambda model: (judged[model] != judged[model], judged[model]))  # one that is not a number last
    own = {f"{name}/{model}": value for model, metrics in enumerate(measured) for name, value in metrics.items()}
    trusted = {f"validation_loss/{model}": loss for model, loss in enumerate(losses)}
    return {**measured[best], BEST: float(best), **own, **trusted}


def chosen(model: int | None, number: int, metrics: Mapping[str, float]) -> int:
    """Which of `number` models is wanted: the one that is named, else the best by the metrics that `merged` made.

    Raises:
        ConfigError: there is no such model; or none is named, there are several, and none was evaluated.
    """
    if model is not None and not 0 <= model < number:
        raise ConfigError(f"there is no model {model}: {f'they are 0 to {number - 1}' if number > 1 else 'the run trains one, model 0'}")
    if model is None and number > 1 and BEST not in metrics:
        raise ConfigError(f"none of the {number} models was evaluated, so none is the best: name one, from 0 on")
    return int(metrics.get(BEST, 0)) if model is None else model
