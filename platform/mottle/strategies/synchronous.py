"""Synchronous SGD: every worker computes its share of a global batch at one version, then the model steps once.

Direction: sum of the workers' gradient sums over the sum of their samples, added in ascending slot; or a robust rule on the workers' means.

Source: bulk-synchronous SGD; deadline and quorum after Chen et al., "Revisiting Distributed Synchronous SGD", arXiv 1604.00981. Split of
the batch: `elasticity.md` 4.2. Neutral reference: plain SGD on the concatenated batch.
"""

from dataclasses import dataclass

from mottle.core import strategy as s
from mottle.strategies import batch_policy
from mottle.strategies.balance import even_time
from mottle.strategies.barriered import Barriered
from mottle.strategies.options import CrewBatchOptions, below, deadline_fault, refuse
from mottle.strategies.rounds import Round, even_shares


@dataclass(frozen=True, kw_only=True)
class SyncConfig(CrewBatchOptions):
    """Synchronous SGD."""

    deadline_s: float | None = None
    """Step without the workers that are not in by then; None waits for all."""
    quorum: int = 1
    """Updates that a step at the deadline needs; with fewer it waits on."""

    def __post_init__(self) -> None:
        refuse("sync", below(1, batch_size=self.batch_size, quorum=self.quorum), deadline_fault(self.deadline_s))
        batch_policy.check(self.batch_policy, self.batch_size)

    def build(self) -> "SyncSGD":
        return SyncSGD(self)


class SyncSGD(Barriered):
    """State machine of synchronous SGD."""

    def __init__(self, config: SyncConfig) -> None:
        policy = batch_policy.build(config.batch_policy, config.batch_size, even_time)
        super().__init__(config.rule, policy=policy, surplus="missed the round's deadline", deadline_s=config.deadline_s)
        self.config = config

    def _orders(self, crew: list[int], free: int) -> list[s.Assign]:
        """Share the batch, or what is left of the epoch, among the crew; the first `rem` workers get one sample more."""
        batch = self._batch(crew, free)
        return [s.Assign(worker, share) for worker, share in even_shares(batch, self._takers(crew, batch))]

    def _enough(self, current: Round) -> bool:
        return self._late and len(current.arrived) >= self.config.quorum

    def _step(self, current: Round) -> s.Apply | s.ApplyRule:
        return current.step(self._rule, len(current.members))

    def _heard(self, event: s.StrategyEvent, current: Round | None) -> list[s.Decision]:
        return []
