"""Sequential gradient coding: rounds of a crew in which every worker has tasks of several steps' batches, and nobody waits for stragglers.

A *job* is the batch of one step. It begins in a round and is decoded `delay` rounds later, at the end of that round, from results of all
rounds in between; so what a straggler lost can be made up for in time, and coding costs far less than where each step stands alone. Which
task of which job a worker has in a round is the scheme's (`sr_sgc.py`, `m_sgc.py`). What is here is common:

- When the first worker has done its tasks, after t, the others have until (1 + mu) t. Whoever is later is a straggler and is given up, if
  the scheme bears that; otherwise the round waits for everybody and has none (`bursts.py`).
- With one model, a job's gradient is that of the version at its round's beginning, which lacks the last `delay` jobs: SGD delayed by as
  many steps, whose rate must be smaller.
- With delay + 1 models (`mottle.core.rotation`) each job is of another one than those that are out: when a model's turn comes again, its
  last step has been made, so nothing is late. The next turn is that of the model that had fewest, so every model takes as many steps.
- Towards the end, when no samples are left, rounds go on without new jobs until the last is decoded. A pause lets them do so too.
- When the crew changes, the jobs that are out are brought to an end first: everybody computes what is missing of them, whosesoever task it
  was. The next job begins with a scheme for the new crew. In the same way a job is mended that cannot be decoded at its time, because
  updates were refused; if that fails again and again its samples are given back (`mottle.core.chunks`).

Source: `heterogeneous.md` 8. Neutral references: SGD delayed by `delay` steps, on the same batches; in rotation, for each model SGD
on every (delay + 1)-th batch.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from mottle.core import strategy as s
from mottle.strategies.schemes import Key, Scheme, SequentialConfig, Task

MENDED = 3
"""Attempts to mend a job before its samples are given back."""
HOPELESS = 10
"""Jobs in a row without a step for what workers sent: then it will not get better."""


@dataclass(slots=True)
class _Job:
    """A batch on its way."""

    first_chunk: int
    sizes: tuple[int, ...]
    model: int | None = None
    """Of those in rotation."""
    results: dict[Key, int | None] = field(default_factory=dict)
    """Work id of each result that is there; None where there was nothing to compute."""
    attempts: int = 0
    refused: bool = False
    """Whether an update of it was refused for its content."""

    @property
    def samples(self) -> int:
        return sum(self.sizes)

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(self.first_chunk + i for i, size in enumerate(self.sizes) if size)


@dataclass(slots=True)
class _Round:
    """What is out now."""

    number: int
    """Among all rounds of the run."""
    began_ns: int
    asked: dict[int, list[Task]] = field(default_factory=dict)
    """Worker -> tasks that are not yet known to have an order, in the order of asking."""
    orders: dict[int, tuple[int, Task]] = field(default_factory=dict)
    """Work id -> (worker, task), of those that are out."""
    members: set[int] = field(default_factory=set)
    """Workers that have tasks in it."""
    failed: set[int] = field(default_factory=set)
    """Those of whom a result was lost."""
    lost: set[int] = field(default_factory=set)
    """Jobs of which one was."""
    timed: bool = False
    """Whether somebody is done, so that the others' time is set."""
    overtime: bool = False
    """Whether that time is over."""
    waits_for_all: bool = False

    @property
    def alarm(self) -> str:
        return f"round-{self.number}"

    def ask(self, worker: int, task: Task) -> None:
        self.asked.setdefault(worker, []).append(task)
        self.members.add(worker)

    @property
    def out(self) -> set[int]:
        """Workers that are not done."""
        return {worker for worker, tasks in self.asked.items() if tasks} | {worker for worker, _ in self.orders.values()}

    @property
    def somebody_done(self) -> bool:
        return bool(self.members - self.out - self.failed)

    def give_up(self) -> list[s.Decision]:
        return [s.AbandonOrder(work_id, "a straggler: its round ended without it") for work_id in self.orders]


class SequentialCoding:
    """State machine of the sequential gradient codes."""

    barriered = False
    needs_validation = False
    server_optimizer = None
    companion = None

    def __init__(self, config: SequentialConfig) -> None:
        self.config = config
        self.models = config.in_rotation
        self.max_in_flight = config.tasks_a_round
        self._turns = [0] * len(self.models)
        """Jobs of each model in rotation, without those that were given up."""
        self._scheme: Scheme | None = None
        self._crew: tuple[int, ...] = ()
        """Whom the scheme is for, by place."""
        self._number = 0
        """The scheme's number of the round at hand, or of the next one."""
        self._round: _Round | None = None
        self._num_rounds = 0
        self._jobs: dict[int, _Job] = {}
        """By the number of the round that they began in, ascending."""
        self._to_mend: set[int] = set()
        """Jobs that are brought to an end before the next round."""
        self._next_chunk = 0
        self._failed = 0
        """Jobs given back in a row, for updates that were refused."""
        self._told_delay = self._told_short = False

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        if self._round is not None:
            self._hear(self._round, event)
            return self._mended(self._round, view) if self._to_mend else self._go_on(self._round, view)
        if isinstance(event, s.ChunksReleased) and event.refused:
            self._failed = 0  # samples that nobody can compute come to an end
        if isinstance(event, s.VersionPublished | s.WorkerIdle | s.WorkerGone | s.ChunksReleased):
            return self._begin(view)
        return []

    # --- a round begins ---------------------------------------------------------------------------------------------------------------

    def _begin(self, view: s.View, lent: int = 0) -> list[s.Decision]:
        """`lent`: samples that decisions before these lend, which the view does not know of yet."""
        free = view.free_samples - lent
        if view.head != view.version:
            return []
        if view.crew != self._crew:
            self._to_mend |= self._jobs.keys()
        if self._to_mend:
            return self._mend(view)
        if free and view.crew != self._crew:
            if len(view.crew) < self.config.least_workers:
                return self._wait(len(view.crew))
            self._scheme, self._crew, self._number = self.config.scheme(len(view.crew)), view.crew, 0
        if self._scheme is None or not (self._jobs or free) or view.crew != self._crew:
            return []
        return self._begin_round(self._scheme, view, lent, free)

    def _begin_round(self, scheme: Scheme, view: s.View, lent: int, free: int) -> list[s.Decision]:
        batch = min(self.config.batch_size, free)
        decisions = self._new_job(scheme, batch) if batch else []
        current = self._round = self._new_round(view)
        plan = scheme.plan(self._number, {number: job.results.keys() for number, job in self._jobs.items()})
        for worker, tasks in zip(self._crew, plan, strict=True):
            for task in tasks:
                decisions += self._ask(current, worker, task)
        return decisions if current.members else [*decisions, *self._end(view, frozenset(), lent + batch)]

    def _new_round(self, view: s.View) -> _Round:
        self._num_rounds += 1
        return _Round(self._num_rounds, view.now_ns)

    def _new_job(self, scheme: Scheme, batch: int) -> list[s.Decision]:
        """Lend the batch of one more step."""
        sizes = apportioned(batch, scheme.chunk_weights)
        job = _Job(self._next_chunk, sizes, self._next_model())
        self._jobs[self._number] = job
        self._next_chunk += len(sizes)
        told = []
        if not (self.models or self._told_delay):
            told.append(s.Warn(f"{self.config.name} trains one model: its steps are late by {self.config.delay} others"))
        self._told_delay = True
        return [*told, *(s.LendChunk(chunk, sizes[chunk - job.first_chunk], job.model) for chunk in job.chunks)]

    def _next_model(self) -> int | None:
        """Whose turn it is: of those that nothing is out of, the one that had fewest."""
        if not self.models:
            return None
        out = {job.model for job in self._jobs.values()}
        model = min((each for each in range(len(self.models)) if each not in out), key=self._turns.__getitem__)
        self._turns[model] += 1
        return model

    def _ask(self, current: _Round, worker: int, task: Task) -> list[s.Decision]:
        """Order a task, if there is anything to compute for it."""
        assert self._scheme is not None
        job = self._jobs[task.job]
        parts = tuple((job.first_chunk + chunk, factor) for chunk, factor in self._scheme.row(task.key) if job.sizes[chunk])
        if not parts:
            job.results[task.key] = None
            return []
        current.ask(worker, task)
        return [s.AssignChunks(worker, parts)]

    def _wait(self, num_workers: int) -> list[s.Decision]:
        """Say once that a crew which was large enough is so no more."""
        if self._told_short or not self._next_chunk:
            return []
        self._told_short = True
        return [s.Warn(f"{self.config.name} needs {self.config.least_workers} workers, {num_workers} are left: it waits for more to join")]

    # --- and ends ---------------------------------------------------------------------------------------------------------------------

    def _hear(self, current: _Round, event: s.StrategyEvent) -> None:
        match event:
            case s.OrderIssued(work_id, worker, _):
                current.orders[work_id] = (worker, current.asked[worker].pop(0))
            case s.UpdateArrived(update):
                _, task = current.orders.pop(update.work_id)
                self._jobs[task.job].results[task.key] = update.work_id
            case s.OrderEnded(work_id, _, _, refused) if work_id in current.orders:
                worker, task = current.orders.pop(work_id)
                current.failed.add(worker)
                current.lost.add(task.job)
                self._jobs[task.job].refused |= refused
            case s.AlarmRang(name) if name == current.alarm:
                current.overtime = True

    def _go_on(self, current: _Round, view: s.View) -> list[s.Decision]:
        out = current.out
        if not out:
            return self._end(view, frozenset() if current.waits_for_all else self._borne(current.failed) or frozenset())
        if current.overtime and not current.waits_for_all:
            stragglers = self._borne(out | current.failed)
            if stragglers is not None and not any(current.asked.values()):
                return [*current.give_up(), *self._end(view, stragglers)]
            current.waits_for_all = True
        if current.somebody_done and not current.timed:
            current.timed = True
            return [s.SetAlarm(current.alarm, max(1, round(self.config.mu * (view.now_ns - current.began_ns))))]
        return []

    def _borne(self, workers: AbstractSet[int]) -> frozenset[int] | None:
        """Their places, if the scheme bears that they straggle."""
        assert self._scheme is not None
        places = frozenset(self._crew.index(worker) for worker in workers)
        return places if self._scheme.bears(places) else None

    def _end(self, view: s.View, stragglers: AbstractSet[int], lent: int = 0) -> list[s.Decision]:
        assert self._scheme is not None
        self._scheme.ended(stragglers)
        self._round = None
        due = self._number - self.config.delay
        self._number += 1
        if due in self._jobs:
            step = self._step(due)
            if step is not None:
                return [step]
            self._to_mend.add(due)
        return self._begin(view, lent)

    def _step(self, number: int) -> s.Decision | None:
        """The step of a job that can be decoded; it is then no longer out."""
        assert self._scheme is not None
        job = self._jobs[number]
        weights = self._scheme.decode(job.results.keys())
        if weights is None:
            return None
        del self._jobs[number]
        self._failed = 0
        found = ((job.results[key], factor / job.samples) for key, factor in weights)
        terms = tuple((work_id, weight) for work_id, weight in found if work_id is not None)
        return s.Apply(terms, chunks=job.chunks, fragment=job.model)

    # --- mending ----------------------------------------------------------------------------------------------------------------------

    def _mend(self, view: s.View) -> list[s.Decision]:
        """Have what is missing computed by whoever is there, then step with all these jobs in order."""
        assert self._scheme is not None
        given_back = [decision for number in sorted(self._to_mend) for decision in self._give_up(number)]
        current = self._new_round(view)
        decisions: list[s.Decision] = []
        wanted = [Task(n, key) for n in sorted(self._to_mend) for key in self._scheme.missing(self._jobs[n].results.keys())]
        places = [worker for _ in range(self.max_in_flight) for worker in view.crew]
        turn = current.number % max(1, len(view.crew))  # by another worker than the last time
        places = [*places[turn:], *places[:turn]]
        for task in wanted:
            if len(places) > sum(map(len, current.asked.values())):
                decisions += self._ask(current, places[sum(map(len, current.asked.values()))], task)
        if current.members:
            self._round = current
            return [*given_back, *decisions]
        if any(self._scheme.decode(self._jobs[number].results.keys()) is None for number in self._to_mend):
            return given_back  # nobody is there
        steps = [step for number in sorted(self._to_mend) if (step := self._step(number)) is not None]
        self._to_mend.clear()
        return [*given_back, *steps]

    def _mended(self, current: _Round, view: s.View) -> list[s.Decision]:
        """A round of mending goes on until all is in or lost."""
        if current.out:
            return []
        self._round = None
        for number in current.lost:
            self._jobs[number].attempts += 1
        return self._mend(view)

    def _give_up(self, number: int) -> list[s.Decision]:
        """The end of a job that was tried too often without success."""
        job = self._jobs[number]
        if job.attempts < MENDED:
            return []
        del self._jobs[number]
        self._to_mend.discard(number)
        if job.model is not None:
            self._turns[job.model] -= 1
        self._failed += job.refused
        reason = "too few updates came to decode the batch's sum"
        if self._failed >= HOPELESS:
            return [s.Halt(f"{reason}, {self._failed} times in a row, since updates were refused")]
        return [s.ReleaseChunks(job.chunks, reason)]

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Jobs do not outlive the run, their samples are free again: no turn was had that did not lead to a step."""
        turns = list(self._turns)
        for job in self._jobs.values():
            if job.model is not None:
                turns[job.model] -= 1
        return {"turns": turns}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._turns = list(state.get("turns") or [0] * len(self.models))

    def check(self) -> None:
        models = [job.model for job in self._jobs.values() if job.model is not None]
        assert len(models) == len(set(models)), f"two jobs of one model are out: {models}"
        assert len(self._jobs) <= self.config.delay + 1, f"too many jobs are out: {sorted(self._jobs)}"
        assert self._to_mend <= self._jobs.keys(), "a job is mended that is not out"


def apportioned(total: int, weights: tuple[int, ...]) -> tuple[int, ...]:
    """Whole sizes that add up to `total`, each as near to its part by weight as may be."""
    edges = [0]
    for weight in weights:
        edges.append(edges[-1] + weight)
    return tuple(total * edges[i + 1] // edges[-1] - total * edges[i] // edges[-1] for i in range(len(weights)))
