"""FedAsync: whole models after several local steps, mixed in as they arrive, the staler the less.

x <- (1 - alpha_s) x + alpha_s x_i,   alpha_s = alpha s(delta),   delta the staleness of x_i

A worker's inner gradients have a proximal term rho (w - base), which keeps a slow worker near where it began. Not robust: one liar mixes in
what it likes.

Source: Xie, Koyejo, Gupta 2019, arXiv 1903.03934; `asynchronous.md` B2. Neutral reference: with one worker and alpha 1 it is the inner
optimizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mottle.core import strategy as s
from mottle.core.naming import Spec
from mottle.core.protocol import LocalSteps
from mottle.strategies.options import Usual, below, refuse, unless
from mottle.strategies.staleness import staleness_weight
from mottle.strategies.turns import Turns


@dataclass(frozen=True, kw_only=True)
class FedAsyncConfig:
    """Asynchronous mixing of models."""

    batch_size: int
    """Samples of one inner step of one worker."""
    optimizer: Spec
    """Of the inner steps: the job's."""
    local_steps: int = 16  # H
    """Inner steps of an order."""
    alpha: float = 0.6
    """Share of a fresh model in the mixture, in (0, 1]."""
    rho: float = 0.0
    """Of the proximal term; 0.005 to 0.1 in the paper."""
    staleness: Spec = "constant"
    """`constant`, `{polynomial: {a: 0.5}}` or `{hinge: {a: 10, b: 4}}`: factor on the share of a stale model."""
    max_staleness: int | None = None
    """Discard models that are staler than this; None for no bound."""

    def __post_init__(self) -> None:
        refuse(
            "fedasync",
            below(1, batch_size=self.batch_size, local_steps=self.local_steps),
            below(0, rho=self.rho, max_staleness=self.max_staleness),
            unless(0 < self.alpha <= 1, f"0 < alpha <= 1, got {self.alpha}"),
        )
        staleness_weight(self.staleness)

    def build(self) -> "FedAsync":
        return FedAsync(self)


class FedAsync(Usual):
    """State machine of FedAsync. A worker goes on when its model is part of the mixture."""

    def __init__(self, config: FedAsyncConfig) -> None:
        self.config = config
        self.server_optimizer: Mapping[str, Any] = {"mixing": {}}
        self._weight = staleness_weight(config.staleness)
        self._turns = Turns()

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        match event:
            case s.UpdateArrived(update):
                return self._arrived(update, view)
            case s.WorkerIdle(worker) if self._turns.may_go(worker, view.version):
                return [self._assign(worker, view)]
            case s.VersionPublished(version):
                return [self._assign(worker, view) for worker in self._turns.published(version)]
            case s.WorkerGone(worker):
                self._turns.gone(worker)
        return []

    def _arrived(self, update: s.Update, view: s.View) -> list[s.Decision]:
        staleness = view.head.number - update.base.number
        if self.config.max_staleness is not None and staleness > self.config.max_staleness:
            return [s.Discard(update.work_id, f"staleness {staleness} is above {self.config.max_staleness}")]
        self._turns.decided(update.worker, version=view.head.number + 1)
        return [s.Apply(((update.work_id, self.config.alpha * self._weight(staleness) / update.weight),))]

    def _assign(self, worker: int, view: s.View) -> s.Assign:
        config = self.config
        advance = config.batch_size * max(1, len(view.crew))
        local = LocalSteps(config.batch_size, config.optimizer, advance=advance, pull=config.rho, whole=True)
        return s.Assign(worker, config.batch_size * config.local_steps, local=local)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up: a wait for a version does not outlive the run that waited."""

    def check(self) -> None:
        """Its waits are checked by the brain: nobody holds more orders than `max_in_flight`."""
