"""Whose turn it is in a strategy without barriers: a worker goes on when the fate of its last update is part of the model.

So with one worker an asynchronous strategy is plain SGD (staleness 0). With two orders in flight the worker computes the other one while
it waits, at the price of exactly one step of staleness.
"""

from collections import Counter
from dataclasses import dataclass, field

from mottle.core.protocol import Version


@dataclass
class Turns:
    """Workers that wait for a version, or for a verdict."""

    _undecided: Counter[int] = field(default_factory=Counter)
    _until: dict[int, int] = field(default_factory=dict)

    def undecided(self, worker: int) -> None:
        """An update of the worker waits for its verdict."""
        self._undecided[worker] += 1

    def decided(self, worker: int, *, version: int | None = None) -> bool:
        """The verdict is there; the worker waits for `version` if there is one. Whether a wait has ended, so that it may go on at once."""
        waited = self._undecided[worker] > 0
        self._undecided[worker] -= waited
        if version is not None:
            self._until[worker] = version
        return waited and not self._undecided[worker] and worker not in self._until

    def may_go(self, worker: int, version: Version) -> bool:
        return not self._undecided[worker] and self._until.get(worker, 0) <= version.number

    def published(self, version: Version) -> list[int]:
        """Workers whose wait this version ends, ascending slot."""
        reached = sorted(worker for worker, number in self._until.items() if number <= version.number)
        for worker in reached:
            del self._until[worker]
        return [worker for worker in reached if not self._undecided[worker]]

    def gone(self, worker: int) -> None:
        del self._undecided[worker]
        self._until.pop(worker, None)
