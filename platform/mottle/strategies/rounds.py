"""A round of a strategy with a barrier: who was asked, who is out, what came in. When it begins and when it ends is the strategy's."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mottle.core import strategy as s
from mottle.core.protocol import Settings


@dataclass(slots=True)
class Round:
    """Orders of one step, one a member."""

    members: list[int]
    """Workers that were asked, ascending slot."""
    asked: set[int] = field(default_factory=set)
    """Asked and not yet known to have an order."""
    orders: dict[int, int] = field(default_factory=dict)
    """Worker -> work id that is still out."""
    arrived: dict[int, s.Update] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    """Workers that may have nothing of what is free: their own updates of those samples were rejected."""

    @classmethod
    def of(cls, shares: Iterable[tuple[int, int]], refused: Iterable[int] = ()) -> "Round":
        """A round that asks for these (worker, samples), ascending slot."""
        members = [worker for worker, _ in shares]
        return cls(members, set(members), refused=set(refused))

    @property
    def complete(self) -> bool:
        """Nothing more will come."""
        return not self.asked and not self.orders

    @property
    def updates(self) -> list[s.Update]:
        """What came in, ascending slot."""
        return [self.arrived[worker] for worker in sorted(self.arrived)]

    def hear(self, event: s.StrategyEvent) -> None:
        """Note what became of an order."""
        match event:
            case s.OrderIssued(work_id, worker, _):
                self.asked.discard(worker)
                self.orders[worker] = work_id
            case s.NoWork(worker):
                self.asked.discard(worker)
                self.members.remove(worker)
                self.refused.add(worker)
            case s.UpdateArrived(update):
                self.orders.pop(update.worker, None)
                self.arrived[update.worker] = update
            case s.OrderEnded(work_id, worker, _) if self.orders.get(worker) == work_id:
                del self.orders[worker]

    def abandon_rest(self, reason: str) -> list[s.Decision]:
        """Give up those who are still out; their samples are free again."""
        return [s.AbandonOrder(work_id, reason) for _, work_id in sorted(self.orders.items())]

    def step(self, rule: Settings | None, num_expected: int) -> s.Apply | s.ApplyRule:
        """The mean over all samples that came in, or what `rule` makes of the workers' means."""
        if rule is not None:
            return s.ApplyRule(tuple((update.work_id, update.weight) for update in self.updates), rule, num_expected)
        return s.Apply(mean_over_samples(self.updates))

    def check(self) -> None:
        assert not set(self.orders) & set(self.arrived), "a worker is both out and in"


def mean_over_samples(updates: list[s.Update]) -> tuple[tuple[int, float], ...]:
    """Terms of sum / count: never the mean of means (`heterogeneous.md` 0.3)."""
    total = sum(update.weight for update in updates)
    return tuple((update.work_id, 1.0 / total) for update in updates)


def round_batch(batch: int, free: int, num_workers: int, rule: Settings | None) -> int:
    """Samples of the next round.

    A rule needs rows: a remainder of the epoch too small to give everybody a sample is taken along with the round before it.
    """
    return free if free <= batch or (rule is not None and free - batch < num_workers) else batch


def even_shares(batch: int, workers: Iterable[int]) -> list[tuple[int, int]]:
    """(worker, samples) that split `batch` evenly: the first `rem` workers get one sample more; those who would get none are left out."""
    crew = list(workers)
    base, rem = divmod(batch, len(crew))
    return [(worker, share) for i, worker in enumerate(crew) if (share := base + (i < rem))]
