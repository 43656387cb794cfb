"""Synchronous SGD with backup workers: of N + k workers that compute a share each, the first N make the step, the rest is given up.

A step takes as long as the N-th fastest worker, at the price of k / (N + k) of the computing. Every worker draws from one pool of samples
and an abandoned order returns its own to it, so a worker that is always late costs no sample its turn.

N is the crew less k (at least 1), and every worker computes 1 / N of the batch. What is left at the end of an epoch may be too little for
backups: then those who made the last step come first.

Source: Chen et al., "Revisiting Distributed Synchronous SGD", arXiv 1604.00981; `heterogeneous.md` 2. Neutral reference: with k = 0
synchronous SGD, step for step.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import Settings
from mottle.strategies.rounds import Round, even_shares


@dataclass(frozen=True, kw_only=True)
class BackupConfig:
    """Synchronous SGD with backup workers."""

    batch_size: int
    """Samples of one step, over the N workers that make it."""
    num_backups: int = 1  # k in the paper
    """Workers of the crew that no step waits for; the paper's best was 4 of 100."""
    rule: Settings | None = None
    """Robust rule in place of the mean: `{phocas: {trim: 2}}`."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_backups < 0:
            raise ConfigError(f"backup needs batch_size >= 1 and num_backups >= 0, got {self.batch_size} and {self.num_backups}")

    def build(self) -> "Backup":
        return Backup(self)


class Backup:
    """State machine of synchronous SGD with backup workers."""

    max_in_flight = 1
    barriered = True
    needs_validation = False
    server_optimizer = None
    companion = None

    def __init__(self, config: BackupConfig) -> None:
        self.config = config
        self._rule = config.rule
        self._round: Round | None = None
        self._needed = 0
        """Updates that the round's step is made of: N."""
        self._prompt: frozenset[int] = frozenset()
        """Who made the last step."""

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        current = self._round
        if isinstance(event, s.VersionPublished | s.WorkerIdle):
            return self._begin(view)
        if isinstance(event, s.RuleChanged):
            self._rule = event.rule
        if current is None:
            return []
        current.hear(event)
        return self._close_if_done(current, view)

    def _begin(self, view: s.View, refused: AbstractSet[int] = frozenset()) -> list[s.Decision]:
        """See `SyncSGD` for who is refused."""
        if self._round is not None or view.head != view.version:
            return []
        crew = [worker for worker in view.crew if worker not in refused]
        batch = min(self.config.batch_size, view.free_samples)
        if not crew or batch == 0:
            return []
        shares = self._shares(crew, batch, view.free_samples)
        self._round = Round.of(shares, refused)
        return [s.Assign(worker, share) for worker, share in shares]

    def _shares(self, crew: list[int], batch: int, free: int) -> list[tuple[int, int]]:
        """The batch for N workers, and as much as one of those has for each backup that there are samples for; ascending slot."""
        self._needed = min(max(1, len(crew) - self.config.num_backups), batch)
        least = batch // self._needed
        num_backups = min(len(crew) - self._needed, (free - batch) // least)
        num_members = self._needed + num_backups
        if num_members < len(crew):
            crew = sorted(sorted(crew, key=lambda worker: (worker not in self._prompt, worker))[:num_members])
        first = even_shares(batch, crew[: self._needed])
        return first + [(worker, least) for worker in crew[self._needed :]]

    def _close_if_done(self, current: Round, view: s.View) -> list[s.Decision]:
        if not current.complete and (current.asked or len(current.arrived) < self._needed):
            return []
        self._round = None
        decisions = current.abandon_rest("a backup: the step was made without it")
        if not current.arrived:
            return decisions + self._begin(view, current.refused)
        self._prompt = frozenset(current.arrived)
        return [*decisions, current.step(self._rule, self._needed)]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up: a round does not outlive the run."""

    def check(self) -> None:
        if self._round is not None:
            self._round.check()
            assert len(self._round.arrived) < self._needed, "a step is overdue"
