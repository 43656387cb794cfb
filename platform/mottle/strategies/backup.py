"""Synchronous SGD with backup workers: of N + k workers that compute a share each, the first N make the step, the rest is given up.

A step takes as long as the N-th fastest worker, at the price of k / (N + k) of the computing. Every worker draws from one pool of samples
and an abandoned order returns its own to it, so a worker that is always late costs no sample its turn.

N is the crew less k (at least 1), and every worker computes 1 / N of the batch. What is left at the end of an epoch may be too little for
backups: then those whose last order was given up come last.

Source: Chen et al., "Revisiting Distributed Synchronous SGD", arXiv 1604.00981; `heterogeneous.md` 2. Neutral reference: with k = 0
synchronous SGD, step for step.
"""

from dataclasses import dataclass

from mottle.core import strategy as s
from mottle.strategies import batch_policy
from mottle.strategies.balance import even_time
from mottle.strategies.barriered import Barriered
from mottle.strategies.options import CrewBatchOptions, below, refuse
from mottle.strategies.rounds import Round, even_shares


@dataclass(frozen=True, kw_only=True)
class BackupConfig(CrewBatchOptions):
    """Synchronous SGD with backup workers."""

    batch_size: int
    """Samples of one step, over the N workers that make it."""
    num_backups: int = 1  # k in the paper
    """Workers of the crew that no step waits for; the paper's best was 4 of 100."""

    def __post_init__(self) -> None:
        refuse("backup", below(1, batch_size=self.batch_size), below(0, num_backups=self.num_backups))
        batch_policy.check(self.batch_policy, self.batch_size)

    def build(self) -> "Backup":
        return Backup(self)


class Backup(Barriered):
    """State machine of synchronous SGD with backup workers."""

    def __init__(self, config: BackupConfig) -> None:
        policy = batch_policy.build(config.batch_policy, config.batch_size, even_time)
        super().__init__(config.rule, policy=policy, surplus="a backup: the step was made without it")
        self.config = config
        self._needed = 0
        """Updates that the round's step is made of: N."""

    def _orders(self, crew: list[int], free: int) -> list[s.Assign]:
        """The batch for N workers, and as much as one of those has for each backup that there are samples for."""
        makers = crew[: max(1, len(crew) - self.config.num_backups)]
        batch = self._batch(makers, free)
        self._needed = min(len(makers), batch)
        least = batch // self._needed
        num_backups = min(len(crew) - self._needed, (free - batch) // least)
        crew = self._takers(crew, self._needed + num_backups)
        first = even_shares(batch, crew[: self._needed])
        return [s.Assign(worker, share) for worker, share in (*first, *((worker, least) for worker in crew[self._needed :]))]

    def _enough(self, current: Round) -> bool:
        return len(current.arrived) >= self._needed

    def _step(self, current: Round) -> s.Apply | s.ApplyRule:
        return current.step(self._rule, self._needed)

    def _heard(self, event: s.StrategyEvent, current: Round | None) -> list[s.Decision]:
        return []

    def check(self) -> None:
        super().check()
        assert self._round is None or len(self._round.arrived) < self._needed, "a step is overdue"
