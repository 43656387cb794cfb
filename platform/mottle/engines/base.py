"""The seam of engines: what turns samples into an update inside a worker.

An engine holds its own copy of the flat parameters, runs samples in micro-batches, and sums gradients into one flat vector. It knows
positions in the data order, not leases; flat coordinates, not shards. It creates no actor, thread or clock.

The life of one work order:

    engine.load(piece, start) ...       a version arrives, range by range
    engine.zero()                       nothing accumulated; buffers as in that version
    engine.accumulate(fetch, a, b, ...) once per lease
    engine.update() or engine.parts()   what is pushed; nothing is added to it afterwards

Where a worker takes inner optimizer steps, `update` is what a step is made of, not what is pushed (`mottle.engines.local`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from mottle.core.layout import Layout

Batch = Any
"""What `collate_fn` made: a tensor, or tuples, lists and dicts of tensors and other things."""

Average = Tensor | float | tuple[Tensor | float, Tensor | float]
"""A mean over the samples of a batch; or `(mean, weight)` where the unit is another one (tokens), `weight` being their number."""

Loss = Callable[[nn.Module, Any], Average]
"""`loss(model, batch)`: a differentiable mean. A weight of 0 (a batch of padding) contributes nothing."""

Metric = Callable[[nn.Module, Any], Average]
"""`metric(model, batch)`: a mean like the loss's, not differentiated."""

Fetch = Callable[[int, int], Batch]
"""`fetch(start, stop)`: the collated batch of these positions of the epoch's order."""


@dataclass(frozen=True, slots=True)
class Accumulated:
    """What `accumulate` did.

    Attributes:
        num_samples: positions run, from the first on; fewer than asked for when it was stopped.
        weight: sum of the weights of the loss; equals `num_samples` unless the loss has units of its own.
        loss_sum: sum of mean loss times weight; for display, since a worker could say anything here.
        micro_batch_size: in force at the end.
        num_out_of_memory: times that a micro-batch did not fit and was halved.
    """

    num_samples: int
    weight: float
    loss_sum: float
    micro_batch_size: int
    num_out_of_memory: int


def never() -> bool:
    """The `should_stop` of work that nobody cuts short."""
    return False


class Engine(Protocol):
    """See the module's text for the order of calls. Not thread-safe: one thread calls it."""

    @property
    def layout(self) -> Layout: ...

    def load(self, flat_piece: Tensor, start: int) -> None:
        """Copy a range of the published vector, beginning at coordinate `start`, into the engine's own."""

    def zero(self) -> None:
        """Forget what was accumulated; buffers return to the values last loaded."""

    def accumulate(
        self,
        fetch: Fetch,
        start: int,
        stop: int,
        *,
        seed_of_position: Callable[[int], int],
        should_stop: Callable[[], bool] = never,
        coefficient: float = 1.0,
    ) -> Accumulated:
        """Add the gradient sum of positions `[start, stop)`, times `coefficient`.

        Args:
            seed_of_position: seed of the randomness inside the model (dropout) of the micro-batch that begins at a position.
            should_stop: asked before every micro-batch.
        """

    def update(self) -> Tensor:
        """The flat update: a view, valid until `zero`."""

    def parts(self, start: int, stop: int) -> list[Tensor]:
        """Coordinates [start, stop) of the update as the vectors that they lie in, one after the other; views, valid until `zero`."""

    def evaluate(self, batches: Iterable[tuple[Batch, int]], metrics: Mapping[str, Metric]) -> dict[str, float]:
        """Means of the loss (`"loss"`) and the metrics over (batch, number of samples), at the version last loaded."""
