"""Who lends which worker to which trial, as a pure machine: facts in, orders out. Knows no Ray, no clock and no run.

The fleet belongs to nobody's trial. A trial is let in when the minima of all that are in and its own fit into the fleet, in the order in
which they came; how many workers each has beyond that is the policy's to say (`mottle.tune.shares`). Nobody moves unless another one is
short of its share, a worker that was lent stays for a while (`stay_ns`) unless a trial cannot begin without it, and a worker that is asked
back finishes what it has in hand, unless its trial is over.

What a trial does to its workers is its own affair: one that loses `max_deaths` of them between two evaluations fails, and each is replaced.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mottle.tune.shares import Demand, Point, Policy, sizes

POINTS = 16
"""Reports that a trial's speed is estimated from; older ones may be of other settings."""

# --- facts ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerCame:
    """A worker's process stands and serves nobody."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """Its process is gone.

    Args:
        taken: its machine was taken away, and the worker with it: no trial's fault.
    """

    worker: str
    reason: str
    taken: bool = False


@dataclass(frozen=True, slots=True)
class WorkerLacking:
    """No process can be started in its place."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class TrialCame:
    """It can take workers from now on: from `minimum` on it trains, more than `maximum` are of no use to it."""

    trial: str
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class TrialReported:
    """An evaluation, after that many samples."""

    trial: str
    samples: int


@dataclass(frozen=True, slots=True)
class TrialWants:
    """Its last samples are out: it has something to do for `usable` workers. None takes that back, for some must be computed again.

    Args:
        told_ns: when that was; what was told before it and comes later does not count.
    """

    trial: str
    usable: int | None
    told_ns: int


@dataclass(frozen=True, slots=True)
class TrialOver:
    """It was stopped, has failed or is done: it computes nothing more."""

    trial: str


@dataclass(frozen=True, slots=True)
class WorkerBack:
    """A trial let go of a worker, whose process lives and is free.

    Args:
        trouble: what the worker failed with in the trial; empty if nothing.
        over: the trial has nothing left to do for anybody.
    """

    worker: str
    trial: str
    trouble: str = ""
    over: bool = False


@dataclass(frozen=True, slots=True)
class AlarmRang:
    pass


Fact = WorkerCame | WorkerLost | WorkerLacking | TrialCame | TrialReported | TrialWants | TrialOver | WorkerBack | AlarmRang

# --- orders -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a process for this worker."""

    worker: str


@dataclass(frozen=True, slots=True)
class Lend:
    worker: str
    trial: str


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask a worker back: when it has finished what it has in hand, or at once."""

    worker: str
    trial: str
    at_once: bool


@dataclass(frozen=True, slots=True)
class FailTrial:
    trial: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetAlarm:
    """Give `AlarmRang` then."""

    at_ns: int


Order = StartWorker | Lend | Recall | FailTrial | SetAlarm


@dataclass(slots=True)
class _Worker:
    name: str
    state: str = "absent"  # absent, idle, lent, returning
    trial: str = ""
    since_ns: int = 0
    """When it was lent."""


@dataclass(slots=True)
class _Trial:
    name: str
    minimum: int
    maximum: int
    usable: int | None = None
    """Workers that it has something to do for; None: any number."""
    told_ns: int = -1
    let_in: bool = False
    failed: bool = False
    evaluations: int = 0
    deaths: int = 0
    """Workers lost in it since its last evaluation."""
    samples: int = 0
    reported_ns: int = 0
    crew: int = 0
    crew_since_ns: int = 0
    crew_ns: int = 0
    """Workers times nanoseconds since the last report."""
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=POINTS))

    @property
    def most(self) -> int:
        """Workers that are of use to it now."""
        return self.maximum if self.usable is None else min(self.maximum, self.usable)

    @property
    def least(self) -> int:
        return min(self.minimum, self.most)


class Lending:
    """The fleet and the trials that share it.

    Args:
        workers: their names; each is started.
        policy: how much each trial should have.
        stay_ns: how long a worker stays at least where it was lent, unless a trial cannot begin without it.
        max_deaths: workers that a trial may lose between two evaluations before it is given up.
    """

    def __init__(self, workers: list[str], policy: Policy, *, stay_ns: int, max_deaths: int) -> None:
        self._policy, self._stay_ns, self._max_deaths = policy, stay_ns, max_deaths
        self._workers = {name: _Worker(name) for name in workers}
        self._trials: dict[str, _Trial] = {}
        """Of all that are not over, in the order in which they came."""
        self._now_ns = 0
        self._alarm_ns: int | None = None
        self._orders: list[Order] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            WorkerCame: self._on_worker_came,
            WorkerLost: self._on_worker_lost,
            WorkerLacking: self._on_worker_lacking,
            TrialCame: self._on_trial_came,
            TrialReported: self._on_trial_reported,
            TrialWants: self._on_trial_wants,
            TrialOver: self._on_trial_over,
            WorkerBack: self._on_worker_back,
            AlarmRang: lambda _: setattr(self, "_alarm_ns", None),
        }

    def start(self) -> list[Order]:
        """What is to be done before anything has happened."""
        return [StartWorker(name) for name in self._workers]

    def handle(self, fact: Fact, *, now_ns: int) -> list[Order]:
        """Take one fact; return what must be done because of it, in order."""
        self._now_ns = max(self._now_ns, now_ns)
        self._handlers[type(fact)](fact)
        self._refuse_what_cannot_be()
        self._let_in()
        self._move()
        self._count_crews()
        orders, self._orders = self._orders, []
        return orders

    # --- what others may ask ----------------------------------------------------------------------------------------------------------

    @property
    def num_trials(self) -> int:
        """That are not over."""
        return len(self._trials)

    def lent_to(self, trial: str) -> list[str]:
        """Workers of a trial, those that are on their way back too."""
        return [worker.name for worker in self._workers.values() if worker.trial == trial]

    def is_idle(self, worker: str) -> bool:
        """Whether it stands and nobody has it."""
        return worker in self._workers and self._workers[worker].state == "idle"

    def crew(self, trial: str) -> int:
        """Workers that a trial has and was not asked for."""
        return sum(worker.state == "lent" and worker.trial == trial for worker in self._workers.values())

    # --- workers ----------------------------------------------------------------------------------------------------------------------

    def _on_worker_came(self, fact: WorkerCame) -> None:
        worker = self._workers[fact.worker]
        assert worker.state == "absent", f"{worker} came twice"
        worker.state = "idle"

    def _on_worker_lost(self, fact: WorkerLost) -> None:
        worker = self._workers.get(fact.worker)
        if worker is None or worker.state == "absent":
            return
        trial, worker.state, worker.trial = worker.trial, "absent", ""
        self._orders.append(StartWorker(worker.name))
        if not fact.taken:
            self._note_death(trial, f"its worker died: {fact.reason}")

    def _on_worker_lacking(self, fact: WorkerLacking) -> None:
        worker = self._workers.pop(fact.worker)
        assert worker.state == "absent", f"{worker} stands, and was to be started"

    def _on_worker_back(self, fact: WorkerBack) -> None:
        worker = self._workers.get(fact.worker)
        if worker is None or worker.trial != fact.trial:
            return  # said twice
        trial = self._trials.get(fact.trial)
        worker.state, worker.trial = "idle", ""
        if fact.trouble:
            self._note_death(fact.trial, fact.trouble)
        elif fact.over and trial is not None:
            trial.minimum = trial.maximum = 0

    def _note_death(self, name: str, reason: str) -> None:
        trial = self._trials.get(name)
        if trial is not None and not trial.failed:
            trial.deaths += 1
            if trial.deaths >= self._max_deaths:
                self._fail(trial, f"{trial.deaths} workers failed in it since its last evaluation; the last one: {reason}")

    # --- trials -----------------------------------------------------------------------------------------------------------------------

    def _on_trial_came(self, fact: TrialCame) -> None:
        assert fact.trial not in self._trials, f"{fact.trial} came twice"
        assert 1 <= fact.minimum <= fact.maximum, f"{fact}"
        self._trials[fact.trial] = _Trial(fact.trial, fact.minimum, fact.maximum, reported_ns=self._now_ns, crew_since_ns=self._now_ns)

    def _on_trial_reported(self, fact: TrialReported) -> None:
        trial = self._trials.get(fact.trial)
        if trial is None:
            return
        self._count_crew(trial)
        past_ns, gained = self._now_ns - trial.reported_ns, fact.samples - trial.samples
        if past_ns > 0 and gained > 0 and trial.evaluations:  # before the first one it was still beginning
            trial.points.append((trial.crew_ns / past_ns, gained / past_ns * 1e9))
        trial.evaluations, trial.deaths = trial.evaluations + 1, 0
        trial.samples, trial.reported_ns, trial.crew_ns = fact.samples, self._now_ns, 0

    def _on_trial_wants(self, fact: TrialWants) -> None:
        trial = self._trials.get(fact.trial)
        if trial is not None and fact.told_ns >= trial.told_ns:
            trial.usable, trial.told_ns = fact.usable, fact.told_ns

    def _on_trial_over(self, fact: TrialOver) -> None:
        if self._trials.pop(fact.trial, None) is not None:
            self._recall_all(fact.trial)

    def _recall_all(self, trial: str) -> None:
        for worker in self._workers.values():
            if worker.trial == trial:
                self._recall(worker, at_once=True)

    def _fail(self, trial: _Trial, reason: str) -> None:
        """It gets nothing more; its workers come back when it says that it is over."""
        trial.failed, trial.minimum, trial.maximum = True, 0, 0
        self._orders.append(FailTrial(trial.name, reason))
        self._recall_all(trial.name)

    def _refuse_what_cannot_be(self) -> None:
        for trial in self._trials.values():
            if trial.minimum > len(self._workers):
                self._fail(trial, f"it needs {trial.minimum} workers and the fleet has {len(self._workers)}")

    # --- lending ----------------------------------------------------------------------------------------------------------------------

    @property
    def _inside(self) -> list[_Trial]:
        """Trials that are let in and can use a worker."""
        return [trial for trial in self._trials.values() if trial.let_in and trial.most]

    def _let_in(self) -> None:
        """First come, first served, so that small trials do not keep out a large one; the last one waits again if the fleet has shrunk."""
        room = len(self._workers) - sum(trial.least for trial in self._inside)
        for trial in reversed(self._inside):
            if room >= 0:
                break
            trial.let_in = False
            room += trial.least
            for worker in self._in_state("lent"):
                if worker.trial == trial.name:
                    self._recall(worker, at_once=False)
        for trial in self._trials.values():
            if trial.let_in:
                continue
            if trial.least > room:
                break
            trial.let_in = True
            room -= trial.least

    def _move(self) -> None:
        """Lend what is idle, and ask back what others should have."""
        inside = self._inside
        demands = [self._demand(trial) for trial in inside]
        wanted = sizes(self._policy, demands, len(self._workers))
        for trial, worker in zip(self._next_to_lend(inside, wanted), list(self._in_state("idle")), strict=False):
            worker.state, worker.trial, worker.since_ns = "lent", trial, self._now_ns
            self._orders.append(Lend(worker.name, trial))
        self._ask_back(inside, wanted)

    def _demand(self, trial: _Trial) -> Demand:
        return Demand(
            trial=trial.name,
            minimum=trial.least,
            maximum=trial.most,
            holds=self.crew(trial.name),
            evaluations=trial.evaluations,
            points=tuple(trial.points),
        )

    def _next_to_lend(self, inside: list[_Trial], wanted: dict[str, int]) -> list[str]:
        """Who gets the idle workers, in order: whole minima first, so that nobody holds workers and cannot begin."""
        idle, lent = len(list(self._in_state("idle"))), {trial.name: self.crew(trial.name) for trial in inside}
        order: list[str] = []
        for trial in inside:
            lacking = trial.least - lent[trial.name]
            if lacking > idle - len(order):
                return order  # what is idle waits for the rest of this one's
            order += [trial.name] * lacking
        lent = {name: lent[name] + order.count(name) for name in lent}
        while short := [name for name in lent if lent[name] < wanted[name]]:
            name = max(short, key=lambda each: wanted[each] - lent[each])
            lent[name] += 1
            order.append(name)
        return order

    def _ask_back(self, inside: list[_Trial], wanted: dict[str, int]) -> None:
        holds = {trial.name: self.crew(trial.name) for trial in inside}
        ending = {trial.name for trial in inside if trial.usable is not None}
        """These send by themselves whoever has nothing left to do there."""
        coming = sum(worker.state != "lent" for worker in self._workers.values())
        urgent = sum(max(0, trial.least - holds[trial.name]) for trial in inside) - coming
        coming += sum(max(0, holds[name] - wanted[name]) for name in ending)
        short = sum(max(0, wanted[name] - held) for name, held in holds.items()) - coming
        for worker in sorted(self._in_state("lent"), key=lambda worker: worker.since_ns):
            if short <= 0 and urgent <= 0:
                return
            if (worker.trial in ending and urgent <= 0) or holds.get(worker.trial, 0) <= wanted.get(worker.trial, 0):
                continue
            stays_until_ns = worker.since_ns + self._stay_ns
            if urgent <= 0 and stays_until_ns > self._now_ns:
                self._set_alarm(stays_until_ns)
                return  # the others were lent later still
            holds[worker.trial] -= 1
            self._recall(worker, at_once=False)
            short, urgent = short - 1, urgent - 1

    def _recall(self, worker: _Worker, *, at_once: bool) -> None:
        worker.state = "returning"
        self._orders.append(Recall(worker.name, worker.trial, at_once))

    def _set_alarm(self, at_ns: int) -> None:
        if self._alarm_ns is None or at_ns < self._alarm_ns:
            self._alarm_ns = at_ns
            self._orders.append(SetAlarm(at_ns))

    def _in_state(self, state: str) -> Iterator[_Worker]:
        return (worker for worker in self._workers.values() if worker.state == state)

    # --- books ------------------------------------------------------------------------------------------------------------------------

    def _count_crews(self) -> None:
        for trial in self._trials.values():
            self._count_crew(trial)

    def _count_crew(self, trial: _Trial) -> None:
        trial.crew_ns += trial.crew * (self._now_ns - trial.crew_since_ns)
        trial.crew, trial.crew_since_ns = self.crew(trial.name), self._now_ns

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        inside = self._inside
        assert sum(trial.least for trial in inside) <= len(self._workers), "more was let in than fits"
        for worker in self._workers.values():
            assert bool(worker.trial) == (worker.state in ("lent", "returning")), worker
        for trial in inside:
            assert self.crew(trial.name) <= trial.maximum, f"{trial.name} has more workers than it can use"
        for worker in self._in_state("lent"):
            assert worker.trial in self._trials, f"{worker.name} is lent to {worker.trial}, which is over"
        if any(self._in_state("idle")) and not any(self._in_state("returning")) and not any(self._in_state("absent")):
            assert all(self.crew(trial.name) >= trial.least for trial in inside), "a trial waits although workers are idle"
            waiting = [trial for trial in self._trials.values() if not trial.let_in and trial.most]
            idle = len(list(self._in_state("idle")))
            assert not waiting or waiting[0].least > len(self._workers) - sum(trial.least for trial in inside), waiting
            if not waiting:
                assert all(self.crew(trial.name) >= trial.most for trial in inside), f"{idle} workers idle although trials want them"
