"""Stale synchronous parallel: asynchronous SGD in which nobody gets more than `slack` iterations ahead of the slowest.

Every worker has a clock, the iterations that it has finished, and begins another one iff clock - (least clock of the crew) <= slack. On the
arrival of gradient sum G over m samples: x <- x - (lr / n) * min(m / batch_size, 1) * G / m, with n workers in the crew; so `lr` is that of
the synchronous batch of n orders.

An iteration is finished when the version with its update is published. So at all times the clocks differ by at most slack + 1, and an
update is at most (2 * slack + 1) * (n - 1) steps stale: the model that worker i reads at clock c has at least the first c - slack updates
of every other worker, and by the time of i's push that worker has made at most c + slack + 1.

With steady but unequal speeds all run at the pace of the slowest in the end: the slack absorbs jitter, not heterogeneity.

`buffered` keeps the updates of an iteration until all have finished it and makes one step of their mean over samples; with slack 0 that is
synchronous SGD.

Source: Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server", NeurIPS 2013; `heterogeneous.md` 4.
Beyond the source, for a crew that changes: whoever is gone, overdue or without samples holds nobody back; who comes (back) begins at the
least clock; an iteration counts as finished also when nothing came of it, or else a worker whose updates fail the gate would stop the rest.
Neutral references: plain SGD with one worker; synchronous SGD with slack 0 and buffering.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mottle.core import strategy as s
from mottle.strategies.options import Usual, below, refuse
from mottle.strategies.rounds import mean_over_samples


@dataclass(frozen=True, kw_only=True)
class SSPConfig:
    """Stale synchronous parallel."""

    batch_size: int
    """Samples of one order."""
    slack: int = 3  # s in the paper
    """Iterations that the fastest worker may be ahead of the slowest when it begins another one; 0 is a barrier, 2 to 10 is usual."""
    buffered: bool = False
    """One step for each iteration of all, instead of one for each update."""

    def __post_init__(self) -> None:
        refuse("ssp", below(1, batch_size=self.batch_size), below(0, slack=self.slack))

    def build(self) -> "SSP":
        return SSP(self)


class SSP(Usual):
    """State machine of stale synchronous parallel."""

    def __init__(self, config: SSPConfig) -> None:
        self.config = config
        self._clocks: dict[int, int] = {}
        """Worker -> iterations finished, of those that take part."""
        self._away: dict[int, int] = {}
        """The clocks of those that take no part for now."""
        self._at: Counter[int] = Counter()
        """Clock -> how many take part with it."""
        self._least = 0
        """Least clock so far of those that take part; it never falls."""
        self._out: set[int] = set()
        """Workers that have an order."""
        self._idle: set[int] = set()
        """Workers that could begin."""
        self._unsure: set[int] = set()
        """Those of them that may begin now for all that is known; the others wait for the least clock."""
        self._unpublished: dict[int, int] = {}
        """Worker -> version that will have its update."""
        self._buffer: list[tuple[int, s.Update]] = []
        """(iteration, update), in order of arrival; empty unless `buffered`."""

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        decisions: list[s.Decision] = []
        match event:
            case s.WorkerIdle(worker):
                self._idle.add(worker)
                self._unsure.add(worker)
                if worker not in self._clocks:
                    self._set(worker, max(self._away.pop(worker, 0), self._least))
            case s.OrderIssued(_, worker, _):
                self._out.add(worker)
            case s.UpdateArrived(update):
                self._out.discard(update.worker)
                decisions = self._arrived(update, view)
            case s.OrderEnded(_, worker, _) if worker in self._out:
                self._out.discard(worker)
                self._tick(worker)
                if worker not in view.crew:
                    self._leave(worker)  # overdue: nobody knows when it is back
            case s.VersionPublished(version):
                self._published(version.number)
            case s.NoWork(worker):
                self._leave(worker)
            case s.WorkerGone(worker):
                self._leave(worker)
                self._away.pop(worker, None)
        return decisions + self._go_on(view)

    # --- clocks -----------------------------------------------------------------------------------------------------------------------

    def _arrived(self, update: s.Update, view: s.View) -> list[s.Decision]:
        worker = update.worker
        if self.config.buffered:
            self._buffer.append((self._clocks[worker], update))
            self._tick(worker)
            return []
        self._unpublished[worker] = view.head.number + 1
        share = min(update.samples / self.config.batch_size, 1.0)
        return [s.Apply(((update.work_id, share / (max(1, len(view.crew)) * update.weight)),))]

    def _published(self, number: int) -> None:
        for worker in [worker for worker, needed in self._unpublished.items() if needed <= number]:
            del self._unpublished[worker]
            self._unsure.add(worker)
            self._tick(worker)

    def _leave(self, worker: int) -> None:
        self._idle.discard(worker)
        if worker in self._clocks:
            self._away[worker] = self._clocks[worker]
            self._set(worker, None)

    def _tick(self, worker: int) -> None:
        """It has finished an iteration."""
        if worker in self._clocks:
            self._set(worker, self._clocks[worker] + 1)

    def _set(self, worker: int, clock: int | None) -> None:
        """Move a clock, or take it out, and the least one after it."""
        if worker in self._clocks:
            self._at[self._clocks.pop(worker)] -= 1
        if clock is not None:
            self._clocks[worker] = clock
            self._at[clock] += 1
        while self._clocks and not self._at[self._least]:
            del self._at[self._least]
            self._least += 1
            self._unsure |= self._idle

    # --- what follows -----------------------------------------------------------------------------------------------------------------

    def _go_on(self, view: s.View) -> list[s.Decision]:
        """Make the step that is complete, and let begin who may, ascending slot."""
        if step := self._complete():
            return [s.Apply(mean_over_samples(step))]
        if self.config.buffered and view.head != view.version:
            return []
        unsure, self._unsure = sorted(self._unsure & self._idle) if self._unsure else [], set()
        ready = [worker for worker in unsure if worker not in self._unpublished and self._lead(worker) <= self.config.slack]
        self._idle -= set(ready)
        return [s.Assign(worker, self.config.batch_size) for worker in ready]

    def _lead(self, worker: int) -> int:
        return self._clocks[worker] - self._least

    def _complete(self) -> list[s.Update]:
        """Updates of the iterations that all have finished, ascending slot; they leave the buffer."""
        finished = [update for iteration, update in self._buffer if iteration < self._least or not self._clocks]
        self._buffer = [(iteration, update) for iteration, update in self._buffer if iteration >= self._least and self._clocks]
        return sorted(finished, key=lambda update: (update.worker, update.work_id))

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up: all begin anew, none is ahead."""

    def check(self) -> None:
        clocks = self._clocks.values()
        assert not clocks or max(clocks) - min(clocks) <= self.config.slack + 1, f"the clocks are too far apart: {self._clocks}"
        assert not clocks or min(clocks) == self._least
        assert self._idle <= set(self._clocks)
