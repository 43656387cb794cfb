"""FedBuff: asynchronous workers, updates applied in groups of K.

x <- x - lr * (1/K) * sum over the buffer of s(delta_i) * g_i, with delta_i measured at arrival and g_i the mean gradient of the update.
The sum is divided by K, not by the weights; what is left in the buffer at the end is kept, not applied.

Source: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022, arXiv 2106.06639; `asynchronous.md` B5.
Differs: workers send gradients (one local step), so lr is the product of the server's and the worker's rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mottle.core import strategy as s
from mottle.core.naming import Spec
from mottle.strategies.options import OrderOptions, Usual, below, refuse
from mottle.strategies.staleness import staleness_weight


@dataclass(frozen=True, kw_only=True)
class FedBuffConfig(OrderOptions):
    """Buffered asynchronous aggregation."""

    buffer_size: int = 10  # K in the paper
    """Updates in a step."""
    staleness: Spec = field(default_factory=lambda: {"polynomial": {"a": 0.5}})

    def __post_init__(self) -> None:
        refuse("fedbuff", self.faults(), below(1, buffer_size=self.buffer_size))
        staleness_weight(self.staleness)

    def build(self) -> "FedBuff":
        return FedBuff(self)


class FedBuff(Usual):
    """State machine of FedBuff. A worker goes on at once: its update need not be part of the model yet."""

    def __init__(self, config: FedBuffConfig) -> None:
        self.config = config
        self.max_in_flight = config.max_in_flight
        self._weight = staleness_weight(config.staleness)
        self._buffer: list[tuple[int, float]] = []

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        match event:
            case s.UpdateArrived(update):
                return self._arrived(update, view)
            case s.WorkerIdle(worker):
                return [s.Assign(worker, self.config.batch_size)]
        return []

    def _arrived(self, update: s.Update, view: s.View) -> list[s.Decision]:
        weight = self._weight(view.head.number - update.base.number)
        share = min(update.samples / self.config.batch_size, 1.0)
        self._buffer.append((update.work_id, weight * share / (update.weight * self.config.buffer_size)))
        if len(self._buffer) < self.config.buffer_size:
            return []
        terms, self._buffer = tuple(self._buffer), []
        return [s.Apply(terms)]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The buffer's updates are undecided, so no checkpoint holds them; their samples are free again."""
        self._buffer = []

    def check(self) -> None:
        assert len(self._buffer) < self.config.buffer_size
