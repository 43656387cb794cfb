"""How busy a shared fleet was: each worker's time by what it was spent on."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerUsage:
    """One worker's seconds."""

    worker: str
    group: str
    trials: int
    """Loans: how often it went to a trial."""
    lent_s: float
    """In somebody's crew."""
    computed_s: float
    """In micro-batches, with the delays that the fleet declares. What a process did in the loan in which it died is not known."""


@dataclass(frozen=True)
class FleetUsage:
    """A fleet over `seconds`: from the first trial that could take workers to the end of the last one."""

    seconds: float
    workers: Sequence[WorkerUsage]

    @property
    def busy(self) -> float:
        """Share of the fleet's time that was spent computing."""
        return self._share(sum(worker.computed_s for worker in self.workers))

    @property
    def lent(self) -> float:
        """Share of the fleet's time that was spent in some trial's crew."""
        return self._share(sum(worker.lent_s for worker in self.workers))

    def _share(self, spent_s: float) -> float:
        return spent_s / (self.seconds * len(self.workers)) if self.seconds and self.workers else 0.0

    def __str__(self) -> str:
        rows = [f"fleet busy {self.busy:.1%}, lent {self.lent:.1%} of {self.seconds:.1f} s"]
        rows += [
            f"  {each.worker} ({each.group}): busy {self._one(each.computed_s):.1%}, lent {self._one(each.lent_s):.1%}, {each.trials} loans"
            for each in self.workers
        ]
        return "\n".join(rows)

    def _one(self, spent_s: float) -> float:
        return spent_s / self.seconds if self.seconds else 0.0
