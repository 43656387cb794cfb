"""A whole training run in one thread on float64 numbers: the real machines, arrays in place of tensors, a queue in place of a network.

Messages take no time and arrive in the order in which they were sent; only computing takes time, so a test says by the workers' speeds
which update comes first. After every event the machines check their invariants.
"""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mottle import strategies
from mottle.core import protocol as p
from mottle.core import shard as sh
from mottle.core import strategy as s
from mottle.core import worker as w
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.exactsum import exact_sum
from mottle.core.layout import Range

# D coordinates
Vector = npt.NDArray[np.float64]
LR = 0.1
START = p.Version(0, 0)


class LeastSquares:
    """Sample i has loss 0.5 * (a_i . x - b_i)^2; the trusted data are all samples."""

    def __init__(self, num_samples: int, dim: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rows_ND = rng.normal(size=(num_samples, dim))
        self.targets_N = self.rows_ND @ rng.normal(size=dim) + 0.1 * rng.normal(size=num_samples)
        self.start: Vector = np.zeros(dim)

    def gradient_sum(self, x_D: Vector, start: int, stop: int) -> Vector:
        rows_BD = self.rows_ND[start:stop]
        return np.asarray(rows_BD.T @ (rows_BD @ x_D - self.targets_N[start:stop]))

    def trusted_gradient(self, x_D: Vector) -> Vector:
        return self.gradient_sum(x_D, 0, len(self.targets_N)) / len(self.targets_N)

    def loss(self, x_D: Vector) -> float:
        return float(0.5 * np.mean((self.rows_ND @ x_D - self.targets_N) ** 2))


@dataclass
class NumericShard:
    """What a driver owns of one replica."""

    machine: sh.Shard
    values: Vector
    versions: dict[int, Vector]
    lr: float
    vectors: dict[str, Vector] = field(default_factory=dict)
    alive: bool = True


@dataclass
class NumericWorker:
    machine: w.Worker
    sample_ns: int
    tamper: Callable[[Vector], Vector]
    values: Vector | None = None
    total: Vector | None = None
    bases: dict[int, p.Version] = field(default_factory=dict)
    alive: bool = True


@dataclass
class Saved:
    """A complete checkpoint, and which samples had been used at its place."""

    state: str
    version: p.Version
    params: Vector
    used: Counter[tuple[int, int]]


class Training:
    """One run. `history` holds the parameters of every version, `verdicts` and `notices` what the brain said."""

    def __init__(
        self,
        spec: Any,
        problem: Any,
        *,
        speeds: tuple[int, ...] = (1,),
        tamper: Mapping[int, Callable[[Vector], Vector]] | None = None,
        step_ns: int = 0,
        lr: float = LR,
        defaults: Mapping[str, object] | None = None,
        resume: "Saved | None" = None,
        **config: Any,
    ) -> None:
        self.problem = problem
        self.step_ns = step_ns
        self.lr = lr
        self.brain = Brain(BrainConfig(**config), strategies.build(spec, {"lr": lr, **(defaults or {})}))
        self.now_ns = 0
        self.history: dict[int, Vector] = {}
        self.used: Counter[tuple[int, int]] = Counter()
        self.orders: dict[int, p.Compute] = {}
        self.verdicts: list[p.Verdict] = []
        self.notices: list[p.Notice] = []
        self.references: list[tuple[str, int]] = []
        self.finished: p.Finished | None = None
        self.checkpoint: Saved | None = None
        self.on_event: Callable[[p.Event], None] = lambda event: None
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._sent = 0
        self._tamper = dict(tamper or {})
        version = START
        start_D = problem.start
        if resume is not None:
            self.brain.restore(json.loads(resume.state))
            version, start_D, self.used = resume.version, resume.params, Counter(resume.used)
        self._cuts = [len(start_D) * i // self.brain.config.num_shards for i in range(self.brain.config.num_shards + 1)]
        self.shards = {replica: self._shard(replica, start_D, version) for replica in sorted(self.brain.shards.live)}
        self.history[version.number] = start_D.copy()
        self.workers: dict[int, NumericWorker] = {}
        self._first_slot = self.brain.members.next_slot
        for sample_ns in speeds:
            self.join(sample_ns)
        self.tell(p.Started(version))

    def _shard(self, replica: p.ReplicaId, start_D: Vector, version: p.Version) -> NumericShard:
        owned = Range(self._cuts[replica.shard], self._cuts[replica.shard + 1])
        values_D = start_D[owned.start : owned.stop].copy()
        return NumericShard(sh.Shard(replica, owned, version=version), values_D, {version.number: values_D.copy()}, self.lr)

    # --- what a test does -------------------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool] = lambda: False) -> "Training":
        """Go on until the run has finished, nothing moves or `until` holds."""
        while self.finished is None and self._queue and not until():
            self.now_ns, _, deliver = heapq.heappop(self._queue)
            deliver()
        return self

    def drain(self) -> None:
        """After the end: what was on its way to the shards arrives, and nobody computes any more."""
        for worker in self.workers.values():
            worker.alive = False
        while self._queue:
            heapq.heappop(self._queue)[2]()

    def join(self, sample_ns: int) -> int:
        slot = self._first_slot + len(self.workers)
        self.workers[slot] = NumericWorker(w.Worker(slot), sample_ns, self._tamper.get(slot, lambda sum_D: sum_D))
        self.tell(p.Joined(slot))
        return slot

    def kill(self, slot: int) -> None:
        self.workers[slot].alive = False
        self.tell(p.Left(slot, "killed"))

    def kill_replica(self, replica: p.ReplicaId) -> None:
        self.shards[replica].alive = False
        self.tell(p.ReplicaLost(replica, "killed"))

    def tell(self, event: p.Event) -> None:
        commands = self.brain.handle(event, now_ns=self.now_ns)
        self.brain.check()
        self.on_event(event)
        for command in commands:
            self._obey(command)

    @property
    def params(self) -> Vector:
        """The newest parameters."""
        return self.history[max(self.history)]

    def count(self, verdict: str) -> int:
        return sum(each.verdict == verdict for each in self.verdicts)

    # --- brain ------------------------------------------------------------------------------------------------------------------------

    def _later(self, deliver: Callable[[], None], after_ns: int = 0) -> None:
        self._sent += 1
        heapq.heappush(self._queue, (self.now_ns + after_ns, self._sent, deliver))

    def _obey(self, command: p.Command) -> None:
        match command:
            case p.Compute(work_id, slot):
                self.orders[work_id] = command
                self._later(lambda: self._worker(slot, w.Ordered(command)))
            case p.Cut(slot, work_id):
                self._later(lambda: self._worker(slot, w.CutAsked(work_id)))
            case p.Abandon(slot, work_id):
                self._later(lambda: self._worker(slot, w.AbandonAsked(work_id)))
            case p.Dismiss(slot):
                self._later(lambda: self._worker(slot, w.DismissAsked()))
            case p.Batch():
                for replica in self.shards:
                    self._later(partial(self._shard_hears, replica, sh.BatchArrived(command)))
            case p.Refresh(name, version):
                self.references.append((name, version.number))
                self._later(lambda: self._push(name, p.VALIDATOR, 1, self.problem.trusted_gradient(self._read(name, version))))
            case p.Evaluate(version):
                loss = self.problem.loss(self._read("evaluate", version))
                self._later(lambda: self.tell(p.Evaluated(version, {"loss": loss, "negative_loss": -loss})))
            case p.SetTimer(name, at_ns):
                self._later(lambda: self.tell(p.TimerFired(name)), at_ns - self.now_ns)
            case p.Verdict():
                self._note(command)
            case p.Notice():
                self.notices.append(command)
            case p.Published(version):
                self.history[version.number] = self._read(None, version)
            case p.SaveModel(checkpoint, version):
                self._saved_used, self._saved_model = Counter(self.used), self._read(f"checkpoint/{checkpoint}", version)
                self._later(lambda: self.tell(p.ModelSaved(checkpoint)), 3)
            case p.SaveCheckpoint(checkpoint, version, state=state):
                self.checkpoint = Saved(json.dumps(state), version, self._saved_model, self._saved_used)
                self._later(lambda: self.tell(p.CheckpointWritten(checkpoint)), 1)
            case p.Finished():
                self.finished = command

    def _note(self, verdict: p.Verdict) -> None:
        self.verdicts.append(verdict)
        left = verdict.samples
        if verdict.verdict in ("accepted", "unselected"):
            for part in self.orders[verdict.work_id].parts:
                stop = min(part.lease.start + left, part.lease.stop)
                self.used.update((part.lease.epoch, position) for position in range(part.lease.start, stop))
                left -= stop - part.lease.start

    # --- shards -----------------------------------------------------------------------------------------------------------------------

    def _shard_hears(self, replica: p.ReplicaId, event: sh.ShardEvent) -> list[sh.ShardOrder]:
        shard = self.shards[replica]
        if not shard.alive:
            return []
        orders = shard.machine.handle(event)
        for order in orders:
            self._run_shard_order(replica, shard, order)
        shard.machine.check()
        return orders

    def _run_shard_order(self, replica: p.ReplicaId, shard: NumericShard, order: sh.ShardOrder) -> None:
        match order:
            case sh.StoreRange(name, start, stop, payload=payload, references=references):
                shard.vectors[name] = payload
                finite = bool(np.isfinite(payload).all())
                with np.errstate(over="ignore"):  # a sum too large for float64 is infinite
                    dots = tuple((each, exact_sum(payload * shard.vectors[each])) for each in references if finite)
                    norm2 = exact_sum(payload * payload) if finite else 0
                self._shard_hears(replica, sh.RangeStored(name, start, stop, finite, norm2, dots))
            case sh.Run(command):
                self._shard_hears(replica, sh.Ran(command, self._run(shard, command)))
                if isinstance(command, p.Snapshot):
                    self._later(lambda: self.tell(p.SnapshotDone(replica, command.checkpoint)), 2)
            case sh.SendUp(event):
                self._later(lambda: self.tell(event), self.step_ns if isinstance(event, p.Stepped) else 0)
            case sh.FreeVersions(numbers):
                for number in numbers:
                    del shard.versions[number]

    @staticmethod
    def _run(shard: NumericShard, command: p.ShardCommand) -> tuple[int, ...]:
        match command:
            case p.Combine(into, terms):
                shard.vectors[into] = sum((weight * shard.vectors[name] for name, weight in terms), np.zeros_like(shard.values))
            case p.Measure(_, pairs):
                return tuple(exact_sum(shard.vectors[a] * shard.vectors[b]) for a, b in pairs)
            case p.Step(version, source, scale, drop=drop):
                shard.values = shard.values - shard.lr * (scale * shard.vectors[source])
                shard.versions[version.number] = shard.values.copy()
                for name in drop:
                    del shard.vectors[name]
            case p.Drop(names):
                for name in names:
                    shard.vectors.pop(name, None)
            case p.Configure(settings):
                shard.lr = settings.get("lr", shard.lr)
        return ()

    def _read(self, reader: str | None, version: p.Version) -> Vector:
        """A version from the primaries; without a reader it is only looked at."""
        parts = []
        for i in range(self.brain.config.num_shards):
            replica = self.brain.shards.primary(i)
            if reader is not None:
                orders = self._shard_hears(replica, sh.ReadAsked(reader, version.number))
                assert sh.Serve(reader, version.number) in orders, f"version {version} is not to be had for {reader}: {orders}"
            parts.append(self.shards[replica].versions.get(version.number, self.shards[replica].values))
        return np.concatenate(parts)

    # --- workers ----------------------------------------------------------------------------------------------------------------------

    def _worker(self, slot: int, event: w.WorkerEvent) -> None:
        worker = self.workers[slot]
        if not worker.alive:
            return
        for order in worker.machine.handle(event):
            self._run_worker_order(slot, worker, order)
        worker.machine.check()

    def _run_worker_order(self, slot: int, worker: NumericWorker, order: w.WorkerOrder) -> None:
        match order:
            case w.LoadBase(work_id, version):
                worker.values = self._read(p.work_holder(work_id), version)
                worker.total = np.zeros_like(worker.values)
                self._later(lambda: self._worker(slot, w.Loaded(work_id)))
            case w.ClearAccumulator(work_id):
                worker.total = np.zeros_like(self.problem.start)
                self._later(lambda: self._worker(slot, w.Loaded(work_id)))
            case w.RunPart():
                self._later(lambda: self._compute(slot, worker, order, order.start + 1), worker.sample_ns)
            case w.Push(work_id, samples):
                sum_D = worker.tamper(worker.total)
                self._later(lambda: worker.alive and self._push(p.update_name(work_id), slot, samples, sum_D))
                self._later(lambda: self._worker(slot, w.PushConfirmed(work_id)))
            case w.Answer(event):
                self._later(lambda: self.tell(event))

    def _compute(self, slot: int, worker: NumericWorker, order: w.RunPart, at: int) -> None:
        """One sample after the other, with a look at the mailbox in between."""
        if at < order.stop and not worker.machine.interrupted(order.work_id):
            self._later(lambda: self._compute(slot, worker, order, at + 1), worker.sample_ns)
            return
        worker.total += self.problem.gradient_sum(worker.values, order.start, at)
        self._worker(slot, w.Computed(order.work_id, order.part, at))

    def _push(self, name: str, sender: int, samples: int, sum_D: Vector) -> None:
        for replica in self.shards:
            start, stop = self._cuts[replica.shard : replica.shard + 2]
            self._shard_hears(replica, sh.Pushed(name, sender, start, stop, samples, 0, sum_D[start:stop].copy()))


@dataclass
class View:
    """What a strategy sees of the brain; a test sets it."""

    crew: tuple[int, ...] = (0, 1)
    version: p.Version = START
    head: p.Version = START
    free_samples: int = 100

    def busy(self, worker: int) -> bool:
        return False

    def publish(self, number: int) -> s.VersionPublished:
        """Every step up to this version was decided and made."""
        self.version = self.head = p.Version(0, number)
        return s.VersionPublished(self.version)


@dataclass
class Alone:
    """A strategy without a brain; its invariants are checked after every event."""

    strategy: s.Strategy
    view: View = field(default_factory=View)

    def hear(self, *events: s.StrategyEvent) -> list[s.Decision]:
        """Decisions on the last of the events."""
        decisions: list[s.Decision] = []
        for event in events:
            decisions = self.strategy.handle(event, self.view)
            self.strategy.check()
        return decisions


@pytest.fixture
def alone() -> Callable[[Any], Alone]:
    """Build a strategy from its config and drive it with literal events."""
    return lambda config: Alone(config.build())


@pytest.fixture
def train() -> type[Training]:
    """Build a run: `train(spec, problem, speeds=..., num_positions=..., max_samples=...)`."""
    return Training


@pytest.fixture
def least_squares() -> type[LeastSquares]:
    return LeastSquares
