"""Synchronous SGD: every worker computes its share of a global batch at one version, then the model steps once.

Direction: sum of the workers' gradient sums over the sum of their samples, added in ascending slot; or a robust rule on the workers' means.
A worker that dies mid-round takes nobody along: the round ends with those who are left, and its samples go to the next round.

Source: bulk-synchronous SGD; deadline and quorum after Chen et al., "Revisiting Distributed Synchronous SGD", arXiv 1604.00981. Split of
the batch: `elasticity.md` 4.2. Neutral reference: plain SGD on the concatenated batch.
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
class SyncConfig:
    """Synchronous SGD."""

    batch_size: int
    """Samples of one step, over all workers."""
    deadline_s: float | None = None
    """Step without the workers that are not in by then; None waits for all."""
    quorum: int = 1
    """Updates that a step at the deadline needs; with fewer it waits on."""
    rule: Settings | None = None
    """Robust rule in place of the mean: `{phocas: {trim: 2}}`."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.quorum < 1:
            raise ConfigError(f"sync needs batch_size >= 1 and quorum >= 1, got {self.batch_size} and {self.quorum}")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ConfigError(f"sync needs deadline_s > 0, got {self.deadline_s}; leave it out to wait for all")

    def build(self) -> "SyncSGD":
        return SyncSGD(self)


class SyncSGD:
    """State machine of synchronous SGD."""

    max_in_flight = 1
    barriered = True
    needs_validation = False
    server_optimizer = None
    companion = None

    def __init__(self, config: SyncConfig) -> None:
        self.config = config
        self._rule = config.rule
        self._round: Round | None = None
        self._rounds = 0
        """Rounds begun; the one that is out is the last of them."""
        self._late = False
        """The round's deadline is past."""

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        current = self._round
        if isinstance(event, s.VersionPublished | s.WorkerIdle):
            return self._begin(view)
        if isinstance(event, s.RuleChanged):
            self._rule = event.rule
        if current is None:
            return []
        current.hear(event)
        if event == s.AlarmRang(self._alarm):
            self._late = True
        return self._close_if_done(current, view)

    @property
    def _alarm(self) -> str:
        return f"round-{self._rounds - 1}"

    def _begin(self, view: s.View, refused: AbstractSet[int] = frozenset()) -> list[s.Decision]:
        """Share min(batch, what is left of the epoch) among the crew; the first `rem` workers get one sample more.

        `refused`: those who found nothing in a round that ended without any order; without them the next one cannot end likewise.
        """
        if self._round is not None or view.head != view.version:
            return []
        crew = [worker for worker in view.crew if worker not in refused]
        batch = min(self.config.batch_size, view.free_samples)
        if not crew or batch == 0:
            return []
        shares = even_shares(batch, crew)
        self._round = Round.of(shares, refused)
        self._rounds += 1
        self._late = False
        decisions: list[s.Decision] = [s.Assign(worker, share) for worker, share in shares]
        if self.config.deadline_s is not None:
            decisions.append(s.SetAlarm(self._alarm, round(self.config.deadline_s * 1e9)))
        return decisions

    def _close_if_done(self, current: Round, view: s.View) -> list[s.Decision]:
        in_time = self._late and not current.asked and len(current.arrived) >= self.config.quorum
        if not current.complete and not in_time:
            return []
        self._round = None
        decisions = current.abandon_rest("missed the round's deadline")
        if not current.arrived:
            return decisions + self._begin(view, current.refused)
        return [*decisions, current.step(self._rule, len(current.members))]

    def state(self) -> dict[str, Any]:
        return {"rounds": self._rounds}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rounds = state["rounds"]

    def check(self) -> None:
        if self._round is not None:
            self._round.check()
