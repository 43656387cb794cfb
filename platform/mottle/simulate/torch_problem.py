"""A model, a loss and data as a `learning.Problem`, with the engine that live workers compute with.

The seeds are those of live workers and validators, so one worker that is simulated takes the path of one that is live.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from mottle.core import protocol as p
from mottle.core.errors import ConfigError
from mottle.core.layout import Layout
from mottle.data import Loader, Positions, derive_seed, draw_rows
from mottle.data.source import Source
from mottle.engines import Loss, Metric, TorchEngine
from mottle.simulate.numbers import Done

EVALUATION_BATCH = 256


class TorchProblem:
    """Implements `mottle.simulate.learning.Problem`.

    Args:
        model: makes the module.
        start: flat parameters to begin with, shape (layout.size,).
        loader: positions to batches.
        trusted: data of reference gradients, for strategies that need them.
        test: data of the metrics, which are then called `test_NAME`.
        weighted: whether the loss has units of its own.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        loss: Loss,
        layout: Layout,
        start: Tensor,
        loader: Loader,
        *,
        trusted: Source | None = None,
        test: Source | None = None,
        metrics: Mapping[str, Metric] | None = None,
        micro_batch_size: int,
        weighted: bool = False,
        max_grad_norm_per_worker: float | None = None,
        seed: int = 0,
    ) -> None:
        self.layout = layout
        self.start = start
        self._engine = TorchEngine(model(), loss, layout, "cpu", micro_batch_size, None, max_grad_norm_per_worker)
        self._loader = loader
        self._trusted = trusted
        self._test = test
        self._metrics = dict(metrics or {})
        self._weighted = weighted
        self._seed = seed

    def gradient(self, values_D: Tensor, done: Sequence[Done]) -> tuple[Tensor, float | None]:
        self._engine.load(values_D, 0)
        self._engine.zero()
        weight = 0.0
        for piece in done:
            weight += self._accumulate(piece)
        return self._engine.update().clone(), weight if self._weighted else None

    def _accumulate(self, done: Done) -> float:
        """The weight of these positions, whose gradients are in the accumulator now."""
        return self._engine.accumulate(
            lambda start, stop: self._loader.load(Positions(done.epoch, start, stop)),
            done.start,
            done.stop,
            seed_of_position=lambda position: derive_seed(self._seed, "model", done.epoch, position),
            coefficient=done.coefficient,
        ).weight

    def reference(self, values_D: Tensor, order: p.Refresh) -> Tensor:
        trusted = self._trusted
        if trusted is None:
            raise ConfigError("the strategy wants a reference gradient, and the job has no validation data")
        number = int(order.name.rpartition("/")[2])
        rows = draw_rows(trusted.num_rows, order.num_samples, order.seed, "validation", number)
        self._engine.load(values_D, 0)
        self._engine.zero()
        done = self._engine.accumulate(
            lambda low, high: trusted.fetch(rows[low:high]),
            0,
            len(rows),
            seed_of_position=lambda position: derive_seed(order.seed, "validation/model", number, position),
        )
        return self._engine.update() / done.weight

    def evaluate(self, values_D: Tensor) -> Mapping[str, float]:
        if self._test is None:
            return {}
        self._engine.load(values_D, 0)
        self._engine.zero()
        measured = self._engine.evaluate(self._batches(self._test), self._metrics)
        return {f"test_{name}": value for name, value in measured.items()}

    def trusted_loss(self, values_D: Tensor) -> float:
        if self._trusted is None:
            raise ConfigError("the strategy wants losses on trusted data, and the job has no validation data")
        self._engine.load(values_D, 0)
        self._engine.zero()
        return self._engine.evaluate(self._batches(self._trusted), {})["loss"]

    @staticmethod
    def _batches(source: Source) -> Iterator[tuple[Any, int]]:
        for start in range(0, source.num_rows, EVALUATION_BATCH):
            rows = np.arange(start, min(start + EVALUATION_BATCH, source.num_rows))
            yield source.fetch(rows), len(rows)
