"""Whose turn it is in a strategy without barriers: a worker goes on when the fate of its last update is part of the model.

So that with one worker an asynchronous strategy is plain SGD (staleness 0). With two orders in flight nobody waits.
"""

from dataclasses import dataclass, field

from mottle.core.protocol import Version


@dataclass
class Turns:
    """Workers that wait for a version, or for a verdict."""

    max_in_flight: int
    _undecided: set[int] = field(default_factory=set)
    _until: dict[int, int] = field(default_factory=dict)

    def undecided(self, worker: int) -> None:
        """The worker's update waits for its verdict."""
        if self.max_in_flight == 1:
            self._undecided.add(worker)

    def decided(self, worker: int, *, version: int | None = None) -> bool:
        """The verdict is there; the worker waits for `version` if there is one. Whether it may go on at once."""
        waited = worker in self._undecided
        self._undecided.discard(worker)
        if version is not None and self.max_in_flight == 1:
            self._until[worker] = version
            return False
        return waited

    def may_go(self, worker: int, version: Version) -> bool:
        return worker not in self._undecided and self._until.get(worker, 0) <= version.number

    def published(self, version: Version) -> list[int]:
        """Workers whose wait this version ends, ascending slot."""
        ready = sorted(worker for worker, number in self._until.items() if number <= version.number)
        for worker in ready:
            del self._until[worker]
        return ready

    def gone(self, worker: int) -> None:
        self._undecided.discard(worker)
        self._until.pop(worker, None)
