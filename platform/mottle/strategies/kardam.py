"""Kardam: asynchronous SGD that filters updates by how fast gradients change with the model, for fewer than a third of liars.

For an update with mean gradient g that began at version tau, with (G, tau') those of the last accepted one, K = |g - G| / |x_tau - x_tau'|.
It passes if K is no larger than what all but f of the n workers last showed (Lipschitz filter), and if its worker is not among those of
the last 2f accepted updates (frequency filter); then x <- x - lr * Lambda(delta) * g, with Lambda the dampening for staleness delta.

Source: Damaskinos, El Mhamdi, Guerraoui, Patra, Taziki, "Asynchronous Byzantine Machine Learning (the case of SGD)", ICML 2018, arXiv
1802.07928; `asynchronous.md` B4, which lists where public code differs. The shards hold G, x_tau' and the model of every version at which
an undecided order began (`protocol.Keep`); they answer with exact sums, and updates are judged one at a time, in order of arrival.

What the specification leaves to a system with a changing crew: n is the crew of the moment, which must be at least 3f + 1, or nothing is
asked of anybody until it is. The warm-up, in which everything passes, ends for good once n workers have shown a K; whoever leaves leaves it
behind, until somebody new takes its place. An update that cannot be judged, because it began where the last accepted one did, or whose
worker comes too often, is no verdict on content: its samples are free again, and the worker waits until it is of use.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf, isnan, sqrt
from typing import Any, Literal

from mottle.aggregation.decisions.base import check_budget, resolve_share
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec
from mottle.core.protocol import KEPT, model_name, update_name
from mottle.strategies.options import OrderOptions, Usual, below, others_than, refuse
from mottle.strategies.staleness import staleness_weight
from mottle.strategies.turns import Turns

GRADIENT, BASE = "gradient", "base"
"""Kept: the mean gradient of the last accepted update, and the model at which it began."""

LEAST_MOVE = 1e-4  # [FIX] of the specification, as in the template code
"""Between two versions that are closer the model counts as moved by so much."""


@dataclass(frozen=True, kw_only=True)
class KardamConfig(OrderOptions):
    """Kardam."""

    num_byzantine: float  # f in the paper
    """Liars tolerated: a count, or a share of the crew below a third."""
    frequency: Literal["strict", "count", "off"] = "strict"
    """`strict`: 2f + 1 accepted updates in a row are of as many workers; `count`: no worker has more than f of them."""
    dampening: Spec = "exponential"
    """`exponential` ({a: 0.2}), `inverse`, `constant`, or another staleness weight: factor on the step of a stale update."""
    max_staleness: int | None = None
    """Discard updates that are staler than this; None for no bound. Shards hold a model for each version at which somebody computes."""

    def __post_init__(self) -> None:
        refuse(
            "kardam",
            self.faults(),
            others_than(("strict", "count", "off"), frequency=self.frequency),
            below(0, max_staleness=self.max_staleness),
        )
        check_budget("kardam", "num_byzantine", self.num_byzantine)
        if isinstance(self.num_byzantine, float) and 3 * self.num_byzantine >= 1:
            raise ConfigError(f"kardam survives fewer than a third of liars (n >= 3f + 1), got num_byzantine={self.num_byzantine}")
        staleness_weight(self.dampening)

    @property
    def least_workers(self) -> int:
        """Workers without which nothing can be accepted; a share below a third leaves enough in every crew."""
        return 3 * self.num_byzantine + 1 if isinstance(self.num_byzantine, int) else 1

    def build(self) -> "Kardam":
        return Kardam(self)


class Kardam(Usual):
    """State machine of Kardam."""

    def __init__(self, config: KardamConfig) -> None:
        self.config = config
        self.max_in_flight = config.max_in_flight
        self._dampening = staleness_weight(config.dampening)
        self._turns = Turns()
        self._candidates: deque[s.Update] = deque()
        self._asked: str | None = None
        """Tag of the measurement that the first candidate waits for."""
        self._keeping = False
        self._base: int | None = None
        """Version at which the last accepted update began."""
        self._coefficients: dict[int, float] = {}
        """Newest K of each worker, also of some that have left."""
        self._warm = False
        self._recent: deque[int] = deque()
        """Workers of the last 2f accepted updates."""
        self._waiting: set[int] = set()
        """Workers that could go if the crew were large enough."""
        self._benched: set[int] = set()
        """Workers that came too often, until others have been accepted."""

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        decisions: list[s.Decision] = []
        match event:
            case s.UpdateArrived(update):
                self._turns.undecided(update.worker)
                self._candidates.append(update)
            case s.WorkerIdle(worker) if self._turns.may_go(worker, view.version):
                decisions = self._go(worker, view)
            case s.VersionPublished(version):
                decisions = [] if self._keeping else [s.KeepModels()]
                self._keeping = True
                decisions += [each for worker in self._turns.published(version) for each in self._go(worker, view)]
            case s.WorkerGone(worker):
                self._turns.gone(worker)
                self._waiting.discard(worker)
                self._benched.discard(worker)
                if self._waiting and not self._too_few(view):  # where f is a share, a smaller crew may do
                    decisions = self._go(self._waiting.pop(), view)
            case s.DistancesMeasured(tag, (apart2, moved2)) if tag == self._asked:
                self._asked = None
                quotient = sqrt(apart2) / max(sqrt(moved2), LEAST_MOVE)
                decisions = self._judge(inf if isnan(quotient) else quotient, view.head.number, view)
        return decisions + self._judge_rest(view, decisions)

    # --- one candidate after the other ------------------------------------------------------------------------------------------------

    def _judge_rest(self, view: s.View, before: list[s.Decision]) -> list[s.Decision]:
        """Judge candidates until one has to be measured. `before`: decided already in answer to the same event."""
        decisions: list[s.Decision] = []
        while self._candidates and self._asked is None:
            head = view.head.number + sum(isinstance(each, s.Apply) for each in (*before, *decisions))
            update = self._candidates[0]
            limit, staleness = self.config.max_staleness, head - update.base.number
            if limit is not None and staleness > limit:
                decisions += self._discard(f"staleness {staleness} is above {limit}", head, view)
            elif self._too_few(view):
                decisions += self._discard(self._shortage(view), head, view)
            elif self._base is None or update.base.number == self._base:
                decisions += self._judge(None, head, view)
            else:
                self._asked = f"kardam/{update.work_id}"
                name, base = update_name(update.work_id), model_name(update.base.number)
                decisions.append(s.MeasureDistances(self._asked, ((name, KEPT + GRADIENT), (base, KEPT + BASE))))
        return decisions

    def _judge(self, coefficient: float | None, head: int, view: s.View) -> list[s.Decision]:
        """The verdict on the first candidate; `coefficient` is None where it began with the last accepted one, or is the first."""
        update = self._candidates[0]
        threshold = self._threshold(view)
        if coefficient is not None:
            self._note(update.worker, coefficient, view)
        if threshold is not None and coefficient is None:
            return self._discard("began where the last accepted update did, so that it cannot be judged", head, view)
        if threshold is not None and coefficient is not None and not coefficient <= threshold:
            return self._drop(s.Reject(update.work_id, "fails Kardam's Lipschitz test", coefficient), view)
        if self._too_often(update.worker, view):
            self._benched.add(update.worker)
            return self._drop(s.Discard(update.work_id, "its worker had an update among the last accepted ones"), view)
        return self._accept(self._candidates.popleft(), coefficient, head, view)

    def _accept(self, update: s.Update, coefficient: float | None, head: int, view: s.View) -> list[s.Decision]:
        self._base = update.base.number
        self._recent.append(update.worker)
        while len(self._recent) > 2 * self._num_byzantine(view):
            self._recent.popleft()
        self._turns.decided(update.worker, version=head + 1)
        name, base = update_name(update.work_id), model_name(update.base.number)
        share = min(update.samples / self.config.batch_size, 1.0)
        weight = self._dampening(head - update.base.number) * share / update.weight
        scores = {} if coefficient is None else {update.work_id: coefficient}
        kept: list[s.Decision] = [s.Keep(GRADIENT, name), s.Keep(BASE, base)]
        kept.append(s.Apply(((update.work_id, weight),), scores=scores))
        freed = sorted(worker for worker in self._benched if worker not in self._recent)
        self._benched.difference_update(freed)
        return [*kept, *(each for worker in freed if self._turns.may_go(worker, view.version) for each in self._go(worker, view))]

    def _discard(self, reason: str, head: int, view: s.View) -> list[s.Decision]:
        """The first candidate cannot be judged or used; its worker goes on when the newest step decided so far is made."""
        discard = s.Discard(self._candidates[0].work_id, reason)
        if head <= view.version.number:
            return self._drop(discard, view)
        self._turns.decided(self._candidates.popleft().worker, version=head)
        return [discard]

    def _drop(self, decision: s.Reject | s.Discard, view: s.View) -> list[s.Decision]:
        update = self._candidates.popleft()
        go = self._turns.decided(update.worker)
        return [decision, *(self._go(update.worker, view) if go else [])]

    # --- the filters ------------------------------------------------------------------------------------------------------------------

    def _num_byzantine(self, view: s.View) -> int:
        return resolve_share(self.config.num_byzantine, len(view.crew))

    def _threshold(self, view: s.View) -> float | None:
        """The r-th smallest of N coefficients, r = ceil(N (n - f) / n); None while the warm-up lasts."""
        num_workers, num_known = len(view.crew), len(self._coefficients)
        self._warm = self._warm or num_known >= num_workers
        if not self._warm:
            return None
        rank = ceil(num_known * (num_workers - self._num_byzantine(view)) / num_workers)
        return sorted(self._coefficients.values())[max(1, min(rank, num_known)) - 1]

    def _note(self, worker: int, coefficient: float, view: s.View) -> None:
        """Its newest coefficient, passed or not; a worker seen for the first time takes the place of one that has left."""
        if worker not in self._coefficients:
            left = next((each for each in self._coefficients if each not in view.crew), None)
            if left is not None and self._warm:
                del self._coefficients[left]
        self._coefficients[worker] = coefficient

    def _too_often(self, worker: int, view: s.View) -> bool:
        """With f = 0 there is nobody to be kept from being too frequent."""
        num_byzantine = self._num_byzantine(view)
        if self.config.frequency == "strict":
            return worker in self._recent
        return self.config.frequency == "count" and 0 < num_byzantine < self._recent.count(worker) + 1

    # --- turns ------------------------------------------------------------------------------------------------------------------------

    def _too_few(self, view: s.View) -> bool:
        return len(view.crew) < 3 * self._num_byzantine(view) + 1

    def _shortage(self, view: s.View) -> str:
        wanted = 3 * self._num_byzantine(view) + 1
        return f"kardam with num_byzantine={self.config.num_byzantine} needs {wanted} workers, there are {len(view.crew)}"

    def _go(self, worker: int, view: s.View) -> list[s.Decision]:
        """An order, unless the crew is too small or the worker's updates would be too frequent."""
        if self._too_few(view):
            told: list[s.Decision] = [] if self._waiting else [s.Warn(f"{self._shortage(view)}; waiting for more to join")]
            self._waiting.add(worker)
            return told
        waiting, self._waiting = sorted({*self._waiting, worker} - self._benched), set()
        return [s.Assign(each, self.config.batch_size) for each in waiting]

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The gradient and the model that go with it are kept by the shards."""
        return {
            "base": self._base,
            "warm": self._warm,
            "coefficients": [[worker, coefficient] for worker, coefficient in self._coefficients.items()],
            "recent": list(self._recent),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._base, self._warm = state["base"], state["warm"]
        self._coefficients = dict(state["coefficients"])
        self._recent = deque(state["recent"])

    def check(self) -> None:
        assert len({update.work_id for update in self._candidates}) == len(self._candidates)
        assert self._asked is None or self._candidates, "a measurement is awaited for nobody"
        assert self._base is not None or not self._recent, "an accepted update has no base"
