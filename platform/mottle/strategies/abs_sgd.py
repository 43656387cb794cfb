"""ABS-SGD: delayed synchronous SGD with batches as large as each worker makes them; nobody waits and every gradient is one step old.

While the updates of round t - 1 travel and are averaged, every worker computes its batch of round t, which grows until the new version is
there. Then it pushes what it has and goes on at that version:

    x_{t+1} = x_t - lr * g_{t-1},  g_t the mean gradient over all samples of round t at x_t,  x_1 = x_0

Round 0 is of `batch_size` samples a worker; round 1 begins at the same version. Version v of the run is x_{v+1} of the recurrence, so round
t >= 1 is computed at version t - 1 and applied to version t: staleness exactly 1 (0 for round 0). On a quadratic of curvature c that is
stable for lr * c < 1, half of what synchronous SGD stands; start with half its rate.

An order borrows as many samples as the worker is likely to need, twice those of its last round; what it did not get to goes back. A worker
that has used them all gets another order of the same round. Where a round comes to nothing (all of its workers died), the next one is cut
at once and takes its place; when nothing is out at all, the next order begins at round 0 again.

Source: Zhou, Chen, Wu, "ABS-SGD", arXiv 2308.15164; `heterogeneous.md` 6. Differs: the members of a round do not start a collective of
their own, the coordinator cuts all of them when it publishes a version, which is the moment at which their own rule would let them join.
Neutral reference: SGD with gradients delayed by one step.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mottle.core import strategy as s
from mottle.core.protocol import Settings
from mottle.strategies.options import Usual, below, not_above, refuse, unless
from mottle.strategies.rounds import mean_over_samples

_HEADROOM = 2
"""An order borrows so many times the samples of the worker's last round: enough for a machine that gets faster or a network that gets
slower, while not much of the epoch is in hands that will not use it."""


@dataclass(frozen=True, kw_only=True)
class ABSConfig:
    """Delayed synchronous SGD with adaptive batches."""

    batch_size: int  # b_init in the specification
    """Samples of a worker's first order; from then on its speed decides."""
    least: int = 8  # m_min in the specification
    """Samples that a worker computes of every order at least; more makes longer rounds where the network is fast."""
    most: int | None = None
    """Samples of one order at most; None for no bound but the share of what is left of the epoch."""
    linear_batch: int | None = None  # B_ref in the specification
    """Scale steps with their samples: lr holds for so many, twice as many make twice the step. None: lr for every step."""
    linear_cap: float = 4.0
    """Greatest factor of that scaling."""
    rule: Settings | None = None
    """Robust rule in place of the mean: `{phocas: {trim: 2}}`. A worker is one row of a round, so it gets one order in each."""

    def __post_init__(self) -> None:
        refuse(
            "abs_sgd",
            below(1, batch_size=self.batch_size, least=self.least, linear_batch=self.linear_batch),
            unless(self.most is None or self.most >= self.least, f"most >= least, got {self.most} and {self.least}"),
            not_above(0, linear_cap=self.linear_cap),
            unless(
                self.linear_batch is None or self.rule is None,
                "linear_batch or a rule, not both: a worker that computes much would enlarge a step that is none of its own",
            ),
        )

    def build(self) -> "ABSSGD":
        return ABSSGD(self)


@dataclass(slots=True)
class _Round:
    """All orders of one base version."""

    cut: bool = False
    """Its orders are to push what they have."""
    num_asked: int = 0
    """Orders asked for of which nothing is known yet."""
    orders: set[int] = field(default_factory=set)
    """Work ids that are out."""
    open: Counter[int] = field(default_factory=Counter)
    """Worker -> its orders that are asked for or out."""
    members: set[int] = field(default_factory=set)
    """Workers that got an order."""
    arrived: list[s.Update] = field(default_factory=list)
    samples: Counter[int] = field(default_factory=Counter)
    """Worker -> samples that arrived of it."""

    @property
    def pending(self) -> bool:
        """Something may still come of it."""
        return bool(self.orders) or self.num_asked > 0

    @property
    def empty(self) -> bool:
        return not self.pending and not self.arrived

    def arrive(self, update: s.Update) -> None:
        self.end(update.work_id, update.worker)
        self.arrived.append(update)
        self.samples[update.worker] += update.samples

    def end(self, work_id: int, worker: int) -> None:
        if work_id in self.orders:
            self.orders.remove(work_id)
            self.open[worker] -= 1


class ABSSGD(Usual):
    """State machine of ABS-SGD: one round is on its way into the model, another one grows."""

    max_in_flight = 2

    def __init__(self, config: ABSConfig) -> None:
        self.config = config
        self._rule = config.rule
        self._closed: _Round | None = None
        """The round whose updates are travelling; None when nothing is out."""
        self._stepping = False
        """The step of the closed round is decided, and not yet published."""
        self._growing = _Round()
        self._asks: dict[int, deque[_Round]] = defaultdict(deque)
        """Worker -> rounds of its assignments that are not yet known to have become orders, oldest first."""

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        decisions: list[s.Decision] = []
        match event:
            case s.OrderIssued(work_id, worker, _):
                decisions = self._issued(work_id, worker)
            case s.NoWork(worker):
                self._answered(worker).open[worker] -= 1
            case s.UpdateArrived(update):
                self._round_of(update.work_id).arrive(update)
            case s.OrderEnded(work_id, worker, _):
                self._round_of(work_id).end(work_id, worker)
            case s.RuleChanged(rule):
                self._rule = rule
            case s.VersionPublished() if self._stepping:
                decisions = self._turn(view)
            case s.VersionPublished() | s.WorkerIdle() if self._closed is None and view.crew:
                decisions = self._begin(view)
            case s.WorkerIdle(worker) if not self._growing.open[worker] and worker in view.crew and not self._has_row(worker):
                decisions = [self._grow(worker, self._fair(view))]
        return decisions + self._go_on(view)

    # --- rounds -----------------------------------------------------------------------------------------------------------------------

    def _begin(self, view: s.View) -> list[s.Decision]:
        """Round 0, and round 1 behind it."""
        self._closed = _Round()
        decisions: list[s.Decision] = []
        fair = self._fair(view)
        for worker in view.crew:
            decisions += [self._ask(s.Assign(worker, self.config.batch_size), self._closed), self._grow(worker, fair)]
        return decisions

    def _go_on(self, view: s.View) -> list[s.Decision]:
        """Step when the closed round is complete; when nothing came of it, the growing one takes its place."""
        closed = self._closed
        if closed is None or self._stepping or closed.pending:
            return []
        if closed.arrived:
            self._stepping = True
            return self._step(closed)
        if self._growing.orders or self._growing.arrived:
            return self._turn(view) + self._go_on(view)
        if not self._growing.pending:  # else the answers decide: no more orders may come of it
            self._closed = None
        return []

    def _turn(self, view: s.View) -> list[s.Decision]:
        """The growing round is closed and cut, and all begin the next one at the newest version."""
        before, closed = self._closed, self._growing
        assert before is not None
        self._closed, self._growing, self._stepping = closed, _Round(), False
        closed.cut = True
        cuts: list[s.Decision] = [s.CutOrder(work_id) for work_id in sorted(closed.orders)]
        fair = self._fair(view)
        return cuts + [self._grow(worker, fair, max(before.samples[worker], closed.samples[worker])) for worker in view.crew]

    def _has_row(self, worker: int) -> bool:
        """Whether the worker has its one row of the growing round already."""
        return self._rule is not None and self._growing.samples[worker] > 0

    def _step(self, closed: _Round) -> list[s.Decision]:
        updates = sorted(closed.arrived, key=lambda update: (update.worker, update.work_id))
        if self._rule is not None:
            # Where a rule has come in the middle of a round a worker may have several updates; the first one is its row.
            first = {update.worker: update.work_id for update in reversed(updates)}
            rows = tuple((update.work_id, update.weight) for update in updates if first[update.worker] == update.work_id)
            surplus = [update.work_id for update in updates if first[update.worker] != update.work_id]
            discards = [s.Discard(work_id, "a worker is one row of a rule") for work_id in surplus]
            return [*discards, s.ApplyRule(rows, self._rule, len(closed.members))]
        linear = self.config.linear_batch
        factor = 1.0 if linear is None else min(sum(update.samples for update in updates) / linear, self.config.linear_cap)
        return [s.Apply(tuple((work_id, factor * weight) for work_id, weight in mean_over_samples(updates)))]

    # --- orders -----------------------------------------------------------------------------------------------------------------------

    def _fair(self, view: s.View) -> int:
        """A worker's part of what is left of the epoch: nobody starves at its end."""
        return max(view.free_samples // max(1, len(view.crew)), self.config.least)  # the last of the crew may just have gone

    def _grow(self, worker: int, fair: int, last: int = 0) -> s.Assign:
        """An order of the growing round, with room for twice what the worker did in its `last` one."""
        wanted = _HEADROOM * max(last, self._growing.samples[worker], self.config.batch_size)
        samples = max(self.config.least, min(wanted, fair, self.config.most or wanted))
        return self._ask(s.Assign(worker, samples, least=self.config.least), self._growing)

    def _ask(self, decision: s.Assign, into: _Round) -> s.Assign:
        into.num_asked += 1
        into.open[decision.worker] += 1
        self._asks[decision.worker].append(into)
        return decision

    def _answered(self, worker: int) -> _Round:
        """The round that the worker's oldest open assignment was for; it is no longer open."""
        into = self._asks[worker].popleft()
        into.num_asked -= 1
        return into

    def _issued(self, work_id: int, worker: int) -> list[s.Decision]:
        into = self._answered(worker)
        into.orders.add(work_id)
        into.members.add(worker)
        return [s.CutOrder(work_id)] if into.cut else []

    def _round_of(self, work_id: int) -> _Round:
        return self._closed if self._closed is not None and work_id in self._closed.orders else self._growing

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up: updates on their way are not part of a checkpoint, and the run begins at round 0 again."""

    def check(self) -> None:
        assert self._closed is not None or self._growing.empty, "a round grows with none before it"
        assert not self._stepping or (self._closed is not None and not self._closed.pending)
        for each in (self._closed, self._growing):
            assert each is None or each.open.total() == each.num_asked + len(each.orders), "orders and workers do not add up"
        assert max(self._growing.open.values(), default=0) <= 1, "a worker grows two batches at once"
