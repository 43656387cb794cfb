"""Synchronous SGD: every worker computes its share of a global batch at one version, then the model steps once.

Direction: sum of the workers' gradient sums over the sum of their samples, added in ascending slot; or a robust rule on the workers' means.
A worker that dies mid-round takes nobody along: the round ends with those who are left, and its samples go to the next round.

Source: bulk-synchronous SGD; deadline and quorum after Chen et al., "Revisiting Distributed Synchronous SGD", arXiv 1604.00981. Split of
the batch: `elasticity.md` 4.2. Neutral reference: plain SGD on the concatenated batch.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import Settings


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


@dataclass(slots=True)
class _Round:
    number: int
    members: list[int]
    """Workers that were asked, ascending slot."""
    asked: set[int] = field(default_factory=set)
    """Asked and not yet known to have an order."""
    orders: dict[int, int] = field(default_factory=dict)
    """Worker -> work id that is still out."""
    arrived: dict[int, s.Update] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    """Workers that may have nothing of what is free: their own updates of those samples were rejected."""
    late: bool = False

    @property
    def complete(self) -> bool:
        return not self.asked and not self.orders


class SyncSGD:
    """State machine of synchronous SGD."""

    max_in_flight = 1
    barriered = True
    needs_validation = False

    def __init__(self, config: SyncConfig) -> None:
        self.config = config
        self._rule = config.rule
        self._round: _Round | None = None
        self._rounds = 0

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        current = self._round
        match event:
            case s.VersionPublished() | s.WorkerIdle():
                return self._begin(view)
            case s.OrderIssued(work_id, worker, _) if current is not None:
                current.asked.discard(worker)
                current.orders[worker] = work_id
            case s.NoWork(worker) if current is not None:
                current.asked.discard(worker)
                current.members.remove(worker)
                current.refused.add(worker)
            case s.UpdateArrived(update) if current is not None:
                current.orders.pop(update.worker, None)
                current.arrived[update.worker] = update
            case s.OrderEnded(work_id, worker, _) if current is not None and current.orders.get(worker) == work_id:
                del current.orders[worker]
            case s.AlarmRang(name) if current is not None and name == f"round-{current.number}":
                current.late = True
            case s.RuleChanged(rule):
                self._rule = rule
        return self._close_if_done(view)

    def _begin(self, view: s.View, refused: AbstractSet[int] = frozenset()) -> list[s.Decision]:
        """Share min(batch, what is left of the epoch) among the crew; the first `rem` workers get one sample more.

        `refused`: those who found nothing in a round that ended without any order; without them the next one cannot end likewise.
        """
        crew = [worker for worker in view.crew if worker not in refused]
        if self._round is not None or view.head != view.version or not crew:
            return []
        batch = min(self.config.batch_size, view.free_samples)
        if batch == 0:
            return []
        base, rem = divmod(batch, len(crew))
        shares = [(worker, base + (i < rem)) for i, worker in enumerate(crew)]
        members = [worker for worker, share in shares if share]
        self._round = _Round(self._rounds, members, set(members), refused=set(refused))
        self._rounds += 1
        decisions: list[s.Decision] = [s.Assign(worker, share) for worker, share in shares if share]
        if self.config.deadline_s is not None:
            decisions.append(s.SetAlarm(f"round-{self._round.number}", round(self.config.deadline_s * 1e9)))
        return decisions

    def _close_if_done(self, view: s.View) -> list[s.Decision]:
        current = self._round
        if current is None or current.asked:
            return []
        in_time = current.late and len(current.arrived) >= self.config.quorum
        if not current.complete and not in_time:
            return []
        self._round = None
        decisions: list[s.Decision] = [
            s.AbandonOrder(work_id, "missed the round's deadline") for _, work_id in sorted(current.orders.items())
        ]
        updates = [current.arrived[worker] for worker in sorted(current.arrived)]
        if not updates:
            return decisions + self._begin(view, current.refused)
        if self._rule is not None:
            rows = tuple((update.work_id, update.weight) for update in updates)
            return [*decisions, s.ApplyRule(rows, self._rule, len(current.members))]
        total = sum(update.weight for update in updates)
        return [*decisions, s.Apply(tuple((update.work_id, 1.0 / total) for update in updates))]

    def state(self) -> dict[str, Any]:
        return {"rounds": self._rounds}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rounds = state["rounds"]

    def check(self) -> None:
        if self._round is not None:
            assert not set(self._round.orders) & set(self._round.arrived), "a worker is both out and in"
