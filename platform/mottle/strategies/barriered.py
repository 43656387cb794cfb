"""What strategies with a barrier have in common: one round after another, each begun when the last one's version is published and there are
workers and samples for it, each ended by one step.

How a round's batch is split, when it is over though somebody is still out, and what its step is: that is what they differ in. A worker that
dies mid-round takes nobody along: the round ends with those who are left, and its samples go to the next one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from mottle.core import strategy as s
from mottle.core.protocol import Settings
from mottle.strategies.batch_policy import BatchPolicy
from mottle.strategies.options import Usual
from mottle.strategies.rounds import Round, round_batch


class Barriered(Usual, ABC):
    """State machine of the family.

    Args:
        rule: robust rule in place of the mean; None is the mean.
        policy: batch and rate of a round, where that is one batch of the whole crew.
        surplus: why orders are given up that are still out when a round is over.
        deadline_s: after which a round is late; None for never.
    """

    barriered = True

    def __init__(
        self, rule: Settings | None, *, policy: BatchPolicy | None = None, surplus: str = "", deadline_s: float | None = None
    ) -> None:
        self._rule = rule
        self._policy = policy
        self._surplus = surplus
        self._deadline_ns = None if deadline_s is None else round(deadline_s * 1e9)
        self._round: Round | None = None
        self._rounds = 0
        """Rounds begun; the one that is out is the last of them."""
        self._late = False
        """The round's deadline is past."""
        self._missed: set[int] = set()
        """Workers whose last order came to nothing; not kept by a checkpoint, for the crew is another one then."""

    # --- what they differ in ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _orders(self, crew: list[int], free: int) -> list[s.Assign]:
        """Of the next round, ascending slot.

        Args:
            crew: who may be asked, ascending slot; at least one.
            free: samples that may be lent; at least one.
        """

    @abstractmethod
    def _enough(self, current: Round) -> bool:
        """Whether the step may be made though somebody is still out."""

    @abstractmethod
    def _step(self, current: Round) -> s.Apply | s.ApplyRule:
        """Of a round that is over, in which at least one update came."""

    @abstractmethod
    def _heard(self, event: s.StrategyEvent, current: Round | None) -> list[s.Decision]:
        """What else an event means to this strategy, before the round hears of it."""

    # --- rounds -----------------------------------------------------------------------------------------------------------------------

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        current = self._round
        if self._policy is not None:
            self._policy.hear(event)
        if isinstance(event, s.VersionPublished | s.WorkerIdle):
            return self._begin(view)
        if isinstance(event, s.RuleChanged):
            self._rule = event.rule
        decisions = self._heard(event, current)
        self._note_missed(event)
        if current is None:
            return decisions
        current.hear(event)
        self._late = self._late or event == s.AlarmRang(self._alarm)
        return decisions + self._close_if_done(current, view)

    def _note_missed(self, event: s.StrategyEvent) -> None:
        match event:
            case s.UpdateArrived(update):
                self._missed.discard(update.worker)
            case s.OrderEnded(_, worker):
                self._missed.add(worker)
            case s.WorkerGone(worker):
                self._missed.discard(worker)

    @property
    def _alarm(self) -> str:
        return f"round-{self._rounds - 1}"

    def _begin(self, view: s.View, refused: AbstractSet[int] = frozenset()) -> list[s.Decision]:
        """`refused`: those who found nothing in a round that ended without any order; without them the next one cannot end likewise."""
        if self._round is not None or view.head != view.version:
            return []
        crew = [worker for worker in view.crew if worker not in refused]
        if not crew or not view.free_samples:
            return []
        orders = self._orders(crew, view.free_samples)
        self._round = Round.of(((order.worker, order.samples) for order in orders), refused)
        self._rounds += 1
        self._late = False
        return [*orders] if self._deadline_ns is None else [*orders, s.SetAlarm(self._alarm, self._deadline_ns)]

    def _close_if_done(self, current: Round, view: s.View) -> list[s.Decision]:
        if not current.complete and (current.asked or not self._enough(current)):
            return []
        self._round = None
        self._missed.update(current.orders)
        decisions = current.abandon_rest(self._surplus)
        if not current.arrived:
            return decisions + self._begin(view, current.refused)
        step = self._step(current)
        return [*decisions, *([step] if self._policy is None else self._policy.step(step, current.updates))]

    def _takers(self, crew: list[int], most: int) -> list[int]:
        """At most so many of the crew, ascending slot: where there is too little for all, those come last whose last order came to nothing.

        Else the last sample of an epoch would go to a worker that never delivers, round after round.
        """
        return sorted(sorted(crew, key=lambda worker: (worker in self._missed, worker))[:most])

    def _batch(self, crew: list[int], free: int, most: int | None = None) -> int:
        """Samples of the round that begins, over these workers; see `round_batch`."""
        assert self._policy is not None, "a round without a batch of its own"
        return round_batch(self._policy.batch(crew, most), free, len(crew), self._rule)

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """A round does not outlive the run, its number does: alarms are named after it."""
        return {"rounds": self._rounds, "batch": {} if self._policy is None else {self._policy.name: self._policy.state()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rounds = state["rounds"]
        if self._policy is not None and (kept := state.get("batch", {}).get(self._policy.name)):
            self._policy.restore(kept)  # that of another policy would mean nothing to it

    def check(self) -> None:
        if self._round is not None:
            self._round.check()
