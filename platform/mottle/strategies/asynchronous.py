"""Asynchronous SGD with a parameter server: every update is applied as it arrives.

Step on the arrival of gradient sum G over m samples with staleness delta: x <- x - lr * s(delta) * min(m / batch_size, 1) * G / m.

Source: Zhang et al., "Staleness-aware async-SGD", arXiv 1511.05950; staleness functions of Xie et al., "Asynchronous Federated
Optimization", arXiv 1903.03934. Conventions: `heterogeneous.md` 3, `asynchronous.md` 1.1 and B0. Neutral reference: with one worker it is
plain SGD, staleness 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mottle.core import strategy as s
from mottle.core.naming import Spec
from mottle.strategies.options import OrderOptions, Usual, below, refuse
from mottle.strategies.staleness import staleness_weight
from mottle.strategies.turns import Turns


@dataclass(frozen=True, kw_only=True)
class AsyncConfig(OrderOptions):
    """Asynchronous SGD."""

    staleness: Spec = "constant"
    """`constant`, `{polynomial: {a: 0.5}}` or `{hinge: {a: 10, b: 4}}`: factor on the step of a stale update."""
    max_staleness: int | None = None
    """Discard updates that are staler than this; None for no bound."""

    def __post_init__(self) -> None:
        refuse("async", self.faults(), below(0, max_staleness=self.max_staleness))
        staleness_weight(self.staleness)

    def build(self) -> "AsyncSGD":
        return AsyncSGD(self)


class AsyncSGD(Usual):
    """State machine of asynchronous SGD."""

    def __init__(self, config: AsyncConfig) -> None:
        self.config = config
        self.max_in_flight = config.max_in_flight
        self._weight = staleness_weight(config.staleness)
        self._turns = Turns()

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        match event:
            case s.UpdateArrived(update):
                return self._arrived(update, view)
            case s.WorkerIdle(worker) if self._turns.may_go(worker, view.version):
                return [self._assign(worker)]
            case s.VersionPublished(version):
                return [self._assign(worker) for worker in self._turns.published(version)]
            case s.WorkerGone(worker):
                self._turns.gone(worker)
        return []

    def _arrived(self, update: s.Update, view: s.View) -> list[s.Decision]:
        staleness = view.head.number - update.base.number
        if self.config.max_staleness is not None and staleness > self.config.max_staleness:
            return [s.Discard(update.work_id, f"staleness {staleness} is above {self.config.max_staleness}")]
        share = min(update.samples / self.config.batch_size, 1.0)
        self._turns.decided(update.worker, version=view.head.number + 1)
        return [s.Apply(((update.work_id, self._weight(staleness) * share / update.weight),))]

    def _assign(self, worker: int) -> s.Assign:
        return s.Assign(worker, self.config.batch_size)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up: a wait for a version does not outlive the run that waited."""

    def check(self) -> None:
        """Its waits are checked by the brain: nobody holds more orders than `max_in_flight`."""
