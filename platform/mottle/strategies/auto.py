"""`auto`: trains load-balanced while it measures the crew, asks for a plan, and goes on with the strategy that the plan names.

A state machine around another one. It begins with LB-BSP, whose first rounds tell every worker's speed from its overhead, and measures as
updates come: nothing is computed for the measurement, and no sample is lost to it. Then it asks for a plan (`AskPlan`); whoever drives the
machine simulates the candidates on the measured fleet and answers with a fact (`Planned`), which is in the run's log like any other, so a
replay takes the same turn at the same place. Until an answer comes LB-BSP goes on.

The change is made at a quiet point: no new order is given, what is out comes in and is applied, then the new strategy begins at the newest
version. Updates that the old one still kept undecided are discarded, and their samples are free again.

A new plan is asked for when the crew's speed has changed by more than `replan` since the last one and everybody has been measured: a worker
came, left, or became slower for good. What is measured is what workers say of themselves (see `Update.compute_ns`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, folded, parse
from mottle.core.protocol import Settings
from mottle.strategies.measuring import Measurements
from mottle.strategies.noise_probe import NoiseProbe
from mottle.strategies.options import Usual

CANDIDATES = ("sync", "backup", "lb_bsp", "abs_sgd")
"""Strategies of staleness at most 1 and one local step; others have to be allowed."""
CHANGEABLE = (*CANDIDATES, "async", "ssp", "fedbuff", "fedfix", "gradient_coding")
"""Strategies that keep nothing on workers or shards from one step to the next, so that a run can change between them."""
FIRST = "lb_bsp"
ROUNDS = 6
"""Steps that are measured before the first plan."""
MOST_ROUNDS = 30
"""Steps after which it is made although some workers have not been measured."""
ANSWER_S = 60.0
"""Time that a plan may take; then the run goes on as it is until the crew changes."""

_ALARM = "plan-"
_NOISE = "noise"


@dataclass(frozen=True, kw_only=True)
class AutoConfig:
    """A strategy chosen for the crew that is there."""

    batch_size: int
    """Samples of one synchronous step, or of one order."""
    rule: Settings | None = None
    """Robust rule; only strategies that can apply it are candidates then."""
    allow: Sequence[Spec] = ()
    """Further candidates, with options or without: `async`, `ssp`, `fedbuff`, ...; their updates may be stale by more than one step."""
    replan: float = 0.25
    """Change of the crew's speed, as a share of what the last plan was made for, that calls for a new plan."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"auto needs batch_size >= 1, got {self.batch_size}")
        if not self.replan > 0:
            raise ConfigError(f"auto needs replan > 0, got {self.replan}; it is the share by which the crew's speed must change")
        if isinstance(self.allow, str) or not isinstance(self.allow, Sequence):
            raise ConfigError(f"auto takes a list of strategies in allow, got {self.allow!r}")
        for spec in self.allow:
            self.candidate(spec)

    def candidates(self, rule: Settings | None) -> list[Spec]:
        """Strategies that may be chosen; with a robust rule those that can apply it."""
        allowed = [parse(spec, "strategy")[0] for spec in self.allow]
        specs = [*(name for name in CANDIDATES if name not in allowed), *self.allow]
        return [spec for spec in specs if rule is None or takes_rule(spec)]

    def candidate(self, spec: Spec, rule: Settings | None = None) -> s.Strategy:
        """That strategy, with the job's own numbers.

        Raises:
            ConfigError: unknown, wrong options, or one that a run cannot change to.
        """
        from mottle.strategies.catalogue import build  # which knows this module

        given = {"batch_size": self.batch_size, **({"rule": rule} if rule is not None and takes_rule(spec) else {})}
        strategy = build(spec, given)
        name, _ = parse(spec, "strategy")
        if folded(name) not in map(folded, CHANGEABLE):
            raise ConfigError(
                f"auto cannot change to {name} in the middle of a run, only between {', '.join(CHANGEABLE)}: others keep a state on "
                "workers or shards from the start; name it as the job's strategy, and compare it with `mottle simulate`"
            )
        return strategy

    def build(self) -> "Auto":
        return Auto(self)


def takes_rule(spec: Spec) -> bool:
    """Whether that strategy can apply a robust rule."""
    from mottle.strategies.catalogue import takes_rule as can_apply  # which knows this module

    return can_apply(parse(spec, "strategy")[0])


class Auto(Usual):
    """State machine of `auto`."""

    max_in_flight = 2

    def __init__(self, config: AutoConfig) -> None:
        self.config = config
        self.spec: Spec = FIRST
        """The strategy that is running."""
        self._rule = config.rule
        self._inner = config.candidate(FIRST, config.rule)
        self._turn = 0
        """Strategies that have run before this one; alarms of those mean nothing any more."""
        self._next: Spec | None = None
        """The strategy to change to, once it is quiet."""
        self._measured = Measurements()
        self._probe = NoiseProbe(_NOISE)
        self._steps = 0
        """Versions since the last plan was asked for or the run began."""
        self._asked = False
        """A plan is being made."""
        self._num_asked = 0
        self._planned_for: float | None = None
        """Samples a second of the crew that the last plan was made for."""
        self._out: set[int] = set()
        """Orders of which nothing has come yet."""
        self._held: dict[int, s.Update] = {}
        """Updates that the inner strategy has not decided."""
        self._closed = False
        """The inner strategy was told that nothing more will come."""
        self._stalled = False
        """A coded round of the inner strategy was kept from beginning: it has to be made anew before it can go on."""

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        match event:
            case s.Planned(spec):
                self._asked = False
                self._planned_for, self._steps = self._measured.speed(view.crew), 0
                self._choose(spec)
            case s.AlarmRang(name) if name.startswith(_ALARM):
                if self._asked and name == self._alarm:  # nobody answers: until the crew changes nothing is asked again
                    self._asked, self._planned_for, self._steps = False, self._measured.speed(view.crew), 0
            case s.DotsMeasured(tag, dots) if tag == _NOISE:
                self._probe.measured(dots)
            case s.AlarmRang(name):
                turn, _, own = name.partition("/")
                if turn == str(self._turn):
                    return self._followed(self._tell(s.AlarmRang(own), view), view)
            case s.WorkerIdle(worker) if self._inner.max_in_flight == 1 and view.busy(worker):
                pass  # it has room for a second order, which the inner strategy does not give
            case _:
                self._note(event)
                return self._followed(self._tell(event, view), view)
        return self._followed([], view)

    # --- measuring --------------------------------------------------------------------------------------------------------------------

    def _note(self, event: s.StrategyEvent) -> None:
        match event:
            case s.OrderIssued(work_id, _, _):
                self._out.add(work_id)
            case s.OrderEnded(work_id, _, _):
                self._out.discard(work_id)
            case s.UpdateArrived(update):
                self._out.discard(update.work_id)
                self._held[update.work_id] = update
                self._measured.note(update, alone=self._inner.max_in_flight == 1)
            case s.WorkerGone(worker):
                self._measured.gone(worker)
            case s.VersionPublished():
                self._steps += 1
            case s.RuleChanged(rule):
                self._rule = rule
                if not self._fits(self._next or self.spec):
                    self._choose(FIRST)

    def _compare(self, decision: s.Apply | s.ApplyRule) -> list[s.Decision]:
        """Measure inner products of the updates of a step, before it uses them up."""
        if isinstance(decision, s.Apply) and decision.chunks:
            return []  # coded sums are no gradients to be compared
        ids = [work_id for work_id, _ in (decision.terms if isinstance(decision, s.Apply) else decision.rows)]
        updates = [self._held[work_id] for work_id in ids if work_id in self._held]
        return self._probe.compare(updates) if self._inner.barriered else []

    # --- planning ---------------------------------------------------------------------------------------------------------------------

    def _followed(self, decisions: list[s.Decision], view: s.View) -> list[s.Decision]:
        """After these: change where that is due and can be, else ask for a plan where one is."""
        if any(isinstance(each, s.Apply | s.ApplyRule) for each in decisions):
            return decisions  # the step is not under way yet as the view has it; its version will come
        return decisions + (self._ask(view) if self._next is None and not self._asked and self._due(view) else self._change(view))

    def _ask(self, view: s.View) -> list[s.Decision]:
        self._asked = True
        self._num_asked += 1
        measured = {
            "batch_size": self.config.batch_size,
            "noise_scale": self._probe.noise.value,
            "running": self.spec,
            "robust": self._rule is not None,
            "candidates": self.config.candidates(self._rule),
            "crew": list(view.crew),
            "workers": self._measured.state(view.crew),
        }
        return [s.AskPlan(measured), s.SetAlarm(self._alarm, round(ANSWER_S * 1e9))]

    @property
    def _alarm(self) -> str:
        return f"{_ALARM}{self._num_asked}"

    def _due(self, view: s.View) -> bool:
        if self._steps < ROUNDS or not view.crew:
            return False
        known = [self._measured.known(worker) for worker in view.crew]
        if not (all(known) or (self._steps >= MOST_ROUNDS and any(known))):
            return False
        if self._planned_for is None:
            return True
        return abs(self._measured.speed(view.crew) - self._planned_for) > self.config.replan * self._planned_for

    # --- changing ---------------------------------------------------------------------------------------------------------------------

    def _choose(self, spec: Spec) -> None:
        """Change to it as soon as it is quiet; not to one that cannot apply the robust rule, which may be newer than the plan."""
        if self._fits(spec):
            self._next = spec if spec != self.spec or self._stalled else None

    def _fits(self, spec: Spec) -> bool:
        if self._rule is None:
            return True
        try:
            self.config.candidate(spec, self._rule)
        except ConfigError:
            return False  # its options do not go with a rule
        return takes_rule(spec)

    def _change(self, view: s.View) -> list[s.Decision]:
        if self._next is None or self._out or view.head != view.version or any(view.busy(worker) for worker in view.crew):
            return []
        if self._held and not self._closed:
            self._closed = True
            decisions = self._tell(s.NothingLeft(), view)
            if decisions:
                return self._followed(decisions, view)
        left = [s.Discard(work_id, "the strategy changed") for work_id in sorted(self._held)]
        self.spec, self._next = self._next, None
        self._inner = self.config.candidate(self.spec, self._rule)
        self._turn += 1
        self._held, self._closed, self._stalled, self._steps = {}, False, False, 0
        begun: list[s.Decision] = [*left, *self._tell(s.VersionPublished(view.version), view)]
        for worker in view.crew:
            begun += self._tell(s.WorkerIdle(worker), view)
        return begun

    def _tell(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        """Have the inner strategy take a fact. While a change is due it is told that there is no work for what it wants to give out."""
        decisions: list[s.Decision] = []
        refused: list[int] = []
        for decision in self._inner.handle(event, view):
            match decision:
                case s.Assign(worker) if self._next is not None:
                    refused.append(worker)
                case s.LendChunk() | s.AssignChunks() if self._next is not None:
                    self._stalled = True
                case s.ReleaseChunks():
                    self._held.clear()  # what came of the round ends with it
                    decisions.append(decision)
                case s.SetAlarm(name, after_ns):
                    decisions.append(s.SetAlarm(f"{self._turn}/{name}", after_ns))
                case s.Apply() | s.ApplyRule():
                    decisions += [*self._compare(decision), decision]
                    self._decided(decision)
                case s.Reject(work_id) | s.Discard(work_id):
                    self._held.pop(work_id, None)
                    decisions.append(decision)
                case _:
                    decisions.append(decision)
        for worker in refused:
            decisions += self._tell(s.NoWork(worker), view)
        return decisions

    def _decided(self, decision: s.Apply | s.ApplyRule) -> None:
        terms = (*decision.terms, *((each, 0.0) for each in decision.unselected)) if isinstance(decision, s.Apply) else decision.rows
        for work_id, _ in terms:
            self._held.pop(work_id, None)
        if isinstance(decision, s.Apply) and decision.chunks:
            self._held.clear()  # surplus copies end with the round

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"spec": self.spec, "inner": self._inner.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the strategy that was running; the workers are other ones, so they are measured and planned for anew."""
        self.spec = state["spec"]
        self._inner = self.config.candidate(self.spec, self._rule)
        self._inner.restore(state["inner"])

    def check(self) -> None:
        self._inner.check()
        assert not self._out & set(self._held), "an update that came is said to be out"
